"""What ``perslm.store`` returns; import it from there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

INFO_FIELDS: Final = (
    "generation", "previous", "bytes", "created", "source_digest", "messages", "tokens",
    "vocabulary",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Head:
    """What a build starts from: read it first, publish against it last.

    ``generation`` is 0 if nothing is published. ``fence`` changes when the user is deleted.
    """

    generation: int
    fence: int


@dataclass(frozen=True, slots=True)
class UserInfo:
    """What the store knows of one generation of a user's model.

    ``bytes`` is the size of the blob, ``created`` a POSIX time, ``previous`` the generation that a
    rollback would publish again (0: none). ``source_digest``, ``messages``, ``tokens`` and
    ``vocabulary`` (a fingerprint) are as the builder gave them.
    """

    user: str = field(repr=False)
    generation: int
    previous: int
    bytes: int
    created: float
    source_digest: str
    messages: int
    tokens: int
    vocabulary: str


@dataclass(frozen=True, slots=True)
class Stored(UserInfo):
    """A published model: the blob and what is known of it."""

    blob: bytes = field(repr=False)


def info_values(
    user: str, values: list[bytes]
) -> tuple[str, int, int, int, float, str, int, int, str]:
    """Return the values of ``INFO_FIELDS`` with their types, in the order of ``UserInfo``."""
    generation, previous, size, created, digest, messages, tokens, vocabulary = values
    return (
        user, int(generation), int(previous), int(size), float(created), digest.decode(),
        int(messages), int(tokens), vocabulary.decode(),
    )  # fmt: skip
