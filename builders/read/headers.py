"""Header fields of RFC 5322: finding, decoding, addresses, dates.

Written for the few fields that are needed and for mail as it is: raw 8-bit bytes, encoded words
where none are allowed, "Doe, Jane <jane@example.com>" without quotes, addresses that are none.
Nothing here raises on any input. (The standard library's parser builds a tree of every field,
which costs more than all the rest of reading, and raises on some of what spam contains.)
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_tz
from typing import Final

from builders.message import Address
from builders.read.charset import decode

_NAMES: Final = (
    "from sender reply-to to cc bcc subject date message-id content-type "
    "content-transfer-encoding content-disposition auto-submitted precedence x-autoreply "
    "x-autorespond x-auto-reply x-failed-recipients x-original-from x-from list-id list-post "
    "x-mailing-list mailing-list"
)
_FIELD = re.compile(
    rb"^(" + b"|".join(_NAMES.encode().split()) + rb")[ \t]*:(.*(?:\n[ \t].*)*)",
    re.IGNORECASE | re.MULTILINE,
)
_ANY_FIELD = re.compile(rb"^[A-Za-z][!-9;-~]*[ \t]*:", re.MULTILINE)
_FOLD = re.compile(r"[\r\n]+[ \t]*")
_LISTS: Final = frozenset({"to", "cc", "bcc"})  # fields that some programs write twice
_FIELD_LIMIT: Final = 2**18  # characters of one field that are looked at

Headers = dict[str, str]


def fields(block: bytes) -> Headers:
    """Map the lower-case names of the fields we use to their unfolded, still encoded, values.

    Where a field stands twice the first counts, except that recipients are joined.
    """
    found: Headers = {}
    for match in _FIELD.finditer(block):
        name = match[1].decode("ascii").lower()
        if name in found and name not in _LISTS:
            continue
        value = decode(match[2][:_FIELD_LIMIT], None)
        if "\n" in value:
            value = _FOLD.sub(" ", value)
        value = value.strip()
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def has_fields(block: bytes) -> bool:
    """Tell whether anything in ``block`` looks like a header field."""
    return _ANY_FIELD.search(block) is not None


# Encoded words (RFC 2047) -----------------------------------------------------------------------

_ENCODED_WORD = re.compile(r"=\?([\w.:+-]{1,40})(?:\*[^?]{0,40})?\?([bBqQ])\?([^?\r\n]*)\?=")
_BETWEEN_WORDS = re.compile(r"(?<=\?=)\s+(?==\?)")
_ENCODED_RUN = re.compile(rf'"?((?:{_ENCODED_WORD.pattern})+)"?')


def unencode(value: str) -> str:
    """Decode the encoded words of a field, and collapse white space."""
    if "=?" in value:
        value = _ENCODED_RUN.sub(lambda run: _decode_run(run[1]), _joined(value))
    return " ".join(value.split())


def _joined(value: str) -> str:
    return _BETWEEN_WORDS.sub("", value)


def _decode_run(run: str) -> str:
    """Decode adjacent encoded words; bytes are joined first, for some split within a character."""
    texts: list[str] = []
    pending, pending_charset = b"", ""
    for charset, encoding, payload in _ENCODED_WORD.findall(run):
        data = _decode_b(payload) if encoding in "bB" else _decode_q(payload)
        if charset.lower() != pending_charset and pending:
            texts.append(decode(pending, pending_charset))
            pending = b""
        pending, pending_charset = pending + data, charset.lower()
    texts.append(decode(pending, pending_charset))
    return "".join(texts)


def _decode_b(payload: str) -> bytes:
    data = re.sub(r"[^A-Za-z0-9+/]", "", payload)
    data = data[: len(data) - 1] if len(data) % 4 == 1 else data
    return base64.b64decode(data + "=" * (-len(data) % 4))


def _decode_q(payload: str) -> bytes:
    data = payload.replace("_", " ").encode("utf-8", "replace")
    return binascii.a2b_qp(data, header=False)


# Addresses --------------------------------------------------------------------------------------

_ONE_MAILBOX = re.compile(
    r"\s*+(?:\"?([^\"<>,;:@()\\=]*+)\"?\s*+<)?"
    r"([^\s<>,;:\"()\\@=]++@[^\s<>,;:\"()\\@=]++)>?\s*+"
)
_TOKEN = re.compile(
    r"\"(?P<quoted>(?:[^\"\\]|\\.)*)\"?"
    r"|<(?P<angle>[^<>]*)>?"
    r"|\((?P<comment>[^()]*)\)?"
    r"|(?P<end>[,;])"
    r"|(?P<group>:)"
    r"|(?P<text>[^\"(<,;:]+)"
    r"|.",
    re.DOTALL,
)
# begins where a token does: a long one without @ would be looked at from each of its characters
_ADDRESS = re.compile(r"(?<![^\s<>\"'(),;:@])[^\s<>\"'(),;:@]+@[^\s<>\"'(),;:@]+")


def addresses(value: str) -> tuple[Address, ...]:
    """Parse a list of mailboxes; one without an address keeps its name and has address "".

    A part without "@" before a mailbox in angle brackets is taken as the first half of an
    unquoted "Doe, Jane <jane@example.com>", and two without any address, the first of one word, as
    "Doe, Jane". Group names are dropped, their members kept.
    """
    if single := _ONE_MAILBOX.fullmatch(value):
        return (_address(single[1] or "", single[2]),)
    if "=?" in value:
        # Quoted, so that a comma within a decoded name does not end it.
        value = _ENCODED_RUN.sub(
            lambda run: '"' + _decode_run(run[1]).replace("\\", "").replace('"', "") + '"',
            _joined(value),
        )
    found = _mailboxes(value)
    if len(found) == 2 and not any(mailbox.address or " " in found[0].name for mailbox in found):
        return (Address(f"{found[0].name}, {found[1].name}", ""),)
    return tuple(found)


def _mailboxes(value: str) -> list[Address]:
    found: list[Address] = []
    words: list[str] = []
    angle: str | None = None
    comment = ""
    half = ""  # a part without an address, perhaps the first half of a name
    for token in _TOKEN.finditer(value + ","):
        kind = token.lastgroup
        if kind == "angle":
            angle = token["angle"]
        elif kind == "comment":
            comment = token["comment"]
        elif kind == "group":
            words.clear()
        elif kind == "quoted":
            words.append(re.sub(r"\\(.)", r"\1", token["quoted"]))
        elif kind == "text":
            words.append(token["text"])
        elif kind == "end":
            text = " ".join("".join(words).split())
            plain = None if angle is not None else _ADDRESS.search(text)
            if angle is not None:
                name = f"{half}, {text}" if half and text else half or text
                name = f"{name} ({comment})" if name and comment else name or comment
                found.append(_address(name, angle))
                half = ""
            else:
                if half:
                    found.append(Address(half, ""))
                    half = ""
                if plain:
                    rest = (text[: plain.start()] + text[plain.end() :]).strip("'\" ")
                    found.append(_address(rest or comment, plain[0]))
                else:
                    half = text
            words.clear()
            angle, comment = None, ""
    if half:
        found.append(Address(half, ""))
    return found


def _address(name: str, address: str) -> Address:
    address = address.strip().lower().removeprefix("mailto:").strip("'\" ")
    if address.startswith("@"):  # an obsolete route: <@relay.example:jane@example.com>
        address = address.rpartition(":")[2]
    address = "".join(address.split()) if "@" in address else ""
    name = " ".join(name.split())
    if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"":
        name = name[1:-1].strip()
    return Address("" if name.lower() == address else name, address)


def exchange_name(value: str) -> str:
    """The display name in an X-From field: "Doe, Jane </O=X/CN=JDOE>", "Jane Doe@ECT"."""
    name = re.sub(r"<[^<>]*>?|\([^()]*\)", " ", value).replace('"', " ").partition("@")[0]
    name = " ".join(unencode(name).split())
    return name if " " in name else ""


# Dates ------------------------------------------------------------------------------------------

_MONTHS: Final = "jan feb mar apr may jun jul aug sep oct nov dec"
_MAIL_DATE = re.compile(
    r"(?:[A-Za-z]{3},?\s+)?(\d{1,2})\s+([A-Za-z]{3})\s+(\d{4})\s+(\d\d):(\d\d)(?::(\d\d))?"
    r"\s+([+-])(\d\d)(\d\d)(?!\d)"
)
EARLIEST_YEAR: Final = 1990  # mail with older dates comes from clocks that were never set


def date(value: str | None) -> datetime | None:
    """Parse RFC 5322 or ISO 8601 to UTC; None if it is neither, or before 1990.

    A time without a zone is taken for UTC.
    """
    if not value:
        return None
    value = value.strip()[:100]
    try:
        if fast := _MAIL_DATE.match(value):
            return _mail_date(fast)
        if value[:4].isdigit():
            return in_utc(datetime.fromisoformat(value))
        parsed = parsedate_tz(value)
        if parsed is None:
            return None
        zone = timezone(timedelta(seconds=parsed[9] or 0))
        return in_utc(datetime(*parsed[:6], tzinfo=zone))
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def _mail_date(match: re.Match[str]) -> datetime | None:
    day, month, year, hour, minute, second, sign, hours, minutes = match.groups()
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    zone = timezone(-offset if sign == "-" else offset)
    at = _MONTHS.find(month.lower())
    if at % 4:  # not found, or not at the beginning of a name
        return None
    leap = min(int(second or 0), 59)  # a leap second is a valid time that datetime lacks
    return in_utc(
        datetime(int(year), at // 4 + 1, int(day), int(hour), int(minute), leap, tzinfo=zone)
    )


def in_utc(moment: datetime) -> datetime | None:
    """Convert to UTC; None if before 1990. Raises OverflowError at the end of the calendar."""
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment if moment.year >= EARLIEST_YEAR else None
