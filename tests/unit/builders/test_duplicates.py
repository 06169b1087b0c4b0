"""Which messages count as copies of one, and which repetitions do not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from builders.duplicates import SHORT, digests
from builders.message import Address, Message

WHEN = datetime(2020, 1, 6, 9, 30, 10, tzinfo=UTC)
LONG = "word " * SHORT
MAIL = Message(
    position="x",
    user=None,
    message_id="<1@x>",
    date=WHEN,
    author=(Address("Jane Doe", "jane@example.org"),),
    sender=(),
    reply_to=(),
    recipients=(),
    subject="Plan",
    body=LONG,
)


def copies(one: Message, **changes: object) -> bool:
    return not set(digests(one)).isdisjoint(digests(replace(one, **changes)))


def test_digests_are_sixteen_bytes_and_hold_for_the_same_message() -> None:
    assert [len(digest) for digest in digests(MAIL)] == [16, 16]
    assert digests(MAIL) == digests(replace(MAIL, position="elsewhere"))


def test_same_message_id() -> None:
    assert copies(MAIL, subject="Other", body="other", date=None, author=())
    assert copies(MAIL, message_id=" 1@x ", body="other")


def test_same_content_under_another_id() -> None:
    new = {"message_id": "<2@x>"}
    assert copies(MAIL, **new)
    assert copies(MAIL, **new, date=WHEN + timedelta(days=3))
    assert copies(MAIL, **new, subject="RE: Fwd: plan")
    assert copies(MAIL, **new, body="\n" + LONG.replace(" ", "\r\n  "))
    assert copies(MAIL, **new, author=(Address("", "jane+x@example.org"),))


def test_other_content_under_another_id() -> None:
    new = {"message_id": None}
    assert not copies(MAIL, **new, body=LONG + "more")
    assert not copies(MAIL, **new, subject="More: plan")
    assert not copies(MAIL, **new, author=(Address("Jane Doe", "jane@home.example"),))


def test_short_messages_are_copies_only_within_the_minute() -> None:
    short = replace(MAIL, body="Thanks!")
    new = {"message_id": "<2@x>"}
    assert copies(short, **new, date=WHEN + timedelta(seconds=20))
    assert not copies(short, **new, date=WHEN + timedelta(minutes=1))
    assert not copies(short, **new, date=None)
    limit = replace(MAIL, body=" ".join(["word"] * (SHORT - 1)))
    assert not copies(limit, **new, date=None)


def test_nothing_to_tell_by_gives_no_digest() -> None:
    assert digests(replace(MAIL, message_id=None, body=" \n")) == ()
    assert digests(replace(MAIL, message_id=None, body="Thanks!", date=None)) == ()


def test_authors_without_an_address_are_told_by_name() -> None:
    jane = replace(MAIL, author=(Address("Jane Doe", ""),))
    assert copies(jane, message_id=None)
    assert not copies(jane, message_id=None, author=(Address("Bob Roe", ""),))


def test_fields_cannot_run_into_each_other() -> None:
    one = replace(MAIL, message_id=None, subject="a b", body=LONG)
    assert not copies(one, subject="a", body="b " + LONG)
