"""Values as JSON."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Set

import msgspec
from aiohttp import web


def plain(value: object) -> object:
    """``value`` built from what JSON has.

    Structs become objects with their field names, also those stored as arrays to save bytes; sets become arrays.
    """
    match value:
        case str() | int() | float() | None:
            return value
        case msgspec.Struct():
            return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        case Mapping():
            return {key if isinstance(key, str) else str(key): plain(inner) for key, inner in value.items()}
        case list() | tuple() | deque() | Set():
            return [plain(inner) for inner in value]
        case _:
            return value


def encode(value: object) -> bytes:
    """UTF-8 JSON; what JSON cannot say is given as its text, NaN and infinities as ``null``."""
    return msgspec.json.encode(value, enc_hook=str)


def answer(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON response that no cache keeps."""
    return web.Response(
        status=status,
        body=encode(value),
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )
