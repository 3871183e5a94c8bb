"""``famulus worker``: Faust's worker for our app."""

from __future__ import annotations

import os

import click

from app.cli.console import Command

_LOGLEVEL = ("-l", "--loglevel")


@click.command(
    cls=Command,
    context_settings={
        "ignore_unknown_options": True,
        "help_option_names": ["--help"],
    },
)
@click.option("--jobs", metavar="NAME,...", help="Jobs to run, instead of those in FAMULUS_JOBS or all.")
@click.argument("faust_options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF FAUST WORKER]...")
def worker(jobs: str | None, faust_options: tuple[str, ...]) -> None:
    """Run the jobs (all by default) until Ctrl-C or SIGTERM.

    \b
    Example: famulus worker
             famulus worker --jobs fraud -l debug

    The same as faust -A app worker -l info; its options work here, too: -l LEVEL, -f LOGFILE, --without-web,
    -p PORT, ...  A second worker on the embedded log waits as a hot spare.
    """
    # The whole command line loads every command, so what needs Faust's commands is imported only here.
    from app.cli.main import run_faust

    if jobs is not None:
        os.environ["FAMULUS_JOBS"] = jobs or ","
    level = () if _names_loglevel(faust_options) else ("-l", "info")
    run_faust(["worker", *level, *faust_options])


def _names_loglevel(options: tuple[str, ...]) -> bool:
    return any(option in _LOGLEVEL or option.startswith(("--loglevel=", "-l")) for option in options)
