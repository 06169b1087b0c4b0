"""Which part of a MIME tree is the author's text, and how it is decoded."""

from __future__ import annotations

import email.policy
from email.message import EmailMessage

import pytest

from builders.message import Address, Message
from builders.read import RawItem, Unreadable, parse

HEAD = b"From: Jane <jane@example.org>\nMIME-Version: 1.0\n"


def read_bytes(raw: bytes) -> Message:
    message = parse(RawItem("x", "rfc822", raw))
    assert not isinstance(message, Unreadable)
    return message


def body(raw: bytes) -> str:
    return read_bytes(HEAD + raw).body


def multipart(kind: str, *parts: str) -> str:
    """A multipart as text; parts begin with their header fields."""
    boundary = f"=_{kind}_{sum(map(len, parts))}"
    inner = "".join(f"--{boundary}\n{part}\n" for part in parts)
    return f'Content-Type: multipart/{kind}; boundary="{boundary}"\n\n{inner}--{boundary}--\n'


PLAIN = "Content-Type: text/plain\n\nplain text\n"
HTML = "Content-Type: text/html\n\n<p>html text</p>\n"
STUB = "Content-Type: text/plain\n\nYour mail client does not support HTML.\n"
EMPTY = "Content-Type: text/plain\n\n \n"
ATTACHED = 'Content-Type: text/plain; name="notes.txt"\n\nattached\n'
DISPOSED = "Content-Type: text/plain\nContent-Disposition: attachment\n\nattached\n"
FILED = 'Content-Type: text/plain\nContent-Disposition: inline; filename="a.txt"\n\nattached\n'
PATCH = "Content-Type: text/x-patch\n\n--- a\n+++ b\n"
CALENDAR = "Content-Type: text/calendar; method=REQUEST\n\nBEGIN:VCALENDAR\n"
FORWARDED = "Content-Type: message/rfc822\n\nFrom: bob@example.org\n\nforwarded\n"
IMAGE = "Content-Type: image/png\nContent-Transfer-Encoding: base64\n\niVBORw==\n"
SIGNATURE = "Content-Type: application/pgp-signature\n\n-----BEGIN PGP SIGNATURE-----\n"
BARE = "\nno header"


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (PLAIN, "plain text"),
        (HTML, "html text"),
        (multipart("alternative", PLAIN, HTML), "plain text"),
        (multipart("alternative", HTML, PLAIN), "plain text"),
        (multipart("alternative", STUB, HTML), "html text"),
        (multipart("alternative", EMPTY, HTML), "html text"),
        (multipart("alternative", STUB), "Your mail client does not support HTML."),
        (multipart("alternative", EMPTY, multipart("related", HTML, IMAGE)), "html text"),
        (multipart("mixed", multipart("alternative", PLAIN, HTML), IMAGE), "plain text"),
        (multipart("mixed", PLAIN, ATTACHED, DISPOSED, FILED, PATCH, FORWARDED), "plain text"),
        (multipart("mixed", PLAIN, IMAGE, HTML), "plain text html text"),
        (multipart("mixed", PLAIN, BARE), "plain text no header"),
        (multipart("signed", PLAIN, SIGNATURE), "plain text"),
        (multipart("signed", multipart("mixed", PLAIN, PATCH), SIGNATURE), "plain text"),
        (multipart("encrypted", PLAIN), ""),
        (multipart("digest", "\nFrom: bob@example.org\n\nforwarded"), ""),
        (multipart("whatever", PLAIN, HTML), "plain text html text"),
        (DISPOSED, ""),
        (CALENDAR, ""),
        ("Content-Type: text/enriched\n\n<bold>Hi</bold> a<<b\n", "Hi a<b"),
        ("Content-Type: nonsense\n\nplain text\n", "plain text"),
        ("Content-Type: text\n\nplain text\n", "plain text"),
        ("Content-Type: multipart/mixed\n\nno boundary\n", ""),
        ("Content-Type: image/png\n\nabc\n", ""),
    ],
)
def test_choice_of_text(tree: str, words: str) -> None:
    assert " ".join(body(tree.encode()).split()) == words
    assert " ".join(body(tree.encode().replace(b"\n", b"\r\n")).split()) == words


def test_a_boundary_that_begins_like_another() -> None:
    inner = 'Content-Type: multipart/alternative; boundary="ab"\n\n--ab\n\nin\n--ab--\n'
    tree = f'Content-Type: multipart/mixed; boundary="a"\n\n--a\n{inner}--a\n\nout\n--a--\n'
    assert body(tree.encode()).split() == ["in", "out"]


def test_what_stands_before_and_after_the_parts_is_no_text() -> None:
    tree = (
        "Content-Type: multipart/mixed; boundary=b\n\nThis is MIME.\n--b\n\nin\n--b--\nepilogue\n"
    )
    assert body(tree.encode()).split() == ["in"]


def test_missing_closing_boundary() -> None:
    assert body(b"Content-Type: multipart/mixed; boundary=b\n\n--b\n\nin\n").split() == ["in"]


def test_depth_and_number_of_parts_are_bounded() -> None:
    tree = PLAIN
    for _ in range(200):
        tree = multipart("mixed", tree)
    assert body(tree.encode()) == ""
    many = multipart("mixed", *["\nx"] * 5000)
    assert body(many.encode()).split() == ["x"] * 1999


