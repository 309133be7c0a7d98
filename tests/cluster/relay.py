"""A port that leads to a server of this machine. This file knows what is asked through it."""

import contextlib
import re
import select
import socket
from threading import Thread

from tests.cluster.ports import LOOPBACK

REQUEST = re.compile(rb"((?:GET|HEAD|PUT|POST|PATCH|DELETE) /\S*) HTTP/1\.1\r\n")


class Relay:
    """Passes on what comes to a socket, wherever that listens, and keeps what was asked."""

    def __init__(self, listener: socket.socket, port: int):
        self._listener = listener
        self._port = port
        self._asked: list[bytearray] = []  # of each connection
        Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Let nobody in any more; who is in leaves with the process that asks."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @property
    def requests(self) -> list[str]:
        """Return what was asked over HTTP: "GET /path"."""
        return [line.decode() for asked in self._asked for line in REQUEST.findall(asked)]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                connection, _ = self._listener.accept()
                Thread(target=self._pass_on, args=(connection,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        asked = bytearray()
        self._asked.append(asked)
        # Either of the two may be killed.
        with (
            contextlib.suppress(OSError),
            client,
            socket.create_connection((LOOPBACK, self._port)) as server,
        ):
            other = {client: server, server: client}
            while True:
                for one in select.select(other, [], [])[0]:
                    data = one.recv(2**16)
                    if not data:
                        return
                    if one is client:
                        asked += data
                    other[one].sendall(data)


def listen(address: str = LOOPBACK, port: int = 0) -> socket.socket:
    """Return a socket of this thread's network that listens."""
    return socket.create_server((address, port))
