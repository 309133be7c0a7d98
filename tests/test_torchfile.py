"""Files of torch.save's: read as torch reads them, and nothing in them is run."""

import copy
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detsd import pickles
from detsd.pickled import PickleError
from detsd.torchfile import is_torch_file, map_torch_file, read_torch_file

SHARED = torch.rand(4, 6)
VALUES = {
    "tensors": {"a": torch.rand(3, 8), "b": torch.rand(2)},
    "types": {
        str(kind): torch.arange(6).to(kind)
        for kind in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8)
    },
    "views": {"rows": SHARED[1:3], "columns": SHARED[:, 2:], "turned": SHARED.T},
    "scalars": {"none": torch.tensor(1.5), "empty": torch.rand(0, 8)},
    "nested": OrderedDict({"a": {"b": OrderedDict({"c": torch.rand(2, 2)})}}),
    "plain": {"text": "naïve", "number": 3, "large": 2**70, "half": 0.5, "flag": True, "no": None},
    "sequences": {"list": [1, "a", [2]], "tuple": (1, (2, 3), ())},
    "parameter": {"a": nn.Parameter(torch.rand(2, 3))},
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other.detach())
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "legacy"])
@pytest.mark.parametrize("kind", VALUES)
def test_a_file_is_read_as_torch_reads_it(
    tmp_path: Path, kind: str, archive: bool, protocol: int
) -> None:
    path = tmp_path / "a.pt"
    torch.save(VALUES[kind], path, _use_new_zipfile_serialization=archive, pickle_protocol=protocol)
    assert same(read_torch_file(path), torch.load(path, weights_only=False))
    assert is_torch_file(path.read_bytes()[:16])


