"""The application.  ``from app import app`` (or ``faust -A app``) makes it from the environment, once, when first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.application import FamulusApp

    app: FamulusApp


def __getattr__(name: str) -> Any:
    if name == "app":
        from app.collector import no_collections

        with no_collections():
            from app.cli.console import BadSettings
            from app.factory import create_app
            from models.errors import SettingsError

            try:
                made = globals()["app"] = create_app()
            except SettingsError as error:
                raise BadSettings(str(error)) from None
        return made
    raise AttributeError(f"module 'app' has no attribute {name!r}")
