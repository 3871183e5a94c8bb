"""The command line: ``famulus COMMAND`` is ``faust -A app COMMAND``.

Our commands are plain click and import what they need when they run, so that ``famulus rules list`` does not wait for a
worker's imports.  Everything else (``agents``, ``tables``, ``send``, ...) goes to Faust with ``-A app`` put before it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import click

from app.cli.console import Command, Failure, Group, Misuse, complain, settings_of_environment, usage_error
from app.collector import no_collections
from models.errors import FamulusError, SettingsError

#: Command -> where it is defined.
COMMANDS: Mapping[str, str] = MappingProxyType(
    {name: f"app.cli.{name}:{name}" for name in (
        "worker", "simulate", "load", "produce", "read", "rules", "state", "dlq", "topics", "doctor", "demo"
    )}
)  # fmt: skip


class _Commands(Group):
    """Our commands, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"famulus {version('famulus')} (faust-streaming {version('faust-streaming')})")
        ctx.exit()


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Faust's own commands and options work, too: famulus agents, famulus tables, famulus -l debug worker ... "
    "are faust -A app with the same words.  Settings are environment variables; famulus doctor shows and checks them.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show versions."
)
def commands() -> None:
    """Famulus: fraud rules, keyed state and exactly-once on Faust.

    Start with: famulus demo
    """


class _Later(click.Command):
    """One of our commands within Faust's group, imported when it is asked for: a worker needs none of them."""

    def _ours(self) -> click.Command:
        command = commands.get_command(click.Context(commands), self.name or "")
        if command is None:
            raise click.UsageError(f"no such command: {self.name}")
        return command

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        return self._ours().make_context(info_name, args, parent, **extra)

    def get_short_help_str(self, limit: int = 45) -> str:
        return self._ours().get_short_help_str(limit)


def attach(group: click.Group) -> None:
    """Add our commands to Faust's own ``faust`` group; ``worker`` is Faust's there."""
    for name in COMMANDS:
        if name != "worker":
            group.add_command(_Later(name))


def run_faust(args: Sequence[str], *, with_ours: bool = False) -> None:
    """Run Faust's command line on our app, ``with_ours`` among its commands; ends with ``SystemExit``."""
    # The environment is judged before Faust imports the app, so that a bad setting is one line and not a traceback.
    settings_of_environment()
    with no_collections():
        from faust.cli.faust import cli

    if with_ours:
        attach(cli)
    arguments = ["-A", "app", *args]
    # Faust looks for -A in sys.argv itself.
    sys.argv[:] = [sys.argv[0], *arguments]
    cli.main(args=arguments, prog_name="famulus", standalone_mode=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Console script; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        if not args or args[0] in COMMANDS or args[0] in ("-h", "--help", "--version"):
            code = commands.main(args=args, prog_name="famulus", standalone_mode=False)
            return code if isinstance(code, int) else 0
        run_faust(args, with_ours=True)
        return 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        return _ended(usage_error(error))
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SettingsError as error:
        return _ended(Misuse(str(error)))
    except FamulusError as error:
        return _ended(Failure(str(error)))
    except (KeyboardInterrupt, click.Abort):
        complain("interrupted")
        return Failure.exit_code


def _ended(failure: Failure) -> int:
    failure.show()
    return failure.exit_code


__all__ = ["COMMANDS", "Command", "attach", "commands", "main", "run_faust"]
