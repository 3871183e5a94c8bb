"""Our commands among Faust's own."""

from __future__ import annotations

import subprocess
import sys

import click
from click.testing import CliRunner

from app.cli.main import COMMANDS, attach, commands
from tests.support.worker import ROOT


def test_fausts_help_says_of_our_commands_what_ours_says() -> None:
    group = click.Group("faust")
    attach(group)
    ours, fausts = (CliRunner().invoke(one, ["--help"], terminal_width=120).output for one in (commands, group))
    for name in COMMANDS:
        (line,) = [line for line in ours.splitlines() if line.split()[:1] == [name]]
        assert (line in fausts) is (name != "worker")


def test_what_is_asked_of_our_command_in_fausts_group_goes_to_ours() -> None:
    group = click.Group("faust")
    attach(group)
    result = CliRunner().invoke(group, ["rules", "--help"])
    assert result.exit_code == 0
    assert "rollback" in result.output


def test_a_worker_of_fausts_command_line_does_not_import_our_commands() -> None:
    program = "import sys, click\nfrom app.cli.main import attach\nattach(click.Group())\nprint('app.cli.simulate' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert done.stdout == "False\n", done.stderr
