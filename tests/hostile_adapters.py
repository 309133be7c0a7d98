"""Adapters that were made to take long, or much memory, or to end in a traceback."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

TO_Q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
ZEROS = "1" + "0" * 400


def write_file(path: Path, header: Mapping[str, Any], size: int) -> None:
    """Write a safetensors file of so many zeros, which are not on the disk."""
    written = json.dumps(header, separators=(",", ":")).encode()
    with path.open("wb") as file:
        file.write(len(written).to_bytes(8, "little") + written)
        file.truncate(8 + len(written) + size)


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    """Return what a header says of a tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def layer(name: str = TO_Q, start: int = 0) -> dict[str, Any]:
    """Return what a header says of a layer, of 112 bytes."""
    return {
        f"{name}.lora.down.weight": entry([2, 6], start, start + 48),
        f"{name}.lora.up.weight": entry([8, 2], start + 48, start + 112),
    }


def noted(**metadata: str) -> Callable[[Path], None]:
    """Return what writes an adapter of one layer with these notes."""
    return lambda path: write_file(path, {"__metadata__": metadata, **layer()}, 112)


def pattern(text: str) -> Callable[[Path], None]:
    """Return what writes an adapter whose alphas are for modules that match the text."""
    config = {"unet.lora_alpha": 2, "unet.alpha_pattern": {text: 4}}
    return noted(lora_adapter_metadata=json.dumps(config))


def of_one_kind(name: str, count: int) -> Callable[[Path], None]:
    """Return what writes very many tensors of no numbers."""
    return lambda path: write_file(
        path, {name.format(place): entry([0], 0, 0) for place in range(count)}, 0
    )


def lists(count: int) -> Callable[[Path], None]:
    """Return what writes an adapter with notes of many empty lists."""
    return lambda path: noted(detsd='{"a": [' + "[]," * count + "[]]}")(path)


def many_notes(path: Path) -> None:
    """A million notes of nothing."""
    noted(**{f"{place:x}": "" for place in range(1_000_000)})(path)


def long_name(start: str, part: str, count: int) -> Callable[[Path], None]:
    """Return what writes a layer whose name is one part, very many times."""
    return lambda path: write_file(path, {f"{start}{part * count}x.alpha": entry([0], 0, 0)}, 0)


def many_layers(path: Path) -> None:
    """As many layers as a header may have, of long names, with an alpha that none of them has."""
    config = json.dumps({"lora_alpha": 2, "alpha_pattern": {"a": 1}})
    header: dict[str, Any] = {"__metadata__": {"lora_adapter_metadata": config}}
    for place in range(7000):
        header |= layer(f"unet.{place}{'.a' * 220}", 112 * place)
    header["unet.a.alpha"] = entry([2], 112 * 7000, 112 * 7000 + 8)
    write_file(path, header, 112 * 7000 + 8)


def many_dimensions(path: Path) -> None:
    """A shape of half a million ones."""
    ones = entry([1] * 500_000, 0, 4)
    other = f"{TO_Q}.lora.up.weight"
    write_file(path, {f"{TO_Q}.lora.down.weight": ones, other: entry([1, 1], 4, 8)}, 8)


def large_layer(path: Path) -> None:
    """A rank of three million."""
    down, up = f"{TO_Q}.lora.down.weight", f"{TO_Q}.lora.up.weight"
    header = {
        down: entry([3 << 20, 1024], 0, 3 << 30, "F8_E4M3"),
        up: entry([8, 3 << 20], 3 << 30, (3 << 30) + (24 << 20), "F8_E4M3"),
    }
    write_file(path, header, (3 << 30) + (24 << 20))


def many_large_layers(path: Path) -> None:
    """Layers of two gigabytes that are eight in memory."""
    size = 1 << 26
    header = {
        f"unet.{place // 2}.lora.{'up' if place % 2 else 'down'}.weight": entry(
            [1 << 13, 1 << 13], place * size, (place + 1) * size, "F8_E4M3"
        )
        for place in range(32)
    }
    write_file(path, header, 32 * size)


def two_lines(path: Path) -> None:
    """A layer that would write what it likes on the terminal."""
    write_file(path, layer("a\nb\x1b[31mall is well"), 112)


FILES: dict[str, Callable[[Path], None]] = {
    "pattern.safetensors": pattern("([a-z_0-9.]+)+!"),
    "nested pattern.safetensors": pattern("(" * 5000),
    "long pattern.safetensors": pattern("a." * 400_000),
    "alpha.safetensors": noted(lora_adapter_metadata=f'{{"unet.lora_alpha": {ZEROS}}}'),
    "folded.safetensors": noted(detsd=f'{{"folded_alpha": {ZEROS}}}'),
    "lists.safetensors": lists(25_000_000),
    "fewer lists.safetensors": lists(5_000_000),
    "nested.safetensors": noted(detsd='{"a": ' + "[" * 900 + "]" * 900 + "}"),
    "half a letter.safetensors": noted(detsd='{"base_model": "\\ud800"}'),
    "texts.safetensors": many_notes,
    "no numbers.safetensors": of_one_kind("{}", 1_500_000),
    "kohya.safetensors": of_one_kind("lora_unet_mid_block_{}_to_q.alpha", 16_000),
    "kohya, sdxl.safetensors": of_one_kind("lora_unet_output_blocks_8_2_conv_{}.alpha", 16_000),
    "long name.safetensors": long_name("lora_unet_", "to_q_", 3_000_000),
    "long path.safetensors": long_name("unet.", "a.", 100_000),
    "layers.safetensors": many_layers,
    "dimensions.safetensors": many_dimensions,
    "large.safetensors": large_layer,
    "large layers.safetensors": many_large_layers,
    "adapter's lines.safetensors": two_lines,
}
