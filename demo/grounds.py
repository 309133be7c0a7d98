"""What lies behind the subject of a picture: a pattern of some colour, or a scene."""

from dataclasses import dataclass

from PIL import Image

from demo.palette import COLOURS, Random, shade
from demo.patterns import PATTERNS
from demo.scenes import SCENES


@dataclass(frozen=True)
class Ground:
    """One ground: its words, and the colour that nothing on it should have."""

    form: str
    colour: str

    @property
    def words(self) -> str:
        """Read after the name of what is on it."""
        return self.form.format(self.colour)

    def draw(self, random: Random, side: int) -> Image.Image:
        """Draw it, a square."""
        if self.form in SCENES:
            return SCENES[self.form][1](random, side)
        return PATTERNS[self.form](random, side, shade(random, self.colour))


def choose_ground(random: Random, avoid: tuple[str, ...]) -> Ground:
    """A pattern or a scene whose colour is not one of those to avoid."""
    colours = [name for name in COLOURS if name not in avoid]
    if random.random() < 0.6:
        return Ground(str(random.choice(list(PATTERNS))), str(random.choice(colours)))
    scenes = [form for form, (colour, _) in SCENES.items() if colour not in avoid]
    form = str(random.choice(scenes))
    return Ground(form, SCENES[form][0])
