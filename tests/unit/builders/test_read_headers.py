"""Header fields as they are in mail: folded, encoded, misquoted, misdated."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime, formataddr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.message import Address
from builders.read import headers


def test_fields_are_found_in_any_case_unfolded_first_one_first() -> None:
    block = b"fRoM: a@x.org\nSubject: one\r\n\ttwo\r\n  three\nSUBJECT: other\nX-Fro: no\n"
    assert headers.fields(block) == {"from": "a@x.org", "subject": "one two three"}


def test_recipients_written_twice_are_joined() -> None:
    block = b"To: a@x.org\nTo: b@x.org\nCc: c@x.org\n"
    assert headers.fields(block) == {"to": "a@x.org, b@x.org", "cc": "c@x.org"}


def test_raw_eight_bit_values() -> None:
    assert headers.fields("Subject: Grüße".encode())["subject"] == "Grüße"
    assert headers.fields("Subject: Grüße".encode("latin-1"))["subject"] == "Grüße"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("=?utf-8?Q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        ("=?UTF-8?B?R3LDvMOfZQ==?=", "Grüße"),
        ("=?utf-8?B?R3LDvMOfZQ?=", "Grüße"),
        ("Re: =?iso-8859-1?q?Gr=FC=DFe_an_alle?= today", "Re: Grüße an alle today"),
        ("=?utf-8?Q?one?= =?utf-8?Q?two?=", "onetwo"),
        ("=?utf-8?B?R3LD?=\t=?utf-8?B?vMOfZQ==?=", "Grüße"),  # split within a character
        ("=?utf-8*de?Q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        ('"=?utf-8?Q?Gr=C3=BC=C3=9Fe?="', "Grüße"),
        ("=?nonsense?Q?abc?=", "abc"),
        ("=?utf-8?X?abc?=", "=?utf-8?X?abc?="),
        ("=?utf-8?Q?broken", "=?utf-8?Q?broken"),
        ("a  b\n c", "a b c"),
    ],
)
def test_encoded_words(value: str, text: str) -> None:
    assert headers.unencode(value) == text


JANE = "jane@example.org"


@pytest.mark.parametrize(
    ("value", "mailboxes"),
    [
        ("jane@example.org", [("", JANE)]),
        ("Jane Doe <Jane@Example.org>", [("Jane Doe", JANE)]),
        ('"Doe, Jane" <jane@example.org>', [("Doe, Jane", JANE)]),
        ("Doe, Jane <jane@example.org>", [("Doe, Jane", JANE)]),
        ("jane@example.org (Jane Doe)", [("Jane Doe", JANE)]),
        ('"Jane \\"JD\\" Doe" <jane@example.org>', [('Jane "JD" Doe', JANE)]),
        ("'Jane Doe' <jane@example.org>", [("Jane Doe", JANE)]),
        ("'jane@example.org'", [("", JANE)]),
        ('"jane@example.org" <jane@example.org>', [("", JANE)]),
        ("<mailto:jane@example.org>", [("", JANE)]),
        ("Jane <@relay.example:jane@example.org>", [("Jane", JANE)]),
        ("Jane Doe jane@example.org", [("Jane Doe", JANE)]),
        ("=?utf-8?Q?Doe=2C_J=C3=A4ne?= <jane@example.org>", [("Doe, Jäne", JANE)]),
        ('"=?utf-8?Q?Doe,_Jane?=" <jane@example.org>', [("Doe, Jane", JANE)]),
        ("a@x.org, Bob <b@x.org>;c@x.org", [("", "a@x.org"), ("Bob", "b@x.org"), ("", "c@x.org")]),
        ("friends: a@x.org, b@x.org;", [("", "a@x.org"), ("", "b@x.org")]),
        ("undisclosed-recipients:;", []),
        ("Jane Doe", [("Jane Doe", "")]),
        ("Doe, Jane Q", [("Doe, Jane Q", "")]),
        ("Jane Doe (via Team) <jane@example.org>", [("Jane Doe (via Team)", JANE)]),
        ("Jane Doe, Bob Roe", [("Jane Doe", ""), ("Bob Roe", "")]),
        ("Jane Doe </O=ORG/CN=JDOE>", [("Jane Doe", "")]),
        ("Jane <jane@example.org", [("Jane", JANE)]),
        ('"Jane <jane@example.org>', [("Jane", JANE)]),
        ("", []),
        (" , ;,", []),
    ],
)
def test_addresses(value: str, mailboxes: list[tuple[str, str]]) -> None:
    assert headers.addresses(value) == tuple(Address(*mailbox) for mailbox in mailboxes)


names = st.text(
    st.characters(categories=["L", "N", "P", "Zs"], exclude_characters="@<>"), max_size=20
).map(lambda name: " ".join(name.split()))


@given(st.lists(st.tuples(names, st.from_regex(r"[a-z]{1,8}@[a-z]{1,8}\.org", fullmatch=True))))
def test_what_the_standard_library_writes_is_read_back(mailboxes: list[tuple[str, str]]) -> None:
    value = ", ".join(formataddr(mailbox) for mailbox in mailboxes)
    found = headers.addresses(value)
    assert [m.address for m in found] == [address for _, address in mailboxes]


@given(st.text())
def test_no_value_is_too_strange(value: str) -> None:
    for mailbox in headers.addresses(value):
        assert mailbox.address == "" or mailbox.address.count("@") >= 1
        assert mailbox.address == mailbox.address.lower()
    headers.unencode(value)
    headers.date(value)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("Doe, Jane Q. </O=ORG/OU=NA/CN=RECIPIENTS/CN=JDOE>", "Doe, Jane Q."),
        ("Jane Q Doe@SITE", "Jane Q Doe"),
        ("Doe, Jane (Legal)", "Doe, Jane"),
        ('"Jane Doe" <jane.doe@example.org>@SITE', "Jane Doe"),
        ("jane.doe@example.org", ""),
        ("Doe", ""),
        ("", ""),
    ],
)
def test_names_of_exchange(value: str, name: str) -> None:
    assert headers.exchange_name(value) == name


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Mon, 6 Jan 2020 09:30:01 +0100", datetime(2020, 1, 6, 8, 30, 1)),
        ("6 Jan 2020 09:30 -0830", datetime(2020, 1, 6, 18, 0)),
        ("Mon, 06 Jan 2020 09:30:00 GMT", datetime(2020, 1, 6, 9, 30)),
        ("Mon, 06 Jan 2020 09:30:00 -0800 (PST)", datetime(2020, 1, 6, 17, 30)),
        ("Monday, 6 January 2020 09:30:00 +0000", datetime(2020, 1, 6, 9, 30)),
        ("31 Dec 2016 23:59:60 +0000", datetime(2016, 12, 31, 23, 59, 59)),
        ("2020-01-06T09:30:00Z", datetime(2020, 1, 6, 9, 30)),
        ("2020-01-06T09:30:00.250+01:00", datetime(2020, 1, 6, 8, 30, 0, 250000)),
        ("2020-01-06 09:30:00", datetime(2020, 1, 6, 9, 30)),
        ("2020-01-06", datetime(2020, 1, 6)),
        ("Tue, 01 Jan 1980 00:00:00 +0000", None),
        ("1979-12-31T16:00:00Z", None),
        ("Mon, 32 Jan 2020 09:30:00 +0100", None),
        ("Mon, 6 Xan 2020 09:30:00 +0100", None),
        ("Mon, 6 anf 2020 09:30:00 +0100", None),
        ("Mon, 6 Jan 2020 09:30:00 +9999", None),
        ("9999-12-31T23:59:59-10:00", None),
        ("0001-01-01T00:00:00+10:00", None),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_dates(value: str | None, expected: datetime | None) -> None:
    assert headers.date(value) == (expected and expected.replace(tzinfo=UTC))


zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(datetime(1990, 1, 2), datetime(2100, 1, 1), timezones=zones))
def test_written_dates_are_read_back(moment: datetime) -> None:
    moment = moment.replace(microsecond=0)
    assert headers.date(moment.isoformat()) == moment
    assert headers.date(format_datetime(moment)) == moment


@pytest.mark.parametrize(
    "value", [" " * 50_000, "a" + " " * 50_000 + "b", "a." * 50_000, "[" * 50_000]
)
def test_endless_fields_take_no_longer_than_they_are(value: str) -> None:
    assert all(
        not address.address for address in headers.addresses(value)
    )  # or this test would never end
