"""What the documentation shows works: its commands are typed and its Python is executed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, blocks, pages
from tests.support.services import NoService, PostgresServer, RedisServer, temporary
from tests.support.waiting import until
from tests.support.worker import BIN, Worker

#: Pages whose commands and Python another suite runs.
ELSEWHERE = {"docs/operators.md", "docs/jobs"}
COMMAND_SECONDS = 30


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language in ("sh", "python", "text")]


PAGES = [
    page
    for page in pages()
    if not any(page.relative_to(ROOT).as_posix().startswith(name) for name in ELSEWHERE)
    and any(block.language in ("sh", "python") and not block.comment.startswith("not run:") for block in blocks(page))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_and_every_line_of_python_on_a_page_works(page: Path, tmp_path: Path) -> None:
    if any("curl " in block.text for block in runnable(page)) and shutil.which("curl") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("curl is missing: install it")
        pytest.skip("curl is missing, which this page uses")
    shell = Shell(tmp_path)
    names: dict[str, object] = {"__name__": "documentation"}
    with ExitStack() as stack:
        stack.callback(shell.stop_services)
        for block in runnable(page):
            kind, _, detail = block.comment.partition(":")
            if kind == "not run":
                assert detail.strip(), f"{block.place}: say why it is not run"
            elif kind == "beside":
                stack.enter_context(shell.beside(detail.strip()))
            elif kind == "services":
                {"start": shell.start_services, "stop": shell.stop_services}[detail.strip()]()
            elif block.language == "python":
                exec(compile(block.text, block.place, "exec", dont_inherit=True), names)
            elif block.language == "sh":
                shell.type(block, int(kind.removeprefix("exit ")) if kind.startswith("exit ") else 0)
            elif kind == "printed":
                assert shell.printed == block.text, f"{block.place}: the command above prints\n{shell.printed}"


class Shell:
    """A shell in an empty folder, with ``famulus`` on its path and the page's ports replaced by free ones."""

    def __init__(self, folder: Path) -> None:
        self._worker = Worker(folder)
        self._folder = folder
        self._env = {name: value for name, value in self._worker.env.items() if not name.startswith("FAMULUS_")} | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "FAMULUS_WEB_PORT": str(self._worker.port),
            "PYTHONWARNINGS": "",
        }
        #: the page's port to the one in its place
        self._ports = {"6066": str(self._worker.port)}
        self._services = ExitStack()
        #: what the last command wrote, to both outputs
        self.printed = ""

    def type(self, block: Block, code: int) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._here(block.text)],
            cwd=self._folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        self.printed = done.stdout
        for page_port, port in self._ports.items():
            self.printed = self.printed.replace(port, page_port)
        assert done.returncode == code, f"{block.place}: exit code {done.returncode}\n{self.printed[-4000:]}"

    @contextmanager
    def beside(self, command: str) -> Iterator[None]:
        """The command runs meanwhile, and ends well when it is told to."""
        log = self._folder / "beside.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                self._here(command).split(),
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        try:

            def ready() -> bool:
                assert process.poll() is None, f"{command} ended:\n{log.read_text()[-4000:]}"
                return self._worker.get("/readyz") is not None

            until(ready, within=30, what=f"{command}: the worker is ready")
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0, log.read_text()[-4000:]
        finally:
            process.kill()
            process.wait(10)

    def start_services(self) -> None:
        """PostgreSQL and Redis, as `make services` does."""
        try:
            for page_port, kind in (("5432", PostgresServer), ("6379", RedisServer)):
                self._ports[page_port] = str(self._services.enter_context(temporary(kind)).port)
        except NoService as missing:
            if os.environ.get("CI") == "true":
                pytest.fail(str(missing))
            pytest.skip(str(missing))

    def stop_services(self) -> None:
        self._services.close()

    def _here(self, text: str) -> str:
        for page_port, port in self._ports.items():
            text = text.replace(page_port, port)
        return text
