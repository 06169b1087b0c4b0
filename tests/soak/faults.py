"""The schedule of what breaks: one thing at a time, drawn from a seed, each mended after a while.

A fault is a context manager of its own name in :class:`Faults`. It tells the ledger whom it keeps
from the store before it begins, and that it is over after it is mended.
"""

from __future__ import annotations

import os
import signal
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgpack

from perslm import encryption
from perslm.blob import VERSION
from tests.service.server import TYPES
from tests.soak.clients import Replica
from tests.soak.contents import FINGERPRINT
from tests.soak.ledger import PROMISE, SETTLING, Ledger, Owner
from tests.soak.proxy import Proxy
from tests.soak.stores import Pair

ERRORS = (
    "LOADING the dataset is in memory soon",
    "BUSY a script is running",
    "MASTERDOWN the link is down",
    "CLUSTERDOWN the cluster is down",
    "TRYAGAIN keys are moving",
    "READONLY this is a replica",
    "OOM command not allowed",
    "MISCONF the disk is full",
    "NOPERM no permission",
    "NOAUTH authentication required",
    "WRONGTYPE another type",
    "ERR something else",
)
ENCRYPTED = "acme"
"""The tenant whose models are encrypted; only there a blob is bound to its user and generation."""

_DAMAGED = 20  # users at a time
_SLOTS = 8
_VERSION_AT = 4  # in a blob, and in an encrypted one


