"""JSON lines and Parquet: every field's forms, missing ones, and broken lines."""

from __future__ import annotations

import base64
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.message import Address, Message
from builders.read import RawItem, Reason, Unreadable, items, parse, read, records, size
from builders.read.stream import Stream
from perslm.errors import SourceError

RECORD = {
    "user": "doe-j",
    "message_id": "<1@x>",
    "date": "2020-01-06 09:30:00",
    "from": "jane@example.org",
    "to": ["Bob <bob@example.org>", "carol@example.org"],
    "subject": "Hello",
    "body": "Hi Bob\r\nbye",
    "folder": "sent",
}
WHEN = datetime(2020, 1, 6, 9, 30, tzinfo=UTC)


def parsed(record: object) -> Message:
    message = parse(RawItem("x", "json", json.dumps(record).encode()))
    assert not isinstance(message, Unreadable)
    return message


def test_all_fields() -> None:
    assert parsed(RECORD) == Message(
        position="x",
        user="doe-j",
        message_id="<1@x>",
        date=WHEN,
        author=(Address("", "jane@example.org"),),
        sender=(),
        reply_to=(),
        recipients=(Address("Bob", "bob@example.org"), Address("", "carol@example.org")),
        subject="Hello",
        body="Hi Bob \nbye",
        automatic=None,
    )


@pytest.mark.parametrize("missing", ["user", "message_id", "date", "from", "to", "subject"])
def test_any_field_but_the_body_may_be_missing_or_null(missing: str) -> None:
    without = parsed({key: value for key, value in RECORD.items() if key != missing})
    assert parsed({**RECORD, missing: None}) == without
    assert without.body == "Hi Bob \nbye"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("from", ["Jane <jane@example.org>"], (Address("Jane", "jane@example.org"),)),
        ("from", "Jane Doe", (Address("Jane Doe", ""),)),
        ("from", 7, ()),
        ("x_from", "Jane Q Doe@SITE", (Address("Jane Q Doe", "jane@example.org"),)),
        ("x_from", None, (Address("", "jane@example.org"),)),
    ],
)
def test_author(field: str, value: object, expected: tuple[Address, ...]) -> None:
    assert parsed({**RECORD, field: value}).author == expected


def test_a_name_in_from_counts_more_than_x_from() -> None:
    record = {**RECORD, "from": "Jane <jane@example.org>", "x_from": "Jane Q Doe"}
    assert parsed(record).author[0].name == "Jane"


@pytest.mark.parametrize(
    "date",
    [
        "2020-01-06T09:30:00Z",
        "2020-01-06T10:30:00+01:00",
        "2020-01-06 09:30:00",
        "Mon, 06 Jan 2020 01:30:00 -0800",
    ],
)
def test_dates(date: str) -> None:
    assert parsed({**RECORD, "date": date}).date == WHEN


def test_recipients_in_one_string() -> None:
    record = {**RECORD, "to": "bob@example.org, Carol <carol@example.org>", "cc": ["d@x.org"]}
    assert [a.address for a in parsed(record).recipients] == [
        "bob@example.org",
        "carol@example.org",
        "d@x.org",
    ]


def test_bodies_keep_every_character_in_its_place() -> None:
    line = b'{"body": "one=20\\r\\ntwo\\u0001\\u00a0\\ud800", "subject": "\\udfff!"}'
    message = parse(RawItem("x", "json", line))
    assert isinstance(message, Message)
    assert (message.body, message.subject) == ("one=20 \ntwo \u00a0\ufffd", "!")


RAW = "From: Jane <jane@example.org>\nMessage-ID: <2@x>\nSubject: Grüße\n\nHallo Jörg\n"


