"""``famulus demo``: see it run."""

from __future__ import annotations

import click

from app.cli.console import Command, broker, printable, run, settings_of_environment
from app.settings import Settings
from models.errors import FamulusError


@click.command(cls=Command)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    default=50.0,
    show_default=True,
    help="Transactions per second.",
)
def demo(rate: float) -> None:
    """Start one worker with example rules and simulated traffic, and print the first alerts.

    \b
    Example: famulus demo
             FAMULUS_WEB_PORT=6067 famulus demo --rate 200

    Uses the log that FAMULUS_BROKER names (var/famulus by default); example rules are put only where there are none.  Ctrl-C stops
    everything; what was processed is kept.
    """
    settings = settings_of_environment()
    try:
        run(_demo(settings, rate))
    except KeyboardInterrupt:
        click.echo("stopped")
    except ExceptionGroup as group:
        # One failure is the reason; the other tasks were cancelled for it.
        known, unknown = group.split(FamulusError)
        if unknown is not None or known is None:
            raise
        raise known.exceptions[0] from None


async def _demo(settings: Settings, rate: float) -> None:
    from app.demo import demo as play  # pulls in the rules' compiler, which --help need not wait for

    async with broker(settings) as client:
        await play(settings, client, rate, lambda text: click.echo(printable(text)))
