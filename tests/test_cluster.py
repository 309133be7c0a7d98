"""The cluster's side of a trial: Determined's real client, and a master that takes notes."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from detsd.imagestore import read_records
from tests.conftest import ROOT
from tests.trials import changed

# A process of a trial, as the launcher inside a container would start it.
PROCESS = """
import json, os
from importlib import import_module
from determined import _info
spec = json.loads(os.environ["TRIAL"])
_info._info = _info.ClusterInfo(
    **spec["cluster"],
    trial_info=_info.TrialInfo(**spec["trial"]),
    rendezvous_info=_info.RendezvousInfo(["127.0.0.1"], 0, [len(spec["cluster"]["slot_ids"])]),
    resources_info=_info.ResourcesInfo([]),
)
import_module(spec["module"]).main()
"""


class Master:
    """Answers what a trial asks, and keeps what it is told."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.preempt_after: int | None = None  # metrics reports until it wants the slots back
        master = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length) or b"{}")
                reply = json.dumps(master.reply(self.path, body)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            do_GET = do_POST = answer  # noqa: N815

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def reply(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.requests.append((path, body))
        if "signals/preemption" in path:
            wanted = self.preempt_after
            if "timeout_seconds=0" not in path and wanted is not None:
                while len(self.metrics("training")) < wanted:
                    pass
            return {"preempt": wanted is not None and len(self.metrics("training")) >= wanted}
        return {"storageId": 1} if path.endswith("runs/start") else {}

    def metrics(self, group: str) -> dict[int, dict[str, float]]:
        return {
            body["metrics"]["stepsCompleted"]: body["metrics"]["metrics"]["avgMetrics"]
            for path, body in self.requests
            if path.endswith("/metrics") and body["group"] == group
        }

    def checkpoints(self) -> list[dict[str, Any]]:
        return [body for path, body in self.requests if path.endswith("/checkpoints")]

    def count(self, ending: str) -> int:
        return sum(path.endswith(ending) for path, _ in self.requests)


@pytest.fixture
def master() -> Iterator[Master]:
    master = Master()
    yield master
    master.server.shutdown()
    master.server.server_close()


def run_trial(
    master: Master,
    hparams: dict[str, Any],
    folder: Path,
    *,
    trial_id: int = 1,
    run_id: int = 1,
    latest: str | None = None,
    slots: int = 1,
    module: str = "detsd.finetune",
) -> str:
    storage = folder / "storage"
    storage.mkdir(exist_ok=True)
    allocation = f"a-{uuid.uuid4().hex}"
    spec = {
        "module": module,
        "cluster": {
            "master_url": master.url,
            "cluster_id": "cluster",
            "agent_id": "agent",
            "slot_ids": list(range(slots)),
            "task_id": "task",
            "allocation_id": allocation,
            "session_token": "token",
            "task_type": "TRIAL",
            "latest_checkpoint": latest,
        },
        "trial": {
            "trial_id": trial_id,
            "experiment_id": 7,
            "trial_seed": 3,
            "hparams": hparams,
            "config": {
                "checkpoint_storage": {"type": "directory", "container_path": str(storage)},
                "resources": {"slots_per_trial": 2},
                "searcher": {"name": "single", "metric": "loss"},
                "entrypoint": "",
            },
            "steps_completed": 0,
            "trial_run_id": run_id,
            "debug": False,
            "inter_node_network_interface": None,
        },
    }
    variables = {
        "TRIAL": json.dumps(spec),
        "PYTHONPATH": str(ROOT),
        "DET_SESSION_TOKEN": "token",
        "DET_USER": "user",
        "DET_ALLOCATION_ID": allocation,
        "DET_RETRY_CONFIG": '{"total":0}',
        "USE_TORCH_DISTRIBUTED": "True",
        "DET_CHIEF_IP": "127.0.0.1",
    }
    script = folder / "process.py"
    script.write_text(PROCESS)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(slots)]
    result = subprocess.run(
        [sys.executable, *(torchrun if slots > 1 else []), str(script)],
        env={**os.environ, **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


@pytest.mark.parametrize("slots", [1, 2])
def test_a_trial_reports_saves_and_shows(master, hparams, tmp_path, slots):
    hparams["inference"] = {"inference_prompts": ["a det-logo"], "num_inference_steps": 2}
    run_trial(master, hparams, tmp_path, slots=slots)
    assert sorted(master.metrics("training")) == [2, 4, 6]
    assert sorted(master.metrics("validation")) == [0, 2, 4, 6]
    assert "loss" in master.metrics("validation")[6]
    assert master.count("/progress") == 6
    saved = master.checkpoints()
    assert [one["metadata"]["steps_completed"] for one in saved] == [2, 4, 6]
    assert all(one["metadata"]["trial_id"] == 1 for one in saved)
    assert "export/det-logo.safetensors" in saved[-1]["resources"]
    (root,) = (tmp_path / "storage").glob("cluster/tensorboard/experiment/7/trial/1")
    assert len(list(root.rglob("*.png"))) == 4
    assert list(root.rglob("*tfevents*"))


def test_a_preempted_trial_goes_on_as_if_nothing_had_happened(master, hparams, tmp_path):
    longer = changed(hparams, training__num_sgd_steps=60, training__checkpoint_freq=40)
    run_trial(master, longer, tmp_path)
    straight = exported(tmp_path, master.checkpoints()[-1])
    master.requests.clear()
    master.preempt_after = 5
    run_trial(master, longer, tmp_path, trial_id=2)
    assert master.count("/ack_preemption") == 1
    latest = master.checkpoints()[-1]
    assert 10 <= latest["metadata"]["steps_completed"] < 60
    master.preempt_after = None
    master.requests.clear()
    run_trial(master, longer, tmp_path, trial_id=2, run_id=2, latest=latest["uuid"])
    assert min(master.metrics("training")) > latest["metadata"]["steps_completed"]
    assert exported(tmp_path, master.checkpoints()[-1]) == straight
    master.requests.clear()
    done = run_trial(master, longer, tmp_path, trial_id=2, run_id=3, latest=newest(tmp_path, 60))
    assert "nothing is left to do" in done
    assert not master.checkpoints()


def test_another_trials_checkpoint_starts_a_trial_at_step_0(master, hparams, tmp_path):
    run_trial(master, hparams, tmp_path)
    source = master.checkpoints()[-1]
    master.requests.clear()
    still = changed(hparams, training__learning_rate=0, training__num_sgd_steps=2)
    said = run_trial(master, still, tmp_path, trial_id=2, latest=source["uuid"])
    assert "det-logo starts from the checkpoint" in said
    (saved,) = master.checkpoints()
    assert saved["metadata"]["steps_completed"] == 2
    name = "det-logo.safetensors"
    before, after = exported(tmp_path, source)[name], exported(tmp_path, saved)[name]
    assert before[-512:] == after[-512:]  # the vectors; the header says another step


def test_a_grids_last_checkpoint_has_all_images_where_the_others_are_deleted(
    master, models, tmp_path
):
    hparams = {
        "pipeline": {"pretrained_model_name_or_path": str(models["sd1"])},
        "sweep": {"prompt": "a", "steps": 2, "seed": [1, 2, 3, 4]},
        "batch_size": 1,
        "save_freq": 1,
    }
    arguments = {"module": "detsd.grid"}
    run_trial(master, hparams, tmp_path, slots=2, **arguments)
    first = master.checkpoints()
    assert [one["metadata"]["steps_completed"] for one in first] == [2, 4]
    hparams["sweep"]["seed"] = {"first": 1, "count": 6}
    latest = first[-1]["uuid"]
    said = run_trial(master, hparams, tmp_path, run_id=2, latest=latest, **arguments)
    assert "6 images, 2 of them to be made" in said
    last = master.checkpoints()[-1]
    assert f"python -m detsd gather {last['uuid']}" in said
    kept = tmp_path / "storage" / last["uuid"]
    assert (kept / "index.html").is_file()
    assert len(list((kept / "images").iterdir())) == len(read_records(kept / "images.jsonl")) == 6


def exported(folder: Path, checkpoint: dict[str, Any]) -> dict[str, bytes]:
    export = folder / "storage" / checkpoint["uuid"] / "export"
    return {path.name: path.read_bytes() for path in export.iterdir()}


def newest(folder: Path, steps: int) -> str:
    for path in (folder / "storage").glob("*/metadata.json"):
        metadata = json.loads(path.read_text())
        if metadata["steps_completed"] == steps and metadata["trial_id"] == 2:
            return path.parent.name
    raise AssertionError("no such checkpoint")
