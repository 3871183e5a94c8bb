"""The folder of ``FAMULUS_DATA_DIR``: there and writable, or an error that says what to do, before anything depends on it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from app.settings import Settings
from models.errors import SettingsError


def make_data_dir(settings: Settings) -> Path:
    """The application's own folder in ``FAMULUS_DATA_DIR``, made if it is not there.

    Raises :class:`models.errors.SettingsError` where it cannot be made or nothing can be written to it.
    """
    own = settings.data_dir / settings.app_id
    for folder in (settings.data_dir, own):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise SettingsError(
                f"FAMULUS_DATA_DIR={settings.data_dir}: no folder that can be written to ({folder}: {error.strerror or error}); "
                "change its owner or mode, make room, or name another folder"
            ) from None
    return own
