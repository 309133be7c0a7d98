"""The world that the demo's model knows: captioned pictures, each a function of its number."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from demo.grounds import Ground, choose_ground
from demo.media import MEDIA
from demo.outlines import Place
from demo.palette import Random
from demo.patterns import PATTERNS
from demo.scenes import SCENES
from demo.subjects import Subject, altered, choose_subject
from detsd.prompts import TEMPLATES

SIZES = {"small ": (0.15, 0.2), "": (0.24, 0.34), "large ": (0.36, 0.43)}
PLACES = {"": (0, 0), " on the left": (-1, 0), " on the right": (1, 0)} | {
    " at the top": (0, -1),
    " at the bottom": (0, 1),
}


@dataclass(frozen=True)
class Scene:
    """What one picture shows."""

    medium: str
    size: str
    subject: Subject
    place: str
    ground: Ground


def choose_scene(random: Random) -> Scene:
    """A scene by chance; photos are as frequent as three other media."""
    subject = choose_subject(random)
    odds = np.array([3.0 if medium == "photo" else 1.0 for medium in MEDIA])
    size = str(random.choice(list(SIZES), p=(0.2, 0.6, 0.2)))
    places = list(PLACES) if size == "small " and random.random() < 0.7 else [""]
    return Scene(
        medium=str(random.choice(list(MEDIA), p=odds / odds.sum())),
        size=size,
        subject=subject,
        place=str(random.choice(places)),
        ground=choose_ground(random, avoid=subject.colours),
    )


def say(scene: Scene, random: Random) -> str:
    """A caption; one in some leaves out the ground, the size or the medium."""
    medium = MEDIA[scene.medium]
    logo = " logo" if random.random() < 0.15 else ""
    thing = f"{scene.size}{scene.subject.words}{logo}{scene.place}"
    article = random.choice(("an" if thing[0] in "aeiou" else "a", "the"), p=(0.85, 0.15))
    phrase = str(random.choice(medium.phrases))
    if scene.medium == "photo" and random.random() < 0.3:
        phrase, article = "{}", article if random.random() < 0.7 else ""
    elif scene.medium == "photo" and random.random() < 0.4:
        template = str(random.choice(_TEMPLATES))
        phrase = template.replace("the {}", "{}").replace("a {}", "{}")
    ground = f" {scene.ground.words}" if random.random() < 0.9 else ""
    caption = phrase.format(f"{article} {thing}".strip()) + ground
    remarks = [remark for remark in medium.remarks if random.random() < 0.25]
    caption = ", ".join([caption, *remarks]).replace(", with", " with")
    return spelt(caption)


def spelt(text: str) -> str:
    """The text with the right article before the one colour that begins with a vowel."""
    return text.replace(" a orange", " an orange")


_TEMPLATES = [
    template
    for template in TEMPLATES["object"]
    if not set(template.split()) & {"small", "large", "dark", "bright", "my", "one"}
]


def draw(scene: Scene, random: Random, side: int = 64) -> Image.Image:
    """Draw it, a square of that side."""
    fine = 2 * side
    picture = scene.ground.draw(random, fine)
    subject = Image.new("RGBA", (2 * fine, 2 * fine))
    scene.subject.draw(ImageDraw.Draw(subject), _choose_place(scene, random, 2 * fine), random)
    subject = subject.reduce(2)
    picture.paste(subject, mask=subject)
    return MEDIA[scene.medium].draw(random, picture).reduce(2)


def _choose_place(scene: Scene, random: Random, side: int) -> Place:
    radius = random.uniform(*SIZES[scene.size])
    free = 0.48 - radius
    towards = np.array(PLACES[scene.place])
    middle = 0.5 + towards * free + random.uniform(-1, 1, 2) * free * np.where(towards, 0.1, 0.5)
    across, down = middle * side
    return Place(across, down, radius * side, np.radians(random.uniform(-12, 12)))


def scene(number: int) -> Scene:
    """The world's scene of that number."""
    return choose_scene(np.random.default_rng([number, 0]))


def picture(number: int, side: int = 64) -> Image.Image:
    """The world's picture of that number."""
    return draw(scene(number), np.random.default_rng([number, 1]), side)


def caption(number: int, variant: int = 0) -> str:
    """One of the many things that may be said of it."""
    return say(scene(number), np.random.default_rng([number, 2, variant]))


def wrong_captions(number: int, variant: int, count: int) -> list[str]:
    """What the caption of that variant would be if one thing in the picture were another.

    Now and then one is the right one all the same: where the thing goes unsaid.
    """
    random = np.random.default_rng([number, 3, variant])
    right = scene(number)
    return [
        say(_altered(right, random), np.random.default_rng([number, 2, variant]))
        for _ in range(count)
    ]


def _altered(right: Scene, random: Random) -> Scene:
    kind = random.random()
    if kind < 0.65:
        return replace(right, subject=altered(right.subject, random))
    if kind < 0.9:
        form = str(random.choice([*PATTERNS, *SCENES]))
        return replace(right, ground=Ground(form, right.ground.colour))
    return replace(right, medium=str(random.choice(list(MEDIA))))


def main() -> None:
    """Draw a contact sheet of the world."""
    from detsd.gallery import sheet

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--side", type=int, default=64)
    arguments = parser.parse_args()
    pictures = [picture(number, arguments.side) for number in range(40)]
    captions = [caption(number) for number in range(40)]
    sheet(pictures, columns=8, labels=captions).save(arguments.file)


if __name__ == "__main__":
    main()
