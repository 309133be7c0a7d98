"""The tokenizer of the demo's model: CLIP's kind, its subwords merged from what the world says."""

import json

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from demo.world import caption
from detsd.prompts import TEMPLATES

START, END = "<|startoftext|>", "<|endoftext|>"
SIZE = 1600
# Words of the shipped YAMLs and of prompts that people try, so that each is a token or two.
PROMPTS = """
a watercolor painting of a det-logo on textured paper, soft strokes, pastel colors
an oil painting of a det-logo with vibrant colors and thick strokes, masterpiece
a tarot card with an illustration of a det-logo, mystical colors, intricate lines
brain logo, sharp lines, connected circles, concept art
object style person animal toy cat dog car house tree cup mug shirt poster sticker badge icon
symbol sign mark flag button coin stamp card book page wall floor table window door street city
mountain forest beach ocean river lake cloud sun rain fire light shadow morning night winter
summer wood metal glass stone leather cloth fabric plastic gold silver bronze copper
futuristic vintage modern minimal abstract realistic detailed colorful bright dark
high quality digital art anime cartoon sculpture sketch engraving embroidered knitted printed
painted carved floating glowing flying standing sitting wearing holding made in by for from to at
""".strip().splitlines()


def build_tokenizer() -> CLIPTokenizer:
    """Learn the merges; done once, since ties between them fall by chance."""
    spoken = [caption(number) for number in range(4000)]
    asked = [template.format("") for kind in TEMPLATES.values() for template in kind]
    learnt = CLIPTokenizer().train_new_from_iterator(
        [*spoken, *(PROMPTS + asked) * 50], SIZE, show_progress=False
    )
    model = json.loads(learnt.backend_tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    # In CLIP's order: letters, letters that end a word, what is merged, then the two marks.
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    vocabulary = {token: place for place, token in enumerate([*dict.fromkeys(tokens), START, END])}
    return CLIPTokenizer(vocabulary, merges, model_max_length=77)
