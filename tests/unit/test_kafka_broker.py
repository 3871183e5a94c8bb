"""The broker of tests and laptops."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from tests.support import kafka
from tests.support.kafka import KafkaBroker, NoKafka


def test_a_taken_port_is_refused_instead_of_answered_by_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "jars", lambda: tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        broker = KafkaBroker(tmp_path / "broker", port=taken.getsockname()[1])
        with pytest.raises(NoKafka, match="is taken"):
            broker.start()
    assert broker.process is None
    shutil.rmtree(tmp_path / "broker", ignore_errors=True)
