"""`det`. This file knows how its user is logged in."""

from pathlib import Path
from typing import Any

from tests.cluster import warm
from tests.cluster.containers import PATIENCE, surroundings
from tests.cluster.master import USER, Master
from tests.conftest import ROOT


class CommandLine:
    """`det`, as a user of this master has it."""

    def __init__(self, master: Master, folder: Path):
        self.folder = folder
        self._variables = {
            **surroundings(folder),
            "DET_USER": str(USER["username"]),
            "DET_PASS": "secret",
        }
        self._master = master.url

    def __call__(self, *arguments: str, code: int = 0, cwd: Path = ROOT) -> str:
        """Run a command to its end, and return what it said."""
        process = self.start(*arguments, cwd=cwd)
        process.join(PATIENCE)
        said = (self.folder / "det.log").read_text()
        assert process.exitcode == code, said
        return said

    def start(self, *arguments: str, cwd: Path = ROOT) -> Any:
        """Start a command that goes on by itself."""
        (self.folder / "det.log").unlink(missing_ok=True)
        return warm.start(
            *(warm.det, "--master", self._master, *arguments),
            variables=self._variables,
            cwd=cwd,
            log=self.folder / "det.log",
        )
