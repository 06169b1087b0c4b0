"""The invariant: whatever the bytes, parsing gives a Message of clean text or an Unreadable."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from builders.message import Message
from builders.read import RawItem, Unreadable, parse, parse_headers

SEEDS = [
    b'From: =?utf-8?Q?J=C3=A4ne?= <jane@example.org>\nTo: "Doe, Bob" <bob@example.org>,\n c@x.org\n'
    b"Date: Mon, 6 Jan 2020 09:30:00 +0100\nSubject: =?iso-8859-1?B?R3L832U=?=\n"
    b"Content-Type: text/plain; charset=utf-8; format=flowed; delsp=yes\n"
    b"Content-Transfer-Encoding: quoted-printable\n\nHello=20\nthere =C3=BC=\n end\n> quote\n",
    b"From: jane@example.org\nMIME-Version: 1.0\n"
    b'Content-Type: multipart/mixed; boundary="a"\n\n--a\n'
    b"Content-Type: multipart/alternative; boundary=b\n\n--b\n"
    b"Content-Type: text/plain; charset=utf-16\nContent-Transfer-Encoding: base64\n\n"
    b"//5IAGkA\n--b\nContent-Type: text/html; charset=utf-7\n\n"
    b"<div>Hi<blockquote>x</blockquote></div>\n--b--\n--a\n"
    b"Content-Type: text/plain\nContent-Transfer-Encoding: x-uuencode\n\n"
    b"begin 644 x\n#86)C\n`\nend\n--a--\n",
    b"From: j@example.org\n\n-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA1\n\n- -x\n"
    b"-----BEGIN PGP SIGNATURE-----\n\nabc\n-----END PGP SIGNATURE-----\n",
    b'{"from": "jane@example.org", "body": "x=3Dy=20\\n", "date": "2020-01-06", "raw": null}',
    b'{"raw": "From: x@y.org\\nContent-Type: text/html\\n\\n<p>x"}',
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A seed with some pieces of it replaced, removed, doubled or swapped for those of another."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(data)))
        to = min(len(data), at + draw(st.integers(0, 30)))
        other = draw(st.sampled_from(SEEDS))
        begin = draw(st.integers(0, len(other)))
        data[at:to] = draw(
            st.one_of(
                st.binary(max_size=8),
                st.just(bytes(data[at:to]) * 2),
                st.just(other[begin : begin + 40]),
                st.sampled_from(
                    [b"\n", b"\r\n\r\n", b"=?", b"?=", b"--a", b'"', b"<", b"\0", b";"]
                ),
            )
        )
    return bytes(data)


def check(payload: bytes) -> None:
    for kind in ("rfc822", "json"):
        for how in (parse, parse_headers):
            result = how(RawItem("x", kind, payload))
            if isinstance(result, Unreadable):
                assert result.position == "x"
                continue
            assert isinstance(result, Message)
            texts = [result.body, result.subject, result.message_id or ""]
            people = result.author + result.sender + result.reply_to + result.recipients
            texts += [part for person in people for part in (person.name, person.address)]
            for text in texts:
                text.encode("utf-8")
            assert "\r" not in result.body
            assert "\0" not in result.body


@settings(max_examples=400)
@given(damaged())
def test_damaged_messages(payload: bytes) -> None:
    check(payload)


@given(st.binary(max_size=200))
def test_arbitrary_bytes(payload: bytes) -> None:
    check(payload)
    check(b"From: " + payload)
    check(b'Content-Type: text/html; charset="' + payload)
