"""The convert command: what it reads, where it writes, what it says."""

import shutil

import pytest
import torch

from detsd.__main__ import main
from detsd.adapters import FILE, Adapter, Layer, read_adapter, write_adapter
from detsd.concepts import EARLIER_FILE, Concept, write_concepts

UUID = "0f5bd5a2-7c1c-4a57-9d0e-2f6f3a1b6c55"
MODULE = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture
def checkpoint(tmp_path):
    """A run's checkpoint with an adapter."""
    layers = {
        MODULE: Layer(torch.rand(4, 8), torch.rand(8, 4), 2.0),
        "unet.conv_in": Layer(torch.rand(2, 4, 3, 3), torch.rand(8, 2, 1, 1), 2.0),
    }
    write_adapter(tmp_path / "step-000500" / "export" / FILE, Adapter(layers, {"steps": 500}))
    return tmp_path / "step-000500"


@pytest.fixture
def said(capsys):
    """Run the command, and return its exit code and the one line that it says."""

    def convert(*arguments):
        code = main(["convert", *map(str, arguments)])
        spoken = capsys.readouterr()
        (line,) = (spoken.err if code else spoken.out).splitlines()
        assert not (spoken.out if code else spoken.err)
        return code, line

    return convert


def layout_of(path):
    return "kohya" if KEY.encode() in path.read_bytes() else "diffusers"


def test_a_checkpoint_becomes_a_file_of_kohyas_and_again_of_diffusers(checkpoint, tmp_path, said):
    kohyas, back = tmp_path / "logo.safetensors", tmp_path / "back.safetensors"
    code, line = said(checkpoint, kohyas, "--format", "kohya")
    assert code == 0 and layout_of(kohyas) == "kohya"
    assert line == f"{kohyas}: 2 modules, ranks 2 to 4, kohya's layout, 0.0 MB"
    code, line = said(kohyas, back)
    assert line == f"{back}: 2 modules, ranks 2 to 4, diffusers' layout, 0.0 MB"
    assert read_adapter(back).about["steps"] == 500
    assert layout_of(back) == "diffusers"


def test_in_a_folder_the_file_has_the_name_that_its_readers_look_for(checkpoint, tmp_path, said):
    _, line = said(checkpoint, tmp_path / "for-diffusers")
    assert line.startswith(str(tmp_path / "for-diffusers" / FILE))
    said(checkpoint, tmp_path / "loras", "--format", "kohya")
    assert layout_of(tmp_path / "loras" / "step-000500.safetensors") == "kohya"
    shutil.copy(checkpoint / "export" / FILE, tmp_path / "v1.5 logo.safetensors")
    said(tmp_path / "v1.5 logo.safetensors", tmp_path / "loras", "--format", "kohya")
    assert layout_of(tmp_path / "loras" / "v1.5 logo.safetensors") == "kohya"


def test_a_file_may_be_converted_in_its_place(checkpoint, said):
    file = checkpoint / "export" / FILE
    assert said(file, file, "--format", "kohya")[0] == 0
    assert layout_of(file) == "kohya"


def test_a_cluster_checkpoint_is_fetched(checkpoint, tmp_path, monkeypatch, said):
    kept = tmp_path / ".cache" / "detsd" / "checkpoints" / UUID
    shutil.copytree(checkpoint, kept)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert said(UUID, tmp_path / "loras", "--format", "kohya")[0] == 0
    assert (tmp_path / "loras" / f"{UUID}.safetensors").is_file()


def test_concepts_are_not_converted_yet(tmp_path, said):
    write_concepts(tmp_path / "export", [Concept("det-logo", {"clip_l": torch.rand(3, 8)})])
    for name in ("", "export/det-logo.safetensors", f"export/{EARLIER_FILE}"):
        code, line = said(tmp_path / name, tmp_path / "out.safetensors")
        assert code == 2 and line.endswith(
            "is a concept, not an adapter; only adapters are converted so far"
        )
    assert not (tmp_path / "out.safetensors").exists()


def test_a_mistake_is_said_in_a_line(checkpoint, tmp_path, said, monkeypatch):
    code, line = said(tmp_path / "none", tmp_path / "out")
    assert code == 2 and line.startswith(f"error: {tmp_path / 'none'}: no such file or folder")
    code, line = said(checkpoint, tmp_path / "out.pt")
    assert code == 2 and "out.pt: a .safetensors file or a folder is wanted" in line
    (tmp_path / "file").touch()
    code, line = said(checkpoint, tmp_path / "file" / "out.safetensors")
    assert code == 2 and "out.safetensors could not be written: " in line
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DET_MASTER", "http://127.0.0.1:1")
    code, line = said(UUID, tmp_path / "out")
    assert code == 2 and f"no file or folder is called {UUID}" in line
    assert not (tmp_path / "out").exists()
