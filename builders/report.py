"""What a build did: sums for everybody, and a line for each user.

A report holds no more than a fixed number of users, whatever their number: each line goes to
``on_user`` as it comes (``builders.report_files`` writes them).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeAlias

import msgpack

from builders.read import Unreadable

SHOWN: Final = 20
"""Users that a summary names: those with the most tokens."""

_UNREADABLE_KEPT: Final = 1000
Packed: TypeAlias = bytes


class Status(StrEnum):
    """How a user's build ended."""

    PUBLISHED = "published"
    UNCHANGED = "unchanged"
    CONFLICT = "conflict"
    FOREIGN = "foreign"
    FORGOTTEN = "forgotten"
    EXPIRED = "expired"
    OPTED_OUT = "opted_out"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class UserResult:
    """One user's line of the report. ``error`` names the kind of what failed."""

    user: str
    status: Status
    generation: int = 0
    messages: int = 0
    duplicates: int = 0
    tokens: int = 0
    ngrams: tuple[int, ...] = ()
    pruned: int = 0
    bytes: int = 0
    error: str = ""

    def pack(self) -> Packed:
        """Return the numbers, to be kept until the user changes."""
        numbers = (self.messages, self.duplicates, self.tokens, self.ngrams, self.pruned)
        packed: Packed = msgpack.packb((*numbers, self.bytes))
        return packed

    @classmethod
    def unpack(cls, user: str, status: Status, generation: int, packed: Packed) -> UserResult:
        """Return the line of a user about whom the numbers of :meth:`pack` still hold."""
        return cls(user, status, generation, *msgpack.unpackb(packed, use_list=False))


@dataclass(slots=True)
class Report:
    """What a run did. ``skipped`` counts messages by reason; times are in seconds.

    Without ``on_user`` the lines are collected in ``users``. ``skipped`` says ``known`` of messages
    that a ledger had, and ``too_old`` of those beyond a window. Of unreadable messages the first
    are kept. ``by_messages`` and ``by_bytes`` count the users with a model by powers of two.
    """

    sources: list[str]
    on_user: Callable[[UserResult], None] | None = None
    messages: int = 0
    unreadable: list[Unreadable] = field(default_factory=list)
    unreadable_messages: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    users: list[UserResult] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    bytes: int = 0
    by_messages: Counter[int] = field(default_factory=Counter)
    by_bytes: Counter[int] = field(default_factory=Counter)
    meeting_seconds: float = 0.0
    reading_seconds: float = 0.0
    building_seconds: float = 0.0
    interrupted: bool = False
    _largest: list[tuple[int, int, UserResult]] = field(default_factory=list)

    def add(self, result: UserResult) -> None:
        """Take a user's line."""
        self.statuses[result.status] += 1
        self.tokens += result.tokens
        self.bytes += result.bytes
        if result.messages:
            self.by_messages[result.messages.bit_length()] += 1
            self.by_bytes[result.bytes.bit_length()] += 1
        place = (result.tokens, -self.statuses.total(), result)
        if len(self._largest) < SHOWN:
            heapq.heappush(self._largest, place)
        elif place > self._largest[0]:
            heapq.heapreplace(self._largest, place)
        if self.on_user is None:
            self.users.append(result)
        else:
            self.on_user(result)

    def skip(self, reason: str, messages: int) -> None:
        """Take note of messages that were not learned from."""
        if messages:
            self.skipped[reason] += messages

    def add_unreadable(self, one: Unreadable) -> None:
        """Take note of a message that could not be read."""
        self.unreadable_messages += 1
        if len(self.unreadable) < _UNREADABLE_KEPT:
            self.unreadable.append(one)

    @property
    def largest(self) -> list[UserResult]:
        """Return the users with the most tokens, at most ``SHOWN``, those first."""
        return [result for _, _, result in sorted(self._largest, reverse=True)]

    @property
    def failed(self) -> bool:
        """Tell whether some user must be built again."""
        again = (Status.CONFLICT, Status.FOREIGN, Status.FAILED)
        return any(self.statuses[status] for status in again)

    def totals(self) -> dict[str, Any]:
        """Return all but the users' lines as plain values."""
        seconds = self.reading_seconds + self.building_seconds
        return {
            "sources": self.sources,
            "messages": self.messages,
            "unreadable": [
                {"position": u.position, "reason": str(u.reason)} for u in self.unreadable
            ],
            "unreadable_messages": self.unreadable_messages,
            "skipped": {str(reason): n for reason, n in self.skipped.items()},
            "statuses": {str(status): n for status, n in self.statuses.items()},
            "published": self.statuses[Status.PUBLISHED],
            "tokens": self.tokens,
            "bytes": self.bytes,
            "meeting_seconds": self.meeting_seconds,
            "reading_seconds": self.reading_seconds,
            "building_seconds": self.building_seconds,
            "messages_per_second": self.messages / seconds if seconds else 0.0,
            "tokens_per_second": self.tokens / seconds if seconds else 0.0,
            "interrupted": self.interrupted,
        }

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {**self.totals(), "users": [asdict(user) for user in self.users]}