class Faults:
    """Breaks things, and mends them. ``injected`` counts by name."""

    def __init__(
        self,
        ledger: Ledger,
        pair: Pair,
        proxy: Proxy,
        replicas: list[Replica],
        processes: list[int],
        clocks: list[Path],
        master_keys: Path,
        random: Random,
        only: tuple[str, ...],
    ) -> None:
        self._ledger, self._pair, self._proxy = ledger, pair, proxy
        self._replicas, self._processes, self._clocks = replicas, processes, clocks
        self._master_keys = master_keys
        self._random = random
        self.injected: Counter[str] = Counter()
        self.frozen: list[list[tuple[float, float]]] = [[] for _ in replicas]
        self._names = sorted(only or self._kinds())

    def run(self, seconds: float) -> None:
        """Break one thing after the other for so long; each at least once if time allows."""
        end = time.monotonic() + seconds
        share = seconds / (1.2 * len(self._names))
        longest = min(8.0, 0.6 * share)
        waiting = threading.Event()  # which nobody sets
        names: list[str] = []
        while time.monotonic() < end:
            if not names:
                names = self._names.copy()
                self._random.shuffle(names)
            name = names.pop()
            self.injected[name] += 1
            with self._kinds()[name]():
                waiting.wait(self._random.uniform(0.3, 1) * longest)
            waiting.wait(self._random.uniform(0, 0.5) * longest)

    def _kinds(self) -> dict[str, Callable[[], AbstractContextManager[None]]]:
        return {
            "store killed": self._store_killed,
            "store frozen": self._store_frozen,
            "store's memory full": self._memory_full,
            "failover": self._failover,
            "slow": lambda: self._rough("slow", seconds=self._random.uniform(0.01, 0.5)),
            "dribbling": lambda: self._rough("dribble", seconds=0.01),
            "errors": lambda: self._rough(
                "errors", lines=self._random.sample(ERRORS, self._random.randint(1, 4))
            ),
            "replies cut": lambda: self._rough("cut"),
            "replies lost": lambda: self._rough("lose"),
            "connections refused": lambda: self._rough("refuse"),
            "connections dead": lambda: self._rough("swallow"),
            "subscription dead": self._deaf,
            "blobs damaged": self._damaged,
            "master key added": self._master_key_added,
            "clock jumped": self._clock_jumped,
            "replica frozen": self._replica_frozen,
            "flood of unknown users": self._flood,
        }

    # The store

    @contextmanager
    def _store_killed(self) -> Iterator[None]:
        with self._disturbing([0, 1], "killed"):
            self._pair.primary.kill()
            yield
            self._pair.primary.start()

    @contextmanager
    def _store_frozen(self) -> Iterator[None]:
        with self._disturbing([0, 1], "frozen"):
            self._pair.primary.freeze()
            yield
            self._pair.primary.thaw()

    @contextmanager
    def _memory_full(self) -> Iterator[None]:
        self._pair.primary.limit_memory(1)
        yield
        self._pair.primary.limit_memory(0)

    @contextmanager
    def _failover(self) -> Iterator[None]:
        with self._disturbing([0, 1], "failover"):
            self._proxy.point_to(self._pair.fail_over())
        yield
        self._pair.mend()

    # The way to it

    @contextmanager
    def _rough(self, mode: str, **more: Any) -> Iterator[None]:
        """All are affected, or one replica alone; and one of the writers."""
        replicas = self._random.choice(([0, 1], [0, 1], [0], [1]))
        with self._disturbing(replicas, mode):
            for listener in (*replicas, 3):
                self._proxy.change(listener, mode, **more)
            yield
            for listener in (*replicas, 3):
                self._proxy.change(listener, "pass")

    @contextmanager
    def _deaf(self) -> Iterator[None]:
        """Announcements are lost, all else works: no excuse for anything."""
        for listener in (0, 1):
            self._proxy.change(listener, "deaf")
        yield
        for listener in (0, 1):
            self._proxy.change(listener, "pass")

    # What is stored

    @contextmanager
    def _damaged(self) -> Iterator[None]:
        """Blobs of some users cannot be read for a while, nor changed."""
        owners = self._random.sample([*self._ledger.users], _DAMAGED)
        held = [o for o in owners if self._ledger.record(o).writing.acquire(timeout=1)]
        client = self._pair.primary.client
        try:
            sound = self._stored(held)
            encrypted = [blob for (tenant, _), _, blob in sound if tenant == ENCRYPTED]
            for owner, key, blob in sound:
                self._ledger.damage(owner, float("inf"))
                others = [other for other in encrypted if other != blob]
                if owner[0] == ENCRYPTED and others and self._random.random() < 0.6:
                    damaged = self._earlier(owner) or self._random.choice(others)
                else:
                    damaged = self._damage(blob)
                client.hset(key, "b", damaged)
            yield
            for _, key, blob in sound:
                client.hset(key, "b", blob)
        finally:
            for owner in held:
                self._ledger.damage(owner, time.monotonic() + SETTLING + PROMISE)
                self._ledger.record(owner).writing.release()

    @contextmanager
    def _master_key_added(self) -> Iterator[None]:
        """What is published from now on is encrypted with a key that the service has not read."""
        encryption.add(self._master_keys)
        yield

    def _stored(self, owners: list[Owner]) -> list[tuple[Owner, str, bytes]]:
        """Return where the current blobs of users are, and the blobs."""
        client = self._pair.primary.client
        found = []
        for owner in owners:
            key = _key(owner, "head")
            blob = client.hget(key, "b")
            if blob is not None:
                found.append((owner, key, blob))
        return found

    def _earlier(self, owner: Owner) -> bytes | None:
        """Return the blob of another generation of the user, if one is kept."""
        for slot in range(_SLOTS):
            other = f"{_key(owner, 'slot')}:{slot}"
            blob = self._pair.primary.client.hget(other, "b")
            if blob is not None:
                return bytes(blob)
        return None

    def _damage(self, blob: bytes) -> bytes:
        luck = self._random.random()
        if luck < 0.3:
            return blob[: self._random.randrange(len(blob))]
        changed = bytearray(blob)
        if luck < 0.6:
            changed[self._random.randrange(len(blob))] ^= 1 << self._random.randrange(8)
        elif luck < 0.8:
            changed[_VERSION_AT] = VERSION + 1
            changed[-4:] = struct.pack("<I", zlib.crc32(changed[:-4]))
        else:
            return self._random.randbytes(len(blob))
        return bytes(changed)

    # The service

    @contextmanager
    def _clock_jumped(self) -> Iterator[None]:
        """The wall clock of a replica jumps by up to ten years, and stays there."""
        shift = self._random.choice((-1, 1)) * 10 ** self._random.uniform(0, 8.5)
        with self._random.choice(self._clocks).open("r+b") as file:  # which is mapped there
            file.write(struct.pack("<d", shift))
        yield

    @contextmanager
    def _replica_frozen(self) -> Iterator[None]:
        number = self._random.randrange(len(self._replicas))
        with self._disturbing([number], "replica frozen"):
            begin = time.monotonic()
            os.kill(self._processes[number], signal.SIGSTOP)
            yield
            os.kill(self._processes[number], signal.SIGCONT)
            self.frozen[number].append((begin, time.monotonic()))

    @contextmanager
    def _flood(self) -> Iterator[None]:
        """Requests for users that nobody ever heard of, as fast as they are answered."""
        stop = threading.Event()
        threads = [
            threading.Thread(target=self._ask_for_nobody, args=(replica, stop))
            for replica in self._replicas
        ]
        for thread in threads:
            thread.start()
        yield
        stop.set()
        for thread in threads:
            thread.join()

    def _ask_for_nobody(self, replica: Replica, stop: threading.Event) -> None:
        headers = {**replica.headers("acme"), "content-type": TYPES["msgpack"]}
        connection = replica.connect()
        try:
            while not stop.is_set():
                user = os.urandom(60).hex()
                body = msgpack.packb(
                    {"user": user, "vocabulary": FINGERPRINT, "histories": [[]], "top_k": 1}
                )
                connection.request("POST", "/v1/score", body, headers)
                response = connection.getresponse()
                response.read()
                self._ledger.count("flood", str(response.status))
                if response.status not in (200, 503):
                    self._ledger.violate("a good request refused", f"flood: {response.status}")
        finally:
            connection.close()

    @contextmanager
    def _disturbing(self, replicas: list[int], what: str) -> Iterator[None]:
        self._ledger.disturb(replicas, what)
        try:
            yield
        finally:
            self._ledger.calm(replicas)


def _key(owner: Owner, kind: str) -> str:
    tenant, user = owner
    namespace = "perslm" if tenant == "default" else f"perslm.{tenant}"
    return f"{namespace}:{kind}:{{{user}}}"
