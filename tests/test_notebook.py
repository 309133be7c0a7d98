"""The notebook: it runs from top to bottom, and its panel draws what its widgets say."""

import nbclient
import nbformat
import pytest
from nbclient.exceptions import CellTimeoutError

from tests.conftest import ROOT

pytestmark = pytest.mark.slow
PRESSED = """
panel = detsd.panel(pipeline, prompt="a photo of a {concept}", guidance=guidance, steps=2)
panel.seed.value = 7
panel.button.click()
"""
WRONG = """
other = detsd.panel(pipeline, prompt="a <cat-toy>", steps=2)
other.button.click()
"""
ADAPTED = """
from tests.made_up import adapter
styled = detsd.load_pipeline(base, adapters=(adapter(pipeline.model), 2.0))
turned = detsd.panel(styled, word="fbernuy", steps=2)
(slider,) = turned.adapters.values()
assert (slider.value, turned.concept.value) == (2.0, "fbernuy")
changed = turned._image()
slider.value = 0
assert turned._image().tobytes() != changed.tobytes()
"""
BARE = """
import sys
sys.modules["ipywidgets"] = None
assert detsd.panel(pipeline) is None
"""
OURS = (PRESSED, WRONG, ADAPTED, BARE)


def execute():
    """Return the notebook with its outputs, and some cells of ours after its own."""
    notebook = nbformat.read(ROOT / "textual_inversion.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in OURS]
    how = {"timeout": 120, "resources": {"metadata": {"path": ROOT}}, "kernel_name": "python3"}
    try:
        nbclient.NotebookClient(notebook, **how).execute()
    # On a busy machine client and kernel have been seen to wait for each other, both idle.
    except CellTimeoutError:
        nbclient.NotebookClient(notebook, **how).execute()
    return notebook


def shown(notebook, kind):
    """How many outputs of the kind there are."""
    return sum(
        kind in output.get("data", {})
        for cell in notebook.cells
        for output in cell.get("outputs", ())
    )


def widgets(notebook):
    states = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    return [one["state"] for one in states.values()]


def test_the_notebook_runs_from_top_to_bottom_and_its_panel_draws():
    executed = execute()
    assert shown(executed, "image/png") >= 5
    assert shown(executed, "application/vnd.jupyter.widget-view+json") >= 1
    assert any("images" in str(one.get("value")) for one in widgets(executed))  # of a bar
    drawn, said = (one["outputs"] for one in widgets(executed) if one.get("outputs"))
    assert any("image/png" in one.get("data", {}) for one in drawn)
    assert "which this model was not taught" in str(said)
    assert "There are no widgets here" in str(executed.cells[-1].outputs)


def test_it_imports_detsd_alone():
    notebook = nbformat.read(ROOT / "textual_inversion.ipynb", as_version=4)
    lines = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    imports = [line for line in lines.splitlines() if "import " in line]
    assert imports == ["import detsd"]
