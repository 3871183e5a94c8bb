"""The folder of FAMULUS_DATA_DIR."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.data_dir import make_data_dir
from app.settings import Settings
from models.errors import SettingsError


def settings(folder: Path) -> Settings:
    return Settings(broker="embedded:///nowhere", data_dir=folder, app_id="mine")


def test_it_is_made_with_the_applications_own_folder_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert make_data_dir(settings(folder)) == folder / "mine"
    assert make_data_dir(settings(folder)) == folder / "mine"
    assert [path.relative_to(folder) for path in folder.rglob("*")] == [Path("mine")]


@pytest.mark.parametrize("taken", ["data", "data/mine"])
def test_a_file_in_its_place_is_named(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).parent.mkdir(exist_ok=True)
    (tmp_path / taken).touch()
    with pytest.raises(
        SettingsError, match=rf"^FAMULUS_DATA_DIR={tmp_path}/data: .*\({tmp_path}/{taken}: File exists\)"
    ):
        make_data_dir(settings(tmp_path / "data"))


def test_a_folder_that_takes_no_files_is_named() -> None:
    with pytest.raises(SettingsError, match=r"^FAMULUS_DATA_DIR=/proc/1: no folder that can be written to"):
        make_data_dir(settings(Path("/proc/1")))
