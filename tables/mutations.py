"""Finds values that were mutated in place and never given back to their state: such a change is lost at the next restart.

For tests (``PartitionStore(check_mutations=True)``): each freeze encodes the whole state again, which costs as much as it sounds.
"""

from __future__ import annotations

from typing import Any

import msgspec

from models.errors import StateError
from tables.changelog import Row, split_row_key

# Sets have no order of their own; equal ones must look equal.
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def checked(handle: Any) -> None:
    """Let the handle's ``freeze`` raise :class:`models.errors.StateError` if a key that nobody updated has another value than before."""
    freeze = handle.freeze
    before: dict[str, bytes] = _values(handle)

    def checking_freeze(put: list[Row]) -> None:
        nonlocal before
        now = _values(handle)
        written: list[Row] = []
        freeze(written)
        put.extend(written)
        updated = {split_row_key(row)[1].decode() for row, _ in written}
        changed = {key for key in now.keys() & before.keys() if now[key] != before[key]}
        for key in sorted(changed - updated):
            raise StateError(
                f"state {handle.name!r} of key {key!r} was changed in place and not updated: give the changed value to the state's "
                "update, put or add, or the change is lost at the next restart"
            )
        before = now

    handle.freeze = checking_freeze


def _values(handle: Any) -> dict[str, bytes]:
    return {key: _encode(handle.look(key)) for key in handle.stored_keys()}
