"""Adapter files: other tools' are read, ours are read by other tools, and nothing else is."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers, logging
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from detsd.adapters import (
    FILE,
    Adapter,
    AdapterError,
    ConceptFoundError,
    Layer,
    read_adapter,
    write_adapter,
)
from detsd.concepts import EARLIER_FILE, Concept, write_concepts

PIPELINES = {"sd1": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
IN_UNET = (
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
    *("conv1", "conv2", "conv_shortcut", "conv", "conv_in", "conv_out", "time_emb_proj"),
    *("linear_1", "linear_2"),
)
IN_TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "text_projection")
# What is trained: (family, peft's options).
METHODS = {
    "sd1": ("sd1", {"r": 4, "lora_alpha": 2}),
    "sdxl": ("sdxl", {"r": 4, "lora_alpha": 8}),
    "alphas": ("sdxl", {"r": 4, "lora_alpha": 2, "alpha_pattern": {"conv1": 1, "fc1": 3}}),
    "ranks": ("sd1", {"r": 4, "lora_alpha": 4, "rank_pattern": {"conv1": 2, "fc1": 2}}),
    "rank-stabilised": ("sd1", {"r": 4, "lora_alpha": 4, "use_rslora": True}),
    "dora": ("sd1", {"r": 4, "lora_alpha": 2, "use_dora": True}),
    "dora, sdxl": ("sdxl", {"r": 4, "lora_alpha": 4, "use_dora": True}),
}


@pytest.fixture(autouse=True)
def hushed():
    """What diffusers and transformers say of adapters is not looked at here."""
    logging.set_verbosity_error()


def parts_of(pipeline):
    names = ("unet", "text_encoder", "text_encoder_2")
    return {name: getattr(pipeline, name) for name in names if hasattr(pipeline, name)}


def plain(models, family):
    """Return diffusers' own pipeline over a tiny model."""
    pipeline = PIPELINES[family].from_pretrained(models[family])
    pipeline.set_progress_bar_config(disable=True)
    if family == "sdxl":  # kohya's names for SDXL are those of two ResNets a block
        torch.manual_seed(0)
        config = {**pipeline.unet.config, "layers_per_block": 2}
        pipeline.unet = UNet2DConditionModel.from_config(config)
    return pipeline


def train(pipeline, options):
    """Add peft's adapters, and let all their tensors have come some way."""
    draw = torch.Generator().manual_seed(0)
    for name, model in parts_of(pipeline).items():
        wanted = IN_UNET if name == "unet" else IN_TEXT
        present = [f".{module}" for module, _ in model.named_modules()]
        targets = [one for one in wanted if any(path.endswith(f".{one}") for path in present)]
        own = {  # peft warns of patterns that fit nothing
            key: {one: value[one] for one in value if one in targets} if "pattern" in key else value
            for key, value in options.items()
        }
        model.add_adapter(LoraConfig(target_modules=targets, **own))
        for key, tensor in model.named_parameters():
            if "magnitude" in key:
                tensor.data *= 1 + torch.rand(tensor.shape, generator=draw)
            elif "lora_" in key:
                tensor.data = torch.randn(tensor.shape, generator=draw) / 10


def save(pipeline, folder, metadata=True):
    """Save as diffusers' training scripts do; the older ones leave no metadata."""
    layers = {
        f"{name}_lora_layers": convert_state_dict_to_diffusers(get_peft_model_state_dict(model))
        for name, model in parts_of(pipeline).items()
    }
    about = _collate_lora_metadata(parts_of(pipeline)) if metadata else {}
    pipeline.save_lora_weights(folder, **layers, **about)


def outcome(pipeline):
    """Return what prompts and an image come to."""
    options = {} if hasattr(pipeline, "text_encoder_2") else {"num_images_per_prompt": 1}
    encoded = pipeline.encode_prompt(
        "a cat", device="cpu", do_classifier_free_guidance=True, **options
    )
    latents = pipeline(
        "a cat",
        num_inference_steps=2,
        output_type="latent",
        generator=torch.Generator().manual_seed(1),
    ).images
    return [*encoded, latents]


