"""What runs in Spark's tasks: messages to ids, and users to published models.

Everything a task needs travels in one broadcast, `Shared`. Rows between the two stages have a
digest of the user and, packed, the user, the name of an error or nothing, and a prepared message.
What a task of the first stage counted is a row of nobody (``NOBODY``), which the second passes on.
"""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import msgpack

from builders.build import build_user
from builders.ledger_files import pack, unpack
from builders.prepare import Prepared, Settings, Skip
from builders.prepare import prepare as prepare_message
from builders.read import RawItem, Reason, Unreadable, parse
from builders.report import Report, Status, UserResult
from builders.routing import Router
from builders.run import TOO_OLD, publish
from builders.spark.reading import Items
from builders.spark.rows import Rows, digest, discreet, groups
from perslm.errors import StoreUnavailableError
from perslm.rules import Rules
from perslm.store import Head, Store, open_store
from perslm.vocabulary import Vocabulary

if TYPE_CHECKING:
    import pyarrow

PREPARED: Final = "user binary, message binary"
RESULT: Final = "result binary"
NOBODY: Final = b""

_PUBLISHING: Final = 4  # users that a task builds and publishes at once
_USERS: Final = 64  # whose mail a task holds at once,
_BYTES: Final = 4 << 20  # unless they have more than this together
_CLOCKS: Final = 10.0  # seconds that the clocks of two machines may differ by


@dataclass(frozen=True, slots=True)
class Target:
    """How tasks open the store: arguments of ``open_store``.

    ``master_keys`` is a file that every machine has at the same place.
    """

    url: str = field(repr=False)
    tenant: str | None = None
    master_keys: str | None = None

    def open(self) -> Store:
        """Open the store."""
        return open_store(self.url, tenant=self.tenant, master_keys=self.master_keys, patient=True)


@dataclass(frozen=True, slots=True)
class Shared:
    """What all tasks of a build have in common.

    ``began`` is the POSIX time of its beginning; mail from before ``floor`` does not count.
    """

    vocabulary: bytes = field(repr=False)
    router: Router = field(repr=False)
    settings: Settings
    target: Target
    began: float
    floor: float


class Broadcast(Protocol):
    """How `Shared` comes to a task."""

    @property
    def value(self) -> Shared:
        """Return what was sent."""


@dataclass(slots=True)
class Tally:
    """What a task found besides mail to learn from; unreadable messages by file and reason."""

    messages: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[Unreadable] = field(default_factory=Counter)


def prepare(
    broadcast: Broadcast, items: Items, batches: Iterable[pyarrow.RecordBatch]
) -> Iterator[pyarrow.RecordBatch]:
    """Make rows of `PREPARED` from a part of the sources."""
    with discreet():
        shared = broadcast.value
        vocabulary = _vocabulary(shared.vocabulary)
        tally, rows = Tally(), Rows("user", "message")
        for batch in batches:
            for item, source in items(batch):
                tally.messages += 1
                row = _prepared(item, source, shared, vocabulary, tally)
                if row is not None:
                    rows.add(*row)
                    if rows.full:
                        yield rows.take()
        rows.add(NOBODY, pickle.dumps(tally))
        yield rows.take()


def _prepared(
    item: RawItem | Unreadable, source: Path, shared: Shared, vocabulary: Vocabulary, tally: Tally
) -> tuple[bytes, bytes] | None:
    """Return the row of a message, or count why there is none."""
    user: str | Skip | None = None
    try:
        message = item if isinstance(item, Unreadable) else parse(item)
        if isinstance(message, Unreadable):
            tally.unreadable[message] += 1
            return None
        user = shared.router.user(message, source)
        if isinstance(user, Skip):
            tally.skipped[user] += 1
            return None
        if message.date is not None and message.date.timestamp() < shared.floor:
            tally.skipped[TOO_OLD] += 1
            return None
        outcome = prepare_message(message, user, vocabulary, shared.settings)
        if isinstance(outcome, Skip):
            tally.skipped[outcome] += 1
            return None
        return _row(user, pack(outcome))
    except Exception as error:  # noqa: BLE001 - of one user's mail: everybody else's goes on
        if user is None or isinstance(user, Skip):
            tally.unreadable[Unreadable(item.position, Reason.FAILED)] += 1
            return None
        return _row(user, b"", error)


def _row(user: str, packed: bytes, error: Exception | None = None) -> tuple[bytes, bytes]:
    name = type(error).__name__ if error is not None else ""
    return digest(user), msgpack.packb((user, name, packed))


