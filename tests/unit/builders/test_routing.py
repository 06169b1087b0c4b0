"""Whose model a message counts for: the order of the rules, and who is taken for whom."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builders.prepare import Skip
from builders.read import read
from builders.routing import Router, source_name
from perslm.errors import ArgumentError, SourceError


class Stages:
    """A progress bar that remembers."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.done = 0
        self.total = 0

    def stage(self, name: str, total: int) -> None:
        self.names.append(name)
        self.total += total

    def advance(self, amount: int) -> None:
        self.done += amount


def mbox(path: Path, *mails: tuple[str, str]) -> Path:
    """Write (From, To) mails."""
    text = "".join(
        f"From x Thu Jan  2 10:00:00 2025\nFrom: {author}\nTo: {to}\n"
        f"Date: Thu, 2 Jan 2025 10:{i:02d}:00 +0000\nSubject: s\n\nWords of mail {i}.\n\n"
        for i, (author, to) in enumerate(mails)
    )
    path.write_text(text)
    return path


def jsonl(path: Path, *records: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps({"body": "Words.", **r}) + "\n" for r in records))
    return path


def route(
    *sources: Path,
    user: str | None = None,
    me: tuple[str, ...] = (),
    by_file: bool = False,
    progress: Stages | None = None,
) -> tuple[Router, list[str | Skip]]:
    """Make the router and ask it about every message."""
    router = Router.for_sources(
        sources, user=user, me=me, by_file=by_file, progress=progress or Stages()
    )
    errors: list[object] = []
    answers = [
        router.user(message, source)
        for source in sources
        for message in read(source, on_error=errors.append)
    ]
    assert not errors
    return router, answers


ANN, BOB = "Ann Lee <ann@example.org>", "Bob Roe <bob@example.net>"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ada.jsonl.gz", "ada"),
        ("ada.mbox", "ada"),
        ("ada.b.mbox", "ada.b"),
        ("Maildir", "Maildir"),
        (".mbox", ".mbox"),
    ],
)
def test_the_name_of_a_source(tmp_path: Path, name: str, expected: str) -> None:
    assert source_name(tmp_path / name) == expected
    assert source_name(tmp_path / "folder" / ".." / name) == expected


def test_without_options_each_author_is_a_user_and_headers_are_not_read_twice(
    tmp_path: Path,
) -> None:
    progress = Stages()
    _, answers = route(mbox(tmp_path / "m.mbox", (ANN, BOB), (BOB, ANN)), progress=progress)
    assert answers == ["ann@example.org", "bob@example.net"]
    assert progress.names == []


def test_the_owner_of_a_file_is_inferred_and_received_mail_left_out(tmp_path: Path) -> None:
    source = mbox(tmp_path / "mine.mbox", (ANN, BOB), (BOB, ANN), (ANN, "c@example.com"))
    progress = Stages()
    router, answers = route(source, by_file=True, progress=progress)
    assert answers == ["mine", Skip.NOT_SENT, "mine"]
    assert progress.names == ["who wrote"]
    assert progress.done == progress.total == source.stat().st_size
    (line,) = router.explanation()
    assert line.startswith("mine: took mail from ann@example.org (2) as sent, left out 1 by others")


def test_user_wins_over_the_file_and_the_record(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "f.jsonl", {"user": "field", "from": ANN})
    assert route(source, user="me")[1] == ["me"]
    assert route(source, by_file=True)[1] == ["f"]
    assert route(source)[1] == ["field"]


def test_me_decides_without_reading_headers(tmp_path: Path) -> None:
    source = mbox(tmp_path / "m.mbox", (ANN, BOB), (ANN, BOB), (BOB, ANN))
    progress = Stages()
    _, answers = route(source, user="bob", me=("BOB@example.net",), progress=progress)
    assert answers == [Skip.NOT_SENT, Skip.NOT_SENT, "bob"]
    assert progress.names == []


def test_a_user_field_never_makes_received_mail_sent(tmp_path: Path) -> None:
    records = [
        {"user": "ann", "from": ANN, "to": BOB},
        {"user": "ann", "from": ANN, "to": "c@example.com"},
        {"user": "ann", "from": BOB, "to": ANN},
        {"user": "bob@example.net", "from": BOB, "to": ANN},
        {"user": "bob@example.net", "from": ANN, "to": BOB},
    ]
    router, answers = route(jsonl(tmp_path / "all.jsonl", *records))
    assert answers == ["ann", "ann", Skip.NOT_SENT, "bob@example.net", Skip.NOT_SENT]
    assert list(router.owners) == ["ann"]  # an address needs no inference


def test_an_address_as_user_id_is_the_address_they_send_from(tmp_path: Path) -> None:
    source = mbox(tmp_path / "m.mbox", (ANN, BOB), (ANN, BOB), ("bob+list@example.net", ANN))
    _, answers = route(source, user="bob@example.net")
    assert answers == [Skip.NOT_SENT, Skip.NOT_SENT, "bob@example.net"]


def test_only_some_records_name_a_user(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "f.jsonl", {"from": BOB}, {"user": "ann", "from": ANN, "to": BOB})
    assert route(source)[1] == ["bob@example.net", "ann"]


def test_records_without_an_author_are_taken_at_their_word(tmp_path: Path) -> None:
    assert route(jsonl(tmp_path / "f.jsonl", {"user": "ann"}, {}))[1] == ["ann", "f"]


def test_a_person_nobody_can_tell_is_named_and_stops_nobody_else(tmp_path: Path) -> None:
    listed = "Ann via Talk <no-reply@lists.example.org>"
    records = [{"user": "x", "from": listed}, {"user": "ann", "from": ANN}]
    router, answers = route(jsonl(tmp_path / "f.jsonl", *records))
    assert answers == [Skip.NOT_SENT, "ann"]
    assert router.unknown == ("x",)
    assert [line.split(":")[0] for line in router.explanation()] == ["ann", "x"]


def test_the_only_user_must_be_told(tmp_path: Path) -> None:
    source = mbox(tmp_path / "m.mbox", ("Ann via Talk <no-reply@lists.example.org>", BOB))
    with pytest.raises(ArgumentError, match="--me"):
        route(source, user="ann")


@pytest.mark.parametrize("user", ["", "x" * 257, "\udc80"])
def test_ids_that_the_store_refuses(tmp_path: Path, user: str) -> None:
    source = jsonl(tmp_path / "f.jsonl", {"user": user or " ", "from": ANN})
    with pytest.raises(ArgumentError, match="--user"):
        route(source, user=user)
    assert route(source)[1] != [user]


def test_an_id_that_is_too_long_counts_as_none(tmp_path: Path) -> None:
    assert route(jsonl(tmp_path / "f.jsonl", {"user": "x" * 257}))[1] == [Skip.NO_USER]


def test_what_is_no_mail_is_found_before_anything_is_read(tmp_path: Path) -> None:
    good = mbox(tmp_path / "m.mbox", (ANN, BOB))
    (tmp_path / "bad.mbox").write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(SourceError, match="zip"):
        route(good, tmp_path / "bad.mbox")