def distance(found, wanted):
    """Return how far apart they are at most, as a share of the size."""
    pairs = zip(found, wanted, strict=True)
    return max(((one - other).norm() / (other.norm() + 1e-9)).item() for one, other in pairs)


def changes(pipeline):
    """Return what peft adds to each module's weight."""
    found = {}
    for part, model in parts_of(pipeline).items():
        for name, module in model.named_modules():
            if getattr(module, "lora_A", None):
                (adapter,) = module.lora_A
                renamed = part != "unet" and not name.startswith(("text_model.", "text_projection"))
                path = f"text_model.{name}" if renamed else name
                found[f"{part}.{path}"] = module.get_delta_weight(adapter)
    return found


def change(layer):
    """Return what the layer adds to its module's weight."""
    product = layer.up.flatten(1) @ layer.down.flatten(1)
    return (layer.alpha / len(layer.down) * product).reshape(len(layer.up), *layer.down.shape[1:])


@pytest.fixture(scope="module")
def trained(models, tmp_path_factory):
    """Return, by method, the folder that diffusers saved an adapter in, and what it does."""
    made = {}

    def get(method):
        if method not in made:
            family, options = METHODS[method]
            pipeline, folder = plain(models, family), tmp_path_factory.mktemp("saved")
            train(pipeline, options)
            save(pipeline, folder)
            made[method] = (folder, outcome(pipeline), changes(pipeline))
        return made[method]

    return get


@pytest.mark.parametrize("method", METHODS)
def test_what_diffusers_saves_is_read(trained, method):
    folder, _, wanted = trained(method)
    adapter = read_adapter(folder)
    assert adapter.layers.keys() == wanted.keys()
    for module, layer in adapter.layers.items():
        torch.testing.assert_close(change(layer), wanted[module])
        assert (layer.magnitude is not None) is method.startswith("dora")
        if layer.magnitude is not None:
            assert layer.magnitude.shape == (len(layer.up),)
    assert adapter.is_sdxl is (METHODS[method][0] == "sdxl")


@pytest.mark.parametrize(
    ("method", "layout"),
    [
        ("alphas", "diffusers"),
        ("ranks", "diffusers"),
        ("dora", "diffusers"),
        ("dora, sdxl", "diffusers"),
        ("sd1", "kohya"),
        ("sdxl", "kohya"),
    ],
)
def test_plain_diffusers_draws_with_it_what_was_trained(models, trained, tmp_path, method, layout):
    folder, wanted, modules = trained(method)
    pipeline = plain(models, METHODS[method][0])
    assert distance(outcome(pipeline), wanted) > 0.1
    write_adapter(tmp_path / "any name.safetensors", read_adapter(folder), layout)
    pipeline.load_lora_weights(tmp_path / "any name.safetensors")
    found = changes(pipeline)
    assert found.keys() == modules.keys()
    assert all(torch.allclose(found[one], modules[one], atol=1e-6) for one in modules)
    assert distance(outcome(pipeline), wanted) < 1e-5


def test_without_metadata_alpha_is_the_rank(models, tmp_path):
    pipeline = plain(models, "sd1")
    train(pipeline, {"r": 4, "lora_alpha": 4})
    save(pipeline, tmp_path, metadata=False)
    adapter, wanted = read_adapter(tmp_path), changes(pipeline)
    assert {layer.alpha for layer in adapter.layers.values()} == {4.0}
    assert all(torch.allclose(change(adapter.layers[one]), wanted[one]) for one in wanted)


def test_what_a_unet_saves_alone_is_read(models, tmp_path):
    unet = plain(models, "sd1").unet
    unet.add_adapter(LoraConfig(r=4, lora_alpha=2, target_modules=["to_q", "conv1"]))
    unet.save_lora_adapter(tmp_path)
    layers = read_adapter(tmp_path).layers
    assert all(module.startswith("unet.") for module in layers)
    assert {layer.alpha for layer in layers.values()} == {2.0}


