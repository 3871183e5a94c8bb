"""``famulus doctor``: what is wrong, and the fix."""

from __future__ import annotations

import click

from app.cli.console import Command, json_option, print_json, printable, run, settings_of_environment
from app.settings import Settings


@click.command(cls=Command)
@json_option
def doctor(as_json: bool) -> None:
    """Check settings, broker, topics, rules, disks, port or worker, Postgres and Redis.

    \b
    Example: famulus doctor

    Each line is ok, warn or fail with the fix; the exit code is 1 if one failed.  The broker is proved to be writable by a record on
    the topic famulus-doctor.
    """
    settings = settings_of_environment()
    if run(_examine(settings, as_json)):
        raise click.exceptions.Exit(1)


async def _examine(settings: Settings, as_json: bool) -> bool:
    from app.doctor import Check, Verdict, examine  # knows the whole job graph, which --help need not wait for

    checks: list[Check] = []
    async for check in examine(settings):
        checks.append(check)
        if not as_json:
            fix = f"; to fix it: {check.fix}" if check.fix else ""
            click.echo(printable(f"{check.verdict:<4}  {check.name}: {check.finding}{fix}"))
    failed = any(check.verdict is Verdict.FAIL for check in checks)
    if as_json:
        print_json({"ok": not failed, "checks": checks})
    return failed
