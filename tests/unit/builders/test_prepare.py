"""One message to sequences, or the reason why not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from builders.message import Address, Message
from builders.prepare import (
    LEAST_BYTES,
    Prepared,
    Settings,
    Skip,
    cleaned,
    correspondents,
    own_text,
    prepare,
)
from perslm.errors import ArgumentError
from perslm.vocabulary import Vocabulary

WORDS = Vocabulary.from_words(
    ["The", "draft", "is", "fine", "and", "we", "meet", "on", "Monday", "."]
)

MESSAGE = Message(
    position="m.mbox:1",
    user=None,
    message_id="<1@example.org>",
    date=datetime(2025, 1, 2, 10, tzinfo=UTC),
    author=(Address("Bob Roe", "bob@example.net"),),
    sender=(),
    reply_to=(),
    recipients=(Address("Ann Lee", "ann@example.org"), Address("", "c@example.com")),
    subject="Draft",
    body="Hi Ann,\n\nThe draft is fine and we meet on Monday.\n\nBob\n\n> Is it fine?\n",
)


def test_own_words_become_ids() -> None:
    prepared = prepare(MESSAGE, "bob", WORDS, Settings())
    assert isinstance(prepared, Prepared)
    assert prepared.user == "bob"
    assert prepared.when == MESSAGE.date.timestamp() if MESSAGE.date else None
    (sequence,) = prepared.sequences
    assert WORDS.decode(sequence.ids) == "The draft is fine and we meet on Monday."
    assert sequence.opens
    assert sequence.closes


def test_kept_zones_are_learned() -> None:
    prepared = prepare(MESSAGE, "bob", WORDS, Settings(keep=("close",)))
    assert isinstance(prepared, Prepared)
    assert len(prepared.sequences) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"automatic": "auto-reply"}, Skip.AUTOMATIC),
        ({"body": ""}, Skip.NO_OWN_WORDS),
        ({"body": "> Is it fine?\n> Or not?\n"}, Skip.NO_OWN_WORDS),
        (
            {"body": "Das ist ein ganzer Absatz in deutscher Sprache, den niemand lernen soll."},
            Skip.OTHER_LANGUAGE,
        ),
    ],
)
def test_why_a_message_teaches_nothing(change: dict[str, str], reason: Skip) -> None:
    assert prepare(replace(MESSAGE, **change), "bob", WORDS, Settings()) is reason  # type: ignore[arg-type]


def test_automatic_mail_is_one_zone_unless_it_is_wanted() -> None:
    message = replace(MESSAGE, automatic="auto-reply")
    (zone,) = cleaned(message).zones
    assert (zone.kind, zone.start, zone.end) == ("automatic", 0, len(message.body))
    assert cleaned(message, ("automatic",)) == cleaned(MESSAGE, ("automatic",))
    assert own_text(message, Settings(keep=("automatic",))) == own_text(MESSAGE, Settings())


def test_a_message_without_a_date_comes_first() -> None:
    prepared = prepare(replace(MESSAGE, date=None), "bob", WORDS, Settings())
    assert isinstance(prepared, Prepared)
    assert prepared.when == 0


def test_names_of_correspondents_are_those_that_headers_give() -> None:
    assert correspondents(MESSAGE) == ("Ann Lee",)


def test_ids_are_not_in_the_repr() -> None:
    assert "sequences" not in repr(prepare(MESSAGE, "bob", WORDS, Settings()))


@pytest.mark.parametrize("order", [0, 6])
def test_orders_are_1_to_5(order: int) -> None:
    with pytest.raises(ArgumentError, match="1 to 5"):
        Settings(order=order)


def test_models_too_small_to_hold_anything_are_refused_before_a_run() -> None:
    assert Settings(max_bytes=LEAST_BYTES).max_bytes == LEAST_BYTES
    with pytest.raises(ArgumentError, match="too few"):
        Settings(max_bytes=LEAST_BYTES - 1)


def test_unknown_kinds_are_refused_before_a_run() -> None:
    with pytest.raises(ArgumentError, match="greeting"):
        Settings(keep=("greetings",))
