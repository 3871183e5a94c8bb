"""A real worker in a process of its own, started as a user would start it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.ports import free_port
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


class Worker:
    """``with Worker(folder) as worker: ...``; leaving ends it with SIGTERM if it still runs."""

    def __init__(
        self, folder: Path, *, broker: str | None = None, command: list[str] | None = None, **env: str
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.broker = broker or f"embedded://{folder}/log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FAMULUS_")}
        self.env = {
            **clean,
            "FAMULUS_BROKER": self.broker,
            "FAMULUS_DATA_DIR": str(folder / "data"),
            "FAMULUS_WEB_PORT": str(self.port),
            "PYTHONPATH": str(ROOT),
            **env,
        }
        self.command = command or [str(BIN / "faust"), "-A", "app", "worker", "-l", "info"]
        self.process: subprocess.Popen[bytes] | None = None
        self.runs = 0

    def start(self) -> Worker:
        self.runs += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(self.command, env=self.env, cwd=self.folder, stdout=log, stderr=log)
        return self

    @property
    def log_file(self) -> Path:
        return self.folder / f"worker-{self.port}-{self.runs}.log"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def log_text(self) -> str:
        return self.log_file.read_text(errors="replace")

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def stop(self, *, with_signal: int = signal.SIGTERM, within: float = 15) -> int:
        """Ask it to end; returns its exit code."""
        assert self.process is not None
        if self.running:
            self.process.send_signal(with_signal)
        return self.process.wait(within)

    def get(self, path: str) -> Any:
        """JSON answer of an HTTP request; ``None`` while nobody listens or the answer is an error."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            error.close()
            return None
        except OSError:
            return None

    def wait_ready(self, within: float = 30) -> None:
        def ready() -> bool:
            if not self.running:
                raise AssertionError(f"the worker ended:\n{self.log_text()[-4000:]}")
            return self.get("/readyz") is not None

        try:
            until(ready, within=within, what="the worker is ready")
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.log_text()[-4000:]}") from None

    def __enter__(self) -> Worker:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
