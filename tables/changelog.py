"""Rows of an operator's changelog: what a partition of it holds, byte by byte.

State row   key   = state name (ASCII) + 00 + user key (UTF-8) + part + length of part
            value = what the state kind documents; no value (a tombstone) deletes the row
Marker row  key   = 00 + "marker" + 00 + source topic
            value = MessagePack [next source offset, watermark in ms]
Origin row  key   = 00 + "origin"
            value = a random text, the same for the life of the changelog: it tells a recreated topic from the one that was read
Owner row   key   = 00 + "owner"
            no value; a new owner writes it where that is what keeps the one before from writing, nobody reads it

A value has one row per key, with an empty part.  Kinds that hold many elements per key (lists, series, maps) put the element's
place into ``part``, so that a change costs its own bytes and not the bytes of its neighbours.  The length stands at the end because
user keys may hold any character; it takes 2 bytes, big endian, or from 65535 on 4 bytes followed by FF FF.  A state name cannot be
empty, so no state row starts with 00.

The value of a state row is MessagePack.  With a time to live it begins with C1, a byte that MessagePack never uses, and a stamp
(see ``tables.ttl``), so rows written before and after a change of the time to live can stand side by side.

All dirty rows of a batch and its marker are one atomic write: whoever reads the changelog up to a marker has exactly the state
after the source records below the marker's offset.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from models.time import NO_TIME, Millis

SEPARATOR = b"\x00"
META_PREFIX = b"\x00"
MARKER_PREFIX = b"\x00marker\x00"
ORIGIN_KEY = b"\x00origin"
OWNER_KEY = b"\x00owner"
NO_PART = b"\x00\x00"
_LONG_PART = 0xFFFF

Row = tuple[bytes, bytes | None]


class Marker(NamedTuple):
    """How far the state is: every source record below ``next_offset`` is in it, none from there on."""

    next_offset: int = 0
    watermark_ms: Millis = NO_TIME


_encode = msgspec.msgpack.Encoder().encode
_decode_marker = msgspec.msgpack.Decoder(Marker).decode


def row_prefix(state: str) -> bytes:
    """What all row keys of a state start with."""
    return state.encode("ascii") + SEPARATOR


def part_suffix(part: bytes) -> bytes:
    """The end of a row key for an element's place."""
    length = len(part)
    if length < _LONG_PART:
        return part + length.to_bytes(2, "big")
    return part + length.to_bytes(4, "big") + b"\xff\xff"


def split_row_key(row: bytes) -> tuple[bytes, bytes, bytes]:
    """(state name, user key, part) of a state row's key."""
    name, _, rest = row.partition(SEPARATOR)
    end = len(rest) - 2
    length = int.from_bytes(rest[end:], "big")
    if length == _LONG_PART:
        end -= 4
        length = int.from_bytes(rest[end : end + 4], "big")
    return name, rest[: end - length], rest[end - length : end]


def marker_row(source_topic: str, marker: Marker) -> Row:
    """The row that ties the state to the source."""
    return MARKER_PREFIX + source_topic.encode(), _encode(marker)


def read_marker(key: bytes, value: bytes) -> tuple[str, Marker]:
    """Source topic and marker of a marker row."""
    return key[len(MARKER_PREFIX) :].decode(), _decode_marker(value)
