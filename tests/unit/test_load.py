"""Rows of a file as records: columns chosen, types converted, bad lines on their own."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.load import BadLine, Columns, Converter, Line, Source, WrongFile, converter
from app.load.source import MAX_LINE
from models.errors import BadRecord, NotFound

TOPIC = "user-transactions"
CSV = b"transaction_id,timestamp,customer_id,terminal_id,amount,is_fraud\n0,1522540831000,596,3156,57.16,0\n"
MAPPED = Columns({"user_id": "customer_id", "merchant": "terminal_id"})


def rows(path: Path, data: bytes) -> list[Line | BadLine]:
    path.write_bytes(data)
    with Source(path) as source:
        return list(source)


def convert(header: Sequence[str], row: dict[str, object], columns: Columns = MAPPED, topic: str = TOPIC) -> object:
    _, value = converter(topic, header, columns)(row)
    return json.loads(value)


# --- rows ---------------------------------------------------------------------------------------------------------------


def test_a_csv_row_has_the_names_of_the_header(tmp_path: Path) -> None:
    assert rows(tmp_path / "t.csv", b"a,b\n1,x y\n") == [Line(2, {"a": "1", "b": "x y"})]


def test_a_tsv_file_is_cut_at_tabs(tmp_path: Path) -> None:
    assert rows(tmp_path / "t.tsv", b"a\tb\n1,5\tx\n") == [Line(2, {"a": "1,5", "b": "x"})]


def test_jsonl_rows_are_objects_and_empty_lines_are_nothing(tmp_path: Path) -> None:
    assert rows(tmp_path / "t.jsonl", b'{"a":1}\n\n{"b":[2]}') == [Line(1, {"a": 1}), Line(3, {"b": [2]})]


@pytest.mark.parametrize("name", ["t.csv.gz", "t.CSV.GZ"])
def test_a_gzipped_file_reads_as_the_file_in_it(tmp_path: Path, name: str) -> None:
    assert rows(tmp_path / name, gzip.compress(b"a\n1\n")) == [Line(2, {"a": "1"})]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert rows(tmp_path / "t.csv", b"\xef\xbb\xbfa,b\r\n1,2\r\n") == [Line(2, {"a": "1", "b": "2"})]


def test_a_quoted_field_may_hold_a_line_end_and_the_row_is_named_by_its_first_line(tmp_path: Path) -> None:
    assert rows(tmp_path / "t.csv", b'a,b\n"x\ny",1\nz,2\n') == [
        Line(2, {"a": "x\ny", "b": "1"}),
        Line(4, {"a": "z", "b": "2"}),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1,2,3", "3 fields where the header has 2"),
        (b"1", "1 fields where the header has 2"),
        (b"\xff\xfe,1", "not UTF-8"),
        (b"x" * 200_000 + b",1", "field larger"),
        (b"x," * MAX_LINE, "longer than"),
    ],
)
def test_a_bad_csv_line_costs_itself_only(tmp_path: Path, line: bytes, reason: str) -> None:
    before, bad, after = rows(tmp_path / "t.csv", b"a,b\n1,2\n" + line + b"\n3,4\n")
    assert (before, after) == (Line(2, {"a": "1", "b": "2"}), Line(4, {"a": "3", "b": "4"}))
    assert isinstance(bad, BadLine)
    assert bad.number == 3
    assert reason in bad.reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"nonsense", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}", "not JSON"),
        (b'{"a":NaN}', "not JSON"),
        (b"\xff", "not UTF-8"),
        (b'{"a":"' + b"x" * MAX_LINE + b'"}', "longer than"),
    ],
)
def test_a_bad_jsonl_line_costs_itself_only(tmp_path: Path, line: bytes, reason: str) -> None:
    before, bad, after = rows(tmp_path / "t.jsonl", b'{"a":1}\n' + line + b'\n{"a":2}\n')
    assert (before, after) == (Line(1, {"a": 1}), Line(3, {"a": 2}))
    assert isinstance(bad, BadLine)
    assert bad.number == 2
    assert reason in bad.reason


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Source(tmp_path / "gone.csv")


def test_a_name_that_says_no_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongFile, match=r"\.csv, \.tsv"):
        Source(tmp_path / "t.xlsx")


@pytest.mark.parametrize(("data", "says"), [(b"", "name the columns"), (b"a,b,a\n", "'a' more than once")])
def test_a_header_that_names_no_columns_or_one_twice_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(WrongFile, match=says):
        rows(tmp_path / "t.csv", data)


def test_a_damaged_gzip_file_gives_its_rows_up_to_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    text = b"a,b\n" + b"".join(b"%d,%d\n" % (n, n * n * 7919) for n in range(50_000))
    whole = gzip.compress(text)
    path.write_bytes(whole[: len(whole) // 2])
    read: list[Line | BadLine] = []
    with Source(path) as source, pytest.raises(WrongFile, match="damaged after line"):
        read.extend(source)
    assert 1_000 < len(read) < 50_000


# --- transactions -------------------------------------------------------------------------------------------------------


def test_a_mapped_row_is_a_transaction_with_the_types_that_it_needs() -> None:
    header = CSV.split(b"\n")[0].decode().split(",")
    make = converter(TOPIC, header, MAPPED)
    values = CSV.split(b"\n")[1].decode().split(",")
    key, value = make(dict(zip(header, values, strict=True)))
    assert key == b"596"
    assert json.loads(value) == {
        "transaction_id": "0",
        "user_id": "596",
        "amount": 57.16,
        "timestamp": 1522540831000,
        "merchant": "3156",
    }
    assert list(make.dropped) == ["is_fraud"]


BASE: dict[str, object] = {"transaction_id": "t", "user_id": "u", "amount": "1.5", "timestamp": "5"}
NAMES = tuple(BASE)


def transaction(**changed: object) -> object:
    row = {**BASE, **changed}
    return convert(tuple(row), row, Columns())


def test_empty_cells_of_optional_fields_are_left_out() -> None:
    assert transaction(merchant="", country="DE") == {
        "transaction_id": "t",
        "user_id": "u",
        "amount": 1.5,
        "timestamp": 5,
        "country": "DE",
    }


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"user_id": ""}, "user_id"),
        ({"amount": "much"}, "amount"),
        ({"amount": "nan"}, "amount"),
        ({"amount": "1e999"}, "amount"),
        ({"timestamp": "-1"}, "timestamp"),
        ({"timestamp": "tomorrow"}, "timestamp"),
        ({"user_id": "u" * 257}, "user_id"),
    ],
)
def test_a_row_that_is_no_transaction_is_refused_naming_the_field(changed: dict[str, object], says: str) -> None:
    with pytest.raises(BadRecord, match=says):
        transaction(**changed)


@pytest.mark.parametrize("time", ["2018-04-01T00:00:31Z", "2018-04-01 00:00:31", "2018-04-01T02:00:31+02:00"])
def test_an_iso_time_is_taken_as_utc_unless_it_names_its_zone(time: str) -> None:
    assert isinstance(made := transaction(timestamp=time), dict)
    assert made["timestamp"] == 1522540831000


def test_attributes_keep_columns_as_texts() -> None:
    row = {**BASE, "channel": "web", "score": "7", "none": ""}
    made = convert(tuple(row), row, Columns(attributes=("channel", "score", "none")))
    assert isinstance(made, dict)
    assert made["attributes"] == {"channel": "web", "score": "7"}


def test_numbers_that_are_identifiers_in_jsonl_become_texts() -> None:
    made = convert((), {"transaction_id": 7, "user_id": 42, "amount": 3, "timestamp": 5}, Columns())
    assert made == {"transaction_id": "7", "user_id": "42", "amount": 3.0, "timestamp": 5}


def test_fields_of_jsonl_that_a_transaction_has_not_are_dropped_and_remembered() -> None:
    make = converter(TOPIC, (), Columns())
    make({**BASE, "extra": 1})
    assert list(make.dropped) == ["extra"]


@pytest.mark.parametrize(
    ("header", "columns", "says"),
    [
        (NAMES, Columns({"user_id": "custmer"}), "no column 'custmer'"),
        (("transaction_id", "customer_id", "amount", "timestamp"), Columns({"user_id": "customerid"}), "'customer_id'"),
        (NAMES, Columns({"user": "user_id"}), "no field 'user'"),
        (NAMES[:-1], Columns(), "no column gives timestamp"),
        (NAMES, Columns(key="amount"), "leave --key out"),
    ],
)
def test_a_mapping_that_cannot_work_is_refused_before_the_first_row(
    header: Sequence[str], columns: Columns, says: str
) -> None:
    with pytest.raises(WrongFile, match=says):
        converter(TOPIC, header, columns)


# --- other topics -------------------------------------------------------------------------------------------------------


def other(row: dict[str, object], columns: Columns, topic: str = "clicks") -> tuple[bytes | None, object]:
    make: Converter = converter(topic, tuple(row), columns)
    key, value = make(row)
    return key, json.loads(value)


def test_a_record_of_another_topic_has_every_column_with_numbers_as_numbers() -> None:
    row: dict[str, object] = {"order_id": "007", "amount": "1.50", "n": "12", "zip": "01234", "paid": "true", "x": ""}
    assert other(row, Columns(), "orders") == (
        b"007",
        {"order_id": "007", "amount": 1.5, "n": 12, "zip": "01234", "paid": True},
    )


def test_columns_can_be_renamed_and_one_can_be_the_key() -> None:
    assert other({"a": "1", "b": "2"}, Columns({"user": "a"}, key="user")) == (b"1", {"user": "1", "b": 2})


def test_a_topic_of_somebody_else_has_no_key_unless_one_is_named() -> None:
    assert other({"a": "1"}, Columns()) == (None, {"a": 1})


def test_a_row_without_its_key_is_refused() -> None:
    with pytest.raises(BadRecord, match="key"):
        other({"a": "", "b": "1"}, Columns(key="a"))
