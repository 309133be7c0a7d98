"""What this interpreter lacks of what the bundle needs: python -m benchmarks.lacking FOLDER

Puts it into the folder, which is then to be on PYTHONPATH; what is installed, torch before all,
stays as it is. It comes from wheels/ where that is there, and else from the index that pip knows.
With --fetch the wheels are brought here, for another machine that has no network; for another
Python with --python 3.12, and with names only those packages. Nothing but the standard library is
needed for this.
"""

import argparse
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

WHEELS = Path("wheels")
BESIDE = ("pytest",)  # what the bundle's own requirements do not name
UNPINNED = ("setuptools>=77",)  # what is in no list of versions, and may be too old over there
# Those that come with a machine's torch, or are as large as it and for no benchmark.
OF_TORCH = re.compile(r"^(torch|triton|nvidia[-_].*|cuda[-_].*)$")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64")
PLATFORMS += ("manylinux2014_x86_64", "manylinux_2_24_x86_64", "manylinux_2_31_x86_64")
PLATFORMS += ("manylinux_2_34_x86_64", "manylinux_2_5_x86_64", "manylinux1_x86_64")


class LackingError(RuntimeError):
    """Something that is lacking and cannot be had."""


def main() -> None:
    """Fetch wheels, or install what is lacking."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, help="what is lacking is put there")
    parser.add_argument("--fetch", nargs="*", metavar="NAME", help="bring the wheels into wheels/")
    version = ".".join(map(str, sys.version_info[:2]))
    parser.add_argument("--python", default=version, help="whose wheels they are to be")
    given = parser.parse_args()
    if (given.folder is None) == (given.fetch is None):
        parser.error("FOLDER or --fetch: one of them is wanted")
    if given.folder is None:
        fetch(given.fetch, given.python)
    else:
        print("put there:", ", ".join(install(given.folder)) or "nothing, all is installed")


def pins() -> dict[str, str]:
    """Return the tested versions, by name; torch's own are the machine's."""
    lines = Path("constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if "==" in line]
    return {name: version for name, version in pairs if not OF_TORCH.match(name)}


def fetch(names: Sequence[str], python: str) -> None:
    """Bring the wheels of these packages, or of all, each by itself and without its needs."""
    known = pins()
    if unknown := set(names) - known.keys():
        sys.exit(f"--fetch: {', '.join(sorted(unknown))}: not in constraints.txt")
    of = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    of += [word for platform in PLATFORMS for word in ("--platform", platform)]
    wanted = _exactly({name: known[name] for name in names or known})
    wanted += [] if names else UNPINNED
    into = ("download", "--no-deps", "--dest", str(WHEELS), *of)
    # One that has no such wheel is no reason to have none of the others.
    failed = [one for one in wanted if _pip(*into, one)] if _pip(*into, *wanted) else []
    found = len(list(WHEELS.glob("*.whl")))
    print(f"{found} wheels for Python {python} lie in {WHEELS}/")
    if failed:
        print("without wheels, and left out:", ", ".join(failed))


def install(folder: Path) -> list[str]:
    """Put what is lacking into the folder; return what that was."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *BESIDE]
    here: dict[str, str] = {}
    for one in importlib.metadata.distributions():
        if one.name:  # what a broken installation leaves has none
            here.setdefault(one.name, one.version)  # of two the first one is imported
    if "torch" not in here:
        raise LackingError("torch is not installed for this Python, and is not brought along")
    lacking = _resolve(wanted, here)
    if lacking and (said := _pip("install", "--no-deps", "--target", str(folder), *lacking)):
        raise LackingError(said)
    return lacking


def _resolve(wanted: Sequence[str], here: dict[str, str]) -> list[str]:
    """Return what pip would install beside what is here, in the tested versions.

    What belongs to torch stays as it is; anything else that does not fit is shadowed.
    """
    kept = {name: version for name, version in here.items() if OF_TORCH.match(name)}
    with tempfile.TemporaryDirectory() as scratch:
        constraints, report = Path(scratch) / "constraints.txt", Path(scratch) / "report.json"
        names = {_plain(name) for name in here}
        others = {name: version for name, version in pins().items() if _plain(name) not in names}
        constraints.write_text("\n".join(_exactly({**kept, **others})))
        said = _pip(
            *("install", "--dry-run", "--report", str(report), "--constraint", str(constraints)),
            *wanted,
        )
        if said:
            raise LackingError(said)
        found = [one["metadata"] for one in json.loads(report.read_text())["install"]]
    if taken := [one["name"] for one in found if OF_TORCH.match(one["name"])]:
        raise LackingError(f"{', '.join(taken)} would be put in the place of this machine's")
    return _exactly({one["name"]: one["version"] for one in found})


def _exactly(versions: dict[str, str]) -> list[str]:
    return [f"{name}=={version}" for name, version in versions.items()]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pip(*arguments: str) -> str:
    """Let pip do it; return its words if it fails, and nothing if it does not."""
    command = [sys.executable, "-m", "pip", arguments[0], "--disable-pip-version-check", "--quiet"]
    if arguments[0] == "install" and _any(WHEELS.glob("*.whl")):
        command += ["--no-index", "--find-links", str(WHEELS)]
    done = subprocess.run([*command, *arguments[1:]], capture_output=True, text=True)
    return (done.stderr[-2000:] or "pip failed") if done.returncode else ""


def _any(items: Iterable[Path]) -> bool:
    return next(iter(items), None) is not None


if __name__ == "__main__":
    try:
        main()
    except LackingError as error:
        sys.exit(f"benchmarks.lacking: {error}")
