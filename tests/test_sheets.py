"""Which cells of a grid TensorBoard shows, and that a large grid does not stop for all of them."""

import logging

from detsd import sheets
from detsd.imagestore import ImageStore
from detsd.sheets import show_sheets
from tests.test_imagestore import png, record


class Shown:
    """A trial that notes what it is shown."""

    def __init__(self):
        self.names = []

    def show(self, name, page, step):
        self.names.append(int(name[:4]))


def fill(store, cells):
    for number, cell in enumerate(cells, len(store.ids)):
        store.add(record(number, cell=cell, checkpoints=[]), png(number))


def test_cells_that_have_grown_are_shown(tmp_path):
    store, trial = ImageStore(tmp_path, []), Shown()
    fill(store, [0, 0, 1])
    show_sheets(trial, store, 1)
    store.saved("one")
    fill(store, [1])
    show_sheets(trial, store, 2)
    assert trial.names == [0, 1, 1]


def test_of_a_large_grid_the_first_cells_are_shown(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sheets, "MOST_CELLS", 3)
    store, trial = ImageStore(tmp_path, []), Shown()
    fill(store, range(7))
    with caplog.at_level(logging.INFO):
        show_sheets(trial, store, 1)
    assert trial.names == [0, 1, 2]
    assert "the first 3 cells; 4 more are on the page" in caplog.text
