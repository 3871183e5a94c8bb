"""What every command shares: how it fails, how it is stopped, how it prints, how it reaches settings and broker."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import IO, Any, TypeVar

import click
import msgspec

from app.settings import Settings
from app.transport import brokers
from app.transport.client import BrokerClient
from models.errors import FamulusError, SettingsError

T = TypeVar("T")

EXIT_FAILED = 1
EXIT_USAGE = 2


class Failure(click.ClickException):
    """An operation failed: one line on stderr, exit code 1."""

    exit_code = EXIT_FAILED

    def show(self, file: IO[Any] | None = None) -> None:
        complain(self.message)


class Misuse(Failure):
    """The command, a setting or an argument was wrong: one line on stderr, exit code 2."""

    exit_code = EXIT_USAGE


class BadSettings(SettingsError, Misuse):
    """A bad setting found while Faust's command line imports the app: one line and exit code 2 there, too."""


class Command(click.Command):
    """A command whose errors are one line on stderr: 1 for a failed operation, 2 for wrong usage.

    Works the same under ``famulus`` and under ``faust -A app``.
    """

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        with plain_usage_errors():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            raise Misuse(str(error)) from None
        except FamulusError as error:
            raise Failure(str(error)) from None
        except click.UsageError as error:
            raise usage_error(error) from None
        except click.FileError as error:
            raise Failure(f"{error.ui_filename}: {error.message}") from None
        except KeyboardInterrupt:
            raise Failure("interrupted") from None
        except BrokenPipeError:
            # Whoever read our output has seen enough; the interpreter must not fail again when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise Failure(f"{where}{error.strerror or error}") from None


class Group(click.Group):
    """A group of :class:`Command`."""

    command_class = Command

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        with plain_usage_errors():
            return super().make_context(info_name, args, parent, **extra)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        with plain_usage_errors():
            return super().resolve_command(ctx, args)


@contextmanager
def plain_usage_errors() -> Iterator[None]:
    """Turns click's usage errors of several lines into one line that names the help to read."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        raise usage_error(error) from None


def usage_error(error: click.UsageError) -> Misuse:
    """The same complaint as one line."""
    message = " ".join(error.format_message().split()).rstrip(".")
    path = error.ctx.command_path if error.ctx is not None else "famulus"
    return Misuse(f"{message}; see {path} --help")


def _json_wanted(ctx: click.Context, _param: click.Parameter, given: bool) -> bool:
    """Faust has --json before the command; it counts as well."""
    return given or bool(getattr(ctx.obj, "json", False))


json_option = click.option(
    "--json", "as_json", is_flag=True, callback=_json_wanted, help="Print JSON for programs instead of text for people."
)


def complain(message: str) -> None:
    """Say on stderr what went wrong."""
    click.echo(f"famulus: {message}", err=True)


def note(message: str) -> None:
    """Say on stderr something that a user of the output on stdout must not find there."""
    click.echo(message, err=True)


def to_json(value: object) -> str:
    """One line of JSON."""
    return msgspec.json.encode(value).decode()


def print_json(value: object) -> None:
    """Print a value as one line of JSON."""
    click.echo(to_json(value))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print columns as wide as they need to be; numbers to the right."""
    rows = list(rows)
    cells = [[printable(str(cell)) for cell in row] for row in (headers, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    right = [bool(rows) and all(isinstance(row[column], int) for row in rows) for column in range(len(headers))]
    for row in cells:
        columns = zip(row, widths, right, strict=True)
        click.echo("  ".join(cell.rjust(width) if num else cell.ljust(width) for cell, width, num in columns).rstrip())


def printable(text: str) -> str:
    """``text`` without characters that would steer a terminal or break the line."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def settings_of_environment() -> Settings:
    """The settings; a bad one ends the command with exit code 2."""
    return Settings.from_env(os.environ)


_SILENT = logging.NullHandler()  # one for all clients: the logger keeps every handler that it is given


@asynccontextmanager
async def broker(settings: Settings) -> AsyncIterator[BrokerClient]:
    """An open client of the configured broker."""
    # What went wrong is told in one line at the end; without a handler Python would print each of the library's.
    logging.getLogger("aiokafka").addHandler(_SILENT)
    async with brokers.connect(settings.broker, settings.credentials) as client:
        yield client


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end.  Ctrl-C and SIGTERM cancel it, let it clean up, and raise ``KeyboardInterrupt``."""
    terminated = False

    async def until_terminated() -> T:
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            if task is not None:
                task.cancel()

        # Not by way of SIGINT: a shell's background job ignores that one.
        loop.add_signal_handler(signal.SIGTERM, terminate)
        try:
            return await work
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    with asyncio.Runner() as runner:
        try:
            return runner.run(until_terminated())
        except asyncio.CancelledError:
            if terminated:
                raise KeyboardInterrupt from None
            raise
