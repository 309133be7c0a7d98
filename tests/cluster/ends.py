"""The end of an attempt. This file knows what explains one."""

import re
from collections.abc import Iterator
from typing import NamedTuple

NO_STORAGE = "no storage"
# It is tried as an attempt starts: at once by Determined's launcher, which gives up, and then by
# the bundle, which waits as it does for all that comes later.
AT_ONCE = re.compile("Checkpoint storage validation failed")
AFTER_A_WHILE = re.compile("error: checkpoints cannot be kept in")
WHILE = 600.0
# Who was preempted in an outage leaves without what he wanted to save or read.
CUT_SHORT = re.compile("error: (step [0-9]+ could not be saved: )?checkpoints cannot be ")
# What the launcher's clients say when its server is gone before they have found it.
OF_A_DEAD_PEER = re.compile(
    r"determined/exec/pid_client\.py.*\nConnectionRefusedError: \[Errno 111\]", re.DOTALL
)
# Torchrun's last words. They repeat that a process has failed, and explain nothing.
REPEATED = re.compile(r"\n\S+\.ChildFailedError")

PREFIX = re.compile(r"^(\[rank=\d+\] )?(.*)$")
SAID = re.compile(r"^(error: .*|ERROR: .*Checkpoint storage validation failed.*)")
TRACE = "Traceback (most recent call last):"
CHAINED = re.compile("The above exception was|During handling of the above")
LATE = 10.0  # seconds to acknowledge a preemption: 5 and a step, on a machine of many trials


class End(NamedTuple):
    """How an attempt ended."""

    code: int
    log: str
    seconds: float  # that it took
    hit: str | None = None  # what was done to it
    acknowledged_after: float | None = None
    storage_was_away: bool = False  # at that moment

    @property
    def is_late(self) -> bool:
        """Whether it took its time to acknowledge what it had been told."""
        return self.acknowledged_after is not None and self.acknowledged_after > LATE

    def reason(self) -> str | None:
        """Return what explains it, if anything explains it and all that its processes say."""
        if self.strange():
            return None
        if self.hit:
            return self.hit
        if self.acknowledged_after is not None:
            return f"preempted, {self.acknowledged_after:.1f} s after it was told"
        if self.code == 0:
            return "done"
        return NO_STORAGE if any(self._is_of_storage(error) for error in errors(self.log)) else None

    def strange(self) -> list[str]:
        """Return the errors that nothing explains."""
        return [error for error in errors(self.log) if not self._is_explained(error)]

    def _is_explained(self, error: str) -> bool:
        is_cut_short = self.acknowledged_after is not None and self.storage_was_away
        return bool(
            REPEATED.search(error)
            or self._is_of_storage(error)
            or (self.hit and OF_A_DEAD_PEER.search(error))
            or (is_cut_short and CUT_SHORT.match(error))
        )

    def _is_of_storage(self, error: str) -> bool:
        waited = AFTER_A_WHILE.match(error) and self.seconds > WHILE
        return self.storage_was_away and bool(waited or AT_ONCE.search(error))


def errors(log: str) -> Iterator[str]:
    """Yield the errors that are told in a line, and the traces of all others."""
    by_process: dict[str, list[str]] = {}
    for line in log.splitlines():
        process, text = PREFIX.match(line).groups()  # type: ignore[union-attr]
        by_process.setdefault(process or "", []).append(text)
    for lines in by_process.values():
        yield from (line for line in lines if SAID.match(line))
        yield from _traces(lines)


def _traces(lines: list[str]) -> Iterator[str]:
    starts = [place for place, line in enumerate(lines) if line == TRACE]
    for start in starts:
        end = start + 1
        while end < len(lines) and lines[end].startswith(" "):
            end += 1
        if not any(CHAINED.match(line) for line in lines[end + 1 : end + 4]):
            yield "\n".join(lines[start : end + 1])
