"""Cutting mbox files: what separates messages in each variant, and what a broken end costs."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.read import RawItem, Reason, Unreadable, items, mbox, read
from builders.read.stream import Stream

FROM = b"From jane@example.org Mon Jan  6 09:30:00 2020\n"


def message(number: int, body: bytes = b"Hello\n") -> bytes:
    return b"From: Jane <jane@example.org>\nSubject: %d\n\n" % number + body


def bodies(path: Path) -> list[str]:
    errors: list[Unreadable] = []
    found = [m.body for m in read(path, on_error=errors.append)]
    assert errors == []
    return found


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "mail"
    path.write_bytes(data)
    return path


def test_messages_in_order_without_separators(tmp_path: Path) -> None:
    path = write(tmp_path, b"".join(FROM + message(n) + b"\n" for n in range(3)))
    found = list(read(path, on_error=pytest.fail))
    assert [m.subject for m in found] == ["0", "1", "2"]
    assert [m.body for m in found] == ["Hello\n\n"] * 2 + ["Hello\n\n"]


def test_positions_count_from_one_and_give_byte_offsets(tmp_path: Path) -> None:
    first = FROM + message(1) + b"\n"
    path = write(tmp_path, first + FROM + message(2))
    positions = [item.position for item in items(path, on_error=pytest.fail)]
    assert positions == [
        f"{path}, message 1 at byte 0",
        f"{path}, message 2 at byte {len(first)}",
    ]


def test_mboxrd_loses_one_level_of_quoting(tmp_path: Path) -> None:
    path = write(tmp_path, FROM + message(1, b">From here\n>>From there\n> From afar\n"))
    assert bodies(path) == ["From here\n>From there\n> From afar\n"]


def test_prose_that_begins_with_from_does_not_separate(tmp_path: Path) -> None:
    body = b"Hello\n\nFrom Monday on we meet at 10:30 in 2021.\nNote: bring tea.\n"
    assert len(bodies(write(tmp_path, FROM + message(1, body)))) == 1


@pytest.mark.parametrize(
    "separator",
    [
        b"From 1551234567890123456@xxx Sat Jan 05 10:20:30 +0000 2019\n",  # Gmail Takeout
        b"From - Mon Jan 06 09:30:00 2020\n",  # Thunderbird
        b"From \n",  # newer Thunderbird
        b"From MAILER-DAEMON Fri Jul  8 12:08:34 2011\n",
        b"From jane@example.org  Mon, 06 Jan 2020 09:30:00 +0100\n",
        b"From jane@example.org\n",
        b"From jane doe Mon Jan  6 09:30 CET 2020\n",
    ],
)
def test_separators_of_many_programs(tmp_path: Path, separator: bytes) -> None:
    data = b"".join(separator + message(n) + b"\n" for n in range(2))
    assert bodies(write(tmp_path, data)) == ["Hello\n\n", "Hello\n\n"]


def test_crlf_and_mixed_line_ends(tmp_path: Path) -> None:
    crlf = (FROM + message(1) + b"\n").replace(b"\n", b"\r\n")
    path = write(tmp_path, crlf + FROM + message(2) + b"\r\n" + crlf)
    assert [text.strip() for text in bodies(path)] == ["Hello"] * 3


def test_missing_empty_line_before_a_dated_separator(tmp_path: Path) -> None:
    path = write(tmp_path, FROM + message(1) + FROM + message(2))
    assert bodies(path) == ["Hello\n", "Hello\n"]


def test_content_length_shields_an_unquoted_from_line(tmp_path: Path) -> None:
    body = b"See what he sent:\n\n" + FROM + message(7)
    head = b"From: jane@example.org\nContent-Length: %d\n\n" % len(body)
    data = FROM + head + body + b"\n" + FROM + message(2)
    assert [text.strip()[:3] for text in bodies(write(tmp_path, data))] == ["See", "Hel"]


def test_content_length_that_leads_nowhere_is_ignored(tmp_path: Path) -> None:
    head = b"From: jane@example.org\nContent-Length: 999\n\nHello\n\n"
    assert len(bodies(write(tmp_path, FROM + head + FROM + message(2)))) == 2


def test_content_length_at_the_end_of_the_file(tmp_path: Path) -> None:
    body = b"He sent:\n\n" + FROM + message(7)
    head = b"From: jane@example.org\nContent-Length: %d\n\n" % len(body)
    assert len(bodies(write(tmp_path, FROM + head + body))) == 1


def test_garbage_between_messages_costs_only_itself(tmp_path: Path) -> None:
    data = FROM + message(1) + b"\n" + FROM + b"\x00\x01\x02 rubbish\n\n" + FROM + message(2)
    errors: list[Unreadable] = []
    found = list(read(write(tmp_path, data), on_error=errors.append))
    assert [m.subject for m in found] == ["1", "2"]
    assert [e.reason for e in errors] == [Reason.NOT_MAIL]
    assert "message 2 at byte" in errors[0].position


MULTIPART = (
    b'From: j@example.org\nContent-Type: multipart/mixed; boundary="b"\n\n'
    b"--b\n\nHello there,\nthis goes on\n"
)


@pytest.mark.parametrize(
    ("end", "reason", "kept"),
    [
        (b"From: jane@exam", Reason.CUT_OFF, 2),
        (b"From: jane@example.org\nSubject: x\n", Reason.CUT_OFF, 2),
        (MULTIPART, Reason.CUT_OFF, 2),
        (message(3, b"Hello th"), Reason.NO_LINE_END, 3),
    ],
)
def test_truncation_is_reported_and_keeps_all_before(
    tmp_path: Path, end: bytes, reason: Reason, kept: int
) -> None:
    data = b"".join(FROM + message(n) + b"\n" for n in range(2)) + FROM + end
    errors: list[Unreadable] = []
    found = list(read(write(tmp_path, data), on_error=errors.append))
    assert len(found) == kept
    assert [e.reason for e in errors] == [reason]
    assert "message 3" in errors[0].position


def test_every_truncation_of_a_gzip_file_keeps_what_came_before(tmp_path: Path) -> None:
    # Incompressible bodies, so that each cut falls somewhere else in the unpacked bytes.
    data = b"".join(FROM + message(n, b"%d\n" % (7**n)) + b"\n" for n in range(40))
    packed = gzip.compress(data, 6)
    seen = []
    for cut in range(30, len(packed), 37):
        errors: list[Unreadable] = []
        path = write(tmp_path, packed[:cut])
        if not gzip_prefix(packed[:cut]).startswith(b"From "):
            continue
        seen.append(len(list(read(path, on_error=errors.append))))
        assert [e.reason for e in errors] == [Reason.GZIP_CUT_OFF]
    assert seen == sorted(seen)
    assert seen[-1] >= 30


def gzip_prefix(packed: bytes) -> bytes:
    import zlib

    return zlib.decompressobj(31).decompress(packed)


def test_damage_within_a_gzip_file_is_reported(tmp_path: Path) -> None:
    data = b"".join(FROM + message(n, b"%d\n" % (7 ** (n % 97))) + b"\n" for n in range(3000))
    packed = bytearray(gzip.compress(data))
    packed[-8] ^= 0xFF  # the checksum: everything can be unpacked, and is not what was packed
    errors: list[Unreadable] = []
    found = list(read(write(tmp_path, bytes(packed)), on_error=errors.append))
    assert [e.reason for e in errors] == [Reason.GZIP_DAMAGED]
    assert found


def test_gzip_members_are_one_file(tmp_path: Path) -> None:
    parts = [gzip.compress(FROM + message(n) + b"\n") for n in range(3)]
    assert len(bodies(write(tmp_path, b"".join(parts) + b"\0" * 512))) == 3


class Chunks(Stream):
    """A stream with chunks of a given size."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(Path("unused"))
        self._data, self._size = data, size

    def __iter__(self):
        for begin in range(0, len(self._data), self._size):
            yield self._data[begin : begin + self._size]


