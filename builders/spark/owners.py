"""Whose mail it is, where user ids do not say: ``builders.identity.Mailbox`` for many people.

Headers of all mail are grouped by person, and each person's pass through one `Mailbox`. What tasks
need of the owners that it finds is whether a person wrote a message: for that they get a sorted
array of digests, of some 8 bytes for each address of a person.
"""

from __future__ import annotations

import heapq
import pickle
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from functools import partial, reduce
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import msgpack
import numpy as np
import numpy.typing as npt

from builders.identity import Mailbox, Owner, author_address, canonical, name_key
from builders.message import Address, Message
from builders.read import Unreadable, parse_headers
from builders.routing import Progress, Router, Sender
from builders.spark.reading import Input, Items
from builders.spark.rows import Rows, digest, discreet, groups
from builders.spark.session import collected
from perslm.errors import ArgumentError

if TYPE_CHECKING:
    import pyarrow

MOST: Final = 5_000_000
"""People whose addresses are inferred in one build: 24 bytes or more of each in every process."""

TOLD_OF: Final = 1000
"""People of whom the driver hears who was taken for them."""

_HEADERS: Final = "person binary, headers binary"
_FOUND: Final = "found binary"
_DIGEST: Final = "<u8"
_AT_ONCE: Final = 10_000


@dataclass(frozen=True, slots=True)
class IndexedRouter(Router):
    """A router that knows owners by digests of what they go by, sorted."""

    index: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, _DIGEST), repr=False)

    def owner(self, person: str) -> Sender | None:
        """Return who an id stands for, as far as more is known than the id."""
        return _Indexed(person, self) if self.has(person) else None

    def has(self, person: str, *goes_by: str) -> bool:
        """Tell whether a person is known, or known by this."""
        sought = _digest(person, *goes_by)
        at = int(np.searchsorted(self.index, sought))
        return at < len(self.index) and self.index[at] == sought


@dataclass(frozen=True, slots=True)
class _Indexed:
    person: str
    router: IndexedRouter

    def sent(self, message: Message) -> bool:
        """Tell whether this person wrote a message, as `Owner.sent` does."""
        author = author_address(message)
        if author is None:
            return False
        if author.address:
            return self.router.has(self.person, "address", canonical(author.address))
        return self.router.has(self.person, "name", *_words(name_key(author.name)))


def indexed(people: Iterable[tuple[str, Owner | None]]) -> npt.NDArray[np.uint64]:
    """Return the digests of people and all that they go by, not sorted."""
    found = []
    for person, owner in people:
        if owner is not None:
            found.append(_digest(person))
            found.extend(_digest(person, "address", address) for address in owner.addresses)
            found.extend(_digest(person, "name", *_words(name)) for name in owner.names)
    return np.array(found, _DIGEST)


def _words(name: frozenset[str] | None) -> list[str]:
    return sorted(name or ())


def _digest(*parts: str) -> np.uint64:
    joined = b"".join(
        len(data).to_bytes(4, "little") + data
        for data in (part.encode("utf-8", "surrogatepass") for part in parts)
    )
    return np.uint64(int.from_bytes(blake2b(joined, digest_size=8).digest(), "little"))


def find(inputs: Several[Input], router: Router, progress: Progress) -> tuple[Router, Router]:
    """Return the router for tasks, which knows the owner of the mail of each ``router.person``.

    The other is for people to read: it knows of the first ones, `TOLD_OF`. Raises ArgumentError
    if there are more than `MOST`, or if the one of ``--user`` cannot be told.
    """
    headers = reduce(
        lambda one, other: one.union(other),
        (
            given.headers.mapInArrow(partial(_headers, router, given.items), _HEADERS)
            for given in inputs
        ),
    )
    parts = headers.rdd.getNumPartitions()
    by_person = headers.repartition(parts, "person").sortWithinPartitions("person")
    job = by_person.mapInArrow(_owners, _FOUND)
    first: list[tuple[str, Owner | None]] = []
    index = [np.empty(0, _DIGEST)]
    people = 0
    for (row,) in collected(job, "who wrote", 2 * parts, progress):
        number, digests, some = pickle.loads(row)
        people += number
        index.append(digests)
        first = heapq.nsmallest(TOLD_OF, [*first, *some], key=_name)
    if people > MOST:
        raise ArgumentError(
            f"more than {MOST} user ids are no addresses, and who they are must be found by all of "
            "their mail: let `user` be the address that a person sends from, leave `user` out, or "
            "build parts of the mail one after the other"
        )
    told = router.knowing(dict(first))
    return IndexedRouter(
        router.only_user, router.by_file, index=np.sort(np.concatenate(index))
    ), told


def _headers(
    router: Router, items: Items, batches: Iterable[pyarrow.RecordBatch]
) -> Iterator[pyarrow.RecordBatch]:
    """Make rows of the headers of all mail whose owner must be found."""
    with discreet():
        rows = Rows("person", "headers")
        for batch in batches:
            for item, source in items(batch):
                message = item if isinstance(item, Unreadable) else parse_headers(item)
                if isinstance(message, Unreadable):
                    continue  # the build reports it
                person = router.person(message, source)
                if person is not None:
                    rows.add(digest(person), _packed(person, message))
            yield rows.take()


def _owners(batches: Iterable[pyarrow.RecordBatch]) -> Iterator[pyarrow.RecordBatch]:
    """Make a row of some people: how many, their digests, and the first by name."""
    with discreet():
        people: list[tuple[str, Owner | None]] = []
        for _, mail in groups(batches):
            mailbox = Mailbox()
            for headers in mail:
                person, message = _unpacked(headers)
                mailbox.add(message)
            people.append((person, mailbox.owner()))
            if len(people) >= _AT_ONCE:
                yield _found(people)
                people = []
        yield _found(people)


def _found(people: list[tuple[str, Owner | None]]) -> pyarrow.RecordBatch:
    rows = Rows("found")
    some = heapq.nsmallest(TOLD_OF, people, key=_name)
    rows.add(pickle.dumps((len(people), indexed(people), some)))
    return rows.take()


def _name(found: tuple[str, Owner | None]) -> str:
    return found[0]


def _packed(person: str, message: Message) -> bytes:
    fields = (message.author, message.sender, message.reply_to, message.recipients)
    addresses = [[(a.name, a.address) for a in field] for field in fields]
    packed: bytes = msgpack.packb((person, *addresses), unicode_errors="surrogatepass")
    return packed


def _unpacked(headers: bytes) -> tuple[str, Message]:
    person, *fields = msgpack.unpackb(headers, unicode_errors="surrogatepass")
    author, sender, reply_to, recipients = (tuple(Address(*a) for a in f) for f in fields)
    return person, Message("", None, None, None, author, sender, reply_to, recipients, "", "")
