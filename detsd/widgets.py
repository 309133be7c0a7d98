"""A panel of widgets for a notebook, to try prompts. This file knows what can be turned there."""

from typing import Any

from detsd import console
from detsd.gallery import sheet
from detsd.generate import Pipeline

BLANK = "{concept}"
PROMPT = f"a photo of a {BLANK}"


def panel(
    pipeline: Pipeline, prompt: str = PROMPT, guidance: float = 7.5, steps: int = 50
) -> "Panel | None":
    """Return the panel, which a notebook shows; nothing where there are no widgets."""
    try:
        return Panel(pipeline, prompt, guidance, steps)
    except ImportError:
        print("There are no widgets here (pip install ipywidgets); the next cell does the same.")
        return None


class Panel:
    """Prompt, concept, scale, steps and seed, and the image that they make."""

    def __init__(self, pipeline: Pipeline, prompt: str, guidance: float, steps: int):
        import ipywidgets as widgets

        self._pipeline = pipeline
        wide = {"style": {"description_width": "70px"}, "layout": {"width": "500px"}}
        self.prompt = widgets.Text(prompt, description="prompt", **wide)
        names = list(pipeline.concepts)
        self.concept = widgets.Dropdown(options=names, description="concept", **wide)
        self.scale = widgets.FloatSlider(
            guidance, min=1, max=15, step=0.5, description="scale", **wide
        )
        self.steps = widgets.IntSlider(steps, min=1, max=100, description="steps", **wide)
        self.seed = widgets.IntText(0, description="seed", **wide)
        self.button = widgets.Button(description="Draw", button_style="primary")
        self.output = widgets.Output()
        self.button.on_click(self._draw)
        self._box = widgets.VBox(
            [self.prompt, self.concept, self.scale, self.steps, self.seed, self.button, self.output]
        )

    def _repr_mimebundle_(self, **how: Any) -> Any:
        return self._box._repr_mimebundle_(**how)

    def _draw(self, _: Any) -> None:
        from IPython.display import display

        self.button.disabled = True
        self.output.clear_output(wait=True)
        try:
            with self.output:
                display(self._image())
        finally:
            self.button.disabled = False

    def _image(self) -> Any:
        try:
            prompt = self.prompt.value.replace(BLANK, self.concept.value or "")
            settings = {"guidance": self.scale.value, "steps": self.steps.value}
            (image,) = self._pipeline(prompt, seed=self.seed.value, **settings)
        except Exception as error:
            if not console.is_for_users(error):
                raise
            return str(error)
        return sheet([image], 1, prompt)
