"""Finds values that were mutated in place and never given back to their state: such a change is lost at the next restart.

For tests (``PartitionStore(check_mutations=True)``, ``OperatorHarness(check_mutations=True)``): beside the live state stands what a restart
would make of the rows written so far, and after each freeze both must say the same.  That costs as much as it sounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from models.errors import StateError
from tables.changelog import Row, split_row_key
from tables.store import ColdRows
from tables.ttl import Ttl

_encode = msgspec.msgpack.Encoder().encode
# Sets have no order of their own, and a struct of unknown type comes back as a dict: what is equal must look equal.
_encode_sorted = msgspec.msgpack.Encoder(order="sorted").encode


def checked(handle: Any) -> None:
    """Let the freshly bound handle's ``freeze`` raise :class:`models.errors.StateError` if memory holds what the rows do not say."""
    rows = ColdRows()
    for raw in handle._cold.all_keys():
        whole, parts = handle._cold.look(raw)
        if whole is not None:
            rows.apply(raw, b"", whole)
        for part, row in (parts or {}).items():
            rows.apply(raw, part, row)
    kind: Any = type(handle)
    restarted = object.__new__(kind)
    for attribute, value in vars(handle).items():
        setattr(restarted, attribute, value)
    restarted._cold = rows
    restarted._open()
    freeze = handle.freeze
    # A read renews a life in memory at once, and in the rows only now and then.
    may_expire = handle.ttl is not None and handle.ttl.update is Ttl.Update.ON_READ_AND_WRITE

    def checking_freeze(put: list[Row]) -> None:
        written: list[Row] = []
        freeze(written)
        put.extend(written)
        for row, value in written:
            _, key, part = split_row_key(row)
            rows.apply(key, part, value)
        for name in sorted({*handle.stored_keys(), *restarted.stored_keys()}):
            live, found = handle.look(name), restarted.look(name)
            if not _alike(live, found) and not (may_expire and _within(found, live)):
                raise StateError(
                    f"state {handle.name!r} of key {name!r} was changed in place and not updated: give the changed value to the "
                    "state's update, put or add, or the change is lost at the next restart"
                )

    handle.freeze = checking_freeze


def _alike(live: Any, found: Any) -> bool:
    """Whether both say the same, be it in other types (1 and 1.0, a tuple and a list)."""
    return bool(live == found) or _encoded(live) == _encoded(found)


def _encoded(value: Any) -> Any:
    if isinstance(value, Mapping):  # what a map state shows
        return sorted((_encoded(key), _encoded(entry)) for key, entry in value.items())
    try:
        return _encode_sorted(value)
    except TypeError:  # keys that are no texts, somewhere within
        return _encode(value)


def _within(found: Any, live: Any) -> bool:
    """Whether what was found is a part of what lives."""
    if found is None:
        return True
    if isinstance(live, list):
        rest = iter(live)
        return all(any(_alike(one, other) for other in rest) for one in found)
    if isinstance(live, Mapping):
        return all(key in live and _alike(live[key], value) for key, value in found.items())
    return False
