"""Five hundred damaged and hostile concept files, read by a process of their own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_whatever_a_file_holds_it_is_read_or_refused_and_nothing_is_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.mutants", str(tmp_path), "500"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "of 500 refused" in done.stdout
