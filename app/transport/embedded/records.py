"""Records and how a batch of them becomes the bytes of one row.

A row holds a msgpack array of records, each ``[offset, timestamp, key, value, headers]`` with absolute offsets, so that
compaction can drop records of a row and keep the offsets of the others.  Measured: 0.07 us a record to encode, 0.17 to
decode, against 4.4 and 1.0 us for a row per record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from zlib import crc32

import msgspec

from models.errors import RecordTooLarge
from models.time import Millis

#: Largest record, with its key, headers and framing (bytes).
MAX_RECORD_BYTES = 64 << 20
#: A row is cut at either bound; a single record may make a row larger than this.
ROW_RECORDS = 4096
ROW_BYTES = 1 << 20


class Record(msgspec.Struct, array_like=True, gc=False):
    """One record.  ``offset`` is set when the record is appended."""

    offset: int
    timestamp: Millis
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] | None = None


class Keyed(msgspec.Struct, array_like=True, gc=False):
    """The head of a record: what compaction needs to know, without copying values."""

    offset: int
    timestamp: Millis
    key: bytes | None


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(list[Record]).decode
decode_keys = msgspec.msgpack.Decoder(list[Keyed]).decode
checksum = crc32


def rows(records: Sequence[Record]) -> Iterator[tuple[Sequence[Record], bytes]]:
    """Cut records into rows: (records of the row, its bytes).

    Raises :class:`models.errors.RecordTooLarge`.
    """
    for start in range(0, len(records), ROW_RECORDS):
        yield from _cut(records[start : start + ROW_RECORDS])


def _cut(records: Sequence[Record]) -> Iterator[tuple[Sequence[Record], bytes]]:
    blob = encode(records)
    if len(blob) <= ROW_BYTES:
        yield records, blob
    elif len(records) > 1:
        half = len(records) // 2
        yield from _cut(records[:half])
        yield from _cut(records[half:])
    elif len(blob) > MAX_RECORD_BYTES:
        raise RecordTooLarge(
            f"a record of {len(blob)} bytes with key {(records[0].key or b'')[:64]!r} is larger than the log takes "
            f"({MAX_RECORD_BYTES} bytes); split it, or store the value elsewhere and send a reference"
        )
    else:
        yield records, blob
