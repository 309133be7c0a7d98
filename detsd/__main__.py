"""The command line: python -m detsd run FILE.yaml, gather, caption and convert."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any


class _Parser(argparse.ArgumentParser):
    """One that lets options stand among several paths, where argparse stops taking them."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given, rest = super().parse_known_args(args, namespace)
        if "paths" in given:
            given.paths += [one for one in rest if not one.startswith("-")]
            rest = [one for one in rest if one.startswith("-")]
        return given, rest


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m detsd", description="Teach Stable Diffusion a new word from a few pictures."
    )
    commands = top.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_Parser
    )
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
    _add_convert(commands)
    _add_caption(commands)
    return top


def _add_convert(commands: Any) -> None:
    change = commands.add_parser(
        "convert",
        help="write learnt words and adapters (LoRA) as other tools read them, or list them",
        usage="python -m detsd convert [--format FORMAT] [--name TOKEN] IN... OUT\n"
        "       python -m detsd convert --list [--json] [--model FOLDER] IN...",
        description="Write learnt words (textual inversion) and adapters (LoRA) in the layout that "
        "another tool reads, or list what there is. IN may have any layout: it is known by what is "
        "in it, and nothing in it is run.",
    )
    change.add_argument(
        "paths",
        nargs="+",
        metavar="IN... OUT",
        help="files, folders, or checkpoints by their folder or UUID; and last a file to write, or "
        "a folder for several",
    )
    change.add_argument(
        "--format",
        choices=("diffusers", "a1111", "kohya", "determined"),
        help="whose layout (default: diffusers); of an adapter diffusers or kohya",
    )
    change.add_argument("--name", metavar="TOKEN", help="what the concept is called from now on")
    change.add_argument("--list", action="store_true", help="only say what the files hold")
    change.add_argument("--json", action="store_true", help="with --list: a line of JSON for each")
    change.add_argument(
        "--model",
        type=Path,
        metavar="FOLDER",
        help="with --list: a base model, to compare the vectors with its vocabulary",
    )


def _add_caption(commands: Any) -> None:
    caption = commands.add_parser(
        "caption",
        help="write captions beside pictures that have none; the same command again goes on",
        description="Write NAME.txt beside each picture of a folder that has no caption, with what "
        "a BLIP model says of it. Run the same command again to go on after a stop.",
    )
    caption.add_argument("folder", type=Path, metavar="FOLDER", help="the pictures")
    caption.add_argument(
        "--model",
        required=True,
        metavar="NAME_OR_FOLDER",
        help="a BLIP or BLIP-2 that writes captions: a folder, or a hub id such as "
        "Salesforce/blip-image-captioning-base",
    )
    caption.add_argument(
        "--begin",
        default="",
        metavar="TEXT",
        help='how each caption starts, "a photo of" for one; the model goes on from there',
    )
    caption.add_argument(
        "--overwrite",
        action="store_true",
        help="caption all pictures, from the first one each time: what a NAME.txt says is lost; "
        "captions.jsonl is left as it is, and a NAME.txt is read in its stead",
    )
    caption.add_argument(
        "--device", metavar="DEVICE", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)"
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number from 1 is wanted, found {text!r}")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Obey the command line; return the exit code."""
    given = parser().parse_args(arguments)
    from detsd import console

    try:
        commands = {"run": _run, "gather": _gather, "caption": _caption, "convert": _convert}
        return commands[given.command](given)
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


def _caption(given: argparse.Namespace) -> int:
    from detsd import console
    from detsd.caption import caption_folder
    from detsd.captioner import Captioner, load_captioner
    from detsd.config import hub_token

    console.speak()
    console.hush_loading()

    def load() -> Captioner:
        return load_captioner(given.model, given.device, given.begin, hub_token(os.environ))

    print(caption_folder(given.folder, load, overwrite=given.overwrite))
    return 0


def _convert(given: argparse.Namespace) -> int:
    from detsd.convert import ConvertError, convert

    if given.list:
        if given.format or given.name:
            raise ConvertError("--list writes no file: --format and --name do not go with it")
        return _list(given)
    if given.json or given.model:
        raise ConvertError("--json and --model go with --list")
    *sources, target = given.paths
    if not sources:
        raise ConvertError(f"{target}: what to read is wanted, and behind it what to write")
    for line in convert(sources, Path(target), given.format or "diffusers", given.name):
        print(line)
    return 0


def _list(given: argparse.Namespace) -> int:
    from detsd import console
    from detsd.listing import as_lines, as_tables, rows_of

    unread: list[ValueError] = []
    rows = rows_of(given.paths, given.model, unread.append)
    if rows:
        print(as_lines(rows) if given.json else as_tables(rows))
    for error in unread:
        console.print_error(error)
    return 2 if unread else 0


if __name__ == "__main__":
    sys.exit(main())
