"""What passes between splitting a source and parsing its messages.

A `RawItem` is one message as found, cut out but not looked into: cheap to make in one process and
to send to another. An `Unreadable` takes the place of a message that could not be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

#: Bytes of one message beyond which it is skipped: no person types so much, and one message must
#: not decide how much memory a worker needs.
MESSAGE_LIMIT: Final = 64 * 2**20


class Reason(StrEnum):
    """Why a message could not be read, or not wholly: fixed phrases, never mail."""

    TOO_LARGE = "larger than 64 MiB"
    EMPTY = "empty"
    NOT_MAIL = "no mail header fields at its beginning"
    NOT_JSON = "not valid JSON"
    NOT_RECORD = "not a JSON object with a body or raw field"
    CUT_OFF = "the file ends within this message"
    NO_LINE_END = "the file ends within a line, so this message may have lost its end"
    GZIP_CUT_OFF = "the compressed file ends too early"
    GZIP_DAMAGED = "the compressed file is damaged from here on"
    PARQUET_DAMAGED = "the Parquet file is damaged from here on"
    NO_ACCESS = "the file cannot be opened"
    FAILED = "perslm failed on it, which is a mistake in perslm"


@dataclass(frozen=True, slots=True)
class RawItem:
    """One message as found in its source.

    ``kind`` says what ``payload`` is: ``rfc822`` the message's bytes, ``json`` the bytes of one
    JSON line, ``row`` a mapping from column to value. ``position`` is safe to print.
    """

    position: str
    kind: Literal["rfc822", "json", "row"]
    payload: bytes | Mapping[str, object]

    def __repr__(self) -> str:
        return f"RawItem({self.position}, {self.kind})"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message, or the end of a file, that could not be read: where, and why."""

    position: str
    reason: Reason


OnError = Callable[[Unreadable], None]
OnBytes = Callable[[int], None]
