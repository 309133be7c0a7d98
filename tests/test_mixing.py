"""The adapters of a pipeline: found by whatever names them, weighed anew with every call."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import ImageChops

import detsd
from detsd import console, samples
from detsd.adapters import FILE, AdapterError, write_adapter
from detsd.checkpoints import CheckpointError
from detsd.concepts import ConceptError, read_concepts, write_concepts
from detsd.mixing import chosen, find_adapters
from detsd.request import RequestError, Settings
from detsd.sampler import Request
from tests.made_up import adapter, merge
from tests.test_model import made_up
from tests.trials import EVERYTHING, FULL, last, run

UUID = "0f5bd5a2-7c1c-4a57-9d0e-2f6f3a1b6c55"
ASKED = {"seed": 3, "steps": 3, "guidance": 5.0}


@pytest.fixture
def base(load):
    """A model that nothing is added to."""
    return load("sd1")


@pytest.fixture
def pivotal(tmp_path, base):
    """A checkpoint with an adapter, and the concept det-logo beside it."""
    folder = tmp_path / "runs" / "pivotal" / "checkpoints" / "step-000500"
    write_concepts(folder / "export", [made_up(base, "det-logo", 2)])
    write_adapter(folder / "export" / FILE, adapter(base))
    return folder


def levels(image):
    return np.asarray(image).astype(int)


def same(one, other):
    return ImageChops.difference(one, other).getbbox() is None


def test_an_adapter_that_does_not_count_is_not_there(models, base):
    plain = detsd.load_pipeline(models["sd1"])("a photo", **ASKED)[0]
    changes = {"words": "", "seed": 1}  # all layers, those of the text encoder too
    pipeline = detsd.load_pipeline(models["sd1"], adapters=adapter(base, **changes))
    assert pipeline.adapters == {"adapter": 1.0}
    (changed,) = pipeline("a photo", **ASKED)
    assert np.abs(levels(plain) - levels(changed)).max() > 8
    for nothing in ([], {}, {"adapter": 0}, [("adapter", 0.0)]):
        assert same(pipeline("a photo", **ASKED, adapters=nothing)[0], plain)
    assert same(pipeline("a photo", **ASKED)[0], changed)  # as it was loaded
    assert same(pipeline("a photo", **ASKED, adapters=["adapter"])[0], changed)
    weak = detsd.load_pipeline(models["sd1"], adapters=[(adapter(base, **changes), 0.5)])
    assert weak.adapters == {"adapter": 0.5}
    assert same(
        weak("a photo", **ASKED)[0], pipeline("a photo", **ASKED, adapters={"adapter": 0.5})[0]
    )
    off = detsd.load_pipeline(models["sd1"], adapters=[(adapter(base, **changes), 0)])
    assert same(off("a photo", **ASKED)[0], plain)
    assert same(off("a photo", **ASKED, adapters={"adapter": 1})[0], changed)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_several_adapters_add_up(models, load, family):
    model = load(family)
    first, second = adapter(model, words="attn"), adapter(model, words="", seed=1, rank=3)
    given = {"adapters": [first, (second, 0.25)]}
    mixed = detsd.load_pipeline(models[family], **given)
    assert mixed.adapters == {"adapter": 1.0, "adapter-2": 0.25}
    (image,) = mixed("a photo", **ASKED, adapters=[("adapter-2", -0.5), ("adapter", 0.75)])
    merged = detsd.load_pipeline(models[family])
    merge(merged.model, first, 0.75)
    merge(merged.model, second, -0.5)
    off = np.abs(levels(image) - levels(merged("a photo", **ASKED)[0]))
    assert off.max() <= 1
    # In whatever order a call names them: to the bit.
    (again,) = mixed("a photo", **ASKED, adapters={"adapter": 0.75, "adapter-2": -0.5})
    assert same(image, again)


def test_adapters_come_from_files_folders_and_uuids(base, pivotal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(pivotal, tmp_path / ".cache" / "detsd" / "checkpoints" / UUID)
    write_adapter(tmp_path / "style.safetensors", adapter(base), layout="kohya")
    sources = [pivotal, str(pivotal / "export"), "style.safetensors", (UUID, 0.5), UUID]
    found = {
        one.name: (one.scale, [c.name for c in one.concepts]) for one in find_adapters(sources)
    }
    assert found == {
        "pivotal-step-000500": (1.0, ["det-logo"]),
        "pivotal-step-000500-2": (1.0, ["det-logo"]),
        "style": (1.0, []),
        "0f5bd5a2": (0.5, ["det-logo"]),
        "0f5bd5a2-2": (1.0, ["det-logo"]),
    }
    for one in ((UUID, 2), [(UUID, 2)], {UUID: 2}):
        assert [(one.name, one.scale) for one in find_adapters(one)] == [("0f5bd5a2", 2.0)]


def test_an_adapter_brings_the_concepts_that_it_was_learnt_with(models, pivotal, base):
    pipeline = detsd.load_pipeline(models["sd1"], adapters=pivotal)
    assert list(pipeline.concepts) == ["det-logo"]
    (image,) = pipeline("a det-logo", **ASKED)
    about = json.loads(image.info["detsd"])
    assert about["adapters"] == {"pivotal-step-000500": 1.0} and about["concepts"] == ["det-logo"]
    (without,) = pipeline("a det-logo", **ASKED, adapters=[])
    assert json.loads(without.info["detsd"])["adapters"] == {}
    words = detsd.load_pipeline(models["sd1"], concepts=pivotal)
    assert words.adapters == {} and same(words("a det-logo", **ASKED)[0], without)
    # Named twice, as one may well do:
    both = detsd.load_pipeline(models["sd1"], concepts=[pivotal], adapters=[pivotal, pivotal])
    assert list(both.concepts) == ["det-logo"]
    alone = detsd.load_pipeline(models["sd1"], adapters=pivotal / "export" / FILE)
    assert list(alone.concepts) == [] and list(alone.adapters) == ["pivotal-step-000500"]
    other = made_up(base, "det-logo", 3)
    with pytest.raises(ConceptError, match="learnt with another det-logo .* alone brings no"):
        detsd.load_pipeline(models["sd1"], concepts=other, adapters=pivotal)


def test_what_cannot_be_meant_is_refused_by_its_name(models, load, pivotal, tmp_path):
    pipeline = detsd.load_pipeline(models["sd1"], adapters=pivotal)
    with pytest.raises(RequestError, match=r"called 'style' \(there are: pivotal-step-000500\)"):
        pipeline("a", adapters={"style": 1})
    request = Request("a", 0, 1.0, Settings("pndm", {}, 1, adapters=(("style", 1.0),)))
    with pytest.raises(RequestError, match="called 'style'"):
        next(pipeline.draw([request]))
    with pytest.raises(RequestError, match=r"called 'style' \(there are: none\)"):
        chosen({}, ["style"])
    for scale in (True, "1", None, float("nan")):
        with pytest.raises(RequestError, match="the scale of pivotal-step-000500 is a number"):
            pipeline("a", adapters={"pivotal-step-000500": scale})
    (concept,) = read_concepts(pivotal)
    write_concepts(tmp_path / "words", [concept])
    with pytest.raises(CheckpointError, match="holds a concept and no adapter: name it in conc"):
        detsd.load_pipeline(models["sd1"], adapters=tmp_path / "words")
    with pytest.raises(CheckpointError, match="holds a whole model, not an adapter"):
        detsd.load_pipeline(models["sd1"], adapters=models["sd1"])
    with pytest.raises(ConceptError, match="holds no concept, but an adapter"):
        detsd.load_pipeline(models["sd1"], concepts=pivotal / "export" / FILE)


def test_an_adapter_of_another_model_is_refused_in_a_line(models, pivotal):
    with pytest.raises(AdapterError) as raised:
        detsd.load_pipeline(models["sd2"], adapters=pivotal / "export" / FILE)
    assert str(raised.value).startswith("pivotal-step-000500 was made for another base model: ")
    assert "\n" not in str(raised.value) and console.is_for_users(raised.value)


def test_a_pipeline_without_adapters_leaves_the_model_as_it_is(base):
    base.add_adapter("learnt", adapter(base))  # as a run does that draws samples
    pipeline = detsd.Pipeline(base)
    (changed,) = pipeline("a photo", **ASKED)
    (plain,) = pipeline("a photo", **ASKED, adapters=[])
    assert not same(changed, plain)
    base.use_adapters([("learnt", 1.0)])
    assert same(pipeline("a photo", **ASKED)[0], changed)
    assert chosen({}, None) is None and chosen({}, []) == ()


def test_a_model_that_was_trained_whole_is_the_base(models, base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    merge(base, adapter(base, words=""), 1.0)
    base.scheduler_config["beta_end"] = 0.02  # which is that checkpoint's then
    base.pipeline().save_pretrained(tmp_path / "step-1" / "export")
    monkeypatch.setattr("detsd.checkpoints.fetch_checkpoint", lambda uuid: tmp_path / "step-1")
    (wanted,) = detsd.Pipeline(base)("a photo", **ASKED)
    for source in ("step-1", tmp_path / "step-1" / "export", UUID):
        pipeline = detsd.load_pipeline(source)
        assert same(pipeline("a photo", **ASKED)[0], wanted)
        assert pipeline.base == str(source)
    on_top = detsd.load_pipeline(UUID, adapters=adapter(base))
    assert not same(on_top("a photo", **ASKED)[0], wanted)
    with pytest.raises(ConceptError, match="holds no concept, but a whole model"):
        detsd.load_pipeline(models["sd1"], concepts=["step-1"])


def test_the_earlier_class_takes_checkpoints_of_every_kind(models, pivotal, base, tmp_path):
    def load(model, *folders):
        pipeline = detsd.DetSDTextualInversionPipeline(
            pretrained_model_name_or_path=str(model), device="cpu", disable_progress_bar=True
        )
        for folder in folders:
            pipeline.load_from_checkpoint_dir(folder)
        return pipeline

    def drawn(pipeline):
        generator = torch.Generator().manual_seed(3)
        arguments = {"num_inference_steps": 3, "guidance_scale": 5.0, "generator": generator}
        return levels(pipeline(prompt="a det-logo", **arguments).images[0])

    write_adapter(tmp_path / "style" / FILE, adapter(base, words="", seed=1))
    earlier = load(models["sd1"], pivotal, tmp_path / "style")
    assert earlier.all_added_concepts == ["det-logo"]
    ours = detsd.load_pipeline(models["sd1"], adapters=[pivotal, tmp_path / "style"])
    assert np.abs(drawn(earlier) - levels(ours("a det-logo", **ASKED)[0])).max() <= 1
    merge(base, adapter(base, words="", seed=1), 1.0)
    base.pipeline().save_pretrained(tmp_path / "whole" / "export")
    assert np.abs(drawn(load(tmp_path / "whole", pivotal)) - drawn(earlier)).max() <= 1
    with pytest.raises(CheckpointError, match="whole: holds a whole model: it is a pretrained_mod"):
        load(models["sd1"], tmp_path / "whole")


@pytest.mark.parametrize(("family", "method"), [("sdxl", EVERYTHING), ("sd1", FULL)])
def test_what_a_run_has_learnt_is_drawn_as_the_run_itself_draws_it(
    models, hparams, tmp_path, monkeypatch, family, method
):
    prompt = "a photo of a det-logo"
    hparams["model"]["pretrained_model_name_or_path"] = str(models[family])
    hparams["training"] |= {"num_sgd_steps": 2, "learning_rate": 1e-2}
    hparams["inference"] = {"inference_prompts": prompt, "num_inference_steps": 2}
    shown = {}
    monkeypatch.setattr(
        samples, "sheet", lambda images, _, title: shown.update({title: images}) or images[0]
    )
    checkpoint = last(run(tmp_path / "run", {**hparams, "method": method}))
    is_whole = method["kind"] == "full"
    pipeline = detsd.load_pipeline(
        checkpoint if is_whole else models[family], adapters=[] if is_whole else checkpoint
    )
    images = pipeline(prompt, seed=2147483647, count=2, steps=2)
    for image, wanted in zip(images, shown[f"step 2: {prompt}"], strict=True):
        assert np.abs(levels(image) - levels(wanted)).max() <= 1
    assert not same(images[0], shown[f"step 0: {prompt}"][0])
