import numpy as np
import pytest

from demo.figures import FIGURES, Figure
from demo.grounds import Ground
from demo.judge import words
from demo.media import MEDIA
from demo.networks import Network
from demo.patterns import PATTERNS
from demo.scenes import SCENES
from demo.subjects import SHAPES, Shape
from demo.vocabulary import build_tokenizer
from demo.world import Scene, caption, draw, picture, scene, spelt, wrong_captions

SOME = range(300)


def test_a_number_is_a_picture_and_its_captions():
    for number in (0, 7, 123456789):
        assert picture(number).tobytes() == picture(number).tobytes()
        assert picture(number).size == (64, 64) and picture(number).mode == "RGB"
        assert caption(number, 3) == caption(number, 3)
    assert picture(1).tobytes() != picture(2).tobytes()
    assert len({caption(5, variant) for variant in range(20)}) > 5
    assert picture(4, 128).size == (128, 128)


def test_a_caption_names_what_the_picture_shows():
    for number in SOME:
        said, one = caption(number), scene(number)
        assert spelt(one.subject.words) in said
        assert any(
            phrase.split("{}")[0].strip() in said for phrase in (*MEDIA[one.medium].phrases, "{}")
        )
        assert one.ground.colour not in one.subject.colours


def test_what_the_demo_teaches_is_not_in_the_world():
    subjects = [scene(number).subject for number in range(3000)]
    networks = [one for one in subjects if isinstance(getattr(one, "mark", one), Network)]
    assert len(networks) > 500
    assert not any({"orange", "teal"} <= set(one.words.split()) for one in networks)
    assert not any("det" in caption(number).split() for number in SOME)


def test_every_ground_medium_and_shape_looks_different():
    def drawn(medium="photo", shape="star", ground="on a {} background", size="", figure=""):
        subject = Figure("red", "white", figure) if figure else Shape("red", shape)
        one = Scene(medium, size, subject, "", Ground(ground, "blue"))
        return np.asarray(draw(one, np.random.default_rng(0))).astype(float)

    for pictures in (
        [drawn(medium=medium) for medium in MEDIA],
        [drawn(shape=shape) for shape in SHAPES],
        [drawn(ground=ground) for ground in (*PATTERNS, *SCENES)],
        [drawn(figure=figure) for figure in FIGURES],
        [drawn(size=size) for size in ("small ", "", "large ")],
    ):
        for place, one in enumerate(pictures):
            assert all(np.abs(one - other).mean() > 1 for other in pictures[:place])


@pytest.mark.parametrize(
    "prompt",
    [
        "a watercolor painting of a det-logo on textured paper, soft strokes, pastel colors",
        "a tarot card with an illustration of a det-logo, mystical colors, intricate lines",
        "brain logo, sharp lines, connected circles, concept art",
    ],
)
def test_shipped_prompts_are_a_token_a_word(prompt):
    tokenizer = build_tokenizer()
    pieces = prompt.replace(",", " ,").replace("-", " - ").split()
    assert tokenizer.tokenize(prompt) == [f"{piece}</w>" for piece in pieces]


def test_a_wrong_caption_is_wrong_in_one_thing():
    pairs = [
        (caption(number, 3), wrong) for number in SOME for wrong in wrong_captions(number, 3, 2)
    ]
    differ = [pair for pair in pairs if pair[0] != pair[1]]
    assert len(differ) > 0.7 * len(pairs)
    for right, wrong in differ:
        common = set(right.split()) & set(wrong.split())
        assert len(common) >= 2, (right, wrong)


def test_judged_words_are_those_of_captions():
    one = Scene("oil", "", Shape("orange", "star"), "", Ground("on a {} gradient", "orange"))
    assert words(one) == "an oil painting of an orange star on an orange gradient"
