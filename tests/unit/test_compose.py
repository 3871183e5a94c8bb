"""docker/compose.yaml is a compose file, and names only what exists.

``tests/support/compose-spec.json`` is the schema of the compose specification (compose-spec/compose-spec, revision 170098b, Apache-2.0).
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import yaml

from app.settings import Settings
from tests.support.worker import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())


def test_the_compose_file_follows_the_specification() -> None:
    schema = json.loads((ROOT / "tests" / "support" / "compose-spec.json").read_text())
    jsonschema.Draft7Validator(schema).validate(COMPOSE)


def test_the_settings_of_the_worker_are_settings() -> None:
    environ = {name: value.replace("${FAMULUS_DB_PASSWORD:-famulus}", "x") for name, value in worker().items()}
    assert Settings.from_env(environ).broker == "kafka://127.0.0.1:19092"


def test_nothing_is_open_to_other_machines() -> None:
    for name, service in COMPOSE["services"].items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), (name, port)


def test_the_image_is_built_from_files_that_exist() -> None:
    build = COMPOSE["services"]["worker"]["build"]
    assert (ROOT / "docker" / build["context"] / build["dockerfile"]).is_file()
    for line in (ROOT / "docker" / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            *sources, _ = line.split()[1:]
            for source in sources:
                assert (ROOT / source).exists(), source


def worker() -> dict[str, str]:
    return dict(COMPOSE["services"]["worker"]["environment"])
