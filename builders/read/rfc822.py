"""One message in RFC 5322 format: from bytes to a `Message`."""

from __future__ import annotations

from builders.message import Address, Message
from builders.read import mime
from builders.read.headers import Headers, addresses, date, exchange_name, unencode
from builders.read.item import Reason

_LIST_FIELDS = ("list-id", "list-post", "x-mailing-list", "mailing-list")


def parse(raw: bytes, position: str, *, with_body: bool = True) -> Message | Reason:
    """Read a message; the reason if it cannot be read.

    ``with_body=False`` reads the header only: the body is "", and ``automatic`` knows only what
    the header says.
    """
    if raw.isspace() or not raw:
        return Reason.EMPTY
    part = mime.root(_begun(raw))
    if part is None:
        return Reason.NOT_MAIL
    fields = part.fields
    automatic = _automatic(fields, part.type)
    body = ""
    if with_body:
        text = mime.Text()
        body = text.of(part)
        if automatic is None and (text.report or text.calendar):
            automatic = "report" if text.report else "calendar"
    author = addresses(fields.get("from", ""))
    if len(author) == 1 and not author[0].name and "x-from" in fields:
        author = (Address(exchange_name(fields["x-from"]), author[0].address),)
    # Lists that put their own address into From save the writer's here.
    reply_to = addresses(fields.get("x-original-from", "")) + addresses(fields.get("reply-to", ""))
    recipients = ", ".join(fields[name] for name in ("to", "cc", "bcc") if fields.get(name))
    return Message(
        position=position,
        user=None,
        message_id=fields.get("message-id") or None,
        date=date(fields.get("date")),
        author=author,
        sender=addresses(fields.get("sender", "")),
        reply_to=reply_to,
        recipients=addresses(recipients),
        subject=unencode(fields.get("subject", "")),
        body=body,
        automatic=automatic,
    )


def _begun(raw: bytes) -> bytes:
    """Take off what stands before the header: empty lines, a stray separator, a byte order mark.

    Files of old Macintosh programs have lines that end with CR alone.
    """
    if raw.startswith((b"\r", b"\n", b"\xef\xbb\xbf", b" ", b"\t")):
        raw = raw.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n\t ")
    if raw.startswith((b"From ", b">From ")):
        raw = raw[raw.find(b"\n") + 1 :]
    if b"\n" not in raw:
        raw = raw.replace(b"\r", b"\n")
    return raw


def _automatic(fields: Headers, content_type: str) -> str | None:
    """Say why no person wrote the message, as far as its header tells."""
    if content_type in (
        "multipart/report",
        "message/delivery-status",
        "message/disposition-notification",
    ) or ("x-failed-recipients" in fields):
        return "report"
    if content_type == "text/calendar":
        return "calendar"
    if fields.get("auto-submitted", "no").lower().partition(";")[0].strip() != "no":
        return "auto-reply"
    if not fields.keys().isdisjoint(("x-autoreply", "x-autorespond", "x-auto-reply")):
        return "auto-reply"
    precedence = fields.get("precedence", "").lower()
    if precedence in ("junk", "auto_reply", "auto-reply"):
        return "auto-reply"
    # Old list software marks what people write to a list as bulk, too.
    if precedence == "bulk" and fields.keys().isdisjoint(_LIST_FIELDS):
        return "auto-reply"
    return None
