"""Own words only: what the author of a message wrote, without what others or programs did.

::

    >>> from builders.clean import clean
    >>> body = "Hi Ann,\\n\\nthe draft is fine.\\n\\nBob\\n\\nOn 1 May 2020 Ann wrote:\\n> Is it?"
    >>> cleaned = clean(body, author="Bob Smith")
    >>> cleaned.text
    'the draft is fine.'
    >>> [zone.kind for zone in cleaned.zones]
    ['greeting', 'close', 'attribution', 'quote']

:func:`clean` takes a body as :mod:`builders.read` decodes it and returns the text that is left and
the zones that were removed. It never raises on a body, takes time linear in its length, keeps no
state, and knows nothing of any mailbox: the rules are structure (markers, prefixes, the shape of
lines and their place) and the closed-class words of :mod:`builders.clean.words`.

The kinds of zones
------------------
==============  ====================================================================
``quote``       lines marked with ``>`` or the like, and unmarked inline originals
``attribution``  the line that introduces a quote: "On Monday Ann wrote:"
``forward``     a forward's marker and everything forwarded
``header``      header blocks of inline originals, and their marker lines
``signature``   contact blocks, with or without a ``-- `` line, and what mail programs and providers
                add under the author's name: "Sent from my ...", slogans, advertisements
``footer``      what mailing lists and newsletters append
``disclaimer``  confidentiality notices
``greeting``    "Hi Ann," at the start
``close``       "Best regards," and the name below it at the end
``code``        diffs, fenced blocks, traces, logs, commit trailers
``pgp``         armour
``automatic``   auto-replies and delivery notices (whole body), calendar blocks, placeholders
==============  ====================================================================

How it works
------------
:mod:`~builders.clean.lines` splits the body; each rule module marks lines or cuts spans in them;
what one has marked the next leaves alone. Order: armour, quotes, whole-message machine text, code,
footers and disclaimers, signature, close, greeting, tables. Quotes come early because everything
after looks at the ends of the author's own text.

Limits, known and accepted: an own reply *below* an original that carries no mark at all cannot be
told from it and goes with it; a message that only forwards is empty; the last line of a list of
names may be taken for a sign-off if the author's name is not given.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from builders.clean import courtesy, noise, quotes, signature
from builders.clean.lines import Lines, Zone, remainder
from builders.clean.names import author as parse_author
from perslm.errors import ArgumentError

__all__ = ["KINDS", "Cleaned", "Zone", "clean"]

KINDS: Final = (
    "quote",
    "attribution",
    "forward",
    "header",
    "signature",
    "footer",
    "disclaimer",
    "greeting",
    "close",
    "code",
    "pgp",
    "automatic",
)
"""Every kind a zone can have."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """The kept text and the removed zones, sorted and disjoint, as offsets into the body."""

    text: str
    zones: tuple[Zone, ...]

    def __repr__(self) -> str:
        return f"Cleaned({len(self.text)} characters, {len(self.zones)} zones)"


def clean(body: str, *, author: str | None = None, keep: Collection[str] = ()) -> Cleaned:
    """Return the author's own words of a message, and the zones that were removed.

    ``body`` is decoded text, ``author`` the display name of the writer if it is known (it proves
    sign-offs and signatures), ``keep`` the kinds that shall stay in the text; zones of kept kinds
    are not listed. The text is the body outside the zones, in order, with trailing spaces and
    repeated blank lines removed. Raises ArgumentError if ``keep`` names an unknown kind.
    """
    unknown = set(keep).difference(KINDS)
    if unknown:
        raise ArgumentError(
            f"keep names {len(unknown)} unknown kind(s) of zone; the kinds are {', '.join(KINDS)}"
        )
    lines = Lines(body)
    writer = parse_author(author)
    noise.mark_pgp(lines)
    quotes.mark(lines)
    noise.mark_automatic(lines)
    noise.mark_code(lines)
    noise.mark_footers(lines, writer)
    signature.mark(lines, writer)
    noise.mark_last_rule(lines)
    courtesy.mark_close(lines, writer)
    courtesy.mark_greeting(lines)
    noise.mark_figures(lines)
    zones = lines.zones(keep)
    return Cleaned(remainder(body, zones), tuple(zones))
