"""Processes that start in no time. This file knows how to fork from one that has imported all."""

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["detsd.finetune", "detsd.grid", "determined.cli.cli", "tests.cluster.warm"]
)


def start(
    work: Callable[..., Any], *arguments: Any, variables: Mapping[str, str], cwd: Path, log: Path
) -> Any:
    """Run `work` in a process of its own, whose environment is `variables` and no more."""
    process = FORKS.Process(
        target=_begin, args=(work, arguments, dict(variables), cwd, log), daemon=True
    )
    process.start()
    return process


def _begin(
    work: Callable[..., Any], arguments: Any, variables: dict[str, str], cwd: Path, log: Path
) -> None:
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        work(*arguments)
    finally:
        # What an interpreter does as it ends, and a fork does not.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError):
                stream.flush()


def entry(module: str, slots: int) -> None:
    """Run an entry point as the launcher would have: the cluster's files are the environment."""
    import torch
    from determined import _info, core

    torch.set_num_threads(1)
    first, second = (int(os.environ[f"INTER_TRAIN_PROCESS_COMM_PORT_{n}"]) for n in (1, 2))
    # Read when the module was imported, which was before there was this trial.
    core.DistributedContext.__init__.__kwdefaults__ |= {"pub_port": first, "pull_port": second}
    cluster = _info.ClusterInfo._from_env()
    cluster._trial_info = _info.TrialInfo._from_env()
    cluster._rendezvous_info = _info.RendezvousInfo(["127.0.0.1"], 0, [slots])
    cluster._resources_info = _info.ResourcesInfo([])
    _info._info = cluster
    import_module(module).main()


def det(*arguments: str) -> None:
    """Run the command line of Determined."""
    from determined.cli import cli

    cli.main(list(arguments))


def detsd(*arguments: str) -> None:
    """Run the command line of this package."""
    from detsd import __main__

    sys.exit(__main__.main(list(arguments)))
