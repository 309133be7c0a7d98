"""A panel of widgets for a notebook, to try prompts. This file knows what can be turned there."""

from typing import Any

from detsd import console
from detsd.gallery import sheet
from detsd.generate import Pipeline

BLANK = "{concept}"
PROMPT = f"a photo of a {BLANK}"


def panel(
    pipeline: Pipeline,
    prompt: str = PROMPT,
    guidance: float = 7.5,
    steps: int = 50,
    word: str | None = None,
) -> "Panel | None":
    """Return the panel, which a notebook shows; nothing where there are no widgets.

    The word fills the prompt's blank: a concept, or an adapter's rare word; the first concept when
    absent.
    """
    try:
        return Panel(pipeline, prompt, guidance, steps, word)
    except ImportError:
        print("There are no widgets here (pip install ipywidgets); the next cell does the same.")
        return None


class Panel:
    """Prompt, concept, adapters, scale, steps and seed, and the image that they make."""

    def __init__(
        self, pipeline: Pipeline, prompt: str, guidance: float, steps: int, word: str | None
    ):
        import ipywidgets as widgets

        self._pipeline = pipeline
        wide = {"style": {"description_width": "70px"}, "layout": {"width": "500px"}}
        self.prompt = widgets.Text(prompt, description="prompt", **wide)
        names = list(pipeline.concepts)
        # Not a closed list: an adapter's rare word is no concept.
        first = next(iter(names), "") if word is None else word
        self.concept = widgets.Combobox(value=first, options=names, description="concept", **wide)
        self.adapters = {
            name: widgets.FloatSlider(
                counts, min=min(0, counts), max=max(1.5, counts), description=name, **wide
            )
            for name, counts in pipeline.adapters.items()
        }
        self.scale = widgets.FloatSlider(
            guidance, min=1, max=15, step=0.5, description="scale", **wide
        )
        self.steps = widgets.IntSlider(steps, min=1, max=100, description="steps", **wide)
        self.seed = widgets.IntText(0, description="seed", **wide)
        self.button = widgets.Button(description="Draw", button_style="primary")
        self.output = widgets.Output()
        self.button.on_click(self._draw)
        turned = [*self.adapters.values(), self.scale, self.steps, self.seed]
        self._box = widgets.VBox([self.prompt, self.concept, *turned, self.button, self.output])

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
            prompt = self.prompt.value.replace(BLANK, self.concept.value)
            settings = {"guidance": self.scale.value, "steps": self.steps.value}
            counts = {name: slider.value for name, slider in self.adapters.items()}
            (image,) = self._pipeline(prompt, seed=self.seed.value, adapters=counts, **settings)
        except Exception as error:
            if not console.is_for_users(error):
                raise
            return str(error)
        return sheet([image], 1, prompt)
