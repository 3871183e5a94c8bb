"""``famulus worker``: Faust's worker for our app."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial

import click

from app.cli.console import Command, settings_of_environment
from app.data_dir import make_data_dir

_LOGLEVEL = ("-l", "--loglevel")


@click.command(
    cls=Command,
    context_settings={
        "ignore_unknown_options": True,
        "help_option_names": ["--help"],
    },
)
@click.option("--jobs", metavar="NAME,...", help="Jobs to run, instead of those in FAMULUS_JOBS or all.")
@click.option(
    "--processes",
    metavar="N|auto",
    help="Run N workers under one parent that restarts them; auto: one per core.",
)
@click.argument("faust_options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF FAUST WORKER]...")
def worker(jobs: str | None, processes: str | None, faust_options: tuple[str, ...]) -> None:
    """Run the jobs (all by default) until Ctrl-C or SIGTERM.

    \b
    Example: famulus worker
             famulus worker --jobs fraud -l debug
             famulus worker --processes 4

    The same as faust -A app worker -l info; its options work here, too: -l LEVEL, -f LOGFILE, --without-web,
    -p PORT, ...  A second worker on the embedded log waits as a hot spare.

    With --processes each worker has a web port of its own, counted up from FAMULUS_WEB_PORT, and answers for its own partitions.
    """
    if processes is not None:
        supervise(processes, jobs, faust_options)
        return
    # The whole command line loads every command, so what needs Faust's commands is imported only here.
    from app.cli.main import run_faust

    if jobs is not None:
        os.environ["FAMULUS_JOBS"] = jobs or ","
    make_data_dir(settings_of_environment())
    level = () if _names_loglevel(faust_options) else ("-l", "info")
    # Until Faust's worker listens: told to end before it has begun, it ends in order.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    run_faust(["worker", *level, *faust_options])


def supervise(processes: str, jobs: str | None, faust_options: tuple[str, ...]) -> None:
    """Run several workers, and end with their exit code."""
    from app.supervisor import Supervisor, count_of, preload

    logging.basicConfig(level=logging.INFO, format="[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s")
    settings = settings_of_environment()  # what is wrong is said once, not by every worker
    make_data_dir(settings)
    options = faust_options if jobs is None else ("--jobs", jobs, *faust_options)
    supervisor = Supervisor(partial(_one, ["worker", *options]), count_of(processes), settings.web_port)
    preload(settings.broker.partition("://")[0])
    sys.exit(supervisor.run())


def _one(args: Sequence[str]) -> None:
    """One of several workers, in its own process."""
    from app.cli.main import main

    sys.exit(main(args))


def _names_loglevel(options: Sequence[str]) -> bool:
    return any(option in _LOGLEVEL or option.startswith(("--loglevel=", "-l")) for option in options)
