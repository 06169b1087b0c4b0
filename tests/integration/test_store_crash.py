"""Builders and servers killed at random instants: always a readable model, nothing answered lost.

Real processes throughout. A builder reports each publish through a pipe after ``publish`` has
returned, so what the test reads from that pipe is what the store has promised to keep. Payloads
carry a checksum and the fence their build began under. The instants are drawn from a seed.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import redis

from perslm._store_scripts import SLOTS
from perslm.embedded import EmbeddedServer
from perslm.errors import ForgottenError, PublishConflictError, StoreUnavailableError
from perslm.store import Store, open_store

USER = "arora-h"
PAYLOAD_BYTES = 20_000
DEADLINE = 15.0

processes = multiprocessing.get_context("fork")


def payload(fence: int, seed: int) -> bytes:
    body = fence.to_bytes(8, "big") + random.Random(seed).randbytes(PAYLOAD_BYTES)
    return body + hashlib.sha256(body).digest()


def fence_of(blob: bytes) -> int:
    """Check that ``blob`` is a payload, whole and undamaged; return its fence."""
    assert hashlib.sha256(blob[:-32]).digest() == blob[-32:]
    return int.from_bytes(blob[:8], "big")


def build(
    url: str,
    report: Connection,
    seed: int,
    limit: int | None = None,
    start: Barrier | None = None,
) -> None:
    """Publish one model after the other, until killed; report what each publish came to."""
    with open_store(url) as store:
        if start is not None:
            start.wait(DEADLINE)
        published = 0
        while published != limit:
            seed += 1
            try:
                head = store.head(USER)
                blob = payload(head.fence, seed)
                generation = store.publish(USER, blob, parent=head)
            except ForgottenError:
                report.send(("forgotten", 0, b""))
            except PublishConflictError:
                report.send(("conflict", 0, b""))
            except StoreUnavailableError:
                report.send(("unavailable", 0, b""))
            else:
                published += 1
                report.send(("published", generation, blob[-32:]))


def watch(url: str, report: Connection) -> None:
    """Read over and over until told to stop; any half or backward read ends this in failure."""
    reads, last = 0, 0
    with open_store(url) as store:
        while not report.poll():
            stored = store.fetch(USER)
            if stored is not None:
                fence_of(stored.blob)
                assert stored.generation >= last
                last = stored.generation
                reads += 1
    report.send(reads)


@contextmanager
def running(target: Callable[..., None], *arguments: object) -> Iterator[tuple[int, Connection]]:
    """Run ``target`` in a process; it is killed at the end if it still runs."""
    here, there = processes.Pipe()
    process = processes.Process(target=target, args=(arguments[0], there, *arguments[1:]))
    process.start()
    there.close()
    assert process.pid is not None
    try:
        yield process.pid, here
    finally:
        process.kill()
        process.join()
        here.close()


class Promises:
    """The highest generation that was acknowledged, and the digests of all."""

    def __init__(self) -> None:
        self.highest = 0
        self.digests: dict[int, bytes] = {}
        self.others = 0

    def take(self, message: tuple[str, int, bytes]) -> None:
        kind, generation, digest = message
        if kind == "published":
            assert generation not in self.digests, "two builders were given one number"
            self.digests[generation] = digest
            self.highest = max(self.highest, generation)
        else:
            self.others += 1

    def drain(self, report: Connection, wait: float = 0) -> None:
        """Take all that a builder has reported, to the last whole message or its end."""
        try:
            while report.poll(wait):
                self.take(report.recv())
        except (EOFError, ConnectionResetError):
            return

    def hold(self, store: Store) -> None:
        """Check that the store keeps every promise; builders may be publishing meanwhile."""
        promised = self.highest
        current = store.fetch(USER)
        assert current is not None
        fence_of(current.blob)
        assert current.generation >= promised
        kept = [info.generation for info in store.generations(USER)]
        for generation in {*kept, promised} - {0}:
            stored = store.fetch(USER, generation=generation)
            if stored is None:
                assert store.head(USER).generation >= generation + SLOTS, "not yet due to go"
            else:
                fence_of(stored.blob)
                digest = stored.blob[-32:]
                assert digest == self.digests.get(generation, digest)


def let_it_work(report: Connection, promises: Promises, chance: random.Random) -> None:
    """Take a few reports, then go on for a random instant, so that a kill falls anywhere."""
    for _ in range(chance.randint(1, 4)):
        assert report.poll(DEADLINE), "the builder stands still"
        promises.take(report.recv())
    end = time.monotonic() + chance.uniform(0, 0.003)
    while (left := end - time.monotonic()) > 0 and report.poll(left):
        promises.take(report.recv())


def test_builders_killed_at_any_instant(store_url: str) -> None:
    chance, promises = random.Random(20), Promises()
    with open_store(store_url) as store, running(watch, store_url) as (_, reader):
        for kill in range(60):
            with running(build, store_url, 1000 * kill) as (builder, report):
                let_it_work(report, promises, chance)
                os.kill(builder, signal.SIGKILL)
                promises.drain(report)
                promises.hold(store)
        reader.send("stop")
        assert reader.poll(DEADLINE), "the reader failed"
        assert reader.recv() > 0
    assert promises.highest >= 60


def test_builders_that_race_all_publish_in_turn(store_url: str) -> None:
    promises, each, start = Promises(), 60, processes.Barrier(3)
    with (
        open_store(store_url) as store,
        running(build, store_url, 1000 * 1, each, start) as (_, one),
        running(build, store_url, 1000 * 2, each, start) as (_, two),
        running(build, store_url, 1000 * 3, each, start) as (_, three),
    ):
        for report in (one, two, three):
            promises.drain(report, wait=DEADLINE)
        promises.hold(store)
        assert sorted(promises.digests) == list(range(1, 3 * each + 1))
        assert store.head(USER).generation == 3 * each
    assert promises.others, "they never met, so this tested nothing"


def kill_server(server: EmbeddedServer) -> None:
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        os.kill(int(client.info("server")["process_id"]), signal.SIGKILL)


def test_servers_killed_at_any_instant(tmp_path: Path) -> None:
    url = f"embedded:{tmp_path / 'store'}"
    server = EmbeddedServer(tmp_path / "store")
    chance, promises = random.Random(21), Promises()
    with open_store(url) as store, running(build, url, 0) as (_, report):
        for _ in range(20):
            let_it_work(report, promises, chance)
            server.ensure()
            kill_server(server)
            promises.drain(report)
            promises.hold(store)
        server.close()
    with open_store(url) as store:
        promises.hold(store)


def test_builder_and_server_killed_together(tmp_path: Path) -> None:
    url = f"embedded:{tmp_path / 'store'}"
    chance, promises = random.Random(22), Promises()
    for kill in range(15):
        server = EmbeddedServer(tmp_path / "store")
        with running(build, url, 1000 * kill) as (builder, report):
            let_it_work(report, promises, chance)
            server.ensure()
            os.kill(builder, signal.SIGKILL)
            kill_server(server)
            promises.drain(report)
        server.close()
        with open_store(url) as store:
            promises.hold(store)


def test_a_deletion_wins_over_every_running_builder(store_url: str) -> None:
    """Whatever is published after a deletion was begun after it."""
    promises, deletions = Promises(), 0
    end = time.monotonic() + DEADLINE
    with open_store(store_url) as store, running(build, store_url, 0) as (_, report):
        while promises.others < 20:
            assert time.monotonic() < end, "the deletions never fell into a running build"
            assert report.poll(DEADLINE), "the builder stands still"
            promises.drain(report)
            store.forget(USER)
            deletions += 1
            fence = store.head(USER).fence
            stored = store.fetch(USER)
            assert stored is None or fence_of(stored.blob) >= fence
    assert deletions >= 20
    assert promises.digests, "builds begun after a deletion do publish"
