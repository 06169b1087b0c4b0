"""One message to what the counts will see of it: a pure function, run in worker processes.

Reading and routing come before (``builders.read``, ``builders.routing``), counting after
(``builders.build``).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from builders.clean import Cleaned, Zone, clean
from builders.duplicates import digests
from builders.identity import author_address
from builders.language import gate
from builders.message import Message
from builders.read.plain import without_quoted_printable
from perslm.errors import ArgumentError
from perslm.vocabulary import Sequence, Vocabulary


class Skip(StrEnum):
    """Why a message teaches nothing: what reports count, and all that they say of it."""

    AUTOMATIC = "automatic"
    NOT_SENT = "not_sent"
    NO_USER = "no_user"
    DUPLICATE = "duplicate"
    NO_OWN_WORDS = "no_own_words"
    OTHER_LANGUAGE = "other_language"


VERSION: Final = 1
"""Of what becomes of a message here: it changes when the same message is to give other sequences,
as when cleaning, entities or the choice of languages find more. Ledgers then begin anew."""

LEAST_BYTES = 1024
"""The smallest model that may be asked for: one of a few hundred n-grams."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides, besides the vocabulary, what is learned from a message, and kept of it.

    ``languages`` are ISO 639-1 codes, or ``all``; ``keep`` names zone kinds that are learned from
    although they would be removed (``builders.clean.KINDS``). A user's blob has at most
    ``max_bytes`` (None: as many as it takes), LEAST_BYTES or more. An n-gram above order 1 must
    come from ``min_messages`` different messages of the user.
    """

    order: int = 3
    languages: tuple[str, ...] = ("en",)
    keep: tuple[str, ...] = ()
    max_bytes: int | None = None
    min_messages: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 5:
            raise ArgumentError(f"order must be 1 to 5, not {self.order}")
        if self.min_messages < 1:
            raise ArgumentError(f"min_messages must be at least 1, not {self.min_messages}")
        if self.max_bytes is not None and self.max_bytes < LEAST_BYTES:
            raise ArgumentError(
                f"{self.max_bytes} bytes are too few to hold anything: "
                f"allow {LEAST_BYTES} or more a model"
            )
        clean("", keep=self.keep)  # names unknown kinds before a long run does


@dataclass(frozen=True, slots=True)
class Prepared:
    """One message, ready to count.

    ``when`` is a POSIX time, 0 if the message does not say; ``sequences`` hold token ids.
    """

    user: str
    when: float
    digests: tuple[bytes, ...]
    sequences: tuple[Sequence, ...] = field(repr=False)


def cleaned(message: Message, keep: Collection[str] = ()) -> Cleaned:
    """Return what the author wrote here, and the zones of the body that are not learned.

    A message that a program sent is one zone, unless ``keep`` names its kind, ``automatic``.
    """
    if message.automatic and "automatic" not in keep:
        return Cleaned("", (Zone("automatic", 0, len(message.body)),))
    author = author_address(message)
    own = clean(message.body, author=author.name if author else None, keep=keep)
    if "=" not in own.text:
        return own
    # records may hold quoted-printable that nobody decoded; offsets are into the body as it came
    return Cleaned(without_quoted_printable(own.text), own.zones)


def own_text(message: Message, settings: Settings) -> str | Skip:
    """Return what the author wrote here, in the wanted languages, or why there is nothing."""
    own = cleaned(message, settings.keep)
    if not own.text.strip():
        automatic = any(zone.kind == "automatic" for zone in own.zones)
        return Skip.AUTOMATIC if automatic else Skip.NO_OWN_WORDS
    wanted = gate(own.text, languages=settings.languages)
    return wanted if wanted.strip() else Skip.OTHER_LANGUAGE


def correspondents(message: Message) -> tuple[str, ...]:
    """Return the names that a message's headers give to the people it was sent to."""
    return tuple(a.name for a in message.recipients if a.name)


def prepare(
    message: Message, user: str, vocabulary: Vocabulary, settings: Settings
) -> Prepared | Skip:
    """Return the token-id sequences of ``message`` for ``user``, or why it teaches nothing."""
    text = own_text(message, settings)
    if isinstance(text, Skip):
        return text
    sequences = tuple(s for s in vocabulary.encode(text, names=correspondents(message)) if s.ids)
    if not sequences:
        return Skip.NO_OWN_WORDS
    when = message.date.timestamp() if message.date else 0.0
    return Prepared(user, when, digests(message), sequences)
