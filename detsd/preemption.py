"""Whether the master wants a trial's slots back, also while an outage is waited out."""

from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import TypeVar

import determined
from determined import core
from determined.common.api import authentication, certs
from determined.common.api.errors import BadRequestException

from detsd.retry import keep_trying

T = TypeVar("T")


class EarlyPreemption:
    """Asks the master whether to stop, for as long as there is no context that does."""

    def __init__(self, info: determined.ClusterInfo):
        self._info = info

    @cached_property
    def _context(self) -> core.PreemptContext:
        url = self._info.master_url
        session = authentication.login_from_task(url, certs.default_load(url))
        alone, mode = core.DummyDistributedContext(), core.PreemptMode.ChiefOnly
        return core.PreemptContext(session, self._info.allocation_id, alone, mode).start()

    def should_preempt(self, auto_ack: bool = True) -> bool:
        """Answer as the context's own."""
        return self._context.should_preempt(auto_ack)

    def close(self) -> None:
        """Ask no more, if anything was asked."""
        if "_context" in vars(self):
            self._context.close()


def wait_out(work: Callable[[], T], preempt: core.PreemptContext | EarlyPreemption | None) -> T:
    """Do the work, again for as long as an outage undoes it; the chief leaves it when preempted."""
    try:
        return keep_trying(work, lambda: bool(preempt and preempt.should_preempt(auto_ack=False)))
    except Exception:
        # Acknowledges, if there is something to: then to leave like this is no failure.
        if preempt:
            with suppress(BadRequestException):  # the master may be away, too
                preempt.should_preempt()
        raise
