"""Only what was done to an attempt explains its end, and not what its processes say besides."""

import pytest

from tests.cluster.ends import End, errors

TORCHRUN = """\
E1121 20:27:41.476000 23027 torch/distributed/elastic/multiprocessing/api.py:1002] failed
Traceback (most recent call last):
  File "torch/distributed/launcher/api.py", line 383, in launch_agent
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError: 
============================================================
determined.exec.pid_client FAILED
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  exitcode  : 247 (pid: 23049) 
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
============================================================
"""  # noqa: W291
NO_SERVER = """\
Traceback (most recent call last):
  File "<frozen runpy>", line 198, in _run_module_as_main
  File "/site-packages/determined/exec/pid_client.py", line 14, in <module>
    with ipc.PIDClient(addr) as pid_client:
  File "/site-packages/determined/ipc.py", line 517, in start
    self.sock.connect(self.addr)
ConnectionRefusedError: [Errno 111] Connection refused
"""
CRASH = """\
[rank=1] Traceback (most recent call last):
[rank=0] at step 3
[rank=1]   File "detsd/loss.py", line 1, in loss
[rank=1]     raise KeyError(step)
[rank=1] KeyError: 3
"""
OUTAGE = "checkpoints cannot be kept in s3 models https://x: gone; everything waits\n"
VALIDATION = "ERROR: [7] determined: Checkpoint storage validation failed: HTTPSConnectionPool\n"
NOT_KEPT = "[rank=0] error: checkpoints cannot be kept in s3 models https://x: gone\n"
NOT_READ = "error: checkpoints cannot be read from s3 models https://x: No such file\n"
NOT_SAVED = "error: step 40 could not be saved: checkpoints cannot be written to s3 models: gone\n"


@pytest.mark.parametrize(
    ("reason", "end"),
    [
        ("done", End(0, OUTAGE, 9)),
        ("a rank killed", End(1, TORCHRUN + NO_SERVER, 9, "a rank killed")),
        ("no storage", End(1, VALIDATION, 9, storage_was_away=True)),
        ("no storage", End(1, NOT_KEPT + TORCHRUN, 610, storage_was_away=True)),
        ("preempted, 0.2 s after it was told", End(0, "", 9, acknowledged_after=0.2)),
        ("preempted, 0.2 s after it was told", End(1, NOT_SAVED, 9, None, 0.2, True)),
    ],
)
def test_the_end_of_an_attempt_is_explained(reason: str, end: End) -> None:
    assert end.reason() == reason


@pytest.mark.parametrize(
    "end",
    [
        End(1, "", 9),
        End(1, TORCHRUN, 9),
        End(1, NO_SERVER, 9),
        End(0, CRASH, 9),
        End(1, TORCHRUN + CRASH, 9, "a rank killed"),
        End(1, NOT_READ, 9, "a rank killed"),
        End(1, NOT_READ, 9, storage_was_away=True),
        End(1, NOT_SAVED, 99, storage_was_away=True),
        End(1, VALIDATION, 9),
        End(1, NOT_KEPT, 70, storage_was_away=True),
        End(1, NOT_KEPT, 610),
        End(0, CRASH, 9, acknowledged_after=0.2),
        End(1, NOT_READ, 9, acknowledged_after=0.2),
    ],
)
def test_and_nothing_else_does(end: End) -> None:
    assert end.reason() is None


def test_who_is_told_has_to_leave_soon() -> None:
    late, soon = (End(0, "", 99, acknowledged_after=seconds) for seconds in (12.0, 9.0))
    assert late.is_late and not soon.is_late


def test_a_trace_is_found_among_other_processes_lines_and_an_error_with_a_cause_is_one() -> None:
    (trace,) = errors(CRASH)
    assert trace.endswith("KeyError: 3")
    above = "\nThe above exception was the direct cause of the following exception:\n\n"
    (last,) = errors(NO_SERVER + above + TORCHRUN)
    assert "ChildFailedError" in last
