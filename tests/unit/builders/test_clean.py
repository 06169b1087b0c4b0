"""``clean``: the contract of zones and text, on anything, and one small case per kind of zone."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.clean import KINDS, Cleaned, Zone, clean
from perslm.errors import ArgumentError

FRAGMENTS = [
    "> quoted words",
    ">",
    ">> twice",
    "| barred",
    "AB> initials",
    "On Mon, 3 May 2021 at 10:00, Ann Lee <ann@example.org> wrote:",
    "Ann Lee wrote:",
    "Am 3. Mai 2021 schrieb Ann:",
    "-----Original Message-----",
    "---------- Forwarded message ---------",
    "---- Forwarded by Ann Lee/X/Y on 05/03/2021 10:00 AM ----",
    "----- End forwarded message -----",
    "From: Ann Lee <ann@example.org>",
    "Sent: Monday, May 3, 2021 10:00 AM",
    "To: Bob Hill",
    "cc:",
    "Subject: the plan",
    "Hi Bob,",
    "Dear all",
    "Bob:",
    "Bob, can you look at this?",
    "The plan is fine by me.",
    "I will send the rest tomorrow. Thanks!",
    "Thanks,",
    "Mit freundlichen Grüßen",
    "Bob",
    "Bob Hill",
    "Director of Plans",
    "Tel: +1 555 010 9999",
    "bob@example.org",
    "-- ",
    "--",
    "________________________________",
    "Sent from my phone",
    "plans mailing list",
    "https://lists.example.org/plans",
    "This message is confidential. If you are not the intended recipient, please delete it.",
    "diff --git a/x b/x",
    "--- a/x",
    "+++ b/x",
    "@@ -1 +1 @@",
    "+new",
    "```",
    "Traceback (most recent call last):",
    '  File "x.py", line 3, in f',
    "ValueError: x",
    "-----BEGIN PGP SIGNED MESSAGE-----",
    "-----BEGIN PGP SIGNATURE-----",
    "-----END PGP SIGNATURE-----",
    "BEGIN:VCALENDAR",
    "END:VCALENDAR",
    "<<plan.doc>>",
    "1 2 3",
    "P.S. one more thing",
    "see this <https://example.org/a> page",
    "\t",
    "",
    "",
]
bodies = st.one_of(
    st.text(max_size=300),
    st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("\n".join),
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=20)), max_size=20).map(
        "\r\n".join
    ),
)
authors = st.one_of(st.none(), st.sampled_from(["Bob Hill", "Hill, Bob"]), st.text(max_size=20))


def squeezed(text: str) -> str:
    """Return the visible characters of a text."""
    return "".join(text.split())


def outside(body: str, cleaned: Cleaned) -> str:
    """Return the body without the zones, by the plainest means."""
    return "".join(
        ch
        for k, ch in enumerate(body)
        if not any(zone.start <= k < zone.end for zone in cleaned.zones)
    )


@given(body=bodies, author=authors, keep=st.sets(st.sampled_from(KINDS)))
@settings(max_examples=400, deadline=None)
def test_zones_are_sorted_disjoint_and_account_for_every_visible_character(
    body: str, author: str | None, keep: set[str]
) -> None:
    cleaned = clean(body, author=author, keep=keep)
    position = 0
    for zone in cleaned.zones:
        assert position <= zone.start < zone.end <= len(body)
        assert zone.kind in set(KINDS) - keep
        position = zone.end
    assert squeezed(cleaned.text) == squeezed(outside(body, cleaned))


@given(body=bodies, author=authors)
@settings(max_examples=100, deadline=None)
def test_keeping_every_kind_keeps_everything(body: str, author: str | None) -> None:
    cleaned = clean(body, author=author, keep=KINDS)
    assert cleaned.zones == ()
    assert squeezed(cleaned.text) == squeezed(body)


@given(body=bodies, author=authors)
@settings(max_examples=100, deadline=None)
def test_text_is_tidy(body: str, author: str | None) -> None:
    text = clean(body, author=author).text
    assert text == text.strip()
    assert "\n\n\n" not in text
    assert all(line == line.rstrip() for line in text.split("\n"))


def test_plain_prose_is_left_alone_and_stays_so() -> None:
    body = "The plan is fine by me.\n\nI would only change the second part, which is too long."
    once = clean(body)
    assert once == Cleaned(body, ())
    assert clean(once.text) == once


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ArgumentError, match="quote, attribution"):
        clean("x", keep=("quotes",))


def test_the_offsets_are_those_of_the_body() -> None:
    body = "Hi Ann,\n\nthe draft is fine.\n\nThanks,\nBob\n\nOn 1 May 2020 Ann wrote:\n> Is it?\n"
    cleaned = clean(body, author="Bob Hill")
    assert cleaned.text == "the draft is fine."
    assert [(zone.kind, body[zone.start : zone.end]) for zone in cleaned.zones] == [
        ("greeting", "Hi Ann,"),
        ("close", "Thanks,\nBob"),
        ("attribution", "On 1 May 2020 Ann wrote:"),
        ("quote", "> Is it?"),
    ]
    assert cleaned.zones[0] == Zone("greeting", 0, 7)


def test_kept_kinds_stay_in_the_text_and_out_of_the_zones() -> None:
    body = "Hi Ann,\n\nthe draft is fine.\n\nThanks,\nBob\n\nOn 1 May 2020 Ann wrote:\n> Is it?\n"
    cleaned = clean(body, author="Bob Hill", keep={"greeting", "close"})
    assert cleaned.text == "Hi Ann,\n\nthe draft is fine.\n\nThanks,\nBob"
    assert [zone.kind for zone in cleaned.zones] == ["attribution", "quote"]


def test_neither_repr_shows_a_word_of_the_text() -> None:
    assert repr(clean("some words\n> more")) == "Cleaned(10 characters, 1 zones)"


HOSTILE = (
    *(">", " ", "-", "- ", ">\n", "---\n", "To: a,\n", "x:\n", "Bob, ", "Bob\n", "Thanks "),
    *(
        "--\na\n",
        "1 2\n",
        "{\n",
        "<http://",
        "P. ",
        "713 ",
        "@@ -1\n+\n",
        "To: x\nb\n",
        "B>\n",
        "\n",
        "a-",
    ),
    *(
        "a <b@c>",
        "Bob\n\nOn 1 May 2020 Bob wrote:\n> x\n",
        "```\n",
        "-----BEGIN PGP SIGNED\n",
        "'s ",
    ),
)


@pytest.mark.parametrize("unit", HOSTILE)
def test_time_is_linear_on_hostile_bodies(unit: str) -> None:
    """200,000 characters must take well under a second; a quadratic rule takes a minute."""
    body = unit * (200_000 // len(unit))
    started = time.process_time()
    clean(body, author="Bob Hill")
    assert time.process_time() - started < 6