@dataclass(frozen=True, slots=True)
class _Mail:
    """One user's: the packed part of `PREPARED`."""

    user: str
    packed: list[bytes] = field(repr=False)


def build(
    broadcast: Broadcast, batches: Iterable[pyarrow.RecordBatch]
) -> Iterator[pyarrow.RecordBatch]:
    """Build and publish the users of rows of `PREPARED`; make rows of `RESULT`."""
    with discreet():
        shared = broadcast.value
        vocabulary = _vocabulary(shared.vocabulary)
        rows = Rows("result")
        with shared.target.open() as store, ThreadPoolExecutor(_PUBLISHING) as pool:
            build_one = _Building(shared, vocabulary, store, store.rules(None))
            for tallies, mail in _windows(batches):
                for tally in tallies:
                    rows.add(tally)
                heads = store.heads([one.user for one in mail])
                rows.add(pickle.dumps(list(pool.map(build_one, mail, heads))))
                yield rows.take()


def _windows(
    batches: Iterable[pyarrow.RecordBatch],
) -> Iterator[tuple[list[bytes], list[_Mail]]]:
    """Yield tallies and users' mail, as much of it as should be in memory at once."""
    tallies: list[bytes] = []
    mail: list[_Mail] = []
    size = 0
    for user, messages in groups(batches):
        if user == NOBODY:
            tallies.extend(messages)
            continue
        packed = list(messages)
        size += sum(map(len, packed))
        mail.append(_Mail(msgpack.unpackb(packed[0])[0], packed))
        if len(mail) >= _USERS or size >= _BYTES:
            yield tallies, mail
            tallies, mail, size = [], [], 0
    yield tallies, mail


@dataclass(frozen=True, slots=True)
class _Building:
    """What a task makes of one user after the other; called by several threads."""

    shared: Shared
    vocabulary: Vocabulary
    store: Store
    everybody: Rules

    def __call__(self, mail: _Mail, head: Head) -> UserResult:
        """Build and publish a user. Raises StoreUnavailableError, and nothing else."""
        try:
            return self._built(mail, head)
        except StoreUnavailableError:
            raise  # nobody's fault: Spark tries the task again
        except Exception as error:  # noqa: BLE001 - one user's: everybody else's night goes on
            return UserResult(mail.user, Status.FAILED, error=type(error).__name__)

    def _built(self, mail: _Mail, head: Head) -> UserResult:
        user = mail.user
        if self._is_deleted(head):
            return UserResult(user, Status.FORGOTTEN)
        rules = self.everybody
        if head.rules:
            rules |= self.store.rules(user)
        if rules.opted_out:
            return UserResult(user, Status.OPTED_OUT)
        messages: list[Prepared] = []
        for row in mail.packed:
            _, error, packed = msgpack.unpackb(row)
            if error:
                return UserResult(user, Status.FAILED, error=error)
            messages.append(unpack(user, packed))
        built = build_user(user, messages, self.vocabulary, self.shared.settings, rules)
        if head.source_digest not in ("", built.source_digest):
            info = self.store.info(user)
            if info is not None and info.created > self.shared.began:  # by another build
                return UserResult(user, Status.CONFLICT, info.generation)
        folded = self._folded(user, messages) if head.pending else []
        return publish(self.store, built, head, self.vocabulary.fingerprint, folded=folded)

    def _is_deleted(self, head: Head) -> bool:
        """Tell whether the user was deleted since the build began: this may be a repeated task."""
        ago = head.since_deletion
        return ago is not None and ago < time.time() - self.shared.began + _CLOCKS

    def _folded(self, user: str, messages: list[Prepared]) -> list[bytes]:
        """Return the marks of learned messages that are among those of the sources."""
        digests = {digest for message in messages for digest in message.digests}
        pending = self.store.pending(user)
        return [p.mark for p in pending if not digests.isdisjoint(p.digests)]


def take(row: bytes, report: Report) -> None:
    """Add a row of `RESULT` to the report."""
    found: list[UserResult] | Tally = pickle.loads(row)
    if isinstance(found, Tally):
        report.messages += found.messages
        report.skipped.update(found.skipped)
        for unreadable in found.unreadable.elements():
            report.add_unreadable(unreadable)
        return
    for result in found:
        report.add(result)
        report.skip(Skip.DUPLICATE, result.duplicates)


@lru_cache(maxsize=1)
def _vocabulary(data: bytes) -> Vocabulary:
    """Read the vocabulary once for all tasks of a process."""
    return Vocabulary.from_bytes(data)
