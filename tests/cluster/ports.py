"""Ports that are free. This file knows where to look for some that others will not take."""

import contextlib
import random
import socket

LOOPBACK = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, nor gets for an outgoing connection."""
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        while len(ports) < count:
            # Below those of outgoing connections, the local end of which takes any that is free.
            port = random.SystemRandom().randrange(15000, 32000)
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind((LOOPBACK, port))
                ports.append(port)
    return ports
