"""The record on ``user-transactions``."""

from __future__ import annotations

from typing import Annotated

import msgspec

from models.time import Millis

#: Identifiers travel into keys, metrics and state, so their length is bounded.
Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
ShortText = Annotated[str, msgspec.Meta(max_length=256)]
Timestamp = Annotated[Millis, msgspec.Meta(ge=0, le=1 << 53)]
Attributes = Annotated[dict[ShortText, Annotated[str, msgspec.Meta(max_length=4096)]], msgspec.Meta(max_length=64)]


class Transaction(msgspec.Struct, frozen=True, gc=False):
    """One payment of a user.  ``amount`` is finite; ``timestamp`` is event time."""

    transaction_id: Identifier
    user_id: Identifier
    amount: float
    timestamp: Timestamp
    merchant: ShortText = ""
    country: ShortText = ""
    attributes: Attributes = {}
