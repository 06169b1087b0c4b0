"""The line model that every rule of ``builders.clean`` works on, and how zones come out of it.

Theory of operation
-------------------
Mail is written, quoted and wrapped by lines, so the rules judge lines. A body is split once;
every line keeps its offset in the body and its stripped text. A rule *marks* lines with a kind,
or *cuts* a span inside one line ("Hi Bob, could you ..."). What a rule has marked, later rules
leave alone, so the order of the rules is their precedence. Lines without a kind are the author's
own so far.

At the end neighbouring marked lines of one kind become one zone (blank lines between them
included) that reaches from the first to the last visible character, and the text is whatever is
left, with blank lines and trailing spaces tidied.

Everything is linear in the length of the body. No rule, here or elsewhere in the package, runs
an open-ended pattern over a line longer than ``LONG``: such a line is a paragraph or a data dump,
never a marker.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

LONG = 400
"""Lines longer than this many characters are never examined as markers."""

_BLANK_RUN = re.compile(r"\n{3,}")
_DAMAGE = re.compile(r"[A-Za-z]{1,2}>")


@dataclass(frozen=True, slots=True)
class Zone:
    """A removed part of a body: its kind and its half-open span of character offsets."""

    kind: str
    start: int
    end: int


class Lines:
    """A body split at ``\\n``, with a mutable kind per line (None: the author's own so far).

    ``text[i]`` is line i without surrounding whitespace (empty for a blank line), ``start[i]``
    the offset of its first character in the body, before stripping.
    """

    __slots__ = ("_own", "_parts", "body", "kind", "raw", "start", "text")

    def __init__(self, body: str) -> None:
        self.body = body
        self.raw = body.split("\n")
        self.start: list[int] = []
        self._parts: list[Zone] = []
        position = 0
        for line in self.raw:
            self.start.append(position)
            position += len(line) + 1
        if _DAMAGE.match(body):
            self._undamage()
        self.text = [line.strip() for line in self.raw]
        if "=20" in body:
            # Left over from quoted-printable: spaces at line ends.
            self.text = [text.removesuffix("=20").rstrip() for text in self.text]
        self.kind: list[str | None] = [None] * len(self.raw)
        self._own = [i for i, text in enumerate(self.text) if text]

    def __len__(self) -> int:
        return len(self.raw)

    def _undamage(self) -> None:
        """Step over a prefix such as ``B>`` if every visible line bears one.

        Then nobody is quoted: the prefix came onto the body on its way.
        """
        found = [_DAMAGE.match(line) for line in self.raw]
        if not all(match or not line.strip() for match, line in zip(found, self.raw, strict=True)):
            return
        for i, match in enumerate(found):
            if match:
                width = match.end()
                self._parts.append(Zone("quote", self.start[i], self.start[i] + width))
                self.start[i] += width
                self.raw[i] = self.raw[i][width:]

    def mark(self, first: int, last: int, kind: str) -> None:
        """Give the lines ``first`` to ``last - 1`` a kind, where they have none yet."""
        kinds = self.kind
        for i in range(first, last):
            if kinds[i] is None:
                kinds[i] = kind

    def cut(self, line: int, start: int, end: int, kind: str) -> None:
        """Remove the span ``start:end`` of ``text[line]``; the rest of the line stays.

        The remembered text of the line shrinks only in ``remainder``: offsets stay valid.
        """
        raw = self.raw[line]
        offset = self.start[line] + len(raw) - len(raw.lstrip())
        self._parts.append(Zone(kind, offset + start, offset + end))

    def own(self) -> list[int]:
        """Return the indices of the visible lines that no rule has marked.

        Lines never lose a kind, so each call filters what the last one found.
        """
        kinds = self.kind
        self._own = [i for i in self._own if kinds[i] is None]
        return self._own

    def zones(self, keep: Collection[str]) -> list[Zone]:
        """Return the zones to remove, sorted and disjoint; kinds in ``keep`` are left out."""
        found = [zone for zone in self._parts if zone.kind not in keep]
        found.extend(zone for zone in self._line_zones() if zone.kind not in keep)
        found.sort(key=lambda zone: (zone.start, -zone.end))
        disjoint: list[Zone] = []
        for zone in found:
            # A cut inside a line that was marked later lies within that line's zone.
            if not disjoint or zone.start >= disjoint[-1].end:
                disjoint.append(zone)
        return disjoint

    def _line_zones(self) -> Iterator[Zone]:
        first = last = -1
        current: str | None = None
        for i, kind in enumerate(self.kind):
            if not self.text[i]:
                continue
            if kind != current:
                if current is not None:
                    yield self._zone(first, last, current)
                current, first = kind, i
            last = i
        if current is not None:
            yield self._zone(first, last, current)

    def _zone(self, first: int, last: int, kind: str) -> Zone:
        lead = len(self.raw[first]) - len(self.raw[first].lstrip())
        return Zone(kind, self.start[first] + lead, self.start[last] + len(self.raw[last].rstrip()))


def remainder(body: str, zones: list[Zone]) -> str:
    """Return what is left of ``body`` outside the zones, whitespace tidied.

    Spaces at line ends go, runs of blank lines become one, and blank lines at either end go.
    """
    pieces: list[str] = []
    position = 0
    for zone in zones:
        pieces.append(body[position : zone.start])
        position = zone.end
    pieces.append(body[position:])
    tidy = "\n".join([line.rstrip() for line in "".join(pieces).split("\n")])
    return _BLANK_RUN.sub("\n\n", tidy).strip()
