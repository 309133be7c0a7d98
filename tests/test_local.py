"""The command line: runs, refusals, kills, signals, and what the folder holds after them."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from detsd import local
from detsd.cores import cores
from detsd.launcher import environment
from detsd.local import hide_secrets, run_file
from tests.conftest import ROOT, read_lines
from tests.trials import changed, exports, last, rows, run, run_together

RICH = {
    "concepts__flip_p": 0.5,
    "concepts__crop_scale": [0.8, 1.0],
    "concepts__crop_variants": 2,
    "training__num_sgd_steps": 40,
    "training__checkpoint_freq": 2,
}


def wait_for(condition, process=None, seconds=300):
    for _ in range(seconds * 20):
        if condition():
            return
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def ranks_of(folder: Path) -> list[int]:
    """Return the processes that hold the run folder's lock open."""
    lock = str((folder / ".lock").resolve())
    holders = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            held = {str(path.readlink()) for path in (process / "fd").iterdir()}
        except OSError:
            continue
        if lock in held:
            holders.append(int(process.name))
    return holders


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*"))


def test_a_run_leaves_everything_in_its_folder(cli, experiment):
    experiment["hyperparameters"]["inference"] = {
        "inference_prompts": ["a det-logo"],
        "num_inference_steps": 2,
    }
    experiment["environment"] = {"environment_variables": ["HF_TOKEN=hf_very_secret"]}
    output = cli(str(cli.write(experiment)))
    folder = cli.folder / "runs" / "job"
    assert checkpoints(folder) == ["step-000002", "step-000004", "step-000006"]
    assert {line["group"] for line in read_lines(folder / "metrics.jsonl")} == {
        "training",
        "validation",
    }
    assert len(list(folder.glob("samples/*/*.png"))) == 4
    assert list(folder.glob("tensorboard/events*"))
    assert yaml.safe_load((folder / "config.yaml").read_text())["name"] == "test"
    assert "step-000006" in output
    for path in folder.rglob("*"):
        assert path.is_dir() or b"very_secret" not in path.read_bytes()
    again = cli(str(cli.folder / "job.yaml"))
    assert "nothing is left to do" in again
    assert "very_secret" not in output + again


@pytest.mark.parametrize(("family", "processes"), [("sd1", 1), ("sdxl", 2)])
def test_a_run_killed_at_any_moment_ends_where_a_straight_one_does(
    cli, models, experiment, family, processes
):
    hparams = changed(
        experiment["hyperparameters"],
        **RICH,
        model__pretrained_model_name_or_path=str(models[family]),
    )
    file = str(cli.write({**experiment, "hyperparameters": hparams}))
    arguments = (file, "--processes", str(processes), "--out")
    if processes > 1:
        cli(*arguments, "straight")
    else:
        run(cli.folder / "straight", hparams)
    killed = cli.folder / "killed"
    for count, victim in ((2, "launcher"), (7, "rank")):
        process = cli.start(*arguments, "killed")
        wait_for(lambda count=count: len(checkpoints(killed)) >= count, process)
        if victim == "launcher":
            process.kill()
        else:
            os.kill(max(pid for pid in ranks_of(killed) if pid != process.pid), signal.SIGKILL)
        process.communicate()
        assert process.returncode != 0
        wait_for(lambda: not ranks_of(killed))  # none is left behind
    cli(*arguments, "killed")
    assert exports(killed) == exports(cli.folder / "straight")
    assert checkpoints(killed) == checkpoints(cli.folder / "straight")
    assert not list(killed.glob("checkpoints/.*"))


