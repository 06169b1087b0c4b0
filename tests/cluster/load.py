"""Programs that publish, delete and read at once, and keep account of what they were promised."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from perslm.errors import ForgottenError, PublishConflictError, StoreUnavailableError
from perslm.store import Store, open_store
from tests.cluster.nodes import LONG, until

USERS: Final = 24
_WRITERS: Final = 3
_READERS: Final = 2


def blob(user: str, generation: int) -> bytes:
    return f"{user} {generation} ".encode() * 40


class Load:
    """Writers with users of their own each, and readers of everybody; a context manager.

    Every third user is deleted now and then. What was answered must hold: a reader that asks after
    a publish was answered sees that generation or a later one, and one that asks after a deletion
    nothing of before. Only an error that says so is no answer.
    """

    def __init__(self, url: str, users: int = USERS) -> None:
        self.users = [f"user-{i}" for i in range(users)]
        self.promised = dict.fromkeys(self.users, 0)  # generation or fence that was answered last
        self.written = dict.fromkeys(self.users, 0)  # how many answers
        self.refused = 0  # operations that raised
        self.read = 0
        self.wrong: list[str] = []
        self._forgetting = set(self.users[::3])
        self._stopped = threading.Event()
        self._store = open_store(url)
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._write, self.users[i::_WRITERS]))
            for i in range(_WRITERS)
        ] + [
            threading.Thread(target=self._guarded, args=(self._read, self.users))
            for _ in range(_READERS)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(LONG)
        self._store.close()
        assert not any(thread.is_alive() for thread in self._threads)
        assert not self.wrong

    def goes_on(self, rounds: int = 3) -> None:
        """Return when every user was written so many times more, and all were read."""
        before, read = dict(self.written), self.read
        until(
            lambda: self.wrong or all(self.written[u] >= before[u] + rounds for u in self.users),
            "everybody is written again",
        )
        until(lambda: self.wrong or self.read > read + len(self.users), "everybody is read again")
        assert not self.wrong

    def _guarded(self, work: object, users: list[str]) -> None:
        try:
            while not self._stopped.is_set():
                for user in users:
                    if self._stopped.is_set():
                        return
                    work(user)  # type: ignore[operator]
        except BaseException as error:
            self.wrong.append(repr(error))
            raise

    def _write(self, user: str) -> None:
        try:
            head = self._store.head(user)
            if user in self._forgetting and self.written[user] % 5 == 4:
                self._store.forget(user)
                self.promised[user] = max(head.generation, head.fence) + 1
            else:
                new = max(head.generation, head.fence) + 1
                self._store.publish(user, blob(user, new), parent=head)
                self.promised[user] = new
            self.written[user] += 1
        except (StoreUnavailableError, PublishConflictError, ForgottenError):
            self.refused += 1  # done or not: the next round starts from what is there

    def _read(self, user: str) -> None:
        promised = self.promised[user]
        try:
            stored = self._store.fetch(user)
        except StoreUnavailableError:
            self.refused += 1
            return
        self.read += 1
        if stored is None:
            if promised and user not in self._forgetting:
                self.wrong.append(f"{user} was lost")
        elif stored.generation < promised:
            self.wrong.append(f"{user} went back from {promised} to {stored.generation}")
        elif stored.blob != blob(user, stored.generation):
            self.wrong.append(f"{user} has another blob")

    def check(self, store: Store) -> None:
        """Hold the store to what was promised, after the end."""
        for user in self.users:
            head, stored = store.head(user), store.fetch(user)
            assert max(head.generation, head.fence) >= self.promised[user]
            if user not in self._forgetting:
                assert stored is not None
            if stored is not None:
                assert stored.blob == blob(user, stored.generation)
        assert {u for u in self.users if store.fetch(u) is not None} == set(store.users())


@contextmanager
def under_load(url: str) -> Iterator[Load]:
    """A load that runs when this begins, and is checked when it has ended."""
    with Load(url) as load:
        load.goes_on(1)
        yield load
    with open_store(url) as store:
        load.check(store)