def cut(data: bytes, size: int, limit: int = 10**6) -> tuple[list[RawItem], list[Unreadable]]:
    errors: list[Unreadable] = []
    return list(mbox.messages(Chunks(data, size), "x", errors.append, limit)), errors


@given(
    st.lists(st.integers(0, 9000), min_size=1, max_size=6),
    st.integers(1, 5000),
)
def test_chunk_boundaries_do_not_matter(lengths: list[int], size: int) -> None:
    data = b"".join(FROM + message(n, b"x\n" * length) + b"\n" for n, length in enumerate(lengths))
    whole, _ = cut(data, len(data))
    assert cut(data, size) == (whole, [])
    assert len(whole) == len(lengths)


@given(st.integers(1, 3000))
def test_a_message_beyond_the_limit_is_left_out_alone(size: int) -> None:
    data = FROM + message(1) + b"\n" + FROM + message(2, b"y" * 20_000 + b"\n") + b"\n"
    data += FROM + message(3)
    found, errors = cut(data, size, limit=8000)
    assert [re.search(rb"Subject: (\d)", item.payload)[1] for item in found] == [b"1", b"3"]
    second = len(FROM + message(1)) + 1
    assert errors == [Unreadable(f"x, message 2 at byte {second}", Reason.TOO_LARGE)]


def test_memory_does_not_grow_with_the_mailbox() -> None:
    import tracemalloc

    one = FROM + message(1, b"words and words\n" * 60) + b"\n"

    class Endless(Stream):
        def __iter__(self):
            for _ in range(60):
                yield one * 1000  # about 1 MB each

    tracemalloc.start()
    count = sum(1 for _ in mbox.messages(Endless(Path("unused")), "x", pytest.fail))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 60_000
    assert peak < 8 * 2**20