class Runs:
    """A pickle of it makes a folder when it is opened."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "legacy"])
def test_nothing_is_run(tmp_path: Path, archive: bool) -> None:
    target = tmp_path / "made"
    value = {"a": torch.rand(2), "b": Runs(target)}
    torch.save(value, tmp_path / "a.pt", _use_new_zipfile_serialization=archive)
    with pytest.raises(PickleError, match="wants posix mkdir to be run"):
        read_torch_file(tmp_path / "a.pt")
    assert not target.exists()
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert target.exists()  # it would have run


def archive_of(tmp_path: Path, main: bytes, numbers: bytes = b"", **how: Any) -> Path:
    path = tmp_path / "made up.pt"
    with zipfile.ZipFile(path, "w", **how) as archive:
        archive.writestr("a/data.pkl", main)
        archive.writestr("a/data/0", numbers)
    return path


def pickle_of(
    shape: tuple[int, ...], stride: tuple[int, ...], count: int, offset: int = 0
) -> bytes:
    """A dictionary with one tensor of floats, which claims what it likes."""

    class Claims:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (
                *(Storage(), offset, shape, stride),
                *(False, OrderedDict()),
            )

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            if isinstance(thing, Storage):
                return "storage", torch.FloatStorage, "0", "cpu", count
            return None

    file = io.BytesIO()
    Pickler(file, 2).dump({"a": Claims()})
    return file.getvalue()


def test_a_tensor_is_what_the_numbers_and_the_claims_make_it(tmp_path: Path) -> None:
    numbers = struct.pack("<6f", *range(6))
    path = archive_of(tmp_path, pickle_of((2, 2), (1, 3), 6, 1), numbers)
    assert read_torch_file(path)["a"].tolist() == [[1, 4], [2, 5]]


@pytest.mark.parametrize(
    "claim",
    [
        ((10**10, 768), (768, 1), 10**10 * 768),
        ((10**10, 768), (0, 0), 6),
        ((2, 3), (3, 1), 10**12),
        ((2, 3), (3, 2), 6),
        ((2, 3), (3, 1), 6, 1),
        ((2, 3), (3,), 6),
        ((2, 3), (3, 1), 5),
        ((2, 3), (3, 1), 7),
        ((-2, -3), (3, 1), 6),
        ((2, 3), (-3, 1), 6),
        ((2.0, 3), (3, 1), 6),
        ((2, 3), (3, 1), -6),
    ],
    ids=str,
)
def test_a_lie_about_sizes_is_refused_before_anything_is_allocated(
    tmp_path: Path, claim: Any
) -> None:
    path = archive_of(tmp_path, pickle_of(*claim), bytes(24))
    with pytest.raises(PickleError):
        read_torch_file(path)


def test_a_legacy_file_cannot_claim_more_than_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.rand(10)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    assert whole.count(b"K\nN") == 1  # the storage's length, 10, before its view: none
    path.write_bytes(whole.replace(b"K\nN", b"\x8a\x05" + (10**10).to_bytes(5, "little") + b"N"))
    with pytest.raises(PickleError, match="has more numbers than bytes"):
        read_torch_file(path)
    path.write_bytes(whole[:-8])
    with pytest.raises(PickleError, match="not of the size that is said"):
        read_torch_file(path)


def test_what_is_compressed_is_refused(tmp_path: Path) -> None:
    main, numbers = pickle_of((2, 3), (3, 1), 6), bytes(24)
    assert read_torch_file(archive_of(tmp_path, main, numbers))["a"].shape == (2, 3)
    with pytest.raises(PickleError, match="has a/data.pkl compressed"):
        read_torch_file(archive_of(tmp_path, main, numbers, compression=zipfile.ZIP_DEFLATED))


def test_a_long_pickle_is_refused(tmp_path: Path) -> None:
    path = archive_of(tmp_path, b"\x80\x02}" + b"N0" * pickles.LARGEST + b".")
    with pytest.raises(PickleError, match="where at most"):
        read_torch_file(path)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"a/other": b""}, "an archive, but none of torch.save"),
        ({"a/data.pkl": b"\x80\x02}.", "a/byteorder": b"big"}, "another byte order"),
        ({"a/data.pkl": b"\x80\x02"}, "is damaged"),
        ({"a/data.pkl": b""}, "is damaged"),
    ],
    ids=str,
)
def test_another_archive_is_refused(tmp_path: Path, entries: Any, said: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    with pytest.raises(PickleError, match=said):
        read_torch_file(tmp_path / "a.pt")


def test_many_copies_of_the_same_numbers_are_refused(tmp_path: Path) -> None:
    rows = torch.rand(100_000)
    torch.save({str(place): rows.view(100, 1000) for place in range(3)}, tmp_path / "few.pt")
    assert len(read_torch_file(tmp_path / "few.pt")) == 3
    torch.save({str(place): rows.view(100, 1000) for place in range(99)}, tmp_path / "many.pt")
    with pytest.raises(PickleError, match="has the same numbers in too many tensors"):
        read_torch_file(tmp_path / "many.pt")


def test_numbers_are_read_once_under_however_many_names(tmp_path: Path) -> None:
    storages = [torch.zeros(1000)[:1] for _ in range(9)]
    torch.save({str(place): one for place, one in enumerate(storages)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as whole:
        entries = {entry.filename: whole.read(entry) for entry in whole.infolist()}
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w") as bomb:
        for name, data in entries.items():
            if "/data/" not in name or name.endswith("/0"):
                bomb.writestr(name, data)
        for place in range(1, 9):  # the list has more names for the bytes that lie there
            again = copy.copy(bomb.NameToInfo["a/data/0"])
            again.filename = f"a/data/{place}"
            bomb.filelist.append(again)
    with pytest.raises(PickleError, match="has more numbers than bytes"):
        read_torch_file(tmp_path / "bomb.pt")


def test_views_of_what_lies_at_an_odd_place_are_of_one_copy(tmp_path: Path) -> None:
    table = torch.rand(500)
    values = {str(place): table[place : place + 1] for place in range(100)}
    for pad in range(4):
        torch.save(
            {"x" * pad: 1, **values}, tmp_path / "a.pt", _use_new_zipfile_serialization=False
        )
        found = map_torch_file(tmp_path / "a.pt", ())
        assert torch.equal(found["99"], table[99:100])
        assert len({found[key].untyped_storage().data_ptr() for key in values}) == 1


def test_a_pickle_ends_before_anybody_tires_of_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(pickles, "MOST_STEPS", 20)
    torch.save({"a": 1}, tmp_path / "short.pt")
    assert read_torch_file(tmp_path / "short.pt") == {"a": 1}
    torch.save({str(number): number for number in range(20)}, tmp_path / "long.pt")
    with pytest.raises(PickleError, match="more than 20 instructions"):
        read_torch_file(tmp_path / "long.pt")


def test_nothing_is_made_of_more_than_torch_has_arguments_for(tmp_path: Path) -> None:
    for name, said in (
        ("torch._utils\n_rebuild_parameter", "with 9 arguments"),
        ("numpy\ndtype", ""),
    ):
        many = b"c" + name.encode() + b"\n(" + b"N" * 9 + b"tR"
        path = archive_of(tmp_path, b"\x80\x02}X\x01\0\0\0a" + many + b"s.")
        if said:
            with pytest.raises(PickleError, match=said):
                read_torch_file(path)
        else:  # of what is not read, nothing is made
            assert read_torch_file(path).keys() == {"a"}


def test_numbers_that_are_alike_to_a_dictionary_are_no_keys(tmp_path: Path) -> None:
    torch.save({7: 1, 2**61 - 1: 1}, tmp_path / "a.pt")
    with pytest.raises(PickleError, match="has int where a text or a small number is wanted"):
        read_torch_file(tmp_path / "a.pt")


def test_a_storage_is_of_one_size(tmp_path: Path) -> None:
    torch.save({"a": torch.rand(10)[:1], "b": torch.rand(12)[:1]}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        main = archive.read("a/data.pkl")
    assert main.count(b"X\x01\0\0\x001") == 1  # the second storage's key
    with pytest.raises(PickleError, match="has the storage 0 in two sizes"):
        read_torch_file(
            archive_of(tmp_path, main.replace(b"X\x01\0\0\x001", b"X\x01\0\0\x000"), bytes(48))
        )


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises(PickleError, match="is a pickle, but not one of torch.save"):
        read_torch_file(tmp_path / "a.pt")


def test_what_takes_forever_to_hash_is_no_key(tmp_path: Path) -> None:
    # A tuple of a tuple twice, and so on: 2 to the 200 leaves.
    tuples = b"K\x01" + b"".join(b"q%ch%c\x86" % (place, place) for place in range(200))
    with pytest.raises(PickleError, match="has tuple where a text or a small number is wanted"):
        read_torch_file(archive_of(tmp_path, b"\x80\x02}" + tuples + b"Ns."))


def test_what_is_referred_to_again_and_again_is_read_once(tmp_path: Path) -> None:
    value: dict[str, Any] = {}
    for _ in range(100):  # as a tree it would have 2 to the 100 leaves
        value = {"a": value, "b": value}
    torch.save(value, tmp_path / "a.pt")
    found = read_torch_file(tmp_path / "a.pt")
    assert found["a"] is found["b"]
