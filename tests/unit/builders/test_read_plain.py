"""Plain text made plain: characters, format=flowed, leftovers of quoted-printable, armour."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.read.plain import (
    normalized,
    unflowed,
    without_armour,
    without_quoted_printable,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\rc\nd", "a\nb\nc\nd"),
        ("a\u2028b\u2029c\vd\fe", "a\nb\nc\nd\ne"),
        ("a\u00a0b\u202fc\u3000d", "a b c d"),
        ("a\x00b\x07c\x7fd", "abcd"),
        ("tab\there", "tab\there"),
        ("don\x92t \x93say\x94", "don’t “say”"),
        ("soft\u00adhyphen\u200b\ufeff", "softhyphen"),
        ("\ud83d lone", " lone"),
        ("👩\u200d💻 stays", "👩\u200d💻 stays"),
    ],
)
def test_characters(text: str, expected: str) -> None:
    assert normalized(text) == expected


@given(st.text(st.characters()))
def test_normalized_text_is_clean_and_stays_as_it_is(text: str) -> None:
    once = normalized(text)
    assert normalized(once) == once
    once.encode("utf-8")
    assert all(char in "\t\n" or char.isprintable() or ord(char) > 0xA0 for char in once)


def flowed(text: str) -> str:
    return unflowed(text, delete_space=False)


def test_flowed_lines_are_joined() -> None:
    assert flowed("This is \none \nparagraph.\nThis another.\n") == (
        "This is one paragraph.\nThis another.\n"
    )


def test_delsp_takes_the_space_away() -> None:
    assert unflowed("日本 \n語\n", delete_space=True) == "日本語\n"


def test_flowed_quotes_join_within_their_depth() -> None:
    assert flowed(">> deep \n>> quote \n> less\nmine\n") == ">> deep quote \n> less\nmine\n"


def test_flowed_signature_separator_is_not_joined() -> None:
    assert flowed("Best \n-- \nJane\n") == "Best \n-- \nJane\n"


def test_space_stuffing_is_undone() -> None:
    assert flowed(" From here\n >not a quote\n") == "From here\n>not a quote\n"


@given(st.lists(st.text("ab >", max_size=5), max_size=6))
def test_flowing_loses_nothing_but_spaces(lines: list[str]) -> None:
    text = "\n".join(lines)
    kept = flowed(text)
    assert "".join(kept.split()).replace(">", "") == "".join(text.split()).replace(">", "")


LONG = "and so this goes on for quite a while until the line is full of wo"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("line one=20\nline two\n", "line one \nline two\n"),
        (f"{LONG}=\nrds=20\n", f"{LONG}rds \n"),
        (f"{LONG}=\n{LONG}=\nrds, a=3Db\n", f"{LONG}{LONG}rds, a=b\n"),
        ("it=92s=20\n", "it’s \n"),
        ("caf=C3=A9=20\n", "café \n"),
        ("x = 20\ny=20 + 1\n", "x = 20\ny=20 + 1\n"),
        ("ratio=A0B1 and key=FF\n", "ratio=A0B1 and key=FF\n"),
        (f"{LONG}=\nno evidence\n", f"{LONG}=\nno evidence\n"),
    ],
)
def test_quoted_printable_left_over(text: str, expected: str) -> None:
    assert without_quoted_printable(text) == expected


def test_clear_signed_text_is_unwrapped() -> None:
    text = (
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n"
        "Dear Bob,\n- -- dashes\n- ---\n- item\n"
        "-----BEGIN PGP SIGNATURE-----\nVersion: 1\n\niQEz\n=abcd\n"
        "-----END PGP SIGNATURE-----\nPS\n"
    )
    assert without_armour(text) == "Dear Bob,\n-- dashes\n---\n- item\nPS\n"


@pytest.mark.parametrize("kind", ["MESSAGE", "PUBLIC KEY BLOCK", "PRIVATE KEY BLOCK"])
def test_encrypted_text_and_keys_are_removed(kind: str) -> None:
    block = f"-----BEGIN PGP {kind}-----\n\nhQEMA\n=xyz1\n-----END PGP {kind}-----\n"
    assert without_armour(f"Before\n{block}After\n{block}") == "Before\nAfter\n"


def test_a_signature_that_is_cut_off_is_removed() -> None:
    assert without_armour("Hi\n-----BEGIN PGP SIGNATURE-----\n\niQEzBA\nabc") == "Hi\n"


def test_quoted_armour_is_left_to_cleaning() -> None:
    text = "> -----BEGIN PGP MESSAGE-----\n> hQEMA\n> -----END PGP MESSAGE-----\n"
    assert without_armour(text) == text


def test_uuencoded_files_are_removed() -> None:
    text = "Attached.\nbegin 644 a.txt\n%2&5L;&\\\n`\nend\nBye\n"
    assert without_armour(text) == "Attached.\nBye\n"


def test_prose_that_begins_like_armour_stays() -> None:
    text = "We\nbegin 644 things\nand then Never\nend\n"
    assert without_armour(text) == text
