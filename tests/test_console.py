"""What a process that fails says, and what it leaves to torchrun."""

import json

import pytest

from detsd import console
from detsd.config import ConfigError


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
