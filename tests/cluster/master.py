"""A stand-in for Determined's master. This file knows the requests of trials, SDK and CLI."""

import base64
import contextlib
import io
import json
import re
import tarfile
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.cluster.records import Allocation, Experiment, RefusedError, TooLateError, Trial
from tests.cluster.rules import Rules

CLUSTER = "stand-in-cluster"
USER_TOKEN, USER = "token-of-the-user", {"username": "user", "admin": False, "active": True}
TASK_HEADER, USER_HEADER = "Grpc-Metadata-x-allocation-token", "Authorization"
WHEN = "2026-01-01T00:00:00Z"
CHANGES = re.compile("/(metrics|checkpoints|ack_preemption)$")
RENDEZVOUS = 60  # seconds that a container waits for the others


class Asked(NamedTuple):
    """A request as its answer sees it."""

    master: "Master"
    path: tuple[str, ...]  # the groups of the route's expression
    query: dict[str, str]
    body: dict[str, Any]
    task: Allocation | None  # whose token it bears

    @property
    def experiment(self) -> Experiment:
        return _found(self.master.experiments, int(self.path[0]))

    @property
    def trial(self) -> Trial:
        return _found(self.master.trials, int(self.path[0]))

    @property
    def allocation(self) -> Allocation:
        if self.task is None or self.task.id != self.path[0]:
            raise RefusedError(403, "another allocation's token")
        return self.task


Answer = Callable[[Asked], dict[str, Any] | bytes | None]
ROUTES: list[tuple[str, re.Pattern[str], str, Answer]] = []


def answers(method: str, path: str, token: str) -> Callable[[Answer], Answer]:
    """Register what answers a path; `token` is task, user, any or none."""

    def register(answer: Answer) -> Answer:
        ROUTES.append((method, re.compile(re.sub(r"\{\}", "([^/]+)", path)), token, answer))
        return answer

    return register


