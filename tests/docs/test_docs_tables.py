"""The tables of the documentation say what the code says."""

from __future__ import annotations

import click

from app.cli.main import COMMANDS, commands
from app.settings import VARIABLES, Settings
from models.metrics import CATALOGUE
from models.topics import CATALOGUE as TOPICS
from tests.docs.pages import ROOT, table

README = ROOT / "README.md"
OPERATIONS = ROOT / "docs" / "operations.md"
FORMATS = ROOT / "docs" / "formats.md"


def test_the_settings_table_names_every_variable_with_its_default_and_meaning() -> None:
    defaults = Settings().shown()
    rows = table(OPERATIONS, "Variable", "Default", "Meaning")
    assert [row[:2] for row in rows] == [
        (variable.name, defaults.get(variable.name, "not set")) for variable in VARIABLES
    ]
    assert all(row[2] for row in rows)


def test_the_metrics_table_is_the_catalogue() -> None:
    rows = table(OPERATIONS, "Metric", "Kind", "Meaning", "What to do")
    assert rows == [(spec.name, spec.kind, spec.meaning, spec.action) for spec in CATALOGUE.values()]


def test_the_commands_table_names_every_command_and_its_subcommands() -> None:
    rows = table(README, "Command", "Does")
    context = click.Context(commands)
    wanted = []
    for name in COMMANDS:
        command = commands.get_command(context, name)
        parts = command.list_commands(context) if isinstance(command, click.Group) else []
        wanted.append(f"famulus {name}" + (f" {', '.join(sorted(parts))}" if parts else ""))
    assert sorted(row[0] for row in rows) == sorted(wanted)
    assert all(row[1] for row in rows)


def test_the_topics_table_names_every_topic_with_partitions_and_key() -> None:
    rows = table(FORMATS, "Topic", "Partitions", "Key", "Kept")
    assert rows == [
        (
            spec.name,
            str(spec.partitions),
            spec.key_field,
            "for ever" if spec.retention is None else f"{spec.retention.days} days",
        )
        for spec in TOPICS.values()
    ]
