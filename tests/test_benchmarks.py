"""What `make gpu` does, without a GPU: jobs that fail or hang, and the table of what is there."""

import json
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks import gpu
from benchmarks.goals import GOALS, OVER_THEIRS
from benchmarks.jobs import JSON, Job
from tests.conftest import ROOT

ABOUT = {"device": "GPU", "date": "2026-01-02", "torch": "2.13.0", "python": "3.11", "devices": 1}


def python(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def figures(batch=32, step=0.2, **more):
    cost = {"step": step, "device_gb": 6.5, "first_step": 9.0, "seconds": 20.0, "rate": 5.0}
    asked = {"batch": str(batch), "method": "textual_inversion"}
    return {
        "asked": asked,
        "costs": {"ours": [cost]},
        "tflops": 250.0,
        "peak_tflops": 1000.0,
        **more,
    }


def leave(found) -> tuple[str, ...]:
    return (
        *python("import sys; open(sys.argv[1], 'w').write(sys.argv[2])"),
        JSON,
        json.dumps(found),
    )


def work(tmp_path: Path, jobs, seconds=60.0):
    results = gpu.run(jobs, tmp_path, seconds, {}, ABOUT, GOALS)
    noted = json.loads((tmp_path / "figures.json").read_text())["jobs"]
    assert [one["outcome"] for one in noted] == [result.outcome for result in results]
    return {result.name: result.outcome for result in results}, (tmp_path / "table.md").read_text()


def test_a_job_that_fails_or_hangs_costs_no_other(tmp_path):
    jobs = [
        Job("broken", python("raise ValueError('it broke')"), 30),
        Job("absent", ("no-such-program",), 30),
        Job("silent", (*python("pass"), JSON), 30),
        Job("hanging", python("import time; time.sleep(60)"), 0.5),
        Job("words-32", leave(figures()), 30),
    ]
    outcomes, page = work(tmp_path, jobs)
    assert outcomes == {
        "broken": "failed (1): the log says why",
        "absent": outcomes["absent"],
        "silent": "done, but it left no figures",
        "hanging": "stopped after 0 s",
        "words-32": "done",
    }
    assert outcomes["absent"].startswith("could not be started: ")
    assert "ValueError: it broke" in (tmp_path / "log.txt").read_text()
    assert "| words, batch 32: samples/s | 160 | at least 135 | met |" in page
    assert "| words, batch 32: % of the peak | 25 |" in page
    assert "| the same, aimed at | 160 | at least 240 | not met |" in page
    assert "| 50 steps: images/s | not measured | at least 4.8 | |" in page


def test_what_a_job_that_hangs_has_started_is_ended_too(tmp_path):
    note = tmp_path / "number"
    started = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
open({str(note)!r}, 'w').write(str(child.pid))
time.sleep(60)
"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.jobs.GRACE", 0.2)
        outcomes, _ = work(tmp_path, [Job("stubborn", python(started), 15)])
    assert outcomes == {"stubborn": "stopped after 15 s"}
    child = int(note.read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie"


def test_without_time_nothing_is_begun(tmp_path):
    outcomes, _ = work(tmp_path, [Job("late", leave({}), 30)], seconds=1)
    assert outcomes == {"late": "not begun: no time was left"}


def test_the_peer_is_in_the_table_where_it_was_run(tmp_path):
    alone = [Job("words-4", leave(figures(batch=4)), 30)]
    beside = [Job("words-4", leave(figures(batch=4, ratios={OVER_THEIRS: [3, 5, 6]})), 30)]
    row = "| words, batch 4: × diffusers' script |"
    assert f"{row} not measured | at least 4 | |" in work(tmp_path, alone)[1]
    page = work(tmp_path, beside)[1]
    assert f"{row} 5 | at least 4 | met |" in page
    assert "| words, batch 4: GB on the device | 6.5 | under 8 | met |" in page


def test_every_goal_has_a_job_and_every_job_a_benchmark(tmp_path):
    jobs = gpu.plan(tmp_path, 8, Path("diffusers"))
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    assert {goal.job for goal in GOALS} <= set(names)
    beside = {job.name for job in jobs if "--peer" in job.command}
    assert beside == {"words-4", "lora-4"}
    assert not any("--peer" in job.command for job in gpu.plan(tmp_path, 1, None))
    assert names[-3] == "scaling" and "scaling" not in [
        job.name for job in gpu.plan(tmp_path, 1, None)
    ]


def test_a_machine_without_a_gpu_is_told_so_in_a_line(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"^no GPU is here that torch .* can use$"):
        gpu.main()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_real_benchmark_leaves_its_figures(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    small = ("--size", "demo", "--steps", "6", "--repeats", "1", "--json", JSON)
    job = Job("words-4", gpu.module("train", *small), 200)
    begun = time.monotonic()
    outcomes, page = work(tmp_path, [job], seconds=300)
    assert outcomes == {"words-4": "done"}, (tmp_path / "log.txt").read_text()
    [noted] = json.loads((tmp_path / "figures.json").read_text())["jobs"]
    assert 0 < noted["figures"]["costs"]["ours"][0]["seconds"] < time.monotonic() - begun
    assert (
        "| words, batch 4: samples/s | " in page and "words, batch 4: samples/s | not" not in page
    )
