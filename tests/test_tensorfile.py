"""Files of tensors: the same bytes for the same content, and one clear error for any damage."""

import json
import pickle

import pytest
import torch

from detsd.contents import read_content
from detsd.tensorfile import MOST_HEADER, MOST_OF_ONE, read_tensors, write_tensors

HUGE = 2**40
ONE = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
DATA = bytes(16)


def file_of(header, data=DATA, length=None):
    """Return the bytes of a file with this header, which may lie about its length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


DAMAGED = {
    "empty": b"",
    "half a length": bytes(4),
    "no header": bytes(8),
    "a header that is longer than the file": file_of({"a": ONE}, length=1000),
    "a header of a terabyte": file_of({"a": ONE}, length=HUGE),
    "a header of more than there can be": file_of({"a": ONE}, length=2**64 - 1),
    "a header that is cut short": file_of({"a": ONE}, length=20),
    "a header of another alphabet": file_of(b"\xff\xfe{}"),
    "a header of another shape": file_of([ONE]),
    "a header without an end": file_of(b'{"a":' * 10_000),
    "metadata that are no text": file_of({"__metadata__": {"steps": 5}, "a": ONE}),
    "a tensor that is cut short": file_of({"a": ONE}, DATA[:-1]),
    "more than its tensors": file_of({"a": ONE}, DATA + b"x"),
    "a tensor beyond the end": file_of({"a": {**ONE, "data_offsets": [HUGE, HUGE + 16]}}),
    "a tensor of another length": file_of({"a": {**ONE, "shape": [5]}}),
    "a tensor of more than there can be": file_of({"a": {**ONE, "shape": [2**62, 2**62]}}),
    "a tensor of less than nothing": file_of({"a": {**ONE, "shape": [-4]}}),
    "a tensor of an unknown kind": file_of({"a": {**ONE, "dtype": "F31"}}),
    "tensors that overlap": file_of({"a": ONE, "b": ONE}),
}


EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
ONES = {"dtype": "U8", "shape": [1] * 9, "data_offsets": [0, 1]}
TOO_MUCH = {
    "header has 16777300 bytes": (b"{}" + b" " * (MOST_HEADER + 82), b""),
    "header has more than 100000 texts": (
        {"__metadata__": {str(n): "" for n in range(50_001)}},
        b"",
    ),
    "letters that are of no text": ({"a": {**EMPTY, "shape": [0] * 600_000}}, b""),
    "a name of 501 letters": ({"a" * 501: EMPTY}, b""),
    "a tensor of 9 dimensions": ({"a": ONES}, b"x"),
}


@pytest.mark.parametrize("said", TOO_MUCH)
def test_a_header_that_takes_long_is_refused_by_both_readers(tmp_path, said):
    path = tmp_path / "long.safetensors"
    path.write_bytes(file_of(*TOO_MUCH[said]))
    for read in (read_tensors, lambda path: read_content(path, "bundle_emb.")):
        with pytest.raises(ValueError, match=said):
            read(path)


def test_a_header_with_the_tags_of_many_pictures_is_read(tmp_path):
    tags = {f'a "tag", {number}\\': number for number in range(100_000)}
    path = tmp_path / "tagged.safetensors"
    write_tensors(path, {"a": torch.ones(2)}, {"ss_tag_frequency": json.dumps({"cats": tags})})
    assert path.stat().st_size > 3e6
    assert json.loads(read_tensors(path)[1]["ss_tag_frequency"]) == {"cats": tags}


@pytest.mark.parametrize("count", [1, 17])
def test_more_numbers_than_an_adapter_has_are_refused_before_they_are_read(tmp_path, count):
    size = MOST_OF_ONE + (count == 1)
    header = {
        str(n): {"dtype": "U8", "shape": [size], "data_offsets": [n * size, (n + 1) * size]}
        for n in range(count)
    }
    path = tmp_path / "large.safetensors"
    path.write_bytes(file_of(header, b""))
    with path.open("r+b") as file:  # zeros that are not on the disk
        file.truncate(path.stat().st_size + count * size)
    with pytest.raises(ValueError, match=rf"has {count * size} numbers, \d+ at most are read"):
        read_tensors(path)


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_of_any_kind_is_one_clear_error(tmp_path, damage):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(DAMAGED[damage])
    with pytest.raises(ValueError, match=r"^is no safetensors file, or a damaged one \(.+\)$"):
        read_tensors(path)


def test_what_is_written_is_read_in_full_precision(tmp_path):
    square = torch.arange(16.0).view(4, 4)
    given = {
        "half": torch.rand(3).bfloat16(),
        "learnt": torch.rand(2, 3, requires_grad=True),
        "number": torch.tensor(0.5),
        "row of it": square[1],
        "turned": square.T,
    }
    write_tensors(tmp_path / "new" / "a.safetensors", given, {"detsd": "naïve 脑"})
    found, metadata = read_tensors(tmp_path / "new" / "a.safetensors")
    assert [*found] == sorted(given) and metadata == {"detsd": "naïve 脑"}
    for name, tensor in given.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], tensor.detach().float())
    assert given["half"].dtype == torch.bfloat16 and given["learnt"].requires_grad


def test_the_bytes_do_not_depend_on_an_order_and_are_aligned(tmp_path):
    tensors = {name: torch.full((3,), float(place)) for place, name in enumerate("cab")}
    metadata = {f"key {place}": "x" * place for place in range(20)}
    turned = dict(reversed(tensors.items())), dict(reversed(metadata.items()))
    write_tensors(tmp_path / "one", tensors, metadata)
    write_tensors(tmp_path / "other", *turned)
    content = (tmp_path / "one").read_bytes()
    assert content == (tmp_path / "other").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0 and list(header) == sorted(header)
    assert read_tensors(tmp_path / "one")[1] == metadata


def test_what_cannot_be_written_leaves_the_old_file_alone(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(2)}, {})
    before = (tmp_path / "a.safetensors").read_bytes()
    with pytest.raises(TypeError):
        write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)}, {"steps": 5})
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_tensors(tmp_path / "taken", {"a": torch.zeros(2)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "taken"]
    assert (tmp_path / "a.safetensors").read_bytes() == before


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_is_never_opened(tmp_path, protocol):
    for name in ("old.bin", "old.ckpt", "named.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
        said = "no safetensors file" if protocol == 0 and name.startswith("named") else "a pickle"
        with pytest.raises(ValueError, match=f"is {said}"):
            read_tensors(tmp_path / name)
