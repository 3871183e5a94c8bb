"""Bearer tokens: a TOML file of hashes with scopes.

.. code-block:: toml

    [[tokens]]
    name = "ann"                          # for the audit lines
    sha256 = "9f86d081884c7d65..."        # hex, of the token's text
    scopes = ["read", "rules"]            # read, rules, savepoints, admin (admin implies all)
    expires = 2027-01-01T00:00:00Z        # optional; a time with its zone

Tokens are meant to be long and random (``openssl rand -hex 32``), which is why a plain hash is enough.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from app.settings import is_loopback
from models.errors import SettingsError
from models.time import Clock, Millis
from web import audit
from web.problems import Problem
from web.routing import Scope, route_of

logger = logging.getLogger(__name__)

#: The console's sign-in keeps the token here, out of reach of scripts and of other sites.
COOKIE = "famulus_token"
_HEX = re.compile(r"[0-9a-f]{64}")
_KEYS = {"name", "sha256", "scopes", "expires"}


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was handed out.  Of its text only the hash is known."""

    name: str
    sha256: bytes
    scopes: frozenset[Scope]
    expires_ms: Millis | None

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes


class Tokens:
    """The tokens of one file."""

    def __init__(self, tokens: Sequence[Token], clock: Clock) -> None:
        self._tokens = tuple(tokens)
        self._clock = clock

    def find(self, text: str) -> Token | None:
        """The token with this text unless it has expired.

        The text is compared with every hash in constant time, so neither a match's place nor its length shows.
        """
        digest = hashlib.sha256(text.encode(errors="surrogateescape")).digest()
        found = None
        for token in self._tokens:
            if hmac.compare_digest(digest, token.sha256):
                found = token
        if found is None or (found.expires_ms is not None and self._clock.now_ms() >= found.expires_ms):
            return None
        return found

    @classmethod
    def load(cls, path: Path, clock: Clock) -> Tokens:
        """Read the file; :class:`models.errors.SettingsError` names the entry that is wrong."""
        where = f"FAMULUS_TOKENS_FILE={path}"
        try:
            entries = tomllib.loads(path.read_text(encoding="utf-8")).get("tokens")
        except OSError as error:
            raise SettingsError(f"{where}: cannot read the file ({error.strerror})") from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{where}: not TOML: {error}") from None
        if not isinstance(entries, list) or not entries:
            raise SettingsError(f"{where}: no token in it; write one [[tokens]] table per token")
        try:
            tokens = [_token(number, entry) for number, entry in enumerate(entries, 1)]
        except ValueError as error:
            raise SettingsError(f"{where}: {error}") from None
        for field in ("name", "sha256"):
            if len({getattr(token, field) for token in tokens}) < len(tokens):
                raise SettingsError(f"{where}: two tokens have the same {field}")
        return cls(tokens, clock)


def _token(number: int, entry: object) -> Token:
    """One entry; ``ValueError`` says what is wrong.  Messages never quote what could be a secret."""
    if not isinstance(entry, Mapping):
        raise ValueError("tokens must be [[tokens]] tables")
    where = f"token {number}"
    if unknown := set(entry) - _KEYS:
        raise ValueError(f"{where}: unknown key {', '.join(sorted(unknown))}; there are {', '.join(sorted(_KEYS))}")
    name, digest, scopes, expires = (entry.get(key) for key in ("name", "sha256", "scopes", "expires"))
    if not isinstance(name, str) or not 1 <= len(name) <= 64 or not name.isprintable():
        raise ValueError(f"{where}: name must be 1 to 64 printable characters")
    where = f"token {number} ({name})"
    if not isinstance(digest, str) or not _HEX.fullmatch(digest.lower()):
        raise ValueError(f"{where}: sha256 must be the 64 hex digits of the token's SHA-256")
    if not isinstance(scopes, list) or not scopes or not all(scope in [s.value for s in Scope] for scope in scopes):
        raise ValueError(f"{where}: scopes must be a list of {', '.join(scope.value for scope in Scope)}")
    if expires is not None and (not isinstance(expires, datetime) or expires.tzinfo is None):
        raise ValueError(f"{where}: expires must be a time with its zone, such as 2027-01-01T00:00:00Z")
    expires_ms = None if expires is None else int(expires.timestamp() * 1000)
    return Token(name, bytes.fromhex(digest), frozenset(map(Scope, scopes)), expires_ms)


def check_bind(bind: str, tokens: Tokens | None) -> None:
    """Refuse to serve strangers; the worker's ``--web-bind`` can differ from the setting that was checked at start."""
    if tokens is None and not is_loopback(bind):
        raise SettingsError(
            f"FAMULUS_WEB_BIND={bind}: without FAMULUS_TOKENS_FILE anybody could read state and change rules, "
            "so the web server binds loopback only; use 127.0.0.1, or configure tokens"
        )


def presented(request: web.Request) -> str | None:
    """The token that came with the request: the Authorization header's, else the console's cookie."""
    header = request.headers.get("Authorization")
    if header is None:
        return request.cookies.get(COOKIE)
    scheme, _, text = header.partition(" ")
    return text.strip() if scheme.lower() == "bearer" else ""


def middleware(tokens: Tokens) -> Middleware:
    """401 without a good token, 403 where its scopes do not suffice.  A path that does not exist asks for one, too."""

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        route = route_of(request)
        if route is not None and route.scope is None:
            return await handler(request)
        text = presented(request)
        token = None if text is None else tokens.find(text)
        if token is None:
            challenge = 'Bearer realm="famulus"' + ("" if text is None else ', error="invalid_token"')
            detail = (
                "This path needs a token: send Authorization: Bearer TOKEN."
                if text is None
                else ("The token is unknown or has expired; ask the operator of this worker for a new one.")
            )
            raise Problem(401, detail, headers={"WWW-Authenticate": challenge})
        request[audit.PRINCIPAL] = token.name
        scope = Scope.READ if route is None or route.scope is None else route.scope
        if not token.may(scope):
            raise Problem(
                403,
                f"The token {token.name} lacks the scope {scope.value}.",
                headers={
                    "WWW-Authenticate": f'Bearer realm="famulus", error="insufficient_scope", scope="{scope.value}"'
                },
            )
        return await handler(request)

    return authenticate
