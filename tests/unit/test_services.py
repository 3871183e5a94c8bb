"""`make services` where something else has a port already."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.services import PortTaken, PostgresServer, RedisServer, Server


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield int(listening.getsockname()[1])


@pytest.mark.parametrize("kind", [PostgresServer, RedisServer])
def test_a_server_of_somebody_else_is_not_taken_for_ours(kind: type[Server], tmp_path: Path, taken: int) -> None:
    server = kind(tmp_path, taken)
    with pytest.raises(PortTaken, match=f"cannot listen on port {taken}: something else does"):
        server.start()
    assert server.process is None


def test_one_line_says_what_to_do(tmp_path: Path, taken: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.services", "--folder", tmp_path, "--postgres-port", str(taken)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"make services: PostgreSQL cannot listen on port {taken}: something else does; stop it, or choose another port: "
        f"{sys.executable} -m tests.support.services --postgres-port {taken + 1}\n"
    )
