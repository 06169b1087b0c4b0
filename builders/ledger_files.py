"""A ledger's database as a file: how it is opened, what its errors mean, how messages lie in it.

What the tables mean is in ``builders.ledger``, the folder in ``builders.ledgers``.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import struct
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import msgpack

from builders.prepare import Prepared
from perslm._files import OWNER_ONLY
from perslm.errors import LedgerError
from perslm.vocabulary import Sequence

_FORMAT = 1
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS users (
  id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL UNIQUE,
  generation INTEGER NOT NULL, fence INTEGER NOT NULL, run INTEGER NOT NULL,
  published TEXT, built_by TEXT, rules TEXT NOT NULL DEFAULT '', result BLOB,
  changed INTEGER NOT NULL DEFAULT 1, revision INTEGER NOT NULL DEFAULT 0,
  floor REAL NOT NULL DEFAULT 0, gone INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS changed_users ON users (id) WHERE changed;
CREATE TABLE IF NOT EXISTS messages (
  user INTEGER NOT NULL, mark BLOB NOT NULL, age REAL NOT NULL, run INTEGER NOT NULL,
  learned INTEGER NOT NULL, message BLOB NOT NULL, PRIMARY KEY (user, mark)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS messages_by_age ON messages (age);
CREATE TABLE IF NOT EXISTS seen (mark BLOB PRIMARY KEY, user INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS forgotten (
  user INTEGER NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (user, digest)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS folding (
  user INTEGER NOT NULL, mark BLOB NOT NULL, PRIMARY KEY (user, mark)
) WITHOUT ROWID;
PRAGMA user_version = {_FORMAT};
"""
_WAIT = 120.0  # seconds for another process that writes: a publish, or a deletion of much mail
_IDS: dict[int, int] = {}  # at most as many as a vocabulary has
_TEMPORARY = """
CREATE TEMP TABLE alike (mark BLOB PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
CREATE TEMP TABLE going (id INTEGER PRIMARY KEY);
"""


