"""The command line: python -m detsd run FILE.yaml, gather CHECKPOINT, and convert IN OUT."""

import argparse
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m detsd", description="Teach Stable Diffusion a new word from a few pictures."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="run an experiment YAML without a cluster; the same command again goes on with it",
        description="Run an experiment YAML without a cluster. Run the same command again to go "
        "on after a stop or a crash.",
    )
    run.add_argument("file", type=Path, metavar="FILE.yaml", help="the experiment")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="KEY=VALUE",
        help="change a value, read as YAML: training.num_sgd_steps=20, concepts.img_dirs=[a, b]",
    )
    run.add_argument(
        "--out", type=Path, metavar="FOLDER", help="the run folder (default: runs/FILE)"
    )
    run.add_argument(
        "--processes",
        type=_count,
        metavar="N",
        help="processes (default: the GPUs, at most the slots asked for; 1 without a GPU)",
    )
    run.add_argument(
        "--from",
        dest="warm_start",
        metavar="CHECKPOINT",
        help="start from the concepts of another run's checkpoint, at step 0",
    )
    run.add_argument(
        "--dry-run",
        action="store_true",
        help="only say what would be made, how long it would take and how many bytes",
    )
    collect = commands.add_parser(
        "gather",
        help="put all images of a grid's checkpoints into one folder, with a page to look at them",
        description="A checkpoint of a grid holds the images made since the one before, and lists "
        "all of them. This follows the list.",
    )
    collect.add_argument("checkpoint", help="the last one: its UUID, or its folder")
    collect.add_argument("--out", type=Path, default=Path("images"), metavar="FOLDER")
    change = commands.add_parser(
        "convert",
        help="write an adapter (LoRA) in the layout of diffusers or of kohya's tools",
        description="Write an adapter (LoRA) in the layout of diffusers, or in that of kohya's "
        "tools, which Web UIs read, too. IN may have any layout.",
    )
    change.add_argument("source", metavar="IN", help="a file, a checkpoint's folder or its UUID")
    change.add_argument("target", type=Path, metavar="OUT", help="a .safetensors file, or a folder")
    change.add_argument("--format", choices=("diffusers", "kohya"), default="diffusers")
    return top


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number from 1 is wanted, found {text!r}")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Obey the command line; return the exit code."""
    given = parser().parse_args(arguments)
    from detsd import console

    try:
        return {"run": _run, "gather": _gather, "convert": _convert}[given.command](given)
    except KeyboardInterrupt:  # before there was anything to save
        return 130
    except Exception as error:
        if not console.is_for_users(error):
            raise
        console.print_error(error)
        return 2


def _run(given: argparse.Namespace) -> int:
    from detsd.local import run_file, say_what_would_run

    if given.dry_run:
        say_what_would_run(given.file, given.changes, given.out, given.processes)
        return 0
    return run_file(
        given.file,
        changes=given.changes,
        out=given.out,
        processes=given.processes,
        warm_start=given.warm_start,
    )


def _gather(given: argparse.Namespace) -> int:
    from detsd.gather import gather

    print(gather(given.checkpoint, given.out))
    return 0


def _convert(given: argparse.Namespace) -> int:
    from detsd.convert import convert

    print(convert(given.source, given.target, given.format))
    return 0


if __name__ == "__main__":
    sys.exit(main())