@pytest.mark.parametrize("encoding", ["7bit", "quoted-printable", "base64", "8bit"])
@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1", "windows-1252"])
def test_what_the_standard_library_writes_is_read(encoding: str, charset: str) -> None:
    text = "Hello there,\n\n" + ("Grüße = " if encoding != "7bit" else "Greetings = ") * 20 + "\n"
    message = EmailMessage(policy=email.policy.SMTP)
    message["From"] = "Jäne Doe <jane@example.org>"
    message["To"] = "Bob <bob@example.org>, carol@example.org"
    message["Subject"] = "Grüße an alle, die ihn lesen, und einen langen Betreff dazu, sehr lang"
    message.set_content(text, charset=charset, cte=encoding)
    message.add_alternative("<p>no</p>", subtype="html")
    message.add_attachment(b"\0" * 1000, maintype="application", subtype="pdf", filename="a.pdf")
    found = read_bytes(message.as_bytes())
    assert found.body.strip() == text.strip()
    assert found.subject == message["Subject"]
    assert found.author == (Address("Jäne Doe", "jane@example.org"),)
    assert found.recipients == (Address("Bob", "bob@example.org"), Address("", "carol@example.org"))


def test_format_flowed_and_delsp() -> None:
    assert body(b"Content-Type: text/plain; format=flowed\n\nHello \nthere\n") == "Hello there\n"
    flowed = b"Content-Type: text/plain; format=Flowed; delsp=YES\n\nHel \nlo\n"
    assert body(flowed) == "Hello\n"


def test_encapsulated_line_ends_of_base64_text() -> None:
    raw = b"Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\nYQ0KYg0K\n"
    assert body(raw) == "a\nb\n"


@pytest.mark.parametrize(
    ("fields", "automatic"),
    [
        ("", None),
        ("Auto-Submitted: no\n", None),
        ("Auto-Submitted: auto-replied\n", "auto-reply"),
        ("Auto-Submitted: auto-generated; owner=x\n", "auto-reply"),
        ("X-Autoreply: yes\n", "auto-reply"),
        ("Precedence: auto_reply\n", "auto-reply"),
        ("Precedence: junk\n", "auto-reply"),
        ("Precedence: bulk\n", "auto-reply"),
        ("Precedence: bulk\nList-Id: <x.example.org>\n", None),
        ("Precedence: list\n", None),
        ("X-Failed-Recipients: bob@example.org\n", "report"),
        (multipart("report", PLAIN, "Content-Type: message/delivery-status\n\nx\n"), "report"),
        (multipart("mixed", PLAIN, "Content-Type: message/delivery-status\n\nx\n"), "report"),
        ("Content-Type: message/disposition-notification\n\nx\n", "report"),
        (CALENDAR, "calendar"),
        (multipart("alternative", PLAIN, CALENDAR), "calendar"),
        (multipart("mixed", PLAIN, CALENDAR.replace("; m", '; name="i.ics"; m')), None),
        (multipart("alternative", PLAIN, CALENDAR.replace("REQUEST", "PUBLISH")), None),
    ],
)
def test_what_no_person_wrote(fields: str, automatic: str | None) -> None:
    if "\n\n" not in fields:
        fields += "\nHello\n"
    assert read_bytes(HEAD + fields.encode()).automatic == automatic


def test_fields_of_the_message() -> None:
    raw = (
        b"From: jane.doe@example.org\nX-From: Doe, Jane </O=ORG/CN=JDOE>\n"
        b"Sender: Bob <bob@example.org>\nReply-To: list@example.org\n"
        b"X-Original-From: Jane <jane@home.example>\nTo: a@x.org\nCc: b@x.org\nBcc:\n"
        b"Message-ID: <1@x>\nDate: Mon, 6 Jan 2020 09:30:00 +0100\n\nHi\n"
    )
    found = read_bytes(raw)
    assert found.author == (Address("Doe, Jane", "jane.doe@example.org"),)
    assert found.sender == (Address("Bob", "bob@example.org"),)
    assert [a.address for a in found.reply_to] == ["jane@home.example", "list@example.org"]
    assert [a.address for a in found.recipients] == ["a@x.org", "b@x.org"]
    assert found.message_id == "<1@x>"
    assert found.date is not None
    assert found.date.isoformat() == "2020-01-06T08:30:00+00:00"
    assert found.user is None


@pytest.mark.parametrize(
    "before",
    [b"\n\n", b"\r\n", b"\xef\xbb\xbf", b"From jane Mon Jan  6 09:30:00 2020\n", b">From x\n"],
)
def test_what_stands_before_the_header_is_passed_over(before: bytes) -> None:
    assert read_bytes(before + HEAD + b"\nHi\n").author[0].name == "Jane"


def test_line_ends_of_old_macintosh_programs() -> None:
    assert read_bytes((HEAD + b"\nHi\nthere\n").replace(b"\n", b"\r")).body == "Hi\nthere\n"


def test_header_only_messages_have_an_empty_body() -> None:
    assert read_bytes(HEAD).body == ""
    assert read_bytes(HEAD + b"\n").body == ""


@pytest.mark.parametrize("raw", [b"", b"\n\n \n", b"no header here\n\nbody\n", b"\0" * 100])
def test_no_message(raw: bytes) -> None:
    assert isinstance(parse(RawItem("x", "rfc822", raw)), Unreadable)


def test_a_large_attachment_is_not_decoded() -> None:
    import tracemalloc

    attachment = "Content-Type: application/pdf\nContent-Transfer-Encoding: base64\n\n"
    tree = multipart("mixed", PLAIN, attachment + ("QUJD" * 19 + "\n") * 260_000)  # 20 MB
    raw = HEAD + tree.encode()
    tracemalloc.start()
    assert read_bytes(raw).body.strip() == "plain text"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
