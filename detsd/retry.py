"""Outages: how they are told from what a user has to mend, and how they are waited out."""

import errno
import logging
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from detsd.reason import reason

log = logging.getLogger(__name__)

T = TypeVar("T")
LIMIT = 600.0  # seconds that an outage may last
SHORTEST, LONGEST = 1.0, 15.0  # between two attempts; an outage's end is noticed within the longer
GLANCE = 0.5  # between two looks at whether to stop

# What the clients of S3, Google and Azure, and `requests` below them, call a server that is away.
KINDS = {
    *("ConnectionError", "HTTPClientError", "Timeout", "TimeoutError", "RetriesExceededError"),
    *("TransportError", "ServiceRequestError", "ServiceResponseError"),
}
UNREACHABLE = {errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH}
# S3 gives some of these with a status that says the request was wrong.
LATER = {"RequestTimeout", "RequestLimitExceeded", "SlowDown", "Throttling", "ThrottlingException"}
PLAIN = "WRONG_VERSION_NUMBER"  # https to a port that speaks http
NEVER = {501, 505}  # what the server cannot do today, it cannot do in a minute


def keep_trying(work: Callable[[], T], asked_to_stop: Callable[[], bool], clock: Any = time) -> T:
    """Return what `work` does, which is done again for as long as an outage undoes it.

    A request to stop ends the wait, after one more attempt.
    """
    since: float | None = None
    delay = SHORTEST
    while True:
        try:
            result = work()
        except Exception as error:
            now = clock.monotonic()
            since = now if since is None else since
            left = since + LIMIT - now
            if not is_outage(error) or left <= 0 or asked_to_stop():
                raise
            delay = min(delay, left)
            log.warning("%s; everything waits, next attempt in %.0f s", reason(error), delay)
        else:
            if since is not None:
                log.info("done, %.0f s after the first attempt", clock.monotonic() - since)
            return result
        _wait(delay, asked_to_stop, clock)
        delay = min(2 * delay, LONGEST)


def is_outage(error: BaseException) -> bool:
    """Return whether the error may be gone in a minute with nothing changed."""
    errors = list(_chain(error))
    if any(isinstance(one, ssl.SSLCertVerificationError) or PLAIN in str(one) for one in errors):
        return False
    # The outermost that says anything says it: what is below may be an attempt at something else.
    verdicts = (_verdict(one) for one in errors)
    return next((verdict for verdict in verdicts if verdict is not None), False)


def _wait(seconds: float, asked_to_stop: Callable[[], bool], clock: Any) -> None:
    until = clock.monotonic() + seconds
    while (left := until - clock.monotonic()) > 0 and not asked_to_stop():
        clock.sleep(min(GLANCE, left))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _verdict(error: BaseException) -> bool | None:
    code, status = _answer(error)
    if isinstance(status, int):
        return code in LATER or status in (408, 429) or (status >= 500 and status not in NEVER)
    if isinstance(error, OSError) and error.errno in UNREACHABLE:
        return True
    # By name: a run without S3 has no use for S3's client.
    return True if KINDS & {kind.__name__ for kind in type(error).__mro__} else None


def _answer(error: BaseException) -> tuple[Any, Any]:
    """Return the code and the HTTP status that the server answered with, where it did."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore's
        code = response.get("Error", {}).get("Code")
        return code, response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    statuses = (
        getattr(response, "status_code", None),  # requests'
        getattr(error, "status_code", None),  # Azure's
        getattr(error, "code", None),  # Google's
    )
    return None, next((one for one in statuses if isinstance(one, int)), None)
