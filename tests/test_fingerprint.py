"""Digests of what was learnt: another one for other content, the same for another file of it."""

import torch

from detsd import fingerprint
from detsd.adapters import read_adapter, write_adapter
from detsd.concepts import Concept
from tests.made_up import adapter


def test_a_concept_is_known_by_its_vectors():
    one, other = ({"clip_l": torch.full((2, 4), value)} for value in (0.5, 0.25))
    digest = fingerprint.of_concept(Concept("a", one))
    assert digest == fingerprint.of_concept(Concept("b", one, "words"))
    assert digest != fingerprint.of_concept(Concept("a", other))


def test_an_adapter_is_known_by_its_layers_and_not_by_its_file(load, tmp_path):
    made = adapter(load("sd1"), words="conv1")
    digest = fingerprint.of_adapter(made)
    for layout in ("diffusers", "kohya"):
        write_adapter(tmp_path / f"{layout}.safetensors", made, layout)
    assert digest == fingerprint.of_adapter(read_adapter(tmp_path / "kohya.safetensors"))
    assert digest != fingerprint.of_adapter(adapter(load("sd1"), words="conv1", seed=1))
    name, layer = next(iter(made.layers.items()))
    for changes in ({"alpha": 1.0}, {"magnitude": torch.ones(len(layer.up))}):
        made.layers[name] = layer._replace(**changes)
        assert digest != fingerprint.of_adapter(made)


def test_weights_are_known_by_every_number_and_how_it_is_kept():
    plain = {"a": torch.zeros(2, 3, 4, 4), "b": torch.ones(3)}
    digest = fingerprint.of_weights(plain)
    assert digest == fingerprint.of_weights(dict(reversed(plain.items())))
    nudged = plain["a"].clone()
    nudged[1, 2, 3, 3] = 1e-9
    others = [
        {**plain, "a": nudged},
        {**plain, "a": plain["a"].to(memory_format=torch.channels_last)},
        {**plain, "a": plain["a"].flatten()},
        {**plain, "b": plain["b"].to(torch.bfloat16)},
        {"a": plain["a"], "c": plain["b"]},
        {"a": plain["a"]},
    ]
    assert len({digest, *map(fingerprint.of_weights, others)}) == 1 + len(others)


def test_a_model_is_known_by_its_files_wherever_they_lie(load, tmp_path):
    model = load("sd1")
    model.pipeline().save_pretrained(tmp_path / "one")
    model.pipeline().save_pretrained(tmp_path / "copy")
    with torch.no_grad():
        for weight in model.unet.parameters():
            weight += 1e-6  # as little as a step of training
    model.pipeline().save_pretrained(tmp_path / "other")
    one, copy, other = (fingerprint.of_folder(tmp_path / name) for name in ("one", "copy", "other"))
    assert one == copy != other