@pytest.mark.parametrize("raw", [RAW, base64.urlsafe_b64encode(RAW.encode()).decode().rstrip("=")])
def test_raw_messages(raw: str) -> None:
    message = parsed(
        {"user": "doe-j", "message_id": "<1@x>", "date": "2020-01-06T09:30", "raw": raw}
    )
    assert (message.user, message.message_id, message.date) == ("doe-j", "<2@x>", WHEN)
    assert (message.subject, message.body) == ("Grüße", "Hallo Jörg\n")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", Reason.NOT_JSON),
        (b'{"body": "x"', Reason.NOT_JSON),
        (b'{"body": "\xff"}', Reason.NOT_JSON),
        (b"[" * 100_000, Reason.NOT_JSON),
        (b"[1]", Reason.NOT_RECORD),
        (b'"body"', Reason.NOT_RECORD),
        (b'{"subject": "x"}', Reason.NOT_RECORD),
        (b'{"raw": "no header"}', Reason.NOT_MAIL),
    ],
)
def test_lines_that_are_no_record(line: bytes, reason: Reason) -> None:
    assert parse(RawItem("x", "json", line)) == Unreadable("x", reason)


def write(path: Path, *lines: str) -> Path:
    data = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["mail.jsonl", "mail.jsonl.gz", "mail"])
def test_lines_are_counted_and_broken_ones_cost_only_themselves(tmp_path: Path, name: str) -> None:
    good = json.dumps(RECORD)
    path = write(tmp_path / name, good, "", "{broken", good, '{"body": "cut o')
    errors: list[Unreadable] = []
    found = list(read(path, on_error=errors.append))
    assert [m.position for m in found] == [f"{path}, line 1", f"{path}, line 4"]
    assert errors == [
        Unreadable(f"{path}, line 3", Reason.NOT_JSON),
        Unreadable(f"{path}, line 5", Reason.NOT_JSON),
    ]


class Chunks(Stream):
    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(Path("unused"))
        self._data, self._size = data, size

    def __iter__(self):
        for begin in range(0, len(self._data), self._size):
            yield self._data[begin : begin + self._size]


@given(st.lists(st.integers(0, 40)), st.integers(1, 60), st.integers(1, 45))
def test_chunks_and_limits(lengths: list[int], size: int, limit: int) -> None:
    data = b"".join(b"x" * length + b"\n" for length in lengths)
    errors: list[Unreadable] = []
    found = list(records.lines(Chunks(data, size), "f", errors.append, limit))
    for number, length in enumerate(lengths, start=1):
        position = f"f, line {number}"
        item = RawItem(position, "json", b"x" * length)
        error = Unreadable(position, Reason.TOO_LARGE)
        assert (item in found) == (0 < length <= limit)
        assert (error in errors) == (length > limit)


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "mail.parquet"
    rows = [{**RECORD, "message_id": f"<{n}>", "date": WHEN, "noise": n} for n in range(150)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=40)
    seen: list[int] = []
    found = list(read(path, on_error=pytest.fail, on_bytes=seen.append))
    assert [m.message_id for m in found] == [f"<{n}>" for n in range(150)]
    assert found[7].position == f"{path}, row 8"
    assert found[7].date == WHEN
    assert found[7].recipients[0].name == "Bob"
    assert sum(seen) == size(path)
    assert len(seen) > 2


def test_parquet_reads_only_the_columns_it_knows(tmp_path: Path) -> None:
    path = tmp_path / "mail.parquet"
    pq.write_table(pa.table({"body": ["Hi"], "secret": ["x"]}), path)
    (item,) = items(path, on_error=pytest.fail)
    assert item.payload == {"body": "Hi"}


def test_parquet_without_mail(tmp_path: Path) -> None:
    path = tmp_path / "mail.parquet"
    pq.write_table(pa.table({"text": ["Hi"]}), path)
    with pytest.raises(SourceError, match="neither a body nor a raw column"):
        list(items(path, on_error=pytest.fail))


def test_truncated_parquet(tmp_path: Path) -> None:
    path = tmp_path / "mail.parquet"
    pq.write_table(pa.table({"body": ["Hi"] * 100}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match="damaged"):
        list(items(path, on_error=pytest.fail))


def test_damage_within_parquet_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "mail.parquet"
    bodies = [f"{n} {7**n}" for n in range(400)]
    table = pa.table({"body": bodies})
    pq.write_table(table, path, row_group_size=100, compression="gzip", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = b"\xff" * 2000
    path.write_bytes(data)
    errors: list[Unreadable] = []
    found = list(read(path, on_error=errors.append))
    assert [m.body for m in found] == bodies[: len(found)]
    assert 0 < len(found) < 400
    assert [e.reason for e in errors] == [Reason.PARQUET_DAMAGED]
