"""Where ``embedded://`` URLs point."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.transport.embedded.location import Synchronous, locate
from models.errors import SettingsError


@pytest.mark.parametrize(
    ("url", "directory"),
    [
        ("embedded://var/famulus", "here/var/famulus"),
        ("embedded://Var/Famulus", "here/Var/Famulus"),
        ("embedded://log", "here/log"),
        ("embedded://./log", "here/log"),
        ("embedded://../log", "log"),
        ("embedded://a%20b/log", "here/a b/log"),
    ],
)
def test_a_relative_path_starts_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, directory: str
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert locate(url).directory.resolve() == (tmp_path / directory).resolve()


@pytest.mark.parametrize("url", ["embedded:///srv/log", "embedded:/srv/log"])
def test_an_absolute_path_is_taken_as_it_is(url: str) -> None:
    assert locate(url).directory == Path("/srv/log")


def test_commits_wait_for_the_disk_unless_told_otherwise() -> None:
    assert locate("embedded:///x").synchronous is Synchronous.FULL
    assert locate("embedded:///x?synchronous=normal").synchronous is Synchronous.NORMAL


@pytest.mark.parametrize("url", ["embedded:///srv/my log", "embedded:///x?synchronous=off", "embedded:///a%25b"])
def test_the_url_of_a_location_leads_back_to_it(url: str) -> None:
    assert locate(locate(url).url) == locate(url)


@pytest.mark.parametrize(
    "url", ["kafka://h:9092", "embedded://", "embedded:///x?sync=off", "embedded:///x?synchronous=never", "/x"]
)
def test_a_url_that_names_no_log_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        locate(url)
