"""Checkpoints in S3: what lands there is the run; what fails says which storage, in a line."""

import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from detsd.__main__ import main
from detsd.runfolder import open_checkpoints
from detsd.trial import Trial, TrialError
from tests import trials
from tests.cluster.ports import LOOPBACK, free_ports
from tests.cluster.s3 import S3Server, provide_s3, provide_server  # noqa: F401
from tests.trials import changed, run


def exports(folder: Path, place: dict[str, Any]) -> dict[str, bytes]:
    """Return the bytes of every file in the last checkpoint's export, wherever that lies."""
    storage = open_checkpoints(place, folder)
    with storage.open(storage.list()[-1].id) as checkpoint:
        return {path.name: path.read_bytes() for path in (checkpoint / "export").iterdir()}


@pytest.fixture
def straight(hparams: dict[str, Any], tmp_path: Path) -> dict[str, bytes]:
    """What an undisturbed run on a disk ends with."""
    return trials.exports(run(tmp_path / "straight", hparams))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_run_goes_on_elsewhere_from_what_lies_there(
    scheme: str, s3: S3Server, hparams: dict[str, Any], straight: Any, tmp_path: Path
) -> None:
    place = s3.place(scheme, prefix=f"over-{scheme}")
    first = run(tmp_path / "first", hparams, place=place, stop_at=3)
    assert not (first / "checkpoints").exists()
    # The other machine gets what the folder holds; that is a few lines, and no checkpoint.
    second = shutil.copytree(first, tmp_path / "second")
    shutil.rmtree(first)
    run(second, hparams, place=place)
    ids = [stored.id for stored in open_checkpoints(place, second).list()]
    assert [id.rpartition("-")[2] for id in ids] == ["000002", "000003", "000004", "000006"]
    assert exports(second, place) == straight
    lying = {key.split("/")[1] for key in s3.keys(f"over-{scheme}/")}
    assert lying == set(ids)


def test_another_run_starts_from_a_checkpoint_there_by_its_id(
    s3: S3Server, hparams: dict[str, Any], tmp_path: Path
) -> None:
    place = s3.place()
    source = run(tmp_path / "source", hparams, place=place)
    id = open_checkpoints(place, source).list()[-1].id
    still = changed(hparams, training__learning_rate=0, training__num_sgd_steps=2)
    heir = run(tmp_path / "heir", still, place=place, warm_start=id)
    learnt, taken = exports(source, place), exports(heir, place)
    name = "det-logo.safetensors"
    assert learnt[name][-512:] == taken[name][-512:]  # the vectors; the header says another step


@pytest.fixture
def places(s3: S3Server) -> Callable[[str], dict[str, Any]]:
    """Build a `checkpoint_storage` with a mistake in it."""
    dead = f"http://{LOOPBACK}:{free_ports(1)[0]}"
    mistakes: dict[str, dict[str, Any]] = {
        "wrong secret": {"secret_key": "not-the-secret"},
        "unknown key": {"access_key": "nobody"},
        "read only": {"who": "reader"},
        "missing bucket": {"bucket": "missing"},
        "dead endpoint": {"endpoint_url": dead},
        "unknown authority": {"scheme": "https"},
    }
    return lambda mistake: s3.place(**mistakes[mistake])


MISTAKES = {
    "wrong secret": "SignatureDoesNotMatch",
    "unknown key": "InvalidAccessKeyId",
    "read only": "AccessDenied",
    "missing bucket": "NoSuchBucket",
    "dead endpoint": "Connection refused",
    "unknown authority": "CERTIFICATE_VERIFY_FAILED",
}


@pytest.fixture
def signals() -> Iterator[None]:
    """What a launcher in this process does to Ctrl-C ends with the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.usefixtures("signals")
def test_a_mistake_is_a_line_before_anything_starts(
    mistake: str,
    places: Any,
    experiment: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = places(mistake)
    forget_authority(mistake, monkeypatch)
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump({**experiment, "checkpoint_storage": place}))
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    says_it_all(line, place, mistake)
    assert line.startswith("error: ")
    for path in (tmp_path / "runs").rglob("*"):
        assert path.is_dir() or place["secret_key"].encode() not in path.read_bytes()


@pytest.mark.parametrize("mistake", ["wrong secret", "read only", "missing bucket"])
def test_a_mistake_that_shows_while_training_is_not_waited_out(
    mistake: str,
    places: Any,
    hparams: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = places(mistake)
    with pytest.raises(TrialError) as caught:
        run(tmp_path / "run", hparams, place=place)
    says_it_all(str(caught.value), place, mistake)
    assert str(caught.value).startswith("step 2 could not be saved: ")
    assert str(caught.value).endswith("; the checkpoint before it stands")
    assert "next attempt" not in caplog.text


def forget_authority(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mistake == "unknown authority":
        for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
            monkeypatch.delenv(name)


def says_it_all(line: str, place: dict[str, Any], mistake: str) -> None:
    assert "\n" not in line
    assert f"s3 {place['bucket']} {place['endpoint_url']}" in line
    assert MISTAKES[mistake] in line
    assert place["secret_key"] not in line


@pytest.fixture
def disturbed(
    s3: S3Server, hparams: dict[str, Any], tmp_path: Path
) -> Iterator[Callable[..., Path]]:
    """Run with the server killed as step 4 begins; `then` happens in a thread some time later."""
    threads: list[threading.Timer] = []

    def run_disturbed(seconds: float, then: Callable[[], None]) -> Path:
        with_outage: list[Trial] = []

        def work(trial: Trial) -> None:
            progress = trial.progress

            def progress_with_outage(step: int, target: int) -> None:
                progress(step, target)
                if step == 3 and not with_outage:
                    with_outage.append(trial)
                    s3.kill()
                    threads.append(threading.Timer(seconds, then))
                    threads[-1].start()

            trial.progress = progress_with_outage  # type: ignore[method-assign]
            trials.finetune(trial)

        return run(tmp_path / "disturbed", hparams, work, place=s3.place())

    yield run_disturbed
    for thread in threads:
        thread.join()
    if not s3.runs:
        s3.start()


def test_an_outage_while_training_costs_its_time_and_nothing_else(
    s3: S3Server, disturbed: Any, straight: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        folder = disturbed(3, s3.start)
    place = s3.place()
    assert exports(folder, place) == straight
    steps = [one.metadata["steps_completed"] for one in open_checkpoints(place, folder).list()]
    assert steps == [2, 4, 6]
    lines = [one.getMessage() for one in caplog.records if one.name == "detsd.retry"]
    assert len(lines) > 1
    named = f"checkpoints cannot be written to s3 models {s3.endpoint()}: Could not connect"
    assert all(line.startswith(named) for line in lines[:-1])
    assert all("next attempt in" in line for line in lines[:-1])
    assert lines[-1].startswith("done")
    assert place["secret_key"] not in caplog.text


def test_a_stop_in_an_outage_leaves_with_the_checkpoint_before(
    s3: S3Server, disturbed: Any, hparams: dict[str, Any], straight: Any, tmp_path: Path
) -> None:
    began = time.monotonic()
    with pytest.raises(TrialError, match="step 4 could not be saved: .*the checkpoint before it"):
        disturbed(2, lambda: signal.raise_signal(signal.SIGTERM))
    assert time.monotonic() - began < 15
    s3.start()
    folder, place = tmp_path / "disturbed", s3.place()
    (before,) = open_checkpoints(place, folder).list()
    assert before.metadata["steps_completed"] == 2
    assert exports(run(folder, hparams, place=place), place) == straight
