"""What ``perslm.store`` returns; import it from there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgpack

from perslm._store_scripts import FIELDS
from perslm.errors import ArgumentError, BlobError
from perslm.vocabulary import Sequence

if TYPE_CHECKING:
    from perslm.rules import Rules

INFO_FIELDS: Final = (
    "generation", "previous", "bytes", "created", "source_digest", "messages", "tokens",
    "vocabulary",
)  # fmt: skip

STORED_FIELDS: Final = tuple(FIELDS[name] for name in INFO_FIELDS if name in FIELDS)

MARK_BYTES: Final = 64
MESSAGE_BYTES: Final = 1 << 16  # of one pending message, as it is stored: some 20,000 words
_LIMIT: Final = 1 << 32
_LATEST: Final = 1 << 40  # seconds: the year 36,812
_DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Head:
    """What a build starts from: read it first, publish against it last.

    ``generation`` is 0 if nothing is published. ``fence`` changes when the user is deleted.
    ``pending`` is how many learned messages wait for a build; as long as the generation stays they
    only become more, so both say together what a reader sees. ``source_digest`` is that of the
    published model, ``rules`` changes with the user's rules (empty: none). ``since_deletion`` is
    how many seconds ago the user was deleted last, by the server's clock; None if not within
    ``FENCE_SECONDS``, or never.
    """

    generation: int
    fence: int
    pending: int = 0
    source_digest: str = ""
    rules: str = ""
    since_deletion: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Pending:
    """A message that was learned since the last build, and counts beside the published model.

    ``mark`` tells it from the user's others, 1 to 64 bytes; ``sent`` is a POSIX time below 2^40, 0
    if the message does not say; ``digests`` find copies of it. ``vocabulary`` is the fingerprint of
    the one that the ids of ``sequences`` are of; ``Store.add_message`` sets it.
    """

    mark: bytes
    sent: float
    digests: tuple[bytes, ...] = field(repr=False)
    sequences: tuple[Sequence, ...] = field(repr=False)
    vocabulary: str = ""

    def to_bytes(self, vocabulary: str) -> bytes:
        """Return the message as it is stored, all but the mark, which is beside it.

        Raises ArgumentError if it is too long, its mark is no mark, or ``sent`` is no time.
        """
        if not isinstance(self.mark, bytes) or not 1 <= len(self.mark) <= MARK_BYTES:
            raise ArgumentError(f"a mark is 1 to {MARK_BYTES} bytes")
        if not abs(self.sent) < _LATEST:  # nor is NaN
            raise ArgumentError("sent is a POSIX time in seconds, or 0 if it is not known")
        sequences = [[s.opens, s.closes, s.ids] for s in self.sequences]
        data: bytes = msgpack.packb([vocabulary, float(self.sent), self.digests, sequences])
        if len(data) > MESSAGE_BYTES:
            raise ArgumentError(
                "the message is too long to be learned by itself: the next build will count it"
            )
        return data

    @classmethod
    def from_bytes(cls, mark: bytes, data: bytes) -> Pending:
        """Read what :meth:`to_bytes` wrote. Raises BlobError for anything else."""
        try:
            vocabulary, sent, digests, sequences = msgpack.unpackb(data, use_list=False)
            found = tuple(Sequence(ids, opens, closes) for opens, closes, ids in sequences)
            read = cls(mark, sent, digests, found, vocabulary)
        except (ValueError, TypeError, msgpack.UnpackException):  # not chained: it may hold words
            raise BlobError("a learned message is damaged") from None
        if not _is_sound(read):
            raise BlobError("a learned message is damaged")
        return read


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
    """A published model: the blob and what is known of it.

    ``pending`` are the messages that were learned since it was built, ``rules`` what the user does
    not want known (None: nothing), and ``revision`` changes with that. A generation that was asked
    for by its number comes without.
    """

    blob: bytes = field(repr=False)
    pending: tuple[Pending, ...] = field(default=(), repr=False)
    rules: Rules | None = field(default=None, repr=False)
    revision: str = ""


def info_values(
    user: str, values: list[bytes], size: int
) -> tuple[str, int, int, int, float, str, int, int, str]:
    """Return the values of ``STORED_FIELDS`` with their types, in the order of ``UserInfo``."""
    generation, previous, created, digest, messages, tokens, vocabulary = values
    return (
        user, int(generation), int(previous or 0), size, int(created) / 1000, unpacked(digest),
        int(messages), int(tokens), unpacked(vocabulary),
    )  # fmt: skip


def packed_info(fields: Mapping[str, Any]) -> list[Any]:
    """Return names and values of a generation's fields as they are stored, times in ms."""
    words: list[Any] = []
    for name, value in fields.items():
        if name not in FIELDS or (name == "previous" and not int(value)):
            continue
        if name == "created":
            value = round(value * 1000)
        elif name in ("source_digest", "vocabulary"):
            value = packed(value)
        words += [FIELDS[name], value]
    return words


def packed(digest: str) -> bytes:
    """Return a digest of 32 hexadecimal digits as 16 bytes; other text as it is."""
    if re.fullmatch("[0-9a-f]{32}", digest):
        return bytes.fromhex(digest)
    data = digest.encode()
    return b"\0" + data if len(data) == _DIGEST_BYTES or data.startswith(b"\0") else data


def unpacked(data: bytes) -> str:
    """Return the text that :func:`packed` was given."""
    return data.hex() if len(data) == _DIGEST_BYTES else data.removeprefix(b"\0").decode()


def _is_sound(message: Pending) -> bool:
    return (
        isinstance(message.vocabulary, str)
        and isinstance(message.sent, float)
        and abs(message.sent) < _LATEST
        and _all(message.digests, bytes)
        and all(
            _all(s.ids, int) and all(0 <= i < _LIMIT for i in s.ids) and _all(s[1:], bool)
            for s in message.sequences
        )
    )


def _all(values: Any, kind: type) -> bool:
    return isinstance(values, tuple) and all(type(value) is kind for value in values)
