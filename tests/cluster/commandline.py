"""`det`. This file knows how its user is logged in."""

from collections.abc import Callable
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
        self._log = folder / "det.log"
        self._variables = {
            **surroundings(folder),
            "DET_MASTER": master.url,
            "DET_USER": str(USER["username"]),
            "DET_PASS": "secret",
        }

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run a command to its end, and return what it said."""
        return self._end(self.start(*arguments), code)

    def detsd(self, *arguments: str) -> str:
        """Run one of ours."""
        return self._end(self._start(warm.detsd, *arguments), 0)

    def start(self, *arguments: str) -> Any:
        """Start a command that goes on by itself."""
        return self._start(warm.det, "--master", self._variables["DET_MASTER"], *arguments)

    def _start(self, work: Callable[..., None], *arguments: str) -> Any:
        self._log.unlink(missing_ok=True)
        return warm.start(work, *arguments, variables=self._variables, cwd=ROOT, log=self._log)

    def _end(self, process: Any, code: int) -> str:
        process.join(PATIENCE)
        said = self._log.read_text()
        assert process.exitcode == code, said
        return said
