"""Imports go down only, and the expensive libraries stay where they belong."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "detsd"
LEVELS = (
    {"reason", "kohya", "pickled", "carriers", "names", "words"}
    | {"hiding", "arithmetic", "cores", "sending", "recording"},
    {"pickles", "layouts", "schedulers"} | {"frozen", "ahead", "attention"},
    {"torchfile", "config"},
    {"tensorfile"},
    {"contents"},
    {"embeddings"},
    {"formats", "folders"},
    {
        *(
            "",
            "concepts",
            "loss",
            "compiling",
            "gallery",
            "images",
            "console",
            "storage",
            "processes",
        ),
        *("score", "retry", "peftconfig"),
    },
    {"preemption", "tokens", "request", "trial", "runfolder", "imagestore", "rating"} | {"layers"},
    {"launcher", "prompts", "text", "search", "optimization", "meter", "retention", "foldertrial"}
    | {"clustertrial", "leaderboard", "page", "sweep", "sheets", "fetch", "captioner"}
    | {"adapters"},
    {"data", "attachment", "checkpoints", "fingerprint", "rank", "plan", "gather", "norms"},
    {"latentstore"} | {"model", "mixing", "png", "vocabulary", "learnt", "wholefile"},
    {"singlefile"},
    {"encoding"} | {"batches", "caption", "denoise", "pretrained", "rarity", "convert", "listing"},
    {"sampler", "safety", "part", "kept"},
    {"lora", "vectors", "weights", "samples", "generate", "classimages"} | {"starts"},
    {"methods", "materials", "widgets", "prior"},
    {"resume", "critic", "earlystop", "jobs"},
    {"run", "studio"},
    {"validation", "grid", "preview"},
    {"finetune", "local"},
    {"compat", "__main__"},
)
HOMES = {
    "determined": {"clustertrial", "foldertrial", "preemption", "runfolder", "plan"},
    "diffusers": {"model", "pretrained", "safety", "singlefile", "frozen", "attention"},
    "peft": {"attachment"},
    "torchvision": set(),
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return "config" if relative.parts[0] == "config" else relative.stem.replace("__init__", "")


def imports_of(path: Path) -> set[str]:
    """Return the modules imported at the top of the file; the ones inside functions are lazy."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def level_of(name: str) -> int:
    return next(number for number, names in enumerate(LEVELS) if name in names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_below(path):
    name = name_of(path)
    ours = {parts[1] for one in imports_of(path) if (parts := one.split("."))[0] == "detsd"}
    ours = {one for one in ours if one in set().union(*LEVELS)}
    assert all(level_of(one) < level_of(name) for one in ours - {name}), ours


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_expensive_libraries_are_imported_where_they_belong(path):
    for library, homes in HOMES.items():
        used = any(one.split(".")[0] == library for one in imports_of(path))
        assert not used or name_of(path) in homes


def test_every_module_has_a_level_and_says_what_it_knows():
    assert {name_of(path) for path in MODULES} == set().union(*LEVELS)
    for path in MODULES:
        assert ast.get_docstring(ast.parse(path.read_text())), path
        assert len(path.read_text().splitlines()) <= 250, path