def same(one, other):
    """Return whether two adapters have the very same layers."""
    assert one.layers.keys() == other.layers.keys()
    for module, (down, up, alpha, magnitude) in one.layers.items():
        found = other.layers[module]
        assert alpha == found.alpha
        assert torch.equal(down, found.down) and torch.equal(up, found.up)
        assert (magnitude is None) is (found.magnitude is None)
        assert magnitude is None or torch.equal(magnitude, found.magnitude)
    return True


@pytest.mark.parametrize("method", ["sd1", "sdxl", "ranks", "dora", "dora, sdxl"])
def test_there_and_back_is_where_it_was(trained, tmp_path, method):
    first, there, back = (tmp_path / f"{name}.safetensors" for name in ("first", "there", "back"))
    read = read_adapter(trained(method)[0])
    about = {"family": "sdxl" if read.is_sdxl else "sd", "steps": 5, "base_model": "a/b"}
    adapter = Adapter(read.layers, about)
    write_adapter(first, adapter)
    write_adapter(there, read_adapter(first), "kohya")
    write_adapter(back, read_adapter(there), "diffusers")
    for path in (first, there, back):
        assert same(read_adapter(path), adapter) and read_adapter(path).about == about
    assert first.read_bytes() == back.read_bytes()


def test_an_alpha_that_is_no_power_of_two_comes_back_to_rounding(tmp_path):
    layer = Layer(torch.rand(4, 8), torch.rand(6, 4), 3.0)
    write_adapter(tmp_path / FILE, Adapter({"unet.conv_in": layer}))
    found = read_adapter(tmp_path / FILE).layers["unet.conv_in"]
    assert found.alpha == 3.0
    torch.testing.assert_close(found.up, layer.up)
    plain_up = load_file(tmp_path / FILE)["unet.conv_in.lora.up.weight"]
    torch.testing.assert_close(plain_up, layer.up * 3 / 4)


TO_Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
TO_OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
Q_PROJ = "text_model.encoder.layers.0.self_attn.q_proj"
FC1 = "text_model.encoder.layers.0.mlp.fc1"


def small(**about):
    """Return an adapter with a layer of each kind."""
    torch.manual_seed(0)
    shapes = {f"unet.{TO_Q}": (8, 6), f"unet.{TO_OUT}": (6, 8), "unet.conv_in": (6, 4, 3, 3)}
    shapes |= {f"text_encoder.{Q_PROJ}": (6, 6), f"text_encoder.{FC1}": (12, 6)}
    layers = {
        module: Layer(torch.rand(2, *rest), torch.rand(out, 2, *[1] * (len(rest) - 1)), 2.0)
        for module, (out, *rest) in sorted(shapes.items())
    }
    return Adapter(layers, about)


def tensors_of(path, adapter=None):
    """Return the tensors that our own file of it has."""
    write_adapter(path, adapter or small())
    return load_file(path)


OTHER_NAMES = {
    "peft": lambda key: re.sub(
        r"\.(lora|lora_linear_layer)\.(down|up)",
        lambda found: {"down": ".lora_A", "up": ".lora_B"}[found[2]],
        key,
    ),
    "without text_model": lambda key: key.replace("text_model.", ""),
    "attention processors": lambda key: re.sub(
        r"attn1\.to_(q|out)(\.0)?\.lora", r"attn1.processor.to_\1_lora", key
    ),
    "attention processors in the text encoder": lambda key: key.replace(
        "q_proj.lora_linear_layer", "to_q_lora"
    ),
}


@pytest.mark.parametrize("layout", OTHER_NAMES)
def test_layouts_of_other_times_are_read(tmp_path, layout):
    ours = tensors_of(tmp_path / FILE)
    theirs = {OTHER_NAMES[layout](key): tensor for key, tensor in ours.items()}
    assert theirs.keys() != ours.keys()
    save_file(theirs, tmp_path / "theirs.safetensors")
    assert same(read_adapter(tmp_path / "theirs.safetensors"), small())


def test_a_file_of_a_unet_alone_has_no_prefixes(tmp_path):
    ours = tensors_of(tmp_path / FILE)
    bare = {key[5:]: tensor for key, tensor in ours.items() if key.startswith("unet.")}
    save_file(bare, tmp_path / "bare.safetensors")
    wanted = {key: one for key, one in small().layers.items() if key.startswith("unet.")}
    assert same(read_adapter(tmp_path / "bare.safetensors"), Adapter(wanted))


