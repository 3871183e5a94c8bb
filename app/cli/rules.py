"""``famulus rules``: read, check and change the rules on their topic; no worker is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import IO, TypeVar

import click
import msgspec

from agents.rules.lint import RuleFile
from agents.rules.lint import read as read_rules
from app.cli.console import Failure, Group, broker, json_option, print_json, print_table, run, settings_of_environment
from app.rulebook import RuleService
from models.rules import RuleVersion
from models.time import Millis

T = TypeVar("T")

#: A rules file is read whole.
MAX_FILE = 64 << 20


@click.group(cls=Group)
def rules() -> None:
    """Read, check and change the rules; workers take a change over between two records.

    \b
    Example: famulus rules put my-rules.json
             famulus rules list
             famulus rules rollback VELOCITY --to 2
    """


file_argument = click.argument("file", type=click.File("rb"))


@rules.command()
@file_argument
@json_option
def lint(file: IO[bytes], as_json: bool) -> None:
    """Check rules without putting them; FILE has one rule, a JSON array or a rule a line (- is standard input).

    \b
    Example: famulus rules lint my-rules.json
    """
    found = _read(file)
    if as_json:
        problems = [problem._asdict() for problem in found.problems]
        print_json({"ok": not problems, "rules": [rule.rule_id for rule in found.rules], "problems": problems})
    _refuse(_name(file), found, as_json)
    if not as_json:
        click.echo(f"{_name(file)}: {_count(len(found.rules), 'rule')} fine")


@rules.command()
@file_argument
@json_option
def put(file: IO[bytes], as_json: bool) -> None:
    """Put rules: new ones, or new versions of those there are.  FILE as for lint, which must find nothing wrong.

    \b
    Example: famulus rules put my-rules.json
             echo '{"rule_id":"HIGH","description":"High","active":true,"risk_level":"HIGH","when":"amount > 9000.0"}' \\
               | famulus rules put -
    """
    found = _read(file)
    _refuse(_name(file), found, as_json)

    _show_steps(_with_service(lambda service: service.put_all(found.rules)), as_json)


@rules.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """Show the current version of every rule.

    \b
    Example: famulus rules list
    """
    steps = _with_service(RuleService.list)
    if as_json:
        print_json([_flat(step) for step in steps])
    elif steps:
        print_table(("RULE", "VERSION", "ACTIVE", "RISK", "WHEN"), [_row(step) for step in steps])
    else:
        click.echo("no rules yet; famulus rules put FILE adds some")


@rules.command()
@click.argument("rule_id", metavar="ID")
@json_option
def show(rule_id: str, as_json: bool) -> None:
    """Show one rule.

    \b
    Example: famulus rules show VELOCITY
    """
    step = _with_service(lambda service: service.get(rule_id))
    if as_json:
        print_json(_flat(step))
    else:
        click.echo(msgspec.json.format(msgspec.json.encode(_flat(step)), indent=2).decode())


@rules.command()
@click.argument("rule_id", metavar="ID")
@json_option
def history(rule_id: str, as_json: bool) -> None:
    """Show every version of a rule, oldest first.

    \b
    Example: famulus rules history VELOCITY
    """
    steps = _with_service(lambda service: service.history(rule_id))
    if as_json:
        print_json([_flat(step) for step in steps])
    else:
        rows = [(step.version, _time(step.accepted_ms), *_row(step)[2:]) for step in steps]
        print_table(("VERSION", "ACCEPTED", "ACTIVE", "RISK", "WHEN"), rows)


@rules.command()
@click.argument("rule_id", metavar="ID")
@json_option
def disable(rule_id: str, as_json: bool) -> None:
    """Put a version of the rule that does not run.

    \b
    Example: famulus rules disable VELOCITY
    """
    _show_steps([_with_service(lambda service: service.disable(rule_id))], as_json)


@rules.command()
@click.argument("rule_id", metavar="ID")
@click.option("--to", required=True, type=click.IntRange(1), help="Version that the rule shall say again.")
@json_option
def rollback(rule_id: str, to: int, as_json: bool) -> None:
    """Put a new version that says what an earlier one said.

    \b
    Example: famulus rules rollback VELOCITY --to 2
    """
    _show_steps([_with_service(lambda service: service.rollback(rule_id, to))], as_json)


def _with_service(work: Callable[[RuleService], Awaitable[T]]) -> T:
    async def go() -> T:
        async with _service() as service:
            return await work(service)

    return run(go())


@asynccontextmanager
async def _service() -> AsyncIterator[RuleService]:
    async with broker(settings_of_environment()) as client, RuleService(client) as service:
        yield service


def _name(file: IO[bytes]) -> str:
    name = getattr(file, "name", "<stdin>")
    return "standard input" if name == "<stdin>" else str(name)


def _read(file: IO[bytes]) -> RuleFile:
    text = file.read(MAX_FILE + 1)
    if len(text) > MAX_FILE:
        raise Failure(f"{_name(file)}: larger than {MAX_FILE} bytes; split it")
    return read_rules(text)


def _refuse(name: str, found: RuleFile, as_json: bool) -> None:
    """Show every problem with its caret, then fail."""
    if not found.problems:
        return
    if not as_json:
        for problem in found.problems:
            click.echo(f"{name}: {problem}", err=True)
    what = "thing is" if len(found.problems) == 1 else "things are"
    raise Failure(f"{name}: {len(found.problems)} {what} wrong, so none of its rules is taken; correct the file")


def _show_steps(steps: Sequence[RuleVersion], as_json: bool) -> None:
    if as_json:
        print_json([_flat(step) for step in steps])
        return
    for step in steps:
        click.echo(f"{step.rule_id} version {step.version}{'' if step.rule and step.rule.active else ' (disabled)'}")


def _flat(step: RuleVersion) -> dict[str, object]:
    """The rule with its version, as the topic has it, and when and where it was accepted."""
    rule = {} if step.rule is None else msgspec.to_builtins(step.rule)
    return {
        "rule_id": step.rule_id,
        **rule,
        "version": step.version,
        "deleted": step.rule is None,
        "accepted_ms": step.accepted_ms,
        "offset": step.offset,
    }


def _row(step: RuleVersion) -> tuple[object, ...]:
    if step.rule is None:
        return (step.rule_id, step.version, "deleted", "", "")
    rule = step.rule
    return (step.rule_id, step.version, "yes" if rule.active else "no", rule.risk_level.value, rule.when)


def _time(when_ms: Millis) -> str:
    return datetime.fromtimestamp(when_ms / 1000, UTC).isoformat(timespec="seconds")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
