"""Ports for the servers that tests start.

They lie below the range from which the system takes ports of outgoing connections.  A port of that range can be gone before its
server binds it; worse, a client that asks again and again for a server that is not there yet is given, once in some thousand
tries, the very port that it asks for as its own: it is then connected with itself, reads its own request as the answer, and
the server finds its port taken.
"""

from __future__ import annotations

import contextlib
import random
import socket
from itertools import count as counting
from pathlib import Path

LOWEST = 10_000
#: Where Linux says from which ports outgoing connections are made; others begin at 49,152 as IANA wants.
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def _end() -> int:
    return int(RANGE.read_text().split()[0]) if RANGE.exists() else 49_152


def _candidates() -> counting[int]:
    # Not the generator that tests seed: two test processes with one seed would follow each other from port to port.
    return counting(random.SystemRandom().randrange(_end() - LOWEST))


_places = _candidates()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address in a row that nobody has right now; each call gives others."""
    ports: list[int] = []
    span = _end() - LOWEST
    for place in _places:
        port = LOWEST + place % span
        if (ports and port != ports[-1] + 1) or not _is_free(port):
            ports = []
        else:
            ports.append(port)
        if len(ports) == count:
            return ports
    raise AssertionError("counting never ends")


def free_port() -> int:
    """A port that nobody has right now, nor the three after it: for a worker and its further processes."""
    return free_ports(4)[0]