class Master(Rules):
    """Answers on a port of its own, and keeps what it was told and which rules were broken."""

    def __init__(self, storage: Path):
        super().__init__(storage)
        self.requests: list[tuple[str, str]] = []
        self.broken: list[str] = []
        self.logs: list[str] = []
        handler = type("Handler", (_Handler,), {"master": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Answer nothing more, and leave no poll hanging."""
        with self.changed:
            for allocation in self.allocations.values():
                allocation.preempted_at = time.monotonic()
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def count(self, ending: str) -> int:
        """Return how many requests there were for such a path."""
        return sum(path.endswith(ending) for _, path in self.requests)

    def answer(self, method: str, url: str, headers: Any, body: bytes) -> tuple[int, Any]:
        """Return the status and the reply, and note a rule that was broken."""
        target = urlsplit(url)
        self.requests.append((method, target.path))
        try:
            for wanted, path, token, answer in ROUTES:
                if wanted == method and (match := path.fullmatch(target.path)):
                    task = self._bearer(headers, token)
                    query = {name: values[-1] for name, values in parse_qs(target.query).items()}
                    asked = Asked(self, match.groups(), query, json.loads(body or b"{}"), task)
                    return 200, answer(asked) or {}
            raise RefusedError(404, "no such path")
        except RefusedError as refusal:
            # Who is just closing may still say something, but not change anything.
            if not isinstance(refusal, TooLateError) or CHANGES.search(target.path):
                self.broken.append(f"{method} {target.path}: {refusal}")
            return refusal.code, {"code": 0, "message": str(refusal), "details": None}

    def _bearer(self, headers: Any, wanted: str) -> Allocation | None:
        task = headers.get(TASK_HEADER, "").removeprefix("Bearer session-")
        user = headers.get(USER_HEADER, "").removeprefix("Bearer ")
        if wanted in ("task", "any") and task in self.allocations:
            if self.allocations[task].is_over:
                raise TooLateError
            return self.allocations[task]
        if wanted == "none" or (wanted in ("user", "any") and user == USER_TOKEN):
            return None
        raise RefusedError(401, f"a token of {wanted} is needed")


class _Handler(BaseHTTPRequestHandler):
    master: Master
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a killed process's
            super().handle()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        code, reply = self.master.answer(self.command, self.path, self.headers, body)
        text = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass

    do_GET = do_POST = do_PATCH = _answer  # noqa: N815


def _found(table: dict[int, Any], key: int) -> Any:
    if key not in table:
        raise RefusedError(404, f"no {key} here")
    return table[key]


# What a container asks.


@answers("GET", "/api/v1/tasks/{}/context_directory", "task")
def context_directory(asked: Asked) -> dict[str, Any]:
    assert asked.task is not None
    return {"b64Tgz": base64.b64encode(pack(asked.task.trial.experiment.files)).decode()}


def pack(files: list[dict[str, Any]]) -> bytes:
    """Return a context as the tar.gz that a container gets."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for file in files:
            member = tarfile.TarInfo(file["path"])
            content = base64.b64decode(file["content"] or "")
            member.size, member.mode = len(content), file["mode"]
            member.type = bytes([file["type"]])
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@answers("GET", "/api/v1/allocations/{}/resources/{}/rendezvous", "task")
def rendezvous(asked: Asked) -> dict[str, Any]:
    allocation, changed = asked.allocation, asked.master.changed
    rank = int(asked.path[1].rpartition(".")[2])
    addresses = list(allocation.addresses)
    slots = [allocation.slots // len(addresses)] * len(addresses)
    with changed:
        allocation.met.add(rank)
        changed.notify_all()
        if not changed.wait_for(lambda: len(allocation.met) == len(addresses), RENDEZVOUS):
            raise RefusedError(504, f"of {addresses} there are only {sorted(allocation.met)}")
    return {"rendezvousInfo": {"addresses": addresses, "rank": rank, "slots": slots}}


@answers("POST", "/api/v1/allocations/{}/acceleratorData", "task")
@answers("POST", "/api/v1/trials/{}/(?:progress|runner/metadata)", "task")
def take(asked: Asked) -> None:
    pass


@answers("POST", "/api/v1/task/logs", "task")
def keep_logs(asked: Asked) -> None:
    asked.master.logs += [line["log"] for line in asked.body["logs"]]


@answers("POST", "/api/v1/runs/start", "task")
def start_run(asked: Asked) -> dict[str, Any]:
    if asked.task is None or asked.body["runId"] != asked.task.trial.id:
        raise RefusedError(400, "another trial's run")
    return {"storageId": 1}


@answers("GET", "/api/v1/allocations/{}/signals/preemption", "task")
def wait_for_preemption(asked: Asked) -> dict[str, Any]:
    allocation, changed = asked.allocation, asked.master.changed
    with changed:
        changed.wait_for(lambda: allocation.preempted, float(asked.query["timeout_seconds"]))
        if allocation.preempted and allocation.told_at is None:
            allocation.told_at = time.monotonic()
        return {"preempt": allocation.preempted}


@answers("POST", "/api/v1/allocations/{}/signals/ack_preemption", "task")
def acknowledge(asked: Asked) -> None:
    if not asked.allocation.preempted or asked.allocation.acknowledged:
        raise RefusedError(400, "nothing to acknowledge")
    asked.allocation.acknowledged_at = time.monotonic()


@answers("POST", "/api/v1/trials/{}/metrics", "task")
def report_metrics(asked: Asked) -> None:
    told, trial = asked.body["metrics"], asked.trial
    with asked.master.changed:
        values = told["metrics"]["avgMetrics"]
        run, step = told["trialRunId"], told["stepsCompleted"]
        odd = trial.report(run, asked.body["group"], step, values)
        if odd:
            asked.master.broken.append(odd)
        asked.master.changed.notify_all()


@answers("POST", "/api/v1/checkpoints", "task")
def report_checkpoint(asked: Asked) -> None:
    assert asked.task is not None
    if not isinstance(asked.body["metadata"].get("steps_completed"), int):
        raise RefusedError(400, "a checkpoint without steps_completed")
    with asked.master.changed:
        if any(one["uuid"] == asked.body["uuid"] for _, one in asked.master.checkpoints()):
            # A database's constraint, for which the real master has no better status either.
            raise RefusedError(500, "error adding checkpoint metadata: the uuid is known")
        asked.task.trial.checkpoints.append(asked.body)
        asked.master.changed.notify_all()
