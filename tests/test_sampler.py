"""The sampler: which images share a batch, that none notices, and what is computed only once."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from detsd import denoise as denoising
from detsd.request import Request, RequestError, Settings
from detsd.sampler import batches, generate
from tests.made_up import adapter
from tests.test_model import made_up

PNDM = Settings("pndm", {}, 4)
EULER = Settings("euler-ancestral", {}, 4, (32, 24))


def images(model, requests, batch_size=None, **arguments):
    """Return the images in order, as arrays."""
    made = dict(generate(model, requests, batch_size, **arguments))
    return [np.asarray(made[place]).astype(int) for place in range(len(requests))]


def rows_of(module, monkeypatch):
    """Return a list that fills with the batch sizes that a module is called with."""
    seen = []
    forward = module.forward

    def note(batch, *arguments, **keywords):
        seen.append(len(batch))
        return forward(batch, *arguments, **keywords)

    monkeypatch.setattr(module, "forward", note)
    return seen


def test_requests_that_can_share_a_batch_do_and_keep_their_order():
    weak, strong, other = Request("a", 0, 1.0, PNDM), Request("a", 0, 2.0, PNDM), EULER
    apart = Request("a", 0, 3.0, other._replace(scheduler_kwargs={"a": 1, "b": [2]}))
    again = Request("b", 1, 4.0, other._replace(scheduler_kwargs={"b": [2], "a": 1}))
    requests = [strong, weak, apart, strong._replace(guidance=9.0), again, weak, strong, weak]
    assert list(batches(requests, lambda _: 2)) == [[0, 3], [2, 4], [1, 5], [6], [7]]
    assert list(batches(requests, lambda _: 9)) == [[0, 3, 6], [1, 5, 7], [2, 4]]


def test_images_with_other_adapters_are_of_another_batch():
    mixed = [PNDM._replace(adapters=one) for one in (None, (), (("a", 1.0),), (("a", 0.5),))]
    requests = [Request("a", 0, 2.0, settings) for settings in [*mixed, *mixed[::-1]]]
    found = batches(requests, lambda _: 9)
    assert list(found) == [[0, 7], [1, 6], [2, 5], [3, 4]]


def test_an_image_depends_on_its_own_request_only(load):
    model = load("sd1")
    large = [settings._replace(size=(32, 24)) for settings in (PNDM, EULER)]
    requests = [
        Request(prompt, seed, scale, settings, negative)
        for settings in large
        for seed, (prompt, scale, negative) in enumerate(
            [("a photo", 7.5, ""), ("art", 3.0, "paper"), ("paper", 1.0, ""), ("a wall", 1.5, "a")]
        )
    ]
    alone = [images(model, [request])[0] for request in requests]
    for batch_size in (None, 2, 3):
        together = images(model, requests[::-1], batch_size)[::-1]
        off = np.abs(np.array(together) - np.array(alone))
        assert off.max() <= 1
        assert (off > 0).mean() <= 0.001
    assert all(np.abs(one - other).max() > 1 for one, other in zip(alone, alone[1:], strict=False))


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("size", [None, (24, 40)])
def test_an_image_is_that_of_diffusers(load, models, family, size):
    request = Request("a photo", 3, 5.0, PNDM._replace(size=size), "art")
    (ours,) = images(load(family), [request])
    if family == "sdxl":
        pipeline = StableDiffusionXLPipeline.from_pretrained(models[family], add_watermarker=False)
    else:
        pipeline = StableDiffusionPipeline.from_pretrained(models[family], safety_checker=None)
    pipeline.scheduler = denoising.build_scheduler(load(family), request.settings)
    pipeline.set_progress_bar_config(disable=True)
    (theirs,) = pipeline(
        "a photo",
        negative_prompt="art",
        width=size and size[0],
        height=size and size[1],
        guidance_scale=5.0,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(3),
    ).images
    assert theirs.size == (size or (16, 16))
    off = np.abs(ours - np.asarray(theirs).astype(int))
    assert off.max() <= 1 and (off > 0).sum() <= 2


def test_no_prompt_is_encoded_twice(load, monkeypatch):
    model = load("sd1")
    encoded = rows_of(model.encoders[0].module, monkeypatch)
    prompts = ["a photo", "art", "a photo", "paper", "art", "art"]
    list(generate(model, [Request(one, 0, 5.0, PNDM) for one in prompts], 2))
    assert sum(encoded) == 4  # three prompts, and the empty one


def test_few_prompts_are_kept_and_the_images_are_the_same(load, monkeypatch):
    model = load("sd1")
    requests = [Request(one, 0, 5.0, PNDM) for one in ("a photo", "art", "paper", "art")]
    wanted = images(model, requests, 2)
    monkeypatch.setattr(denoising, "PROMPTS_KEPT", 1)
    assert np.array_equal(images(model, requests, 2), wanted)


def test_what_is_kept_of_a_prompt_is_not_that_of_other_adapters(load, monkeypatch):
    model = load("sd1")
    model.add_adapter("words", adapter(model, words="self_attn"))  # of the text encoder alone
    mixes = ((), (("words", 1.0),), (("words", 0.5),))
    requests = [
        Request(prompt, 0, scale, PNDM._replace(adapters=mix))
        for prompt in ("a photo", "art")
        for mix in mixes
        for scale in (1.0, 5.0)
    ]
    alone = [images(model, [request])[0] for request in requests]
    encoded = rows_of(model.encoders[0].module, monkeypatch)
    together = images(model, requests, 1)
    assert np.array_equal(together, alone)
    assert sum(encoded) == 3 * len(mixes)  # two prompts and the empty one
    assert len({one.tobytes() for one in together}) == len(requests)


def test_without_guidance_nothing_is_computed_for_it(load, monkeypatch):
    model = load("sd1")
    seen = rows_of(model.unet, monkeypatch)
    list(generate(model, [Request("a", seed, 1.0, PNDM) for seed in range(3)]))
    assert set(seen) == {3}
    seen.clear()
    list(generate(model, [Request("a", seed, 1.5, PNDM) for seed in range(3)]))
    assert set(seen) == {6}


def test_images_come_as_they_are_made(load, monkeypatch):
    model = load("sd1")
    seen = rows_of(model.unet, monkeypatch)
    drawn = generate(model, [Request("a", seed, 1.0, PNDM) for seed in range(4)], 2)
    assert next(drawn)[0] == 0
    calls = len(seen)
    assert [place for place, _ in drawn] == [1, 2, 3]
    assert len(seen) == 2 * calls


class Memory:
    """Room for some rows of the UNet, and no more."""

    def __init__(self, model, monkeypatch, rows):
        self.refused = 0
        predict = model.predict

        def predict_if_it_fits(noisy, *arguments):
            if len(noisy) > rows:
                self.refused += 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            return predict(noisy, *arguments)

        monkeypatch.setattr(model, "predict", predict_if_it_fits)


def test_what_does_not_fit_is_halved_once_and_for_all(load, monkeypatch):
    model = load("sd1")
    requests = [Request("a", seed, 5.0, PNDM) for seed in range(9)]
    wanted = images(model, requests, 1)
    memory = Memory(model, monkeypatch, rows=4)
    together = images(model, requests)
    assert np.abs(np.array(together) - np.array(wanted)).max() <= 1
    assert memory.refused == 2  # 9 images, 4, and then 2
    list(generate(model, requests, 8))
    list(generate(model, [one._replace(guidance=1.0) for one in requests]))
    assert memory.refused == 2
    list(generate(model, [one._replace(settings=EULER) for one in requests]))
    assert memory.refused == 2  # larger images, so fewer of them


def test_one_image_that_does_not_fit_is_too_many(load, monkeypatch):
    model = load("sd1")
    Memory(model, monkeypatch, rows=1)
    with pytest.raises(RequestError, match="not even one image of 16 × 16 fits"):
        list(generate(model, [Request("a", 0, 5.0, PNDM)]))


def test_the_vae_sleeps_again_where_it_slept(load):
    model = load("sd1")
    places = []
    model.vae.to = lambda place: places.append(str(place))
    model.device = torch.device("meta")
    with model.vae_awake():
        pass
    assert places == ["meta", "cpu"]


@pytest.mark.parametrize("size", [(30, 32), (32, 0), (2, 2), (32, -4)])
def test_a_size_that_the_model_cannot_draw_is_refused_at_once(load, size):
    request = Request("a", 0, 5.0, PNDM._replace(size=size))
    with pytest.raises(RequestError, match="size .* × .*: .* a multiple of 4 for this model"):
        generate(load("sd1"), [Request("a", 0, 5.0, PNDM), request])


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a photo of a <cat-toy>", r"names <cat-toy>, .* \(its concepts: det-logo\)"),
        ("a <det-logo> on a wall", "names <det-logo>, .*; write det-logo, without brackets"),
        ("a <det-logo:2>", "names <det-logo:2>"),
        ("a <cat-toy> and <b>bold</b>", "names <cat-toy>"),
    ],
)
def test_a_word_in_brackets_that_was_not_taught_is_refused(load, prompt, said):
    model = load("sd1")
    model.add_concept(made_up(model, "det-logo", 2))
    with pytest.raises(RequestError, match=said):
        generate(model, [Request(prompt, 0, 5.0, PNDM)])
    with pytest.raises(RequestError, match=said):
        generate(model, [Request("a", 0, 5.0, PNDM, prompt)])


def test_words_that_were_taught_and_other_brackets_are_not(load):
    model = load("sd1")
    for name in ("det-logo", "<cat-toy>"):
        model.add_concept(made_up(model, name, 2))
    for prompt in (
        "a Det-Logo, a <Cat-Toy>, <det-logo:0> <det-logo:1>",
        "i <3 you, 1 < 2 > 0 <|endoftext|>",
        "<script>alert('a')</script>",
        "<script> alone",
    ):
        generate(model, [Request(prompt, 0, 5.0, PNDM)])


def test_the_steps_are_told_and_flags_are_marked(load):
    told = []
    requests = [Request("a", seed, 1.0, PNDM) for seed in range(3)]
    flags = iter([[], ["nsfw"], []])
    made = dict(generate(load("sd1"), requests, 2, flag=lambda _: next(flags), tick=told.append))
    assert [image.info.get("flags") for image in made.values()] == [None, ["nsfw"], None]
    assert sum(told) == pytest.approx(3)
    assert len(told) == 2 * 5  # pndm takes a step more than it is asked for
