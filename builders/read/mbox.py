"""Cut mbox files into messages: mboxo, mboxrd, mboxcl, mboxcl2, and Gmail Takeout's.

A message begins at a "From " line, but so may a paragraph of somebody's mail in a file written by
a careless program, and programs disagree about what follows the word. A line that starts with
"From " at the left margin is taken for a separator if

- it has a weekday, a month and a time, and follows an empty line; or
- it has those and is followed by a header field; or
- it is bare, or names an address and nothing else, follows an empty line, and is followed by a
  header field;

and it does not lie within a body whose Content-Length leads exactly to the next separator (as in
mboxcl2, which quotes nothing). ">From " is unquoted as mboxrd says, one ">" at a time, which for
mboxo's single level is the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from builders.read.item import MESSAGE_LIMIT, OnError, RawItem, Reason, Unreadable
from builders.read.mime import is_cut_off
from builders.read.stream import Stream

_LOOKAHEAD: Final = 4096  # a separator and the beginning of the header field after it
_DATED = re.compile(
    rb"From .*\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)\b"
    rb".*\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\b.*\d:\d\d"
)
_BARE = re.compile(rb"From (?:-|\S+@\S+|MAILER-DAEMON)?[ \t]*\r?$", re.MULTILINE)
_FIELD_FOLLOWS = re.compile(rb".*\n(?:>From .*\n)?[A-Za-z][!-9;-~]*[ \t]*:")
_CONTENT_LENGTH = re.compile(rb"\ncontent-length:[ \t]*(\d{1,12})[ \t]*\r?\n", re.IGNORECASE)
_BLANK_LINE = re.compile(rb"\n\r?\n")
_QUOTED_FROM = re.compile(rb"^>(?=>*From )", re.MULTILINE)


def messages(
    stream: Stream, name: str, on_error: OnError, limit: int = MESSAGE_LIMIT
) -> Iterator[RawItem]:
    """Cut the messages out of ``stream``, one in memory at a time.

    Messages of more than ``limit`` bytes are reported and left out. If the file breaks off within
    its last message (no end of the header, no closing MIME boundary, a damaged compressed file),
    that message is reported and left out; if it only lacks its last line end, it is reported and
    still given, since many programs write such files.
    """
    last: tuple[str, bytes] | None = None
    for number, (offset, raw) in enumerate(_pieces(stream, limit), start=1):
        if last is not None:
            yield _item(*last)
        position = f"{name}, message {number} at byte {offset}"
        last = None if raw is None else (position, raw)
        if raw is None:
            on_error(Unreadable(position, Reason.TOO_LARGE))
    if last is None:
        if stream.damage is not None:
            on_error(Unreadable(name, stream.damage))
        return
    position, raw = last
    if stream.damage is not None:
        on_error(Unreadable(position, stream.damage))
        return
    body = raw[raw.find(b"\n") + 1 :]
    if is_cut_off(body):
        on_error(Unreadable(position, Reason.CUT_OFF))
        return
    if not raw.endswith((b"\n", b"\r")):
        on_error(Unreadable(position, Reason.NO_LINE_END))
    yield _item(position, raw)


def _item(position: str, raw: bytes) -> RawItem:
    """Take off the separator line and the quoting of "From "."""
    payload = raw[raw.find(b"\n") + 1 :]
    if b"\n>" in payload and b">From " in payload:
        payload = _QUOTED_FROM.sub(b"", payload)
    return RawItem(position, "rfc822", payload)


def _pieces(chunks: Iterable[bytes], limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield (offset, bytes from the separator to the next one), None for those beyond limit."""
    splitter = _Splitter(limit)
    for chunk in chunks:
        splitter.data += chunk
        yield from splitter.pieces(at_end=False)
    yield from splitter.pieces(at_end=True)


class _Splitter:
    """The part of an mbox that is in memory: from the current message's separator on."""

    def __init__(self, limit: int) -> None:
        self.data = bytearray()
        self._limit = limit
        self._offset = 0  # of data[0] in the file
        self._begin: int | None = None  # of the current message; None before the first
        self._searched = 0  # no later separator is preceded by a line end before this
        self._dropped: int | None = None  # offset in the file of a message too large to keep

    def pieces(self, *, at_end: bool) -> Iterator[tuple[int, bytes | None]]:
        """Yield the messages that are complete, and at the end the last one too."""
        if self._begin is None and (first := self.data.find(b"From ")) >= 0:
            self._begin, self._searched = first, first + 4
        if self._begin is None:
            return
        while (end := self._next_separator(at_end=at_end)) is not None:
            yield self._take(self._begin, end)
            self._begin = end
        if at_end:
            yield self._take(self._begin, len(self.data))
        else:
            self._forget(self._begin)

    def _take(self, begin: int, end: int) -> tuple[int, bytes | None]:
        dropped, self._dropped = self._dropped, None
        self._searched = end + 4
        if dropped is not None:
            return dropped, None
        fits = end - begin <= self._limit
        return self._offset + begin, bytes(self.data[begin:end]) if fits else None

    def _forget(self, begin: int) -> None:
        """Free what is not needed any more: what lies before begin, and too large a message."""
        if self._dropped is None and len(self.data) - begin > self._limit:
            self._dropped = self._offset + begin
        if self._dropped is not None:
            # All but the place where the next separator and the empty line before it may be.
            begin = max(begin, self._searched - 3)
        del self.data[:begin]
        self._offset += begin
        self._searched -= begin
        self._begin = 0

    def _next_separator(self, *, at_end: bool) -> int | None:
        """Return where the next message begins, None if that is not in memory yet."""
        while (line_end := self.data.find(b"\nFrom ", self._searched)) >= 0:
            at = line_end + 1
            self._searched = line_end
            if len(self.data) - at < _LOOKAHEAD and not at_end:
                return None
            if self._is_separator(at):
                declared = None if self._dropped is not None else self._declared_end()
                if declared is None or declared <= at:
                    return at
                if not at_end and len(self.data) - 16 < declared < self._limit:
                    return None
                if not self._ends_at(declared, at_end=at_end):
                    return at
            self._searched = at
        self._searched = max(self._searched, len(self.data) - 5)
        return None

    def _is_separator(self, at: int) -> bool:
        line = bytes(self.data[at : at + _LOOKAHEAD])
        after_blank = bytes(self.data[max(at - 3, 0) : at]).endswith((b"\n\n", b"\n\r\n"))
        field_follows = _FIELD_FOLLOWS.match(line) is not None
        if _DATED.match(line):
            return after_blank or field_follows
        return after_blank and field_follows and _BARE.match(line) is not None

    def _declared_end(self) -> int | None:
        """Where the current message's Content-Length says that it ends, as an index of data."""
        begin = self._begin or 0
        blank = _BLANK_LINE.search(self.data, begin)
        if blank is None:
            return None
        length = _CONTENT_LENGTH.search(self.data, begin, blank.start() + 1)
        return None if length is None else blank.end() + int(length[1])

    def _ends_at(self, end: int, *, at_end: bool) -> bool:
        rest = bytes(self.data[end : end + 16]).lstrip(b"\r\n")
        return rest.startswith(b"From ") or (at_end and not rest and end <= len(self.data))
