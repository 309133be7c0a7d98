"""An outage is waited out, for ten minutes and not a second more; a mistake is not."""

import errno
import logging
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError, SSLError

from detsd import processes
from detsd.retry import LIMIT, LONGEST, is_outage, keep_trying
from detsd.storage import StorageError, named

NEVER = bool  # asked to stop: bool() is False


class Clock:
    """Time that passes when someone sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def away(until: float, clock: Clock, attempts: list[float]) -> Callable[[], str]:
    """Return an upload to a storage that is away until that second, and notes the attempts."""

    def upload() -> str:
        attempts.append(clock.now - 1000)
        if clock.now - 1000 < until:
            raise ConnectionRefusedError("nobody there")
        return "id"

    return upload


@pytest.mark.parametrize("outage", [0, 1, 60, 300, 599])
def test_an_outage_costs_what_it_lasts(outage: float) -> None:
    clock, attempts = Clock(), []
    assert keep_trying(away(outage, clock, attempts), NEVER, clock) == "id"
    assert outage <= clock.now - 1000 <= outage + min(outage, LONGEST)
    assert len(attempts) < 50


def test_attempts_come_less_and_less_often() -> None:
    clock, attempts = Clock(), []
    keep_trying(away(40, clock, attempts), NEVER, clock)
    assert attempts == [0, 1, 3, 7, 15, 30, 45]


def test_after_ten_minutes_the_last_error_stands() -> None:
    clock, attempts = Clock(), []
    with pytest.raises(ConnectionRefusedError):
        keep_trying(away(1e9, clock, attempts), NEVER, clock)
    assert attempts[-1] == clock.now - 1000 == LIMIT == 600


def test_slow_attempts_are_part_of_the_ten_minutes() -> None:
    clock, attempts = Clock(), []
    upload = away(1e9, clock, attempts)

    def slow() -> str:
        try:
            return upload()
        finally:
            clock.sleep(70)

    with pytest.raises(ConnectionRefusedError):
        keep_trying(slow, NEVER, clock)
    first_failed = 70
    assert attempts[-1] < first_failed + LIMIT <= clock.now - 1000 < first_failed + LIMIT + 70


def test_the_other_processes_wait_longer_than_the_chief_tries() -> None:
    assert processes.PATIENCE.total_seconds() >= 2 * LIMIT


def test_a_mistake_is_not_waited_out() -> None:
    clock = Clock()

    def upload() -> None:
        raise answered("SignatureDoesNotMatch", 403)

    with pytest.raises(ClientError):
        keep_trying(upload, NEVER, clock)
    assert clock.now == 1000


def test_asked_to_stop_it_tries_once_more_and_leaves() -> None:
    clock, attempts = Clock(), []
    with pytest.raises(ConnectionRefusedError):
        keep_trying(away(1e9, clock, attempts), lambda: clock.now >= 1005, clock)
    assert attempts == [0, 1, 3, 5]
    clock, attempts = Clock(), []
    assert keep_trying(away(4, clock, attempts), lambda: clock.now >= 1005, clock) == "id"


def test_every_attempt_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    clock, attempts = Clock(), []
    upload = away(2, clock, attempts)

    def put() -> str:
        with named("written to", "s3 models http://storage"):
            return upload()

    with caplog.at_level(logging.INFO):
        keep_trying(put, NEVER, clock)
    failed = "checkpoints cannot be written to s3 models http://storage: nobody there"
    assert [record.getMessage() for record in caplog.records] == [
        f"{failed}; everything waits, next attempt in 1 s",
        f"{failed}; everything waits, next attempt in 2 s",
        "done, 3 s after the first attempt",
    ]


def answered(code: str, status: int) -> ClientError:
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "PutObject")


def caused(outer: Exception, cause: BaseException) -> Exception:
    outer.__cause__ = cause
    return outer


class HttpResponseError(Exception):
    """Azure's."""

    status_code = 503


class TooManyRequests(Exception):  # noqa: N818
    """Google's."""

    code = 429


def kind(name: str, *bases: type) -> Any:
    return type(name, bases or (Exception,), {})("away")


certificate = ssl.SSLCertVerificationError("certificate verify failed")
OUTAGES = [
    ConnectionRefusedError(),
    ConnectionResetError(),
    TimeoutError(),
    OSError(errno.EHOSTUNREACH, "No route to host"),
    EndpointConnectionError(endpoint_url="http://storage"),
    ReadTimeoutError(endpoint_url="http://storage"),
    SSLError(endpoint_url="https://storage", error="EOF occurred"),
    requests.ConnectionError(),
    requests.Timeout(),
    answered("InternalError", 500),
    answered("SlowDown", 503),
    answered("TooManyRequests", 429),
    answered("RequestTimeout", 400),
    HttpResponseError(),
    TooManyRequests(),
    kind("ServiceRequestError"),
    kind("TransportError"),
    kind("RetriesExceededError"),
    caused(StorageError("cannot be written"), ConnectionResetError()),
    caused(StorageError("cannot be written"), caused(RuntimeError(), answered("SlowDown", 503))),
]
MISTAKES = [
    ValueError(),
    FileNotFoundError(),
    OSError(errno.ENOSPC, "No space left on device"),
    PermissionError(errno.EACCES, "Permission denied"),
    answered("SignatureDoesNotMatch", 403),
    answered("InvalidAccessKeyId", 403),
    answered("AccessDenied", 403),
    answered("NoSuchBucket", 404),
    answered("ExpiredToken", 400),
    answered("NotImplemented", 501),
    certificate,
    caused(SSLError(endpoint_url="https://storage", error="certificate"), certificate),
    caused(requests.exceptions.SSLError(), certificate),
    caused(StorageError("cannot be written"), OSError(errno.ENOSPC, "No space left on device")),
    caused(answered("AccessDenied", 403), ConnectionResetError()),
]


@pytest.mark.parametrize("error", OUTAGES, ids=repr)
def test_what_passes_by_itself_is_an_outage(error: Exception) -> None:
    assert is_outage(error)


@pytest.mark.parametrize("error", MISTAKES, ids=repr)
def test_what_a_user_has_to_mend_is_none(error: Exception) -> None:
    assert not is_outage(error)


def test_an_error_while_handling_another_is_the_one_that_counts() -> None:
    try:
        try:
            raise ConnectionResetError
        except ConnectionResetError:
            raise KeyError from None
    except KeyError as error:
        assert not is_outage(error)
