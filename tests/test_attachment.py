"""Adapters in a model: each layer computes what its file says, and all else stays as it was."""

import pytest
import torch
from torch.nn import functional as F

from detsd import attachment
from detsd.adapters import Adapter, AdapterError
from detsd.layers import Layer
from tests.made_up import adapter, weight_of
from tests.test_model import made_up

TO_Q = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q"


@pytest.fixture
def model(load):
    """A model that nothing is added to."""
    return load("sd1")


def place_of(model, layer):
    part, _, name = layer.partition(".")
    return model.modules[part].get_submodule(name)


def with_magnitudes(model, made, layers):
    """Return the adapter with those of its layers as DoRA has them."""
    changed = {
        name: made.layers[name]._replace(magnitude=1.5 * norms(weight_of(model, name)))
        for name in layers
    }
    return Adapter({**made.layers, **changed}, made.about)


def norms(weight):
    return weight.flatten(1).norm(dim=1)


def computed(weight, layer, scale=1.0):
    """Return the weight with its change, by the definition."""
    product = layer.up.flatten(1) @ layer.down.flatten(1)
    whole = weight + scale * layer.alpha / layer.rank * product.view_as(weight)
    if layer.magnitude is None:
        return whole
    share = layer.magnitude / norms(whole)
    return whole * share.view(-1, *[1] * (whole.dim() - 1))


def test_only_the_layers_with_magnitudes_are_doras(model):
    """As kohya's files may have them: attention with DoRA, and the rest without."""
    made = adapter(model, words="mid_block", rank=3)
    of_dora = [name for name in made.layers if "attn" in name or "conv1" in name]
    assert of_dora and len(of_dora) < len(made.layers)
    made = with_magnitudes(model, made, of_dora)
    weights = {name: weight_of(model, name).clone() for name in made.layers}
    attachment.attach(model.modules, "mixed", made)
    for name, layer in made.layers.items():
        place, wanted = place_of(model, name), computed(weights[name], layer)
        shape = (2, wanted.shape[1], 4, 4) if wanted.dim() == 4 else (2, wanted.shape[1])
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        base = place.base_layer
        if wanted.dim() == 4:
            expected = F.conv2d(x, wanted, base.bias, base.stride, base.padding)
        else:
            expected = F.linear(x, wanted, base.bias)
        assert torch.allclose(place(x), expected, atol=1e-5), name
        assert (attachment.take(place, "mixed").magnitude is None) == (name not in of_dora)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("vae.encoder.conv_in", "changes layers that this model lacks: vae.encoder.conv_in"),
        ("unet.mid_block.attentions.7.proj_in", "this model lacks"),
        # What is there, but has no weight of its own, or one that no adapter changes.
        (TO_Q.replace("to_q", "to_out"), "this model lacks: .*to_out"),
        ("unet.conv_norm_out", "this model lacks: unet.conv_norm_out"),
        (TO_Q.replace("to_q", "to_k"), r"other shapes than it: .*to_k \(9 × 5 .*, here 64 × 32\)"),
    ],
)
def test_an_adapter_of_another_model_is_refused_and_changes_nothing(model, layer, said):
    wanted = adapter(model, words=TO_Q).layers
    other = {layer: Layer(torch.rand(2, 5), torch.rand(9, 2), 2.0)}
    before = [name for name, _ in model.unet.named_modules()]
    with pytest.raises(AdapterError, match=f"^style was made for another base model: .*{said}"):
        model.add_adapter("style", Adapter({**wanted, **other}))
    assert [name for name, _ in model.unet.named_modules()] == before


def test_an_error_names_some_of_many_layers(model):
    factors = Layer(torch.rand(2, 5), torch.rand(9, 2), 2.0)
    with pytest.raises(AdapterError, match="lacks: unet.0, unet.1, unet.2 and 7 more$"):
        model.add_adapter("style", Adapter({f"unet.{number}": factors for number in range(10)}))


def test_what_counts_is_what_is_used_and_as_much_as_is_said(model):
    """Of an adapter in one place with another, too; with no weight it is not there."""
    one, other = adapter(model, words=TO_Q), adapter(model, words="mid_block", seed=1, rank=3)
    one = with_magnitudes(model, one, [TO_Q])
    weight = weight_of(model, TO_Q).clone()
    for name, made in (("one", one), ("other", other)):
        model.add_adapter(name, made)
    place = place_of(model, TO_Q)

    def effect():
        """Return the weight as it counts; it has no bias."""
        return place(torch.eye(weight.shape[1])).T

    for scales in ((1.0, 0.0), (0.5, -2.0), (0.0, 0.0), (0.0, 3.0)):
        attachment.use(model.modules, [*zip(("one", "other"), scales, strict=True)])
        wanted = weight
        for made, scale in zip((one, other), scales, strict=True):
            wanted = computed(wanted, made.layers[TO_Q], scale) if scale else wanted
        assert torch.allclose(effect(), wanted, atol=1e-5)
    used = effect()
    with pytest.raises(ZeroDivisionError), attachment.switched_off(model.modules):
        assert torch.equal(effect(), weight)
        1 / 0  # noqa: B018
    assert torch.equal(effect(), used)


def test_a_words_rows_learn_on_beside_an_adapter_and_chance_is_left_alone(model):
    rows = model.add_concept(made_up(model, "det-logo", 2))
    made, before = adapter(model, words=""), torch.get_rng_state()
    model.add_adapter("style", made)
    learning = [value for one in model.modules.values() for value in one.parameters()]
    assert [value for value in learning if value.requires_grad] == [*rows.values()]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_what_was_put_in_is_taken_out_by_the_name_it_came_by(load, family):
    model = load(family)
    made = adapter(model, words="")
    made = with_magnitudes(model, made, [name for name in made.layers if "q_proj" in name])
    found = attachment.inject(
        model.modules,
        "learnt",
        {name: layer.rank for name, layer in made.layers.items()},
        {name: layer.alpha for name, layer in made.layers.items()},
        dora={name for name, layer in made.layers.items() if layer.magnitude is not None},
    )
    assert found.keys() == made.layers.keys()
    for name, layer in made.layers.items():
        attachment.put(found[name], "learnt", layer)
        for taken, wanted in zip(attachment.take(found[name], "learnt"), layer, strict=True):
            assert taken is wanted is None or torch.equal(*map(torch.as_tensor, (taken, wanted)))
