"""``famulus dlq``: the records that could not be taken, why, and back to where they came from."""

from __future__ import annotations

import click

from app.cli.console import (
    Group,
    broker,
    json_option,
    note,
    print_json,
    print_table,
    printable,
    run,
    settings_of_environment,
    to_json,
)
from app.deadletters import DeadLetter, DeadLetters, DeadLetterTopic, Replayed
from app.settings import Settings
from models.topics import dlq_topic, origin_topic

offset_option = click.option(
    "--offset", type=click.IntRange(0), help="Only the record at this offset (of --partition)."
)
partition_option = click.option("--partition", type=click.IntRange(0), help="Only this partition.")


@click.group(cls=Group)
def dlq() -> None:
    """Look at the dead letters of a topic, and replay them.

    \b
    Example: famulus dlq list
             famulus dlq show user-transactions
             famulus dlq replay user-transactions
    """


@dlq.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """Show the dead letter topics: how many records, how many not replayed yet, and the reasons.

    \b
    Example: famulus dlq list
    """
    found = run(_list(settings_of_environment()))
    if as_json:
        print_json(found)
    elif found:
        rows = [(t.topic, t.records, t.waiting, _reasons(t)) for t in found]
        print_table(("TOPIC", "RECORDS", "NOT REPLAYED", "REASONS"), rows)
    else:
        click.echo("no dead letters")


@dlq.command()
@click.argument("topic")
@partition_option
@offset_option
@click.option("--limit", type=click.IntRange(1), help="Stop after so many records.")
@json_option
def show(topic: str, partition: int | None, offset: int | None, limit: int | None, as_json: bool) -> None:
    """Show dead letters with their reasons, oldest first; TOPIC is the origin or the .dlq topic itself.

    \b
    Example: famulus dlq show user-transactions --limit 5
             famulus dlq show user-transactions --partition 2 --offset 17
    """
    run(_show(settings_of_environment(), _dlq_of(topic), partition, offset, limit, as_json))


@dlq.command()
@click.argument("topic")
@partition_option
@offset_option
@click.option("--all", "everything", is_flag=True, help="Also those that were replayed before.")
@json_option
def replay(topic: str, partition: int | None, offset: int | None, everything: bool, as_json: bool) -> None:
    """Produce dead letters to the topic that they came from; TOPIC is the origin or the .dlq topic itself.

    \b
    Example: famulus dlq replay user-transactions
             famulus dlq replay user-transactions --partition 2 --offset 17

    Do this once the cause is gone.  Key and value are as they were; the header "attempt" counts the replays, and a record that
    is still bad comes back with it.  Each record is replayed once: how far each partition was replayed is remembered, so
    the next replay goes on there.  --all, or --offset for a single record, replays regardless and moves nothing.  If the command
    is killed, the batch in hand (at most 500 records) may be replayed again.  A timer that failed is no record and is passed over.
    """
    done = run(_replay(settings_of_environment(), _dlq_of(topic), partition, offset, everything))
    if as_json:
        print_json(done)
        return
    for target, count in sorted(done.by_topic.items()):
        click.echo(f"{count} records replayed to {target}")
    if not done.by_topic:
        click.echo("nothing to replay" if everything or offset is not None else "nothing to replay; see --all")
    if done.skipped:
        note(f"{done.skipped} cannot be replayed: they are timers, or say no origin topic in their headers")


def _dlq_of(topic: str) -> str:
    return dlq_topic(origin_topic(topic))


def _reasons(topic: DeadLetterTopic) -> str:
    shown = sorted(topic.reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count}" for reason, count in shown)


async def _list(settings: Settings) -> list[DeadLetterTopic]:
    async with broker(settings) as client:
        return await DeadLetters(client, settings.app_id).topics()


async def _show(
    settings: Settings, topic: str, partition: int | None, offset: int | None, limit: int | None, as_json: bool
) -> None:
    async with broker(settings) as client:
        left = limit
        async for letter in DeadLetters(client, settings.app_id).letters(topic, partition, offset):
            if left is not None and left <= 0:
                return
            left = None if left is None else left - 1
            _print(letter, as_json)


def _print(letter: DeadLetter, as_json: bool) -> None:
    shown = letter.as_object()
    if as_json:
        print_json(shown)
        return
    reason = letter.reason
    refused_by = f" of {reason.operator}" if reason.operator else ""
    click.echo(f"{letter.tp.topic} {letter.tp.partition}:{letter.record.offset}  {reason.error_class}{refused_by}")
    click.echo(f"  {printable(reason.message)}")
    if reason.timer:
        click.echo(f"  from a timer on {reason.topic} {reason.partition}: {reason.timer} time {reason.timer_ms}")
    else:
        click.echo(f"  from {reason.topic} {reason.partition}:{reason.offset}, attempt {reason.attempt}")
    for name in ("key", "value", "key_base64", "value_base64"):
        if shown.get(name) is not None:
            click.echo(f"  {name}: {_cut(to_json(shown[name]))}")


def _cut(text: str) -> str:
    return text if len(text) <= 2_000 else f"{text[:2_000]}... ({len(text)} characters; --json shows all)"


async def _replay(
    settings: Settings, topic: str, partition: int | None, offset: int | None, everything: bool
) -> Replayed:
    async with broker(settings) as client:
        letters = DeadLetters(client, settings.app_id)
        return await letters.replay(topic, partition=partition, offset=offset, everything=everything)
