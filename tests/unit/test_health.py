"""Probes ask the checks that components registered."""

from __future__ import annotations

import logging

import pytest

from app.health import LIVE, READY, STARTUP, Health


def test_a_probe_without_checks_passes() -> None:
    assert Health().report(READY).ok


def test_a_check_is_asked_in_its_kinds_only() -> None:
    health = Health()
    health.register("state", lambda: "recovering", {READY})
    assert health.report(LIVE).ok
    assert health.report(READY).reasons == {"state": "recovering"}


def test_a_check_is_asked_anew_every_time() -> None:
    health, reasons = Health(), ["recovering"]
    health.register("state", lambda: reasons[0] if reasons else None)
    assert not health.report(READY).ok
    reasons.clear()
    assert health.report(READY).ok


def test_one_failed_check_is_enough_and_all_are_told() -> None:
    health = Health()
    health.register("rules", lambda: None)
    health.register("state", lambda: "recovering")
    report = health.report(READY)
    assert not report.ok
    assert report.reasons == {"rules": None, "state": "recovering"}


def test_what_has_started_once_stays_started() -> None:
    health, reasons = Health(), ["starting"]
    health.register("worker", lambda: reasons[0] if reasons else None, {STARTUP, READY})
    assert not health.report(STARTUP).ok
    reasons.clear()
    assert health.report(STARTUP).ok
    reasons.append("rebalancing")
    assert health.report(STARTUP).ok
    assert not health.report(READY).ok


def test_a_check_that_raises_has_failed_and_its_error_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def check() -> str | None:
        raise RuntimeError("password=hunter2")

    health = Health()
    health.register("postgres", check)
    with caplog.at_level(logging.ERROR):
        reason = health.report(READY).reasons["postgres"]
    assert reason is not None
    assert "RuntimeError" in reason
    assert "hunter2" not in reason
    assert "hunter2" in caplog.text


def test_a_name_is_taken_once() -> None:
    health = Health()
    health.register("rules", lambda: None)
    with pytest.raises(ValueError, match="rules"):
        health.register("rules", lambda: None)


def test_a_check_can_leave() -> None:
    health = Health()
    health.register("lane", lambda: "closed")
    health.unregister("lane")
    health.unregister("lane")
    assert health.report(READY).ok
