"""Lines of a CSV or JSONL file, also gzipped: streamed, each bounded, each bad one on its own."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import msgspec

from models.errors import FamulusError, NotFound

#: A longer line is a bad line.
MAX_LINE = 1 << 20

_CSV = {".csv": ",", ".tsv": "\t"}
_JSONL = (".jsonl", ".ndjson", ".json")


class WrongFile(FamulusError):
    """The file, or what was said about its columns, cannot give records; the text says what to change."""


class Line(NamedTuple):
    """A row of the file: names and values, texts in CSV and anything in JSONL.  ``number`` counts lines from 1."""

    number: int
    fields: dict[str, object]


class BadLine(NamedTuple):
    """A line that is no row."""

    number: int
    reason: str


class Source:
    """An open file of rows; use as a context manager.

    Raises :class:`models.errors.NotFound` and :class:`WrongFile` at once when it cannot be read as rows at all, and
    :class:`WrongFile` while iterating when a compressed file turns out to be damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        gzipped = path.suffix.lower() == ".gz"
        suffix = (path.with_suffix("") if gzipped else path).suffix.lower()
        if suffix not in _CSV and suffix not in _JSONL:
            raise WrongFile(f"{path}: the name must end in .csv, .tsv, .jsonl or .ndjson, and .gz where it is gzipped")
        try:
            self._file: BinaryIO = path.open("rb")
        except FileNotFoundError:
            raise NotFound(f"there is no file {path}") from None
        #: Bytes on disk; 0 where nobody knows them (a pipe).
        self.size = path.stat().st_size if path.is_file() else 0
        stream = io.BufferedReader(gzip.GzipFile(fileobj=self._file), 1 << 18) if gzipped else self._file
        self._lines = _Lines(stream)
        #: Names of the columns; empty for JSONL, where each line has its own.
        self.header: Sequence[str] = ()
        self._rows: Iterator[Line | BadLine] = self._json_rows()
        if suffix in _CSV:
            reader = csv.reader(self._lines, delimiter=_CSV[suffix])
            try:
                self.header = self._read_header(reader)
            except BaseException:
                self._file.close()
                raise
            self._rows = self._csv_rows(reader)

    @property
    def position(self) -> int:
        """Bytes of the file, as it lies on disk, that have been read."""
        return self._file.tell() if self.size else 0

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Line | BadLine]:
        return self._rows

    def _read_header(self, reader: Iterator[list[str]]) -> list[str]:
        try:
            header = [name.strip() for name in next(reader)]
        except (StopIteration, csv.Error, _TooLong, UnicodeDecodeError):
            raise WrongFile(f"{self.path}: the first line must name the columns") from None
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise WrongFile(f"{self.path}: the header names {', '.join(map(repr, twice))} more than once; rename one")
        return header

    def _csv_rows(self, reader: Iterator[list[str]]) -> Iterator[Line | BadLine]:
        width = len(self.header)
        while True:
            # A quoted field may hold line ends; the row is named by its first line.
            number = self._lines.number + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except (csv.Error, _TooLong) as error:
                yield BadLine(number, str(error))
                continue
            except UnicodeDecodeError:
                yield BadLine(number, "not UTF-8 text")
                continue
            if len(row) == width:
                yield Line(number, dict(zip(self.header, row, strict=True)))
            elif row:
                yield BadLine(number, f"{len(row)} fields where the header has {width}")

    def _json_rows(self) -> Iterator[Line | BadLine]:
        decoder = msgspec.json.Decoder(dict[str, object])
        while True:
            try:
                text = next(self._lines)
            except StopIteration:
                return
            except (_TooLong, UnicodeDecodeError) as error:
                yield BadLine(self._lines.number, str(error) if isinstance(error, _TooLong) else "not UTF-8 text")
                continue
            if not text.strip():
                continue
            try:
                yield Line(self._lines.number, decoder.decode(text))
            except msgspec.ValidationError:
                yield BadLine(self._lines.number, "not a JSON object")
            except (msgspec.DecodeError, RecursionError) as error:
                yield BadLine(self._lines.number, f"not JSON ({error})")


class _TooLong(Exception):
    """A line is longer than is read."""


class _Lines:
    """Lines as text.  Unlike a generator it can raise for one line and go on with the next."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._readline()
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > MAX_LINE:
            while line and not line.endswith(b"\n"):
                line = self._readline()
            raise _TooLong(f"longer than {MAX_LINE} bytes")
        if self.number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        return line.decode()

    def _readline(self) -> bytes:
        try:
            return self._stream.readline(MAX_LINE + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise WrongFile(
                f"the compressed file is damaged after line {self.number} ({error}); what stands before is loaded"
            ) from None
