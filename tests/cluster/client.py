"""The stand-in's other half. This file knows the requests of people: of `det` and of the SDK."""

import io
import tarfile
from typing import Any

from determined.common import storage
from determined.common.util import yaml_safe_load

from tests.cluster.master import CLUSTER, USER, USER_TOKEN, WHEN, Asked, answers
from tests.cluster.records import Experiment, RefusedError, Trial


@answers("GET", "/info", "none")
def info(asked: Asked) -> dict[str, Any]:
    return {
        "version": "0.38.1",
        "master_id": "master",
        "cluster_id": CLUSTER,
        "cluster_name": "",
    }


@answers("POST", "/api/v1/auth/login", "none")
def login(asked: Asked) -> dict[str, Any]:
    if asked.body["username"] != USER["username"]:
        raise RefusedError(403, "invalid credentials")
    return {"token": USER_TOKEN, "user": USER}


@answers("GET", "/api/v1/me", "any")
def me(asked: Asked) -> dict[str, Any]:
    return {"user": USER}


@answers("POST", "/api/v1/experiments", "user")
def create(asked: Asked) -> dict[str, Any]:
    body = asked.body
    experiment = asked.master.create(
        body["config"],
        body.get("modelDefinition") or [],
        body.get("parentId"),
        dry=bool(body.get("validateOnly")),
    )
    experiment.paused = not body.get("activate", True)
    return {
        "experiment": describe(experiment),
        "config": experiment.config,
        "jobSummary": None,
        "warnings": None,
    }


@answers("POST", "/api/v1/experiments/continue", "user")
def go_on(asked: Asked) -> dict[str, Any]:
    experiment = asked.master.experiments[asked.body["id"]]
    asked.master.go_on(experiment, yaml_safe_load(asked.body["overrideConfig"]) or {})
    return {"experiment": describe(experiment), "numRuns": 1, "warnings": None}


@answers("POST", "/api/v1/experiments/{}/pause", "user")
def pause(asked: Asked) -> None:
    asked.master.pause(asked.experiment)


@answers("POST", "/api/v1/experiments/{}/activate", "user")
def activate(asked: Asked) -> None:
    asked.experiment.paused = False


@answers("POST", "/api/v1/experiments/{}/kill", "user")
def kill(asked: Asked) -> None:
    asked.master.kill(asked.experiment)


@answers("GET", "/api/v1/experiments/{}", "user")
def experiment(asked: Asked) -> dict[str, Any]:
    return {"experiment": describe(asked.experiment), "jobSummary": None}


@answers("GET", "/api/v1/experiments/{}/trials", "user")
def trials(asked: Asked) -> dict[str, Any]:
    return _page(asked, "trials", [_trial(trial) for trial in asked.experiment.trials])


@answers("GET", "/api/v1/trials/{}", "user")
def trial(asked: Asked) -> dict[str, Any]:
    return {"trial": _trial(asked.trial)}


@answers("GET", "/api/v1/trials/{}/checkpoints", "any")
def trial_checkpoints(asked: Asked) -> dict[str, Any]:
    found = [_checkpoint(asked.trial, one) for one in asked.trial.checkpoints]
    return _page(asked, "checkpoints", found)


@answers("GET", "/api/v1/experiments/{}/checkpoints", "any")
def experiment_checkpoints(asked: Asked) -> dict[str, Any]:
    found = [_checkpoint(t, one) for t in asked.experiment.trials for one in t.checkpoints]
    return _page(asked, "checkpoints", found)


@answers("GET", "/api/v1/checkpoints/{}", "any")
def checkpoint(asked: Asked) -> dict[str, Any]:
    return {"checkpoint": _checkpoint(*_named(asked))}


@answers("GET", "/checkpoints/{}", "user")
def download(asked: Asked) -> bytes:
    """Fetch a checkpoint for somebody who cannot reach the storage."""
    trial, told = _named(asked)
    place = storage.build(trial.experiment.config["checkpoint_storage"], container_path=None)
    packed = io.BytesIO()
    with (
        place.restore_path(told["uuid"]) as folder,
        tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive,
    ):
        archive.add(folder, ".")
    return packed.getvalue()


def _named(asked: Asked) -> tuple[Trial, dict[str, Any]]:
    for trial, one in asked.master.checkpoints():
        if one["uuid"] == asked.path[0]:
            return trial, one
    raise RefusedError(404, f"no checkpoint {asked.path[0]}")


def ranking(trial: Trial) -> list[tuple[float, str]]:
    """Return its checkpoints with a validation at their step, the best first: `save_trial_best`."""
    searcher = trial.experiment.config["searcher"]
    sign = 1 if searcher["smaller_is_better"] else -1
    values = {
        one["uuid"]: trial.metrics("validation").get(one["metadata"]["steps_completed"], {})
        for one in trial.checkpoints
    }
    metric = searcher["metric"]
    ranked = [(value[metric], uuid) for uuid, value in values.items() if metric in value]
    return sorted(ranked, key=lambda pair: sign * pair[0])


def describe(experiment: Experiment) -> dict[str, Any]:
    """Return what the real master says of an experiment, nulls and all."""
    return {
        "id": experiment.id,
        "name": experiment.config.get("name") or "unnamed",
        "state": f"STATE_{experiment.state}",
        "config": experiment.config,
        "originalConfig": experiment.text,
        "numTrials": len(experiment.trials),
        "searcherType": experiment.config["searcher"]["name"],
        "username": USER["username"],
        "startTime": WHEN,
        "endTime": None,
        "archived": False,
        "jobId": f"job-{experiment.id}",
        "projectId": 1,
        "projectOwnerId": 1,
        "description": None,
        "labels": None,
        "progress": None,
    }


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "id": trial.id,
        "experimentId": trial.experiment.id,
        "hparams": trial.hparams,
        "state": f"STATE_{trial.state}",
        "restarts": trial.restarts,
        "startTime": WHEN,
        "endTime": None,
        "totalBatchesProcessed": max(trial.metrics("training"), default=0),
        "runnerState": None,
        "bestCheckpoint": None,
        "latestValidation": None,
    }


def _checkpoint(trial: Trial, told: dict[str, Any]) -> dict[str, Any]:
    step = told["metadata"]["steps_completed"]
    values = trial.metrics("validation").get(step)
    config = trial.experiment.config
    return {
        **{name: told[name] for name in ("uuid", "taskId", "allocationId", "metadata")},
        **{name: told[name] for name in ("resources", "state")},
        "reportTime": WHEN,
        "storageId": 1,
        "training": {
            "trialId": trial.id,
            "experimentId": trial.experiment.id,
            "experimentConfig": config,
            "hparams": trial.hparams,
            "trainingMetrics": None,
            "validationMetrics": {"avgMetrics": values or {}, "batchMetrics": None},
            "searcherMetric": (values or {}).get(config["searcher"]["metric"]),
        },
    }


def _page(asked: Asked, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    start = int(asked.query.get("offset", 0))
    limit = int(asked.query.get("limit", 0)) or 100
    shown = rows[start : start + limit]
    ends = {"offset": start, "limit": limit, "startIndex": start, "endIndex": start + len(shown)}
    return {name: shown, "pagination": {**ends, "total": len(rows)}}
