"""Damaged and hostile concept files, read by processes of their own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def ended(*command: str) -> str:
    """Run a module of tests, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_whatever_a_file_holds_it_is_read_or_refused_and_nothing_is_run(tmp_path: Path) -> None:
    assert "of 500 refused" in ended("tests.mutants", str(tmp_path), "500")


def test_what_was_made_to_take_long_or_much_memory_is_refused(tmp_path: Path) -> None:
    assert "34 refused" in ended("tests.hostile", str(tmp_path))
