"""MIME trees: which part holds what the author typed.

A `Part` is a range of the message's bytes, so nothing is copied until a part's text is wanted and
attachments cost only the search for the boundary that ends them.

===========================  ====================================================================
part                         text taken from it
===========================  ====================================================================
text/plain                   itself
text/html, text/enriched     itself, as plain text
text/* else                  none (patches, calendars, cards, tables)
multipart/alternative        text/plain unless empty or a stub, else the last part with text
multipart/related, signed    the first part with text
multipart/encrypted, digest  none
multipart/* else             all parts, one below the other
message/*                    none: someone else's words, or a machine's
an attachment                none (Content-Disposition: attachment, or a part with a name)
===========================  ====================================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from builders.read.charset import decode, unwrap
from builders.read.headers import Headers, fields, has_fields
from builders.read.html import html_text
from builders.read.plain import (
    normalized,
    unflowed,
    without_armour,
    without_quoted_printable,
)

_BLANK_LINE = re.compile(rb"\n\r?\n")
_PARAMETER = re.compile(r";\s*([^\s=;\"]+?)(?:\*0?\*?)?\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"?|([^;]*))")
_TYPE = re.compile(r"\s*([A-Za-z0-9.+-]+)\s*/\s*([A-Za-z0-9.+_-]+)")
_STUB = re.compile(
    r"\b(?:html|mime|rich[ -]text)\b.{0,80}\b(?:view|viewer|client|reader|browser|program|support"
    r"|display|format|message|e-?mail)|(?:does|do|can)(?: not|n.t) support html",
    re.IGNORECASE | re.DOTALL,
)
_STUB_LENGTH: Final = 300  # characters; a longer text is somebody's even if it speaks of HTML
_TAG = re.compile(r"<(?!<)[^<>]{0,80}>")
_DEPTH_LIMIT: Final = 30  # nested multiparts; real mail has 4 or 5
_PART_LIMIT: Final = 2000  # parts of one message that are looked at
_TEXT_LIMIT: Final = 4 * 2**20  # bytes of one text part: far more than anybody types


@dataclass(frozen=True, slots=True)
class Part:
    """A node of the MIME tree: its header fields, and its body as a range of ``raw``."""

    raw: bytes
    start: int
    end: int
    fields: Headers
    type: str  # such as "text/plain", lower case
    parameters: dict[str, str]

    def __repr__(self) -> str:
        return f"Part({self.type}, {self.end - self.start} bytes)"

    @property
    def is_attachment(self) -> bool:
        """Whether the part is a file sent along rather than text to be read in place."""
        disposition = self.fields.get("content-disposition", "").lower()
        return disposition.startswith("attachment") or (
            not self.type.startswith("multipart/")
            and ("name" in self.parameters or "filename" in disposition)
        )


def root(raw: bytes) -> Part | None:
    """The message as a part; None if it does not begin with header fields."""
    return _part(raw, 0, len(raw), "text/plain")


def _part(raw: bytes, start: int, end: int, default_type: str) -> Part | None:
    if raw.startswith((b"\n", b"\r\n"), start, end):  # no header at all: allowed within a tree
        block, body = b"", start + (1 if raw[start] == 0x0A else 2)
    else:
        blank = _BLANK_LINE.search(raw, start, end)
        block = raw[start : blank.start() + 1 if blank else end]
        body = blank.end() if blank else end
    if not has_fields(block):
        return None
    found = fields(block)
    kind, parameters = content_type(found.get("content-type", ""), default_type)
    return Part(raw, body, end, found, kind, parameters)


def content_type(value: str, default: str = "text/plain") -> tuple[str, dict[str, str]]:
    """Parse a Content-Type; ``default`` if there is none that is valid."""
    match = _TYPE.match(value)
    kind = f"{match[1]}/{match[2]}".lower() if match else default
    parameters: dict[str, str] = {}
    for name, quoted, plain in _PARAMETER.findall(value):
        parameters.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) or plain.strip())
    return kind, parameters


def children(part: Part) -> Iterator[Part]:
    """The parts of a multipart; none if it declares no boundary."""
    default = "message/rfc822" if part.type == "multipart/digest" else "text/plain"
    for start, end in _ranges(part):
        child = _part(part.raw, start, end, default)
        if child is None:  # a part without header fields is plain text from its beginning
            child = Part(part.raw, start, end, {}, default, {})
        yield child


def _ranges(part: Part) -> Iterator[tuple[int, int]]:
    boundary = part.parameters.get("boundary", "").rstrip()
    if not boundary:
        return
    delimiter = b"--" + boundary.encode("utf-8", "replace")
    begin: int | None = None
    for at, after, closes in _delimiters(part, delimiter):
        if begin is not None:
            yield begin, max(begin, at)
        begin = after
        if closes:
            return
    if begin is not None:  # never closed: the last part goes on to the end
        yield begin, part.end


def _delimiters(part: Part, delimiter: bytes) -> Iterator[tuple[int, int, bool]]:
    """Yield (end of what stands before, begin of what follows, closes) of each delimiter line."""
    raw, position = part.raw, part.start
    while (at := raw.find(delimiter, position, part.end)) >= 0:
        position = at + len(delimiter)
        if at > part.start and raw[at - 1] != 0x0A:
            continue
        line_end = raw.find(b"\n", position, part.end)
        line_end = part.end if line_end < 0 else line_end
        rest = raw[position:line_end].strip()
        if rest not in (b"", b"--"):  # the boundary of another part that begins alike
            continue
        position = min(line_end + 1, part.end)
        before = at - 1 if at > part.start else at
        if before > part.start and raw[before - 1] == 0x0D:
            before -= 1
        yield before, position, rest == b"--"


def is_cut_off(raw: bytes) -> bool:
    """Tell whether a message ends within its header, or before its closing boundary."""
    part = root(raw)
    if part is None:
        return False
    if part.start == part.end and _BLANK_LINE.search(raw) is None:
        return True
    boundary = part.parameters.get("boundary", "").rstrip()
    if not part.type.startswith("multipart/") or not boundary:
        return False
    delimiter = b"--" + boundary.encode("utf-8", "replace")
    return not any(closes for _, _, closes in _delimiters(part, delimiter))


class Text:
    """Choose and decode the text of a message.

    After ``of``, ``calendar`` says whether the text was one form of an invitation or an answer to
    one, and ``report`` whether a delivery or read report was among the parts.
    """

    def __init__(self) -> None:
        self.calendar = False
        self.report = False
        self._parts_left = _PART_LIMIT

    def of(self, part: Part) -> str:
        """Return the text of a whole message."""
        if part.fields.get("content-disposition", "").lower().startswith("attachment"):
            return ""
        return self._of(part, 0)

    def _of(self, part: Part, depth: int) -> str:
        self._parts_left -= 1
        if part.type.startswith("text/"):
            return self._leaf(part)
        if part.type in ("message/delivery-status", "message/disposition-notification"):
            self.report = True
        if (
            not part.type.startswith("multipart/")
            or part.type == "multipart/encrypted"
            or depth == _DEPTH_LIMIT
        ):
            return ""
        if part.type == "multipart/alternative":
            return self._alternative(part, depth)
        texts = self._texts(part, depth)
        if part.type in ("multipart/related", "multipart/signed"):
            return next(texts, "")
        return "\n".join(text if text.endswith("\n") else text + "\n" for text in texts)

    def _texts(self, part: Part, depth: int) -> Iterator[str]:
        for child in children(part):
            if self._parts_left <= 0:
                return
            if not child.is_attachment and (text := self._of(child, depth + 1)).strip():
                yield text

    def _alternative(self, part: Part, depth: int) -> str:
        forms = [child for child in children(part) if not child.is_attachment]
        plain = ""
        for form in forms:
            if form.type == "text/calendar":
                self._leaf(form)
            elif form.type == "text/plain" and not plain.strip():
                plain = self._of(form, depth + 1)
        if plain.strip() and not _is_stub(plain):
            return plain
        for form in reversed(forms):
            if self._parts_left <= 0:
                break
            if form.type != "text/plain" and (text := self._of(form, depth + 1)).strip():
                return text
        return plain

    def _leaf(self, part: Part) -> str:
        if part.type == "text/calendar":
            method = part.parameters.get("method", "").lower()
            self.calendar |= method in ("request", "reply", "cancel", "counter", "refresh")
            return ""
        if part.type not in ("text/plain", "text/html", "text/enriched", "text/richtext"):
            return ""
        encoding = part.fields.get("content-transfer-encoding", "")
        data = unwrap(part.raw[part.start : min(part.end, part.start + _TEXT_LIMIT)], encoding)
        text = decode(data, part.parameters.get("charset"))
        if part.type == "text/html":
            return normalized(html_text(normalized(text)))
        text = normalized(text)
        if part.type != "text/plain":
            return _TAG.sub("", text).replace("<<", "<")
        if part.parameters.get("format", "").lower() == "flowed":
            text = unflowed(text, delete_space=part.parameters.get("delsp", "").lower() == "yes")
        if "=" in text and encoding.lower() not in ("quoted-printable", "base64"):
            text = without_quoted_printable(text)
        return without_armour(text)


def _is_stub(plain: str) -> bool:
    """Tell a text that only says that there is an HTML form from one that somebody wrote."""
    return len(plain) <= _STUB_LENGTH and _STUB.search(plain) is not None
