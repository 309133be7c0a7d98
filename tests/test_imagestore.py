"""Images are kept whole, listed once, and found again after a crash."""

import json
import shutil

import pytest
from PIL import Image

from detsd.gather import gather
from detsd.imagestore import INDEX, open_store, read_records
from detsd.png import encode
from detsd.storage import StorageError


def record(number, **more):
    settings = {"prompt": f"a <b> number {number}", "negative_prompt": "", "seed": number}
    how = {"guidance_scale": 7.5, "steps": 5, "scheduler": "pndm", "size": [8, 8], "model": "m"}
    how["adapters"] = {}
    file = f"images/{number:06d}.png"
    return {"id": f"id{number}", "file": file, "cell": 0, **settings, **how, **more}


def png(number):
    return encode(Image.new("RGB", (8, 8), (number, 0, 0)), record(number))


def filled(store, numbers):
    for number in numbers:
        store.add(record(number), png(number))
    return store


def test_what_a_crash_cut_off_is_missing_and_the_rest_is_there(tmp_path):
    filled(open_store(tmp_path, None, ""), range(3))
    with (tmp_path / INDEX).open("a") as file:
        file.write('{"id": "id3", "file": "images/0000')  # the machine went off here
    (tmp_path / "images" / "000009.part").write_bytes(b"half")
    (tmp_path / "images" / "000001.png").unlink()  # thrown away by hand
    store = open_store(tmp_path, None, "")
    assert store.ids == {"id0", "id2"}
    filled(store, [3, 1])
    assert [one["id"] for one in read_records(tmp_path / INDEX)] == ["id0", "id2", "id3", "id1"]


def test_checkpoints_hold_what_is_new_and_list_everything(tmp_path):
    store = open_store(tmp_path / "first", None, "")
    for name, numbers in {"one": range(2), "two": range(2, 5)}.items():
        filled(store, numbers)
        (tmp_path / "kept" / name).mkdir(parents=True)
        store.write_checkpoint(tmp_path / "kept" / name)
        store.saved(name)
    names = [path.name for path in sorted((tmp_path / "kept" / "two" / "images").iterdir())]
    assert names == ["000002.png", "000003.png", "000004.png"]
    # Another machine, which has the last checkpoint and no image of the first.
    other = open_store(tmp_path / "other", tmp_path / "kept" / "two", "two")
    assert other.ids == store.ids and not other.unsaved
    page = gather(str(tmp_path / "kept" / "two"), tmp_path / "all")
    assert page.is_file() and len(list((tmp_path / "all" / "images").glob("*.png"))) == 5
    (tmp_path / "kept" / "one" / "images" / "000001.png").unlink()
    with pytest.raises(StorageError, match="one lacks images/000001.png"):
        gather(str(tmp_path / "kept" / "two"), tmp_path / "some")


def test_the_last_of_whole_checkpoints_is_enough(tmp_path):
    store = open_store(tmp_path / "first", None, "", whole=True)
    for name, number in {"one": 0, "two": 1}.items():
        filled(store, [number])
        (tmp_path / "kept" / name).mkdir(parents=True)
        store.write_checkpoint(tmp_path / "kept" / name)
        store.saved(name)
    shutil.rmtree(tmp_path / "kept" / "one")  # as a cluster does once the experiment is done
    other = open_store(tmp_path / "other", tmp_path / "kept" / "two", "two", whole=True)
    assert other.ids == {"id0", "id1"} and not other.unsaved
    filled(other, [2])
    (tmp_path / "kept" / "three").mkdir()
    other.write_checkpoint(tmp_path / "kept" / "three")
    gather(str(tmp_path / "kept" / "three"), tmp_path / "all")
    assert len(list((tmp_path / "all" / "images").glob("*.png"))) == 3


def test_an_index_of_any_letters_is_read_as_it_was_written(tmp_path):
    store = open_store(tmp_path, None, "")
    letters = "line\u2028separator\u0085next \u96ea"
    store.add({**record(0), "prompt": letters}, png(0))
    with (tmp_path / INDEX).open("ab") as file:
        file.write('{"id": "雪'.encode()[:-1])  # the machine went off within a letter
    assert [one["prompt"] for one in read_records(tmp_path / INDEX)] == [letters]
    assert open_store(tmp_path, None, "").ids == {"id0"}


@pytest.mark.parametrize(
    "changes",
    [{"file": "../.profile"}, {"file": "/etc/passwd"}, {"file": 3}, {"kept_in": "../other"}],
)
def test_an_index_that_points_elsewhere_is_refused(tmp_path, changes):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / INDEX).write_text(json.dumps({**record(0), **changes}) + "\n")
    with pytest.raises(StorageError, match="line 1: names no file in the index's folder"):
        gather(str(tmp_path / "kept"), tmp_path / "all")


def test_images_are_in_the_cells_of_the_grid_as_it_is_now(tmp_path):
    store = filled(open_store(tmp_path, None, ""), range(2))
    store.arrange({"id1": 4, "id7": 2})
    assert [one["cell"] for one in read_records(tmp_path / INDEX)] == [0, 4]


def test_a_png_says_how_it_was_made(tmp_path):
    (tmp_path / "one.png").write_bytes(png(3))
    image = Image.open(tmp_path / "one.png")
    assert image.text["parameters"].splitlines()[0] == "a <b> number 3"
    assert "Steps: 5, Sampler: pndm, CFG scale: 7.5, Seed: 3, Size: 8x8" in image.text["parameters"]
    assert '"seed": 3' in image.text["detsd"]
    assert image.getpixel((0, 0)) == (3, 0, 0)
