"""The record on ``user-events``: something that a user did."""

from __future__ import annotations

import msgspec

from models.transactions import Attributes, Identifier, ShortText, Timestamp


class EventType:
    """Event types that the jobs know.  Others are as welcome: a type is any short text."""

    PAGE_VIEW = "PAGE_VIEW"
    CLICK = "CLICK"
    PURCHASE = "PURCHASE"
    LOGIN = "LOGIN"
    LOGIN_FAILED = "LOGIN_FAILED"
    LOGOUT = "LOGOUT"
    PASSWORD_CHANGE = "PASSWORD_CHANGE"


class UserEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event of a user.  ``timestamp`` is event time; ``page`` and ``session_id`` are ``None`` where they make no sense."""

    event_id: Identifier
    user_id: Identifier
    event_type: Identifier
    page: ShortText | None = None
    session_id: ShortText | None = None
    timestamp: Timestamp
    attributes: Attributes = {}
