"""Bytes to text with right, wrong and missing labels, and damaged transfer encodings."""

from __future__ import annotations

import base64
import binascii
import quopri

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.read.charset import decode, unwrap

TEXT = "Grüße, “naïve” café"


@pytest.mark.parametrize(
    ("data", "label", "text"),
    [
        (b"plain", None, "plain"),
        (TEXT.encode(), "utf-8", TEXT),
        (TEXT.encode(), None, TEXT),
        (TEXT.encode(), "us-ascii", TEXT),
        (TEXT.encode(), "iso-8859-1", TEXT),  # wrongly labelled UTF-8
        (TEXT.encode(), "x-unknown", TEXT),
        (TEXT.encode("cp1252"), "utf-8", TEXT),  # wrongly labelled Windows-1252
        (TEXT.encode("cp1252"), "iso-8859-1", TEXT),  # its quotes are no control characters
        (TEXT.encode("cp1252"), None, TEXT),
        ("Привет".encode("koi8-r"), "KOI8-R", "Привет"),
        ("Привет".encode("cp1251"), '"windows-1251"', "Привет"),
        ("日本語".encode("iso2022_jp"), "ISO-2022-JP", "日本語"),
        ("日本語".encode("shift_jis"), "shift_jis", "日本語"),
        ("中文".encode("gbk"), "gb2312", "中文"),
        ("한국어".encode("cp949"), "ks_c_5601-1987", "한국어"),
        ("“hi”".encode("utf-16"), "utf-16", "“hi”"),
        ("hi".encode("utf-16-le"), "utf-16-le", "hi"),
        ("10 €".encode("iso8859-15"), "iso-8859-15", "10 €"),
        ((TEXT * 5).encode() + b"\xc3", "utf-8", TEXT * 5 + "\ufffd"),  # cut within a character
        (b"caf\xe9 \x81", None, "café \x81"),
        (b"rot13 is no charset \xe9", "rot13", "rot13 is no charset é"),
        (b"nor is base64 \xe9", "base64", "nor is base64 é"),
        (b"\\u0041 \xe9", "unicode_escape", "\\u0041 é"),
        (b"\xe9", "\0" * 3, "é"),
        (b"\xe9", "x" * 5000, "é"),
    ],
)
def test_decode(data: bytes, label: str | None, text: str) -> None:
    assert decode(data, label) == text


@given(st.binary(), st.none() | st.text(max_size=12) | st.sampled_from(["utf-7", "utf-16", "hz"]))
def test_decoding_never_fails(data: bytes, label: str | None) -> None:
    assert isinstance(decode(data, label), str)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_utf8_is_utf8_under_any_label_of_one_byte_charsets(text: str) -> None:
    for label in (None, "utf-8", "us-ascii", "iso-8859-1", "windows-1252", "koi8-r"):
        assert decode(text.encode(), label) == text


@given(st.binary())
def test_transfer_encodings_are_undone(data: bytes) -> None:
    assert unwrap(base64.encodebytes(data), "BASE64 ") == data
    text = data.replace(b"\r", b"")  # quoted-printable is for text: line ends are not its matter
    assert unwrap(quopri.encodestring(text), "Quoted-Printable") == text
    lines = [binascii.b2a_uu(data[i : i + 45]) for i in range(0, len(data), 45)]
    packed = b"begin 644 x\n" + b"".join(lines) + b"`\nend\n"
    assert unwrap(packed, "x-uuencode") == data
    assert unwrap(data, "8bit") == unwrap(data, "binary") == unwrap(data, "nonsense") == data


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"SGVsbG8", b"Hello"),
        (b"SGVsbG8==", b"Hello"),
        (b"SGVs\r\nbG8=\r\n", b"Hello"),
        (b"SGVs!*bG8=", b"Hello"),
        (b"SGVsbG8gdGhlcmU", b"Hello there"),
        (b"SGVsb", b"Hel"),
        (b"=", b""),
        (b"", b""),
    ],
)
def test_damaged_base64(data: bytes, expected: bytes) -> None:
    assert unwrap(data, "base64") == expected


def test_quoted_printable_with_soft_breaks_and_stray_signs() -> None:
    assert unwrap(b"one =\r\ntwo=3D =zz =C3=BC\r\n", "quoted-printable") == (
        "one two= =zz ü\r\n".encode()
    )
    assert unwrap(b"one = \ntwo", "quoted-printable") == b"one two"


@given(st.binary())
def test_damaged_encodings_never_fail(data: bytes) -> None:
    for encoding in ("base64", "quoted-printable", "x-uuencode"):
        unwrap(b"begin 644 x\n" + data, encoding)
        unwrap(data, encoding)