@pytest.mark.parametrize(
    ("given", "alpha"),
    [
        (None, 2.0),
        (torch.tensor(1.0), 1.0),
        (torch.tensor([3]), 3.0),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (torch.tensor(0.0), 2.0),
    ],
)
@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_the_files_own_alpha_counts_or_else_the_rank(tmp_path, layout, given, alpha):
    name = f"unet.{TO_Q}" if layout == "diffusers" else f"lora_unet_{TO_Q.replace('.', '_')}"
    tensors = {
        f"{name}.lora_down.weight": torch.rand(2, 6),
        f"{name}.lora_up.weight": torch.rand(8, 2),
    }
    if given is not None:
        tensors[f"{name}.alpha"] = given
    save_file(tensors, tmp_path / "one.safetensors")
    ((module, layer),) = read_adapter(tmp_path / "one.safetensors").layers.items()
    assert (module, layer.alpha) == (f"unet.{TO_Q}", alpha)
    assert torch.equal(layer.up, tensors[f"{name}.lora_up.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(tmp_path, dtype):
    half = {key: tensor.to(dtype) for key, tensor in tensors_of(tmp_path / FILE).items()}
    save_file(half, tmp_path / "half.safetensors")
    layers = read_adapter(tmp_path / "half.safetensors").layers
    assert {one.dtype for layer in layers.values() for one in layer[:2]} == {torch.float32}


@pytest.mark.parametrize("shape", [(8,), (8, 1), (8, 1, 1, 1)])
def test_kohyas_magnitudes_are_read_in_any_shape(tmp_path, shape):
    name = f"lora_unet_{TO_Q.replace('.', '_')}"
    tensors = {
        f"{name}.lora_down.weight": torch.rand(2, 6),
        f"{name}.lora_up.weight": torch.rand(8, 2),
        f"{name}.dora_scale": torch.rand(shape),
    }
    save_file(tensors, tmp_path / "one.safetensors")
    (layer,) = read_adapter(tmp_path / "one.safetensors").layers.values()
    assert torch.equal(layer.magnitude, tensors[f"{name}.dora_scale"].flatten())


def test_what_is_written_has_one_metadata_key_for_diffusers(tmp_path):
    write_adapter(tmp_path / FILE, small(steps=5, base_model="a/b"))
    with safe_open(tmp_path / FILE, framework="pt") as file:
        assert file.metadata() == {"detsd": '{"base_model": "a/b", "steps": 5}'}


@pytest.mark.parametrize(
    ("width", "family", "version", "v2"),
    [
        (768, "sd", "sd_v1", "False"),
        (1024, "sd", "sd_v2", "True"),
        (2048, "sdxl", "sdxl_base_v1-0", "False"),
    ],
)
def test_kohyas_tools_are_told_what_the_file_is_for(tmp_path, width, family, version, v2):
    block = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
    layers = {
        f"unet.{block}.to_k": Layer(torch.rand(4, width), torch.rand(8, 4), 2.0),
        f"unet.{block}.to_q": Layer(torch.rand(2, 8), torch.rand(8, 2), 2.0),
    }
    about = {"family": family, "steps": 5, "base_model": "a/b"}
    write_adapter(tmp_path / "one.safetensors", Adapter(layers, about), "kohya")
    with safe_open(tmp_path / "one.safetensors", framework="pt") as file:
        told = file.metadata()
        assert any(".".join(key.split(".")[1:]) == "alpha" for key in file.keys())  # noqa: SIM118
    assert json.loads(told.pop("detsd")) == about
    assert told == {
        "ss_base_model_version": version,
        "ss_network_alpha": "2",
        "ss_network_dim": "Dynamic",
        "ss_network_module": "networks.lora",
        "ss_sd_model_name": "a/b",
        "ss_steps": "5",
        "ss_v2": v2,
    }


def test_what_kohyas_tools_noted_is_kept(tmp_path):
    tensors = {
        "lora_unet_input_blocks_0_0.lora_down.weight": torch.rand(2, 4, 3, 3),
        "lora_unet_input_blocks_0_0.lora_up.weight": torch.rand(6, 2, 1, 1),
    }
    noted = {"ss_steps": "700", "ss_sd_model_name": "model.safetensors", "ss_seed": "1"}
    save_file(tensors, tmp_path / "one.safetensors", metadata=noted)
    adapter = read_adapter(tmp_path / "one.safetensors")
    assert adapter.about == {"steps": 700, "base_model": "model.safetensors", "family": "sdxl"}
    write_adapter(tmp_path / "two.safetensors", adapter, "kohya")
    assert tensors.keys() < load_file(tmp_path / "two.safetensors").keys()


WRITE = """
import sys
from pathlib import Path
from detsd.adapters import read_adapter, write_adapter
source, target = map(Path, sys.argv[1:])
for layout in ("diffusers", "kohya"):
    write_adapter(target / layout, read_adapter(source), layout)
"""


def test_the_bytes_are_the_same_in_every_process(tmp_path):
    about = {"steps": 5, "base_model": "a/b", "version": "1", "family": "sd", "more": [1, 2]}
    write_adapter(tmp_path / FILE, small(**about))
    written = []
    for seed in ("1", "2"):
        command = [sys.executable, "-c", WRITE, str(tmp_path), str(tmp_path / seed)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(command, env=environment, check=True, timeout=60)
        written.append([(tmp_path / seed / one).read_bytes() for one in ("diffusers", "kohya")])
    assert written[0] == written[1]
    assert written[0][0] == (tmp_path / FILE).read_bytes()
    length = int.from_bytes(written[0][1][:8], "little")
    assert length % 8 == 0  # the tensors are aligned


def test_what_is_written_is_whole_and_readable_by_colleagues(tmp_path):
    write_adapter(tmp_path / "new" / FILE, small())
    (tmp_path / "new" / "plain.txt").write_text("what the umask allows")
    found = {path.name: path.stat().st_mode for path in (tmp_path / "new").iterdir()}
    assert set(found) == {FILE, "plain.txt"} and len(set(found.values())) == 1


def test_a_disk_that_is_full_leaves_the_old_file(tmp_path, monkeypatch):
    write_adapter(tmp_path / FILE, small())
    before = (tmp_path / FILE).read_bytes()

    def fail(path, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_adapter(tmp_path / FILE, small(steps=2))
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert (tmp_path / FILE).read_bytes() == before


def test_layers_may_be_views_that_need_gradients(tmp_path):
    flat = torch.rand(100, requires_grad=True)
    layer = Layer(flat[:12].view(6, 2).T, flat[12:28].view(8, 2), 2.0)
    write_adapter(tmp_path / FILE, Adapter({f"unet.{TO_Q}": layer}))
    assert torch.equal(read_adapter(tmp_path).layers[f"unet.{TO_Q}"].down, layer.down)


def test_a_checkpoint_is_read_from_its_export(tmp_path):
    write_adapter(tmp_path / "export" / FILE, small())
    (tmp_path / "resume").mkdir()
    for folder in (tmp_path, tmp_path / "export"):
        assert same(read_adapter(folder), small())


def test_a_concept_is_told_from_an_adapter(tmp_path):
    write_concepts(tmp_path / "export", [Concept("det-logo", {"clip_l": torch.rand(3, 8)})])
    both = {"clip_l": torch.rand(3, 8), "clip_g": torch.rand(3, 12)}
    save_file(both, tmp_path / "both.safetensors")
    files = (tmp_path / "export" / "det-logo.safetensors", tmp_path / "export" / EARLIER_FILE)
    for path in (tmp_path, tmp_path / "both.safetensors", *files):
        with pytest.raises(ConceptFoundError, match="is a concept, not an adapter"):
            read_adapter(path)


@pytest.mark.parametrize("content", [b"", b"x", b"text " * 50, b"\xff" * 100])
def test_garbage_is_refused_by_name(tmp_path, content):
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(AdapterError, match="bad.safetensors: is no safetensors file"):
        read_adapter(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 0.99])
def test_a_truncated_file_is_refused_by_name(tmp_path, share):
    write_adapter(tmp_path / FILE, small())
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(AdapterError, match=f"{FILE}: is no safetensors file"):
        read_adapter(tmp_path)


class Malicious:
    """A pickle of it makes a folder when it is opened."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"mkdir '{self.target}'",)


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("name", ["pytorch_lora_weights.bin", "one.pt", "one.safetensors"])
def test_a_pickle_is_refused_with_advice_and_not_opened(tmp_path, name, new):
    trap = Malicious(tmp_path / "executed")
    torch.save({"a": trap}, tmp_path / name, _use_new_zipfile_serialization=new)
    with pytest.raises(AdapterError, match=f"{name}: is a pickle.*safetensors.torch.save_file"):
        read_adapter(tmp_path / name)
    assert not trap.target.exists()


DOWN, UP = f"unet.{TO_Q}.lora.down.weight", f"unet.{TO_Q}.lora.up.weight"
LAYER = {DOWN: torch.rand(2, 6), UP: torch.rand(8, 2)}
KOHYA = f"lora_unet_{TO_Q.replace('.', '_')}"
MALFORMED = {
    "holds no tensors": {},
    "lacks its up, has down": {DOWN: LAYER[DOWN]},
    "lacks its down, has up": {UP: LAYER[UP]},
    "lacks its down and up, has alpha": {f"unet.{TO_Q}.alpha": torch.tensor(1.0)},
    r"different ranks, found \(2, 6\) and \(8, 3\)": {**LAYER, UP: torch.rand(8, 3)},
    r"found \(2, 6\) and \(8, 2, 1, 1\)": {**LAYER, UP: torch.rand(8, 2, 1, 1)},
    r"found \(2, 6, 3\)": {DOWN: torch.rand(2, 6, 3), UP: torch.rand(8, 2, 1)},
    r"found \(\) and": {**LAYER, DOWN: torch.tensor(1.0)},
    r"found \(0, 6\)": {DOWN: torch.rand(0, 6), UP: torch.rand(8, 0)},
    "number is wanted for alpha, found nan": {
        **LAYER,
        f"unet.{TO_Q}.alpha": torch.tensor(float("nan")),
    },
    r"number is wanted for alpha, found \(2,\)": {**LAYER, f"unet.{TO_Q}.alpha": torch.ones(2)},
    "by column": {
        f"{KOHYA}.lora_down.weight": torch.rand(2, 8),
        f"{KOHYA}.lora_up.weight": torch.rand(8, 2),
        f"{KOHYA}.dora_scale": torch.rand(1, 8),
    },
    "twice": {**LAYER, **{f"unet.{TO_Q}.lora_A.weight": torch.rand(2, 6)}},
    "holds LoHa": {f"{KOHYA}.hada_w1_a": torch.rand(2, 6)},
    "holds LoKr": {f"{KOHYA}.lokr_w1": torch.rand(2, 6), **LAYER},
    "holds LoCon with a Tucker": {f"{KOHYA}.lora_mid.weight": torch.rand(2, 2, 3, 3)},
    "holds LoRA with biases": {**LAYER, f"unet.{TO_Q}.lora_B.bias": torch.rand(8)},
    "holds LoRA of a transformer": {"transformer.a.lora_A.weight": torch.rand(2, 6), **LAYER},
    "real numbers of 8 to 64 bits are wanted, found torch.complex64": {
        **LAYER,
        f"unet.{TO_Q}.lora.up.weight": torch.rand(8, 2, dtype=torch.complex64),
    },
    "8 to 64 bits are wanted, found torch.float4": {
        **LAYER,
        f"unet.{TO_Q}.lora.up.weight": torch.zeros(8, 1, dtype=torch.uint8).view(
            torch.float4_e2m1fn_x2
        ),
    },
    "is no tensor's name": {"model.diffusion_model.out.2.weight": torch.rand(2, 6), **LAYER},
    "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight is no": {
        "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": torch.rand(2, 6)
    },
}


@pytest.mark.parametrize("said", MALFORMED)
def test_tensors_that_are_no_adapter_are_refused(tmp_path, said):
    save_file(MALFORMED[said], tmp_path / "odd.safetensors")
    with pytest.raises(AdapterError, match=f"odd.safetensors: .*{said}") as error:
        read_adapter(tmp_path / "odd.safetensors")
    assert type(error.value) is AdapterError and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "metadata",
    [
        {"detsd": "{broken"},
        {"detsd": "[]"},
        {"detsd": "[" * 100_000},
        {"detsd": '{"a": ' + "[" * 200 + "]" * 200 + "}"},
        {"detsd": '{"base_model": "\\ud800"}'},
        {"detsd": '{"a": "' + "x" * 2_000_000 + '"}'},
        {"detsd": '{"folded_alpha": "2"}'},
        {"detsd": '{"folded_alpha": 0}'},
        {"lora_adapter_metadata": "{broken"},
        {"lora_adapter_metadata": '{"unet.lora_alpha": null}'},
        {"lora_adapter_metadata": '{"unet.lora_alpha": "much"}'},
        {"lora_adapter_metadata": '{"unet.lora_alpha": NaN}'},
        {"lora_adapter_metadata": '{"unet.lora_alpha": 1, "unet.alpha_pattern": [1]}'},
        {"lora_adapter_metadata": '{"unet.lora_alpha": 1, "unet.alpha_pattern": {"(": 1}}'},
    ],
    ids=lambda metadata: str(metadata)[:60],
)
def test_damaged_metadata_is_refused(tmp_path, metadata):
    save_file(LAYER, tmp_path / "odd.safetensors", metadata=metadata)
    with pytest.raises(AdapterError, match="odd.safetensors: "):
        read_adapter(tmp_path / "odd.safetensors")


def test_whatever_a_strangers_file_says_is_one_line(tmp_path, monkeypatch):
    save_file({"a\nb\x1b[31m": torch.rand(2, 6), **LAYER}, tmp_path / "odd.safetensors")
    with pytest.raises(AdapterError, match="a\N{REPLACEMENT CHARACTER}b") as error:
        read_adapter(tmp_path / "odd.safetensors")
    assert str(error.value).isprintable()
    (tmp_path / "a\nb").write_bytes(b"")
    with pytest.raises(AdapterError, match="found a\N{REPLACEMENT CHARACTER}b"):
        read_adapter(tmp_path)

    def fail(metadata):
        raise RuntimeError("of a kind that\nnobody thought of")

    monkeypatch.setattr("detsd.adapters.alphas_in", fail)
    save_file(LAYER, tmp_path / "odd.safetensors")
    with pytest.raises(AdapterError, match=r"is damaged, or no adapter \(of a kind that\)$"):
        read_adapter(tmp_path / "odd.safetensors")


def test_a_number_of_steps_that_no_one_counted_is_no_reason_to_refuse(tmp_path):
    save_file(LAYER, tmp_path / "odd.safetensors", metadata={"ss_steps": "9" * 5000})
    assert read_adapter(tmp_path / "odd.safetensors").about["steps"] == "9" * 5000


def test_a_place_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(AdapterError, match="no such file or folder"):
        read_adapter(tmp_path / "none")
    with pytest.raises(AdapterError, match=f"holds no {FILE}; found nothing"):
        read_adapter(tmp_path)


def test_what_a_layout_cannot_say_is_refused(tmp_path):
    module, layer = next(iter(small().layers.items()))
    some = Adapter({**small().layers, module: layer._replace(magnitude=torch.rand(12))})
    with pytest.raises(AdapterError, match="only some layers of the text_encoder are DoRA's"):
        write_adapter(tmp_path / "some.safetensors", some)
    write_adapter(tmp_path / "some.safetensors", some, "kohya")
    assert same(read_adapter(tmp_path / "some.safetensors"), some)
    other = Adapter({"unet.some.other_module": layer})
    with pytest.raises(AdapterError, match="SD 1 and 2 has no name for unet.some.other_module"):
        write_adapter(tmp_path / "other.safetensors", other, "kohya")
    with pytest.raises(AdapterError, match="format: diffusers or kohya is wanted, found 'zip'"):
        write_adapter(tmp_path / "zip.safetensors", small(), "zip")
    assert [path.name for path in tmp_path.iterdir()] == ["some.safetensors"]
