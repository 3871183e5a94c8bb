"""Lines of an input, however it is cut into pieces."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cli import lines as module
from app.cli.lines import lines_of


class Pieces(io.RawIOBase):
    """A stream that gives out its data piece by piece."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]

    def read(self, size: int = -1) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


async def lines(pieces: list[bytes]) -> list[bytes | None]:
    return [line async for part in lines_of(Pieces(pieces)) for line in part]  # type: ignore[arg-type]


@given(st.lists(st.binary(max_size=8).map(lambda data: data.replace(b"\r", b"\n"))))
async def test_lines_do_not_depend_on_how_the_input_is_cut(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    expected = whole.split(b"\n")
    assert await lines(pieces) == (expected[:-1] if whole.endswith(b"\n") or not whole else expected)


async def test_a_line_that_is_too_long_is_none_and_its_neighbours_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE", 10)
    assert await lines([b"ok\n", b"x" * 8, b"y" * 8, b"z\nfine\n", b"w" * 11]) == [b"ok", None, b"fine", None]


async def test_an_error_of_the_input_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Pieces):
        def read(self, size: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        _ = [part async for part in lines_of(Broken([]))]  # type: ignore[arg-type]