def test_processes_split_the_work_and_not_the_result(cli, experiment):
    longer = changed(
        experiment["hyperparameters"], training__num_sgd_steps=20, training__checkpoint_freq=10
    )
    file = str(cli.write({**experiment, "hyperparameters": longer}))
    whole = rows(run(cli.folder / "1", longer))["det-logo"]
    # A run begun with three goes on with more than there are samples.
    cli(file, "--out", "mixed", "--processes", "3", "--set", "training.num_sgd_steps=10")
    output = cli(file, "--out", "mixed", "--processes", "5")
    assert "number of processes was 3" in output
    assert torch.allclose(rows(cli.folder / "mixed")["det-logo"], whole, atol=1e-5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves_cleanly(cli, experiment, number):
    many = changed(
        experiment["hyperparameters"],
        training__num_sgd_steps=100000,
        training__checkpoint_freq=1000,
    )
    file = str(cli.write({**experiment, "hyperparameters": many}))
    folder = cli.folder / "out"
    process = cli.start(file, "--out", "out", "--processes", "2")
    wait_for(
        lambda: (folder / "metrics.jsonl").is_file() and read_metrics_count(folder) > 3, process
    )
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "stopped at step" in output
    assert "Traceback" not in output
    assert len(checkpoints(folder)) == 1
    assert not ranks_of(folder)


def read_metrics_count(folder: Path) -> int:
    return len((folder / "metrics.jsonl").read_text().splitlines())


def test_a_second_run_in_a_folder_is_refused_and_a_second_interrupt_is_obeyed_at_once(
    cli, experiment
):
    many = changed(experiment["hyperparameters"], training__num_sgd_steps=100000)
    file = str(cli.write({**experiment, "hyperparameters": many}))
    process = cli.start(file, "--out", "out")
    wait_for(lambda: checkpoints(cli.folder / "out"), process)
    refusal = cli(file, "--out", "out", code=2)
    assert "another run" in refusal
    assert str(process.pid) in refusal
    (rank,) = (pid for pid in ranks_of(cli.folder / "out") if pid != process.pid)
    os.kill(rank, signal.SIGSTOP)  # it cannot save: only the second one ends this
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert not ranks_of(cli.folder / "out")


@pytest.mark.slow
def test_a_grid_runs_every_point_and_keeps_what_the_rules_say(cli, experiment):
    experiment["searcher"] = {"name": "grid", "metric": "loss"}
    experiment["checkpoint_storage"] = {"save_trial_best": 0, "save_trial_latest": 1}
    experiment["hyperparameters"]["training"]["learning_rate"] = {
        "type": "categorical",
        "vals": [0.001, 0.0],
    }
    cli(str(cli.write(experiment)), "--out", "grid")
    rates = {}
    for folder in sorted((cli.folder / "grid").glob("learning_rate=*")):
        assert checkpoints(folder) == ["step-000006"]
        config = yaml.safe_load((folder / "config.yaml").read_text())
        rate = config["hyperparameters"]["training"]["learning_rate"]
        rates[rate] = (folder / "run.json").stat().st_mtime_ns
    assert sorted(rates, key=lambda rate: rates[rate]) == [0.0, 0.001]  # from the list's end
    # A value more is a point more, and nothing of the others is done again.
    experiment["hyperparameters"]["training"]["learning_rate"]["vals"].append(0.002)
    output = cli(str(cli.write(experiment)), "--out", "grid")
    assert output.count("nothing is left to do") == 2
    assert len((cli.folder / "grid" / "results.csv").read_text().splitlines()) == 1 + 3
    assert len(list((cli.folder / "grid").glob("learning_rate=*/checkpoints/step-000006"))) == 3


def test_trials_share_processes_and_a_model_and_end_as_each_would_alone(cli, experiment):
    hparams = experiment["hyperparameters"]
    kinds = ["lora", "textual_inversion"]
    experiment["searcher"] = {"name": "grid", "metric": "loss"}
    searched = {**hparams, "method": {"kind": {"type": "categorical", "vals": kinds}}}
    file = str(cli.write({**experiment, "hyperparameters": searched}))
    log = noted(cli.folder)
    cli(file, "--out", "grid", "--processes", "2", PYTHONPATH=f"{log.parent}{os.pathsep}{ROOT}")
    assert sorted(log.read_text().split()) == ["loads", "loads", "starts", "starts"]
    for kind in kinds:
        (folder,) = (cli.folder / "grid").glob(f"kind={kind}*")
        alone = run_together(cli.folder / kind, {**hparams, "method": {"kind": kind}})
        assert exports(folder) == exports(alone)
    assert not ranks_of(cli.folder / "grid")


def test_a_search_goes_on_in_new_processes_after_one_that_was_killed(cli, experiment):
    search(experiment, max_trials=3)
    experiment["hyperparameters"]["training"]["num_sgd_steps"] = 2
    log = noted(
        cli.folder,
        "import detsd.data as data, signal\n"
        "read, left = data.read_examples, [1]\n"
        "def killed_the_second_time(config):\n"
        "    if not left and 'killed' not in log.read_text():\n"
        "        note('killed')\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    left.clear()\n"
        "    return read(config)\n"
        "data.read_examples = killed_the_second_time\n",
    )
    path = f"{log.parent}{os.pathsep}{ROOT}"
    output = cli(str(cli.write(experiment)), "--out", "search", PYTHONPATH=path)
    assert log.read_text().split() == ["starts", "loads", "killed", "starts", "loads"]
    table = (cli.folder / "search/results.csv").read_text()
    states = [",failed," in row for row in table.splitlines()]
    assert sorted(states) == [False, False, False, True], output


def noted(folder: Path, more: str = "") -> Path:
    """Return a log beside a sitecustomize by which ranks note that they start and load a model."""
    place = folder / "noted"
    place.mkdir()
    (place / "sitecustomize.py").write_text(
        "import os, pathlib\n"
        "if 'RANK' in os.environ:\n"
        f"    log = pathlib.Path({str(place / 'log')!r})\n"
        "    def note(what):\n"
        "        with log.open('a') as file:\n"
        "            file.write(what + '\\n')\n"
        "    note('starts')\n"
        "    import detsd.pretrained as pretrained\n"
        "    load = pretrained.load_model\n"
        "    pretrained.load_model = lambda *a, **k: (note('loads'), load(*a, **k))[1]\n"
        + textwrap.indent(more, "    ")
    )
    return place / "log"


def test_a_random_search_runs_its_points_and_compares_them(cli, experiment):
    search(experiment, max_trials=2)
    experiment["hyperparameters"]["training"] |= {"num_sgd_steps": 2, "metric_report_freq": 1}
    experiment["hyperparameters"]["inference"] = {
        "inference_prompts": ["a det-logo"],
        "num_inference_steps": 1,
    }
    output = cli(str(cli.write(experiment)), "--out", "search")
    folder = cli.folder / "search"
    trials = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert [name.split("-")[0] for name in trials] == ["001", "002"]
    assert all(checkpoints(folder / name) == ["step-000002"] for name in trials)
    head, *rows = (folder / "results.csv").read_text().splitlines()
    assert head.startswith("trial,state,training.learning_rate,loss,step")
    assert sorted(row.split(",done,")[0].strip('"') for row in rows) == trials
    assert all(name in output for name in trials)
    assert (folder / "best.png").is_file()


def search(experiment, max_trials):
    """Make it a random search over the learning rate."""
    experiment["searcher"] = {"name": "random", "metric": "loss", "max_trials": max_trials}
    rate = {"type": "log", "base": 10, "minval": -4, "maxval": -2}
    experiment["hyperparameters"]["training"]["learning_rate"] = rate


@pytest.fixture
def launched(monkeypatch):
    """Launch nothing: note the folders, and end as the test says of each."""
    launched = SimpleNamespace(folders=[], codes={}, stop_after=None)

    class NoLauncher:
        stopping = False

        def __init__(self, lock, count, variables):
            pass

        def close(self):
            pass

        def run(self, task, *, is_last):
            launched.folders.append(Path(task["folder"]).name)
            self.stopping = len(launched.folders) == launched.stop_after
            return launched.codes.get(len(launched.folders), 0)

    monkeypatch.setattr(local, "Launcher", NoLauncher)
    return launched


def run_here(cli, experiment) -> int:
    return run_file(cli.write(experiment), out=cli.folder / "out", processes=1)


def test_a_trial_that_fails_ends_a_grid_and_not_a_random_search(cli, experiment, launched, capsys):
    search(experiment, max_trials=4)
    launched.codes = {2: 1}
    assert run_here(cli, experiment) == 0
    assert [name[:3] for name in launched.folders] == ["001", "002", "003", "004"]
    lines = capsys.readouterr().out.splitlines()
    assert [line[:3] for line in lines if " failed " in line] == ["002"]
    launched.codes = dict.fromkeys(range(5, 9), 1)
    assert run_here(cli, experiment) == 1  # all of them
    rates = {"type": "categorical", "vals": [0.1, 0.2, 0.3]}
    experiment["hyperparameters"]["training"]["learning_rate"] = rates
    experiment["searcher"] = {"name": "grid", "metric": "loss"}
    launched.codes = {10: 3}
    assert run_here(cli, experiment) == 3
    assert len(launched.folders) == 10


def test_a_request_to_stop_ends_a_random_search_at_once(cli, experiment, launched):
    search(experiment, max_trials=4)
    launched.stop_after = 2
    assert run_here(cli, experiment) == 0
    assert len(launched.folders) == 2
    assert not (cli.folder / "out" / "results.csv").exists()  # it is not over


def test_between_two_trials_a_signal_ends_a_process_as_before_the_first(tmp_path, hparams):
    before = signal.getsignal(signal.SIGTERM)
    heard = []
    run(tmp_path / "a", hparams, lambda trial: heard.append(signal.getsignal(signal.SIGTERM)))
    assert heard != [before]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_directory_storage_is_shared_by_runs(cli, experiment):
    store = cli.folder / "store"
    experiment["checkpoint_storage"] = {"type": "directory", "container_path": str(store)}
    file = str(cli.write(experiment))
    cli(file, "--out", "a")
    cli(file, "--out", "b", "--set", "training.num_sgd_steps=2")
    found = sorted(path.name for path in store.iterdir())
    assert len(found) == 4
    warm = next(name for name in found if name.endswith("step-000006"))
    output = cli(file, "--out", "c", "--from", warm)
    assert "det-logo starts from the checkpoint" in output


def test_a_disk_that_refuses_is_one_line_and_the_checkpoint_before_stands(cli, experiment):
    file = str(cli.write(experiment))
    cli(file, "--out", "out", "--set", "training.num_sgd_steps=2")
    output = cli(
        *(file, "--out", "out"), code=1, PYTHONPATH=f"{full_disk(cli.folder)}{os.pathsep}{ROOT}"
    )
    assert "step 4 could not be saved: " in output
    assert "No space left" in output
    assert "Traceback" not in output
    assert checkpoints(cli.folder / "out") == ["step-000002"]
    assert not list((cli.folder / "out").glob("checkpoints/.*"))
    cli(file, "--out", "out")
    assert last(cli.folder / "out").name == "step-000006"


def full_disk(folder: Path) -> Path:
    """Return a folder whose sitecustomize makes writing a checkpoint fail as a full disk does."""
    place = folder / "full"
    place.mkdir()
    (place / "sitecustomize.py").write_text(
        "import errno, os\n"
        "flush = os.fsync\n"
        "def refuse(descriptor):\n"
        "    if 'checkpoints' in os.readlink(f'/proc/self/fd/{descriptor}'):\n"
        "        raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "    flush(descriptor)\n"
        "os.fsync = refuse\n"
    )
    return place


def test_a_typo_is_reported_without_loading_anything(cli, experiment):
    experiment["hyperparameters"]["training"]["lerning_rate"] = 1
    file = cli.write(experiment)
    output = cli(str(file), code=2)
    assert output == "error: training.lerning_rate: unknown; did you mean learning_rate?\n"
    loaded = "import sys; from detsd.__main__ import main; main(['run', sys.argv[1]]); "
    check = f"{loaded}assert not {{'torch', 'diffusers', 'transformers'}} & set(sys.modules)"
    command = [sys.executable, "-c", check, str(file)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a mapping is wanted"),
        ("a: [1", "is not valid YAML"),
        ("a: 1\na: 2", "duplicate key"),
        ("- 1", "a mapping is wanted"),
        ("hyperparameters: {}", "concepts: missing"),
        ("hyperparameters: {a: 1}\nentrypoint: python3 train.py", "entrypoint: one of"),
        ("hyperparameters: {a: 1}\nsearchr: {}", "searchr: unknown; did you mean searcher?"),
        ("hyperparameters: {}\nresources: {slots_per_trial: two}", "resources.slots_per_trial"),
        ("hyperparameters: {training: 3}", "training: a mapping is wanted, found 3"),
        ("hyperparameters: {}\nentrypoint:", "entrypoint: a command is wanted"),
        ("hyperparameters: {}\nsearcher: {max_length: abc}", "searcher.max_length: a number of"),
    ],
)
def test_a_broken_file_is_refused_in_a_line(cli, text, said):
    (cli.folder / "bad.yaml").write_text(text)
    output = cli("bad.yaml", code=2)
    assert said in output
    assert "Traceback" not in output


