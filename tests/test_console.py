"""What a process that fails says, and what it leaves to torchrun."""

import json
import subprocess
import sys

import pytest

from detsd import console
from detsd.config import ConfigError
from detsd.trial import TrialError


@pytest.fixture
def report(tmp_path, monkeypatch):
    """The file in which torchrun looks for what went wrong."""
    path = tmp_path / "error.json"
    monkeypatch.setenv(console.FILE_FOR_TORCHRUN, str(path))
    monkeypatch.setattr(console, "PATIENCE", 0)
    return path


@pytest.mark.parametrize("context", [console.errors_in_a_line, console.errors_at_once])
def test_an_error_is_said_and_left_to_torchrun(context, report, capsys):
    with pytest.raises(SystemExit, match="1"), context():
        raise ConfigError(["training.lerning_rate: unknown", "model: missing"])
    said = "error: training.lerning_rate: unknown\nerror: model: missing"
    assert capsys.readouterr().err == f"{said}\n"
    left = json.loads(report.read_text())["message"]
    assert left["extraInfo"]["py_callstack"] == left["message"] == said


def test_an_error_of_ours_keeps_its_traceback(report, capsys):
    with pytest.raises(SystemExit), console.errors_at_once():
        raise RuntimeError("nobody thought of this")
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and said.endswith("nobody thought of this\n")
    assert "Traceback" in json.loads(report.read_text())["message"]["extraInfo"]["py_callstack"]


def test_the_loss_of_a_peer_is_that_peers_to_explain(report, capsys):
    with pytest.raises(SystemExit), console.errors_in_a_line(), console.errors_at_once():
        raise RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1234")
    assert capsys.readouterr().err == "" and not report.exists()


@pytest.mark.parametrize("kind", [TrialError, ConnectionResetError, ValueError])
def test_the_loss_of_a_storage_or_a_master_is_said(kind, report, capsys):
    with pytest.raises(SystemExit), console.errors_in_a_line(), console.errors_at_once():
        raise kind("step 40 could not be saved: Connection reset by peer")
    assert "could not be saved" in capsys.readouterr().err and report.exists()


HANGS = """
import contextlib, time
from detsd import console
@contextlib.contextmanager
def storage():
    try:
        yield
    finally:
        time.sleep(60)
with console.errors_in_a_line(), storage(), console.errors_at_once(0.1):
    raise ValueError("a mistake")
"""


def test_a_process_that_has_failed_ends_though_nothing_answers():
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=50)
    assert done.returncode == 1 and done.stderr.endswith("ValueError: a mistake\n")
