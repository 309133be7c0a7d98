"""Nodes are apart from this machine and from each other, but for a cable and what they share."""

import subprocess
from pathlib import Path

import pytest

from tests.cluster.nodes import missing, open_nodes


def test_a_node_has_a_machine_of_its_own_and_leaves_nothing(tmp_path: Path) -> None:
    if lack := missing():
        pytest.skip(lack)
    shared, own = tmp_path / "shared", f"/tmp/{tmp_path.parent.name}-own"
    shared.mkdir()
    begun = []
    with pytest.raises(ZeroDivisionError), open_nodes(tmp_path, [shared]) as nodes:
        for node in nodes:
            node.run("sh", "-c", f"echo {node.address} >{own}; cp {own} {shared}/{node.address}")
            assert node.path(own).read_text() == f"{node.address}\n"
            command = [*node.command, "sh", "-c", "echo begun; sleep 600"]
            begun.append(subprocess.Popen(command, stdout=subprocess.PIPE))
            assert begun[-1].stdout.readline() == b"begun\n"
        assert not Path(own).exists()
        assert {path.name for path in shared.iterdir()} == {"10.0.0.1", "10.0.0.2"}
        _ = 1 / 0
    assert [process.communicate(timeout=10)[0] for process in begun] == [b""] * 2
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