def test_a_folder_without_a_usable_picture_is_refused_before_the_model_is_loaded(
    cli, experiment, pictures
):
    for path in pictures.iterdir():
        path.write_bytes(b"")
    output = cli(str(cli.write(experiment)), "--processes", "2", code=1)
    assert "on_a_wall_0.png: is empty: skipped" in output
    assert output.count("holds no picture that can be used") == 1
    assert "Traceback" not in output


def test_a_warm_start_names_a_run_or_something_that_is_there(cli, experiment):
    file = str(cli.write(experiment))
    assert "--from nowhere/at/all: no such file" in cli(file, "--from", "nowhere/at/all", code=2)
    run(cli.folder / "a", changed(experiment["hyperparameters"], training__num_sgd_steps=2))
    output = cli(file, "--out", "b", "--from", "a", "--set", "training.num_sgd_steps=2")
    assert "det-logo starts from the checkpoint" in output
    assert "--from is not used" in cli(file, "--out", "b", "--from", "a")


def test_the_process_that_fails_says_why_and_the_others_are_silent(cli, experiment):
    place = cli.folder / "fails"
    place.mkdir()
    (place / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import detsd.data as data, detsd.images as images\n"
        "    def refuse(*_):\n"
        "        raise images.ImageError('the second process could not')\n"
        "    data._variants = refuse\n"
    )
    path = f"{place}{os.pathsep}{ROOT}"
    output = cli(str(cli.write(experiment)), "--processes", "2", code=1, PYTHONPATH=path)
    assert output.count("error: the second process could not") == 1
    assert "Traceback" not in output


