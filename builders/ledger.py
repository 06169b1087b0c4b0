"""What was learned from, kept from night to night: every counted message of every user, as ids.

A build takes from its sources what the ledger does not have yet, and makes models of what it has
then. So a rerun cleans nothing twice, a crash loses nothing, and mail can stop counting exactly: by
age, one message, or all before a day. A model is always the one of a first build from the same
messages; nothing is added to counts or taken from them.

A ledger holds what people wrote, as far as a vocabulary has words for it. What is deleted is
overwritten. In the place of Message-IDs there are digests, under a key that lies beside it
(``builders.ledgers``). One build at a time writes here; ``perslm forget`` may delete meanwhile,
which is why everything that a build decides is looked up again in the transaction that acts on it.

=============  =========================================================================
table          holds
=============  =========================================================================
``users``      what the store had when this run began, and what was published last
``messages``   ``mark`` tells a message from all others of its user; ``age`` is when it was
               sent, or found, if it does not say; ``learned``: from the store, not from mail
``seen``       digests of raw messages: of user 0 if they teach nothing; they need no second
               look. An id that no user has any more makes one void.
``forgotten``  digests of messages that no source brings back
``folding``    marks of learned messages that are in here, and still in the store
=============  =========================================================================

Which messages are taken is decided in ``builders.run``, what becomes of them in
``builders.build``; deletions on request are in ``builders.forgetting``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from collections.abc import Sequence as Several
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from builders.ledger_files import Deletions, connect, copies, errors, pack, undated, unpack
from builders.prepare import Prepared, Settings
from perslm.errors import LedgerError
from perslm.store import FENCE_SECONDS, Head, Pending

AT_ONCE = 500
"""Users whose rows, or whose heads in the store, are read together."""

_TABLES_OF_USER = ("messages", "seen", "forgotten", "folding")


@dataclass(frozen=True, slots=True)
class Account:
    """What a ledger knows of a user, besides the messages.

    ``head`` is what the store had when this run began. ``published`` is the ``source_digest`` of
    what was published from here last, None if nothing was since the ledger began the user anew;
    ``result`` is what the report said then, packed; ``changed`` says that more is known since.
    """

    id: int
    user: str
    head: Head
    published: str | None
    result: bytes | None
    changed: bool


@dataclass(slots=True)
class _Row:
    """A user as a transaction found them."""

    id: int
    user: str
    run: int
    floor: float
    changed: bool
    gone: bool
    forgotten: set[bytes]


@dataclass(slots=True)
class Added:
    """What became of messages: not here before, copies within the run, here since before."""

    new: int = 0
    duplicates: int = 0
    known: int = 0


class Ledger:
    """The messages of one recipe. Opened by ``builders.ledgers``.

    Methods raise LedgerError if the files cannot be used, OSError if the disk is full; each change
    is made wholly or not at all.
    """

    def __init__(self, path: Path, key: bytes, *, lasting: bool = True) -> None:
        self.path = path
        self.lasting = lasting
        self._key = key
        self.rebuilding = False
        self._run = 0
        self._now = time.time()
        with errors(path):
            self._database = connect(path, lasting=lasting)
            fits = self._keyed(b"the key of this ledger").hex()
            with self._writing():
                if self._fact("key", fits) != fits:
                    raise LedgerError(
                        f"{path}: this ledger was made with another key; bring the folder back "
                        "whole from a backup, or remove it and build from all mail with --rebuild"
                    )
                self._set_fact("key", fits)
                self._floor = float(self._fact("floor", "0"))

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    # --- runs -------------------------------------------------------------------------------------

    def begin(
        self, settings: Settings, built_by: str, *, now: float, floor: float, rebuild: bool = False
    ) -> None:
        """Begin a run at the POSIX time ``now``; what is older than ``floor`` is deleted.

        ``built_by`` changes with whatever makes another model of the same messages. With
        ``rebuild`` each user begins anew at the first message that this run finds.
        """
        self.rebuilding, self._now, self._floor = rebuild, now, floor
        with self._writing():
            self._database.execute("DELETE FROM temp.alike")
            self._run = int(self._fact("run", "0")) + 1
            self._set_fact("run", str(self._run))
            if floor < float(self._fact("floor", "0")):
                self._database.execute("DELETE FROM seen")  # old mail counts again: look anew
            self._set_fact("floor", repr(floor))
            self._set_fact("settings", json.dumps(asdict(settings)))
            self._database.execute(
                "UPDATE users SET changed = 1 WHERE built_by IS NOT ? AND published IS NOT NULL",
                (built_by,),
            )
            old = "FROM messages WHERE age < ?"
            self._database.execute(
                "UPDATE users SET changed = 1, revision = revision + 1 "
                f"WHERE id IN (SELECT user {old})",
                (floor,),
            )
            self._database.execute(f"DELETE {old}", (floor,))
            self._delete([id for (id,) in self._select("SELECT id FROM users WHERE gone")])

    def end(self) -> None:
        """End a run that came to its end: users deleted meanwhile go, and void marks."""
        with self._writing():
            self._delete([id for (id,) in self._select("SELECT id FROM users WHERE gone")])
            if self.rebuilding:
                self._database.execute(
                    "DELETE FROM seen WHERE user > 0 AND user NOT IN (SELECT id FROM users)"
                )
            self._set_fact("ended", repr(self._now))

    def settings(self) -> Settings:
        """Return those of the last run."""
        saved = json.loads(self.fact("settings", "{}"))
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()
        }
        return Settings(**values)

    def fact(self, name: str, default: str = "") -> str:
        """Return what was noted under a name."""
        with errors(self.path):
            return self._fact(name, default)

    def note(self, name: str, value: str) -> None:
        """Note something under a name."""
        with self._writing():
            self._set_fact(name, value)

    # --- messages ---------------------------------------------------------------------------------

    def mark(self, routing: bytes, payload: bytes) -> bytes:
        """Return the digest of a raw message under the ledger's key, for a way of routing."""
        digest = blake2b(routing, key=self._key, digest_size=16)
        digest.update(payload)
        return digest.digest()

    def seen(self, marks: Collection[bytes]) -> set[bytes]:
        """Return those marks of raw messages that need no second look."""
        if self.rebuilding:
            return set()
        with errors(self.path):
            places = ",".join("?" * len(marks))
            found = self._database.execute(
                "SELECT mark FROM seen LEFT JOIN users ON users.id = seen.user "
                f"WHERE mark IN ({places}) AND (seen.user = 0 OR users.id IS NOT NULL)",
                tuple(marks),
            )
            return {mark for (mark,) in found}

    def strangers(self, users: Iterable[str]) -> list[str]:
        """Return those users that the ledger does not have, sorted."""
        named = set(users)
        with errors(self.path):
            return sorted(named - self._rows(named).keys())

    def add(
        self,
        messages: Iterable[tuple[bytes | None, Prepared]],
        heads: Mapping[str, Head],
        nothing: Iterable[bytes] = (),
    ) -> Added:
        """Keep messages, each with the mark of its raw form, and the marks of what teaches nothing.

        ``heads`` are the store's for users who are not here. Messages that were forgotten are not
        taken, nor are their copies from then on.
        """
        messages = list(messages)
        added = Added()
        with self._writing():
            rows = self._rows(heads.keys() | {message.user for _, message in messages})
            for user, head in heads.items():
                if user not in rows:
                    rows[user] = self._begun(user, head)
            for mark, message in messages:
                row = rows.get(message.user)
                if row is None or row.gone:
                    continue  # deleted in this moment
                if self.rebuilding and row.run != self._run:
                    row = rows[message.user] = self._renewed(row)
                known = self._add(row, message, added)
                if mark is not None and known:
                    self._see(mark, row.id)
            for mark in nothing:
                self._see(mark, 0)
        return added

    def learn(self, account: Account, pending: Iterable[Pending], vocabulary: str) -> None:
        """Take over messages that were learned; of another vocabulary they count no more.

        A ledger that does not last takes only note of those that it has from mail.
        """
        with self._writing():
            row = self._rows([account.user]).get(account.user)
            if row is None or row.id != account.id:
                return
            held = set() if self.lasting else self._digests(row.id)
            for message in pending:
                if self.lasting and message.vocabulary == vocabulary:
                    found = Prepared(row.user, message.sent, message.digests, message.sequences)
                    self._add(row, found, Added(), learned=True)
                elif not self.lasting and held.isdisjoint(map(self._keyed, message.digests)):
                    continue
                self._database.execute(
                    "INSERT OR IGNORE INTO folding VALUES (?, ?)", (row.id, message.mark)
                )

    # --- users ------------------------------------------------------------------------------------

    def accounts(self, *, changed: bool | None = None) -> Iterator[list[Account]]:
        """Yield every user's account, some hundred at once; with ``changed`` of those only."""
        last = 0
        which = "" if changed is None else f"AND changed = {changed:d}"
        while True:
            with errors(self.path):
                rows = self._select(
                    "SELECT id, user, generation, fence, published, rules, result, changed "
                    f"FROM users WHERE id > ? {which} AND NOT gone ORDER BY id LIMIT {AT_ONCE}",
                    last,
                )
            if not rows:
                return
            last = rows[-1][0]
            yield [
                Account(
                    id, user, Head(generation, fence, 0, published or "", rules),
                    published, result, bool(is_changed),
                )
                for id, user, generation, fence, published, rules, result, is_changed in rows
            ]  # fmt: skip

    def meet(self, accounts: Several[Account], heads: Several[Head]) -> None:
        """Compare what was published with what the store has when a run begins.

        Users who were deleted since are dropped. Where the store has something else, has lost the
        user, or knows of more, the user is built.
        """
        ended = float(self.fact("ended", repr(self._now)))
        gone, differ = [], []
        for account, head in zip(accounts, heads, strict=True):
            if self._is_gone(account.head.fence, account.published, ended, head):
                gone.append(account.id)
                continue
            same = head.generation > 0 and head.source_digest == account.published
            anew = head.pending > 0 or head.rules != account.head.rules
            anew = anew or (account.published is not None and not same)
            moved = (head.generation, head.fence) != (account.head.generation, account.head.fence)
            if anew or moved:
                differ.append((head.generation, head.fence, anew, account.id))
        if gone or differ:
            with self._writing():
                self._delete(gone)
                self._database.executemany(
                    "UPDATE users SET generation = ?, fence = ?, changed = changed OR ? "
                    "WHERE id = ?",
                    differ,
                )

    def _is_gone(self, fence: int, published: str | None, ended: float, head: Head) -> bool:
        """Tell whether a user was deleted from the store since a ledger last looked."""
        if head.generation > 0 and head.source_digest == published:
            return False
        lost = not head.generation and published is not None
        long_ago = self._now - ended > FENCE_SECONDS
        # restoring raises the fence, too, but there was no deletion then
        deleted = head.fence > fence and (head.since_deletion is not None or long_ago)
        return deleted or (lost and long_ago)

    def inherit(self, found: Several[Deletions], heads: Several[Head]) -> None:
        """Delete for good what was deleted so from another ledger of the folder.

        ``heads`` are the store's: what is of users who were deleted from it since is void.
        """
        with self._writing():
            rows = self._rows({of.user for of in found})
            for of, head in zip(found, heads, strict=True):
                row = rows.get(of.user)
                if self._is_gone(of.fence, of.published, of.ended, head) or (row and row.gone):
                    continue
                row = row or self._begun(of.user, head)
                if not of.digests <= row.forgotten:
                    self._forget(row.id, row.forgotten | of.digests)
                if of.floor > row.floor:
                    self._forget_before(row.id, of.floor)

    def deleted(self, account: Account) -> None:
        """Drop a user whom the store has deleted since the account was read."""
        with self._writing():
            found = self._select("SELECT fence FROM users WHERE id = ?", account.id)
            if found == [(account.head.fence,)]:
                self._delete([account.id])

    def drop(self, users: Iterable[str], *, building: bool = False) -> int:
        """Delete all there is of users, and return how many there were.

        If a build may be running (``building``) their ids stay until it ends, so that it does not
        take them for newcomers.
        """
        dropped = 0
        named = list(users)
        for first in range(0, len(named), AT_ONCE):
            with self._writing():
                ids = [row.id for row in self._rows(named[first : first + AT_ONCE]).values()]
                dropped += len(ids)
                self._delete(ids, keep_users=building)
        return dropped

    @contextmanager
    def settling(self, id: int, revision: int) -> Iterator[bool]:
        """Hold the ledger while a user's model is published.

        Yields False if messages went since it was made: then it must not be.
        """
        with self._writing():
            found = self._select("SELECT revision, gone FROM users WHERE id = ?", id)
            yield found == [(revision, 0)]

    def settled(
        self, id: int, head: Head, digest: str, built_by: str, result: bytes | None
    ) -> None:
        """Remember what the store has now of a user; within ``settling``."""
        self._database.execute(
            "UPDATE users SET generation = ?, fence = ?, published = ?, rules = ?, built_by = ?, "
            "result = ?, changed = 0 WHERE id = ?",
            (head.generation, head.fence, digest, head.rules, built_by, result, id),
        )
        self._database.execute("DELETE FROM folding WHERE user = ?", (id,))

    def emptied(self, id: int, fence: int) -> None:
        """Remember that the store has no model of a user of whom nothing is left; as ``settled``.

        What was forgotten is kept, so that it stays so.
        """
        kept = self._select(
            "SELECT 1 FROM users WHERE id = ?1 AND (floor > 0 OR EXISTS "
            "(SELECT 1 FROM forgotten WHERE user = ?1))",
            id,
        )
        if not kept:
            self._delete([id])
            return
        self._database.execute(
            "UPDATE users SET generation = 0, fence = ?, published = NULL, result = NULL, "
            "rules = '', changed = 0 WHERE id = ?",
            (fence, id),
        )
        self._database.execute("DELETE FROM folding WHERE user = ?", (id,))

    def folding(self, id: int) -> list[bytes]:
        """Return the marks of a user's learned messages that are here and maybe in the store."""
        with errors(self.path):
            return [mark for (mark,) in self._select("SELECT mark FROM folding WHERE user = ?", id)]

    def users(self) -> int:
        """Return how many users there are."""
        with errors(self.path):
            ((count,),) = self._select("SELECT count(*) FROM users WHERE NOT gone")
        return int(count)

    def account(self, user: str) -> Account | None:
        """Return a user's account, or None."""
        with errors(self.path):
            rows = self._select(
                "SELECT id, generation, fence, published, rules, result, changed FROM users "
                "WHERE user = ? AND NOT gone",
                user,
            )
        for id, generation, fence, published, rules, result, changed in rows:
            head = Head(generation, fence, 0, published or "", rules)
            return Account(id, user, head, published, result, bool(changed))
        return None

    # --- deletions on request ---------------------------------------------------------------------

    def forget_messages(self, account: Account, digests: Iterable[bytes]) -> int:
        """Delete a user's messages that have one of these digests, and all copies, for good."""
        with self._writing():
            return self._forget(account.id, {self._keyed(digest) for digest in digests})

    def forget_before(self, account: Account, when: float) -> int:
        """Delete a user's messages of before a POSIX time, for good; return how many there were.

        Of messages that do not say when they were sent it goes by when they were found.
        """
        with self._writing():
            return self._forget_before(account.id, when)

    # --- below here: rows -------------------------------------------------------------------------

    def _add(self, row: _Row, message: Prepared, added: Added, *, learned: bool = False) -> bool:
        """Keep one message; say whether its raw form needs no second look."""
        digests = tuple(self._keyed(digest) for digest in message.digests)
        if not row.forgotten.isdisjoint(digests):
            if not row.forgotten.issuperset(digests):
                self._forget(row.id, row.forgotten.union(digests))
                row.forgotten = self._rows([row.user])[row.user].forgotten
            return True
        age = message.when if message.when > 0 else self._now
        if age < max(row.floor, self._floor):
            return True
        kept = pack(Prepared(message.user, message.when, digests, message.sequences))
        mark = self._mark_of(row, kept, alike=not digests and not learned)
        found = self._database.execute(
            "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (user, mark) "
            "DO UPDATE SET learned = 0 WHERE learned > excluded.learned",
            (row.id, mark, age, self._run, learned, kept),
        )
        if found.rowcount:
            added.new += 1
            if not row.changed:
                self._database.execute("UPDATE users SET changed = 1 WHERE id = ?", (row.id,))
                row.changed = True
        else:
            ((run,),) = self._select(
                "SELECT run FROM messages WHERE user = ? AND mark = ?", row.id, mark
            )
            if run == self._run:
                added.duplicates += 1
            else:
                added.known += 1
        return bool(digests)

    def _digests(self, id: int) -> set[bytes]:
        rows = self._select("SELECT message FROM messages WHERE user = ?", id)
        return {digest for (message,) in rows for digest in unpack("", message).digests}

    def _mark_of(self, row: _Row, kept: bytes, *, alike: bool) -> bytes:
        digest = blake2b(kept, key=self._key, digest_size=16, person=b"message")
        if alike:
            # nothing says whether two of these are one: the first of a run is the first of the last
            ((count,),) = self._select(
                "INSERT INTO temp.alike VALUES (?, 1) ON CONFLICT (mark) "
                "DO UPDATE SET count = count + 1 RETURNING count",
                digest.digest() + row.id.to_bytes(8, "big"),
            )
            digest.update(b"%d" % count)
        return digest.digest()

    def _forget(self, id: int, digests: set[bytes]) -> int:
        """Delete the messages with these digests and all that share one with them, and so on."""
        held = self._select("SELECT mark, learned, message FROM messages WHERE user = ?", id)
        gone, digests = copies(
            [(mark, bool(learned), unpack("", message)) for mark, learned, message in held],
            digests,
        )
        self._database.executemany(
            "DELETE FROM messages WHERE user = ? AND mark = ?", [(id, mark) for mark in gone]
        )
        self._database.executemany(
            "INSERT OR IGNORE INTO forgotten VALUES (?, ?)", [(id, d) for d in sorted(digests)]
        )
        self._database.execute(
            "UPDATE users SET changed = 1, revision = revision + 1 WHERE id = ?", (id,)
        )
        return len(gone)

    def _forget_before(self, id: int, when: float) -> int:
        old = "FROM messages WHERE user = ? AND age < ?"
        # found again, what has no date would be of that day
        gone = self._forget(
            id, undated(m for (m,) in self._select(f"SELECT message {old}", id, when))
        )
        gone += self._database.execute(f"DELETE {old}", (id, when)).rowcount
        self._database.execute(
            "UPDATE users SET floor = max(floor, ?), changed = 1, revision = revision + 1 "
            "WHERE id = ?",
            (when, id),
        )
        return gone

    def _rows(self, users: Collection[str]) -> dict[str, _Row]:
        places = ",".join("?" * len(users))
        found = self._select(
            f"SELECT id, user, run, floor, changed, gone FROM users WHERE user IN ({places})",
            *users,
        )
        rows = {
            user: _Row(id, user, run, floor, bool(changed), bool(gone), set())
            for id, user, run, floor, changed, gone in found
        }
        for user, digest in self._select(
            "SELECT users.user, digest FROM forgotten JOIN users ON users.id = forgotten.user "
            f"WHERE users.user IN ({places})",
            *users,
        ):
            rows[user].forgotten.add(digest)
        return rows

    def _begun(self, user: str, head: Head) -> _Row:
        made = self._database.execute(
            "INSERT INTO users (user, generation, fence, rules, run) VALUES (?, ?, ?, ?, ?)",
            (user, head.generation, head.fence, head.rules, self._run),
        )
        assert made.lastrowid is not None
        return _Row(made.lastrowid, user, self._run, 0.0, True, False, set())

    def _renewed(self, row: _Row) -> _Row:
        """Begin a user anew, under another id, which makes void what was seen of the old one."""
        ((generation, fence, rules),) = self._select(
            "SELECT generation, fence, rules FROM users WHERE id = ?", row.id
        )
        self._database.execute("DELETE FROM users WHERE id = ?", (row.id,))
        new = self._begun(row.user, Head(generation, fence, rules=rules))
        for table in ("forgotten", "folding"):
            self._database.execute(f"UPDATE {table} SET user = ? WHERE user = ?", (new.id, row.id))
        self._database.execute("UPDATE users SET floor = ? WHERE id = ?", (row.floor, new.id))
        self._database.execute("DELETE FROM messages WHERE user = ?", (row.id,))
        return _Row(new.id, row.user, self._run, row.floor, True, False, row.forgotten)

    def _delete(self, ids: Several[int], *, keep_users: bool = False) -> None:
        if not ids:
            return
        self._database.executemany("INSERT INTO temp.going VALUES (?)", [(id,) for id in ids])
        which = "IN (SELECT id FROM temp.going)"
        for table in _TABLES_OF_USER:
            self._database.execute(f"DELETE FROM {table} WHERE user {which}")
        if keep_users:
            self._database.execute(
                "UPDATE users SET gone = 1, published = NULL, result = NULL, changed = 0, "
                f"revision = revision + 1 WHERE id {which}"
            )
        else:
            self._database.execute(f"DELETE FROM users WHERE id {which}")
        self._database.execute("DELETE FROM temp.going")

    def _see(self, mark: bytes, id: int) -> None:
        self._database.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", (mark, id))

    def _keyed(self, digest: bytes) -> bytes:
        return blake2b(digest, key=self._key, digest_size=16, person=b"digest").digest()

    def _fact(self, name: str, default: str) -> str:
        rows = self._select("SELECT value FROM facts WHERE name = ?", name)
        return str(rows[0][0]) if rows else default

    def _set_fact(self, name: str, value: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def _select(self, query: str, *values: object) -> list[Any]:
        return self._database.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with errors(self.path):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
