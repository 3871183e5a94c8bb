"""Makes the application from settings.  Nothing is opened or started here."""

from __future__ import annotations

import os

from app.application import FamulusApp
from app.settings import Settings
from app.topology import operators


def create_app(settings: Settings | None = None) -> FamulusApp:
    """The worker's application; without ``settings`` they are read from the environment."""
    chosen = settings if settings is not None else Settings.from_env(os.environ)
    return FamulusApp(chosen, operators(chosen.jobs, chosen))
