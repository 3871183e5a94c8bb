"""``famulus state``: the HTTP state queries from a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import click
import msgspec

from app.cli.console import (
    Failure,
    Group,
    Misuse,
    json_option,
    note,
    print_json,
    printable,
    settings_of_environment,
    to_json,
)

TIMEOUT_S = 15.0
#: A longer answer is refused: it is not what a terminal is for.
MAX_ANSWER = 64 << 20
#: Keys asked for at once; the worker gives out no more.
PAGE = 200

url_option = click.option(
    "--url", help="Address of a worker (default: the local one, from FAMULUS_WEB_BIND and _PORT)."
)
token_option = click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the bearer token, where the worker asks for one.",
)


@click.group(cls=Group)
def state() -> None:
    """Ask a running worker for keyed state.

    \b
    Example: famulus state get fraud history user42
             famulus state list fraud history --prefix user4
    """


@state.command()
@click.argument("operator")
@click.argument("name", metavar="STATE")
@click.argument("key")
@url_option
@token_option
@json_option
def get(operator: str, name: str, key: str, url: str | None, token_file: Path | None, as_json: bool) -> None:
    """Print the value of one key.

    \b
    Example: famulus state get fraud history user42

    With --json the whole answer, with partition, source offset and watermark.
    """
    answer = _ask(url, token_file, ("v1", "state", operator, name, key), {})
    if as_json:
        print_json(answer)
    else:
        click.echo(msgspec.json.format(msgspec.json.encode(answer.get("value"))).decode())


@state.command(name="list")
@click.argument("operator")
@click.argument("name", metavar="STATE")
@click.option("--prefix", default="", help="Only keys that start with this text.")
@click.option("--limit", type=click.IntRange(1), help="Stop after so many keys.")
@url_option
@token_option
@json_option
def list_(
    operator: str,
    name: str,
    prefix: str,
    limit: int | None,
    url: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Print keys and values, one a line (with --json as JSON).

    \b
    Example: famulus state list fraud history --prefix user4 --limit 10
    """
    for answer in _entries(url, token_file, operator, name, prefix, limit):
        if as_json:
            print_json(answer)
        else:
            click.echo(f"{printable(str(answer.get('key')))}  {to_json(answer.get('value'))}")


def _entries(
    url: str | None, token_file: Path | None, operator: str, name: str, prefix: str, limit: int | None
) -> Iterator[Mapping[str, object]]:
    cursor, left = None, limit
    while left is None or left > 0:
        query = {"prefix": prefix, "limit": str(min(PAGE, left or PAGE))}
        if cursor is not None:
            query["cursor"] = str(cursor)
        page = _ask(url, token_file, ("v1", "state", operator, name), query)
        entries = page.get("items")
        if not isinstance(entries, list):
            raise Failure("the worker's answer is no page of state; is --url the address of a Famulus worker?")
        if page.get("partial"):
            note("some partitions are recovering, so keys may be missing; ask again in a moment")
        yield from entries
        if left is not None:
            left -= len(entries)
        if (cursor := page.get("cursor")) is None:
            return


def _ask(
    url: str | None, token_file: Path | None, path: tuple[str, ...], query: Mapping[str, str]
) -> dict[str, object]:
    base = (url or settings_of_environment().web_url).rstrip("/")
    if urlsplit(base).scheme not in ("http", "https"):
        raise Misuse(f"--url {base}: must start with http:// or https://")
    address = f"{base}/{'/'.join(quote(part, safe='') for part in path)}"
    if query:
        address += f"?{urlencode(query)}"
    headers = {"Accept": "application/json"}
    if token_file is not None:
        headers["Authorization"] = f"Bearer {token_file.read_text(encoding='utf-8').strip()}"
    # A proxy has no business between a terminal and a worker on the same machine.
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(Request(address, headers=headers), timeout=TIMEOUT_S) as response:
            return _object(response.read(MAX_ANSWER + 1))
    except HTTPError as error:
        raise Failure(_problem(error.code, error.read(65_536))) from None
    except (URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise Failure(
            f"no worker answers at {base} ({reason}); start one with famulus worker, or name another with --url"
        ) from None


def _object(body: bytes) -> dict[str, object]:
    if len(body) > MAX_ANSWER:
        raise Failure(f"the answer is larger than {MAX_ANSWER} bytes; ask for fewer keys")
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):
        raise Failure("the answer is no JSON object; is --url the address of a Famulus worker?") from None


def _problem(status: int, body: bytes) -> str:
    """A problem+json answer as one line."""
    try:
        problem = msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):
        return f"the worker answered {status}; is --url the address of a Famulus worker?"
    return printable(str(problem.get("detail") or problem.get("title") or f"the worker answered {status}"))