def test_secrets_are_not_written_down():
    config = {
        "environment": {"environment_variables": ["HF_TOKEN=abc", "A=b"]},
        "checkpoint_storage": {"type": "s3", "secret_key": "s", "access_key": "a", "bucket": "b"},
    }
    hidden = hide_secrets(config)
    assert hidden["environment"]["environment_variables"] == ["HF_TOKEN=****", "A=b"]
    assert hidden["checkpoint_storage"] == {
        **{"type": "s3", "secret_key": "****", "access_key": "****", "bucket": "b"}
    }


def test_variables_of_the_shell_win_over_those_of_the_yaml():
    found = environment({"A": "shell", "RANK": "9"}, {"A": "yaml", "B": "yaml"}, 1, 2)
    assert (found["A"], found["B"], found["RANK"], found["WORLD_SIZE"]) == (
        "shell",
        "yaml",
        "1",
        "2",
    )


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_processes_keep_the_memory_that_they_ask_for_again():
    mmap, trim = "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"
    assert int(environment({}, {}, 0, 1)[mmap]) == 32 * 2**20
    found = environment({mmap: "1"}, {mmap: "2", trim: "3"}, 0, 1)
    assert (found[mmap], found[trim]) == ("1", "3")


def test_processes_share_the_processors():
    assert environment({}, {}, 0, 2)["OMP_NUM_THREADS"] == str(max(1, cores() // 2))
    assert environment({"OMP_NUM_THREADS": "5"}, {}, 0, 2)["OMP_NUM_THREADS"] == "5"


def test_help_loads_nothing():
    check = "import sys; from detsd.__main__ import parser; parser().format_help(); "
    check += "assert not {'torch', 'pydantic', 'determined'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)
