"""Two machines on this one. This file knows what is a node's own.

A node has a network, processes and a /tmp of its own: namespaces without a name, which end with the
node, and that with this process.
"""

import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.cluster.relay import Relay, listen

INTERFACE = "eth0"
TOOLS = ("ip", "mount", "nsenter", "unshare")
UNSHARE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
CLONE_NEWNET = 0x40000000
# What lies under /tmp and is shared between machines is seen through the node's own /tmp.
BOOT = """
tmp=$1; shift
mount -t tmpfs -o mode=1777 node "$tmp"
for folder; do
    inside="$tmp/${folder#/tmp/}"
    mkdir -p "$inside"
    mount --bind "$folder" "$inside"
done
mount --move "$tmp" /tmp
ip link set lo up
echo up
exec 3<&0
cat <&3 & wait $!  # a first process has to wait: it inherits the orphans
"""


class Node:
    """A machine of a cluster that has been started."""

    def __init__(self, address: str, tmp: Path, shared: Sequence[Path]):
        self.address = address
        self._process = subprocess.Popen(
            [*UNSHARE, "sh", "-ec", BOOT, "sh", tmp, *(one for one in shared if _hidden(one))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"up\n"
        self._relays: dict[int, Relay] = {}

    @property
    def pid(self) -> int:
        """The process whose namespaces are the node's."""
        return self._process.pid

    @property
    def command(self) -> list[str]:
        """What makes a command one of the node's."""
        children = f"/proc/{self.pid}/ns/pid_for_children"
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", f"--pid={children}"]

    def run(self, *command: str) -> None:
        """Run a command on the node to its end."""
        subprocess.run([*self.command, *command], check=True, capture_output=True)

    def path(self, path: str) -> Path:
        """Return where a path of the node is found by this process."""
        return Path(f"/proc/{self.pid}/root") / path.lstrip("/")

    def relay(self, port: int) -> Relay:
        """Let the node have a port of this machine's loopback on its own."""
        if port not in self._relays:
            # A socket belongs to the network of the thread that opens it.
            with ThreadPoolExecutor(1) as threads:
                listener = threads.submit(_listen_in, self.pid, port).result()
            self._relays[port] = Relay(listener, port)
        return self._relays[port]

    def close(self) -> None:
        """Switch it off."""
        for relay in self._relays.values():
            relay.close()
        self._process.kill()
        self._process.communicate()


@contextmanager
def open_nodes(folder: Path, shared: Sequence[Path]) -> Iterator[tuple[Node, Node]]:
    """Start two nodes with a cable between them; both see the shared folders."""
    with ExitStack() as stack:
        nodes = []
        for number in (1, 2):
            tmp = folder / f"node-{number}"
            tmp.mkdir()
            nodes.append(Node(f"10.0.0.{number}", tmp, shared))
            stack.callback(nodes[-1].close)
        first, second = nodes
        cable = ["type", "veth", "peer", "name", INTERFACE, "netns", str(second.pid)]
        # From here: only this machine knows the other node's process by its number.
        network = f"--net=/proc/{first.pid}/ns/net"
        subprocess.run(["nsenter", network, "ip", "link", "add", INTERFACE, *cable], check=True)
        for node in nodes:
            node.run("ip", "address", "add", f"{node.address}/24", "dev", INTERFACE)
            node.run("ip", "link", "set", INTERFACE, "up")
        yield first, second


def missing() -> str | None:
    """Return what this machine lacks for nodes."""
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        lack = ", ".join(absent)
        return f"two nodes on one machine need the commands {lack} (of iproute2 and util-linux)"
    if os.geteuid() != 0:
        return "two nodes on one machine need root, for their namespaces"
    probe = "mount -t tmpfs probe /tmp && ip link add type veth"
    tried = subprocess.run([*UNSHARE, "sh", "-c", probe], capture_output=True, text=True)
    if tried.returncode:
        return f"two nodes on one machine need namespaces: {tried.stderr.strip()}"
    return None


def _hidden(path: Path) -> bool:
    return path.is_relative_to("/tmp")


def _listen_in(pid: int, port: int) -> socket.socket:
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/proc/{pid}/ns/net").open() as network:
        if libc.setns(network.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    return listen(port=port)
