"""Whose mail it is, where user ids do not say: ``builders.identity.Mailbox`` for many people.

Headers of all mail are grouped by person, and each person's pass through one `Mailbox`; the owners
that it finds travel to the tasks with the router.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Several
from functools import partial, reduce
from typing import TYPE_CHECKING, Final

import msgpack

from builders.identity import Mailbox, Owner
from builders.message import Address, Message
from builders.read import Unreadable, parse_headers
from builders.routing import Progress, Router
from builders.spark.reading import Input, Items
from builders.spark.rows import Rows, digest, discreet, groups
from builders.spark.session import collected
from perslm.errors import ArgumentError

if TYPE_CHECKING:
    import pyarrow

#: People whose addresses are inferred in one build: each task has all of them in memory.
MOST: Final = 100_000
_HEADERS: Final = "person binary, headers binary"
_FOUND: Final = "found binary"


def find(inputs: Several[Input], router: Router, progress: Progress) -> dict[str, Owner | None]:
    """Return the owner of the mail of each ``router.person``, None where nobody wrote any.

    Raises ArgumentError if these are more than `MOST`.
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
    found = by_person.mapInArrow(_owners, _FOUND).limit(MOST + 1)
    rows = collected(found, "who wrote", 2 * parts, progress)
    if len(rows) > MOST:
        raise ArgumentError(
            f"more than {MOST} user ids are no addresses, and their owners must be found by all of "
            "their mail: let `user` be the address that a person sends from, leave `user` out, or "
            "build parts of the mail one after the other"
        )
    return dict(pickle.loads(owner) for (owner,) in rows)


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
    """Make a row of each person, with the owner."""
    with discreet():
        rows = Rows("found")
        for _, mail in groups(batches):
            mailbox = Mailbox()
            for headers in mail:
                person, message = _unpacked(headers)
                mailbox.add(message)
            rows.add(pickle.dumps((person, mailbox.owner())))
            if rows.full:
                yield rows.take()
        yield rows.take()


def _packed(person: str, message: Message) -> bytes:
    fields = (message.author, message.sender, message.reply_to, message.recipients)
    addresses = [[(a.name, a.address) for a in field] for field in fields]
    packed: bytes = msgpack.packb((person, *addresses), unicode_errors="surrogatepass")
    return packed


def _unpacked(headers: bytes) -> tuple[str, Message]:
    person, *fields = msgpack.unpackb(headers, unicode_errors="surrogatepass")
    author, sender, reply_to, recipients = (tuple(Address(*a) for a in f) for f in fields)
    return person, Message("", None, None, None, author, sender, reply_to, recipients, "", "")