class Mail:
    """Reads users' messages from a ledger's database, in whichever process builds them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with errors(path):
            self._database = connect(path)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def of(self, id: int) -> tuple[str, int, list[Prepared]]:
        """Return a user, the revision of their mail, and the messages that may count.

        Copies of a message are among them, but nothing that was learned and is in the mail, too.
        What was learned may say too little of itself to share a digest with its mail; then that it
        says the same is enough.
        """
        with errors(self._path):
            self._database.execute("BEGIN")
            try:
                found = self._database.execute(
                    "SELECT user, revision FROM users WHERE id = ?", (id,)
                ).fetchone()
                rows = self._database.execute(
                    "SELECT learned, message FROM messages WHERE user = ?", (id,)
                )
                user, revision = found or ("", -1)
                mail: list[Prepared] = []
                learned: list[Prepared] = []
                for is_learned, message in rows:
                    (learned if is_learned else mail).append(unpack(user, message))
            finally:
                self._database.execute("COMMIT")
        if learned:
            known = {digest for message in mail for digest in message.digests}
            texts = {message.sequences for message in mail}
            mail.extend(
                m for m in learned if known.isdisjoint(m.digests) and m.sequences not in texts
            )
        return user, revision, mail


@dataclass(frozen=True, slots=True)
class Deletions:
    """What was deleted from a ledger for good, of one user.

    ``digests`` are under the folder's key. ``fence`` and ``published`` are what the ledger knows of
    the store (see ``builders.ledger.Account``), ``ended`` is when its last run did, 0 if none has.
    """

    user: str
    fence: int
    published: str | None
    ended: float
    floor: float
    digests: frozenset[bytes]


def deletions(path: Path) -> list[Deletions]:
    """Return what was deleted for good from the ledger with this database."""
    with errors(path), closing(connect(path)) as database:
        ended = database.execute("SELECT value FROM facts WHERE name = 'ended'").fetchone()
        rows = database.execute(
            "SELECT user, fence, published, floor, digest FROM "
            "(SELECT * FROM users WHERE NOT gone) LEFT JOIN "
            "(SELECT user AS of, digest FROM forgotten) ON of = id "
            "WHERE floor > 0 OR digest IS NOT NULL ORDER BY id"
        ).fetchall()
    last = float(ended[0]) if ended else 0.0
    return [
        Deletions(user, fence, published, last, floor, frozenset(r[4] for r in found if r[4]))
        for (user, fence, published, floor), found in groupby(rows, key=lambda row: row[:4])
    ]


def copies(
    held: Iterable[tuple[bytes, bool, Prepared]], digests: Collection[bytes]
) -> tuple[list[bytes], set[bytes]]:
    """Return the marks of the messages that have one of these digests, or share one with such.

    ``held`` says of each whether it was learned; those go also with a message that says the same,
    as it may be theirs. Also returns all digests of what goes, and the given ones.
    """
    gone, digests, texts = list[bytes](), set(digests), set[tuple[Sequence, ...]]()
    left = list(held)
    while True:
        found, rest = list[tuple[bytes, bool, Prepared]](), list[tuple[bytes, bool, Prepared]]()
        for mark, learned, message in left:
            goes = not digests.isdisjoint(message.digests)
            goes = goes or (learned and message.sequences in texts)
            (found if goes else rest).append((mark, learned, message))
        if not found:
            return gone, digests
        left = rest
        for mark, _, message in found:
            gone.append(mark)
            digests.update(message.digests)
            texts.add(message.sequences)


def undated(packed: Iterable[bytes]) -> set[bytes]:
    """Return the digests of those messages that do not say when they were sent."""
    messages = (unpack("", one) for one in packed)
    return {digest for m in messages if m.when <= 0 for digest in m.digests}


def pack(message: Prepared) -> bytes:
    """Return one message as msgpack, all but its user; ids as raw little-endian uint32."""
    sequences = [
        (s.opens, s.closes, struct.pack(f"<{len(s.ids)}I", *s.ids)) for s in message.sequences
    ]
    packed: bytes = msgpack.packb((message.when, message.digests, sequences))
    return packed


def unpack(user: str, packed: bytes) -> Prepared:
    """Return the message of :func:`pack`."""
    when, digests, sequences = msgpack.unpackb(packed, use_list=False)
    return Prepared(
        user,
        when,
        digests,
        tuple(
            Sequence(_shared(struct.unpack(f"<{len(ids) // 4}I", ids)), opens, closes)
            for opens, closes, ids in sequences
        ),
    )


def _shared(ids: tuple[int, ...]) -> tuple[int, ...]:
    """Return ids that are the same objects each time: a quarter of the memory."""
    return tuple(map(_IDS.setdefault, ids, ids))


def connect(path: Path, *, lasting: bool = True) -> sqlite3.Connection:
    """Open a database, which is made if there is none; what does not last need not reach a disk.

    Raises sqlite3.Error, and LedgerError if another version of perslm made it.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, OWNER_ONLY))  # its other files are made as it is
    database = sqlite3.connect(path, timeout=_WAIT, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(f"PRAGMA synchronous = {'NORMAL' if lasting else 'OFF'}")
    database.execute("PRAGMA secure_delete = ON")
    database.execute("PRAGMA journal_size_limit = 0")
    database.execute("PRAGMA cache_size = -65536")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version not in (0, _FORMAT):
        database.close()
        raise LedgerError(
            f"{path}: another version of perslm made this ledger; remove its folder and build from "
            "all mail with --rebuild"
        )
    database.executescript(_TEMPORARY if version else _SCHEMA + _TEMPORARY)
    return database


@contextmanager
def errors(path: Path) -> Iterator[None]:
    """Make of what SQLite raises an OSError, if it is the disk's, or a LedgerError."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        if code == sqlite3.SQLITE_IOERR:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path)) from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise LedgerError(
                f"{path}: another process has been writing to this ledger for minutes; try again"
            ) from error
        raise LedgerError(
            f"{path}: this ledger is damaged; bring its folder back from a backup, or remove it "
            "and build from all mail with --rebuild"
        ) from error
