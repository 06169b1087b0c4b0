"""Hearing of changes in the store, with a server that dies, hangs, forbids or cuts off."""

from __future__ import annotations

import math
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from perslm.embedded import EmbeddedServer
from perslm.errors import PublishConflictError, StoreError
from perslm.store import Change, Changes, Head, Store, open_store

LONG = 60.0  # a test that fails, not one that waits
ODD_USERS = ["a{b}c", "}", "a:b", "a%7Bb", "a b", "tab\there", "ünï@例.jp", "{x}:head:{y}"]


class Follower:
    """A thread that follows a store and keeps what it hears."""

    def __init__(self, store: Store) -> None:
        self.changes = store.changes()
        self.heard: queue.Queue[tuple[Change, bool]] = queue.Queue()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        for change in self.changes:
            self.heard.put((change, self.changes.live))

    def next(self) -> Change:
        return self.heard.get(timeout=LONG)[0]

    def gap(self) -> bool:
        """Wait for the next gap and return ``live`` at that moment."""
        while True:
            change, live = self.heard.get(timeout=LONG)
            if change.kind == "gap":
                return live

    def answered(self) -> float:
        """Wait until the server has answered another ping; return ``heard``."""
        before, deadline = self.changes.heard, time.monotonic() + LONG
        pause = threading.Event()
        while self.changes.heard == before and time.monotonic() < deadline:
            pause.wait(0.01)
        return self.changes.heard


@contextmanager
def following(store: Store) -> Iterator[Follower]:
    follower = Follower(store)
    try:
        assert follower.gap(), "the first thing heard is that all may have changed before"
        yield follower
    finally:
        follower.changes.close()
        follower.thread.join(LONG)
        assert not follower.thread.is_alive()


def publish(store: Store, user: str = "ada") -> int:
    return store.publish(user, b"blob", parent=store.head(user))


def test_every_change_is_heard_once_in_order(store: Store) -> None:
    with following(store) as follower:
        publish(store)
        publish(store)
        store.rollback("ada")
        with pytest.raises(PublishConflictError):
            store.publish("ada", b"late", parent=Head(1, 0))
        store.forget("ada")
        publish(store)
        assert [follower.next() for _ in range(5)] == [
            Change("publish", "default", "ada", 1),
            Change("publish", "default", "ada", 2),
            Change("rollback", "default", "ada", 3),
            Change("forget", "default", "ada", 4),
            Change("publish", "default", "ada", 5),
        ]


def test_what_is_heard_of_can_be_read(store: Store) -> None:
    with following(store) as follower:
        for _ in range(50):
            threading.Thread(target=publish, args=(store,)).run()
            assert store.head("ada").generation >= follower.next().generation


def test_all_tenants_are_heard_and_no_other_installation(store_url: str, store: Store) -> None:
    with (
        open_store(store_url, namespace="perslm2") as other,
        open_store(store_url, tenant="acme") as acme,
        following(acme) as follower,
    ):
        publish(other)
        for user in ODD_USERS:
            publish(store.of_tenant("acme-2"), user)
        publish(store)
        heard = [follower.next() for _ in range(len(ODD_USERS) + 1)]
        assert [(change.tenant, change.user) for change in heard] == [
            *(("acme-2", user) for user in ODD_USERS),
            ("default", "ada"),
        ]


def test_other_lines_on_the_channel_are_ignored(store: Store, raw_store: redis.Redis) -> None:
    with following(store) as follower:
        for line in (
            b"", b"\xff\xfe", b"publish", b"a b c d",
            b"publish x perslm:head:{ada}", b"gap 1 perslm:head:{ada}",
            b"publish 1 perslm:slot:{ada}:1", b"publish 1 perslm:head:{ada",
            b"publish 1 other:head:{ada}", b"publish 1 perslm2:head:{ada}",
        ):  # fmt: skip
            raw_store.publish("perslm:changes", line)
        publish(store)
        assert follower.next() == Change("publish", "default", "ada", 1)


def test_a_repr_has_no_user(store: Store) -> None:
    assert "ada" not in repr(Change("publish", "default", "ada", 1))
    assert "live=False" in repr(store.changes())


# The server goes


def test_a_lost_connection_is_a_gap_and_then_all_goes_on(
    store: Store, raw_store: redis.Redis
) -> None:
    with following(store) as follower:
        for _ in range(3):
            raw_store.client_kill_filter(_type="pubsub")
            assert not follower.gap()
            assert follower.gap()
        publish(store)
        assert follower.next() == Change("publish", "default", "ada", 1)


def test_a_reader_too_slow_for_the_server_learns_that_it_missed_some(
    store: Store, raw_store: redis.Redis
) -> None:
    before = raw_store.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
    raw_store.config_set("client-output-buffer-limit", "pubsub 200000 0 0")
    try:
        changes = iter(store.changes())
        assert next(changes).kind == "gap"
        subscribed = next(c for c in raw_store.client_list() if "P" in c["flags"])
        line = b"publish 1 perslm:head:{ada}"
        while any(c["id"] == subscribed["id"] for c in raw_store.client_list()):
            pipe = raw_store.pipeline(transaction=False)
            for _ in range(2000):
                pipe.publish("perslm:changes", line)
            pipe.execute()
        assert any(change.kind == "gap" for change in changes)
    finally:
        raw_store.config_set("client-output-buffer-limit", before)


def process_of(server: EmbeddedServer) -> int:
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        return int(client.info("server")["process_id"])


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path / "store")
    server.ensure()
    yield server
    server.close()


def test_a_server_that_dies_and_comes_back(own_server: EmbeddedServer) -> None:
    with open_store(f"unix://{own_server.socket}") as store, following(store) as follower:
        os.kill(process_of(own_server), signal.SIGKILL)
        assert not follower.gap()
        assert not follower.changes.live
        own_server.ensure()
        assert follower.gap()
        publish(store)
        assert follower.next() == Change("publish", "default", "ada", 1)


def test_an_embedded_server_is_started_again_by_its_follower(tmp_path: Path) -> None:
    with open_store(f"embedded:{tmp_path}/store") as store, following(store) as follower:
        os.kill(process_of(EmbeddedServer(tmp_path / "store")), signal.SIGKILL)
        assert not follower.gap()
        assert follower.gap()


def test_a_server_that_hangs_is_found_out(own_server: EmbeddedServer) -> None:
    process = process_of(own_server)
    with open_store(f"unix://{own_server.socket}") as store, following(store) as follower:
        follower.answered()
        os.kill(process, signal.SIGSTOP)
        try:
            assert not follower.gap()
            assert follower.changes.heard == -math.inf
        finally:
            os.kill(process, signal.SIGCONT)
        assert follower.gap()


def test_a_subscription_that_is_never_confirmed_is_given_up(store_url: str, tmp_path: Path) -> None:
    """The first connection that subscribes is dead from then on, without a sign of it."""
    place, subscribed = tmp_path / "relay", threading.Event()

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                if b"SUBSCRIBE" in data and not subscribed.is_set():
                    subscribed.set()
                    continue
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other direction has ended

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            server = socket.socket(socket.AF_UNIX)
            server.connect(store_url.removeprefix("unix://"))
            for ends in ((connection, server), (server, connection)):
                threading.Thread(target=pump, args=ends, daemon=True).start()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        threading.Thread(target=serve, daemon=True).start()
        with open_store(f"unix://{place}") as store, following(store) as follower:
            assert subscribed.is_set()
            publish(store)
            assert follower.next() == Change("publish", "default", "ada", 1)


def test_a_quiet_server_that_answers_is_vouched_for(store: Store) -> None:
    with following(store) as follower:
        times = [follower.answered() for _ in range(5)]
        assert times == sorted(set(times))
        assert follower.changes.live
        assert follower.heard.empty()


def test_all_that_was_announced_before_an_answered_ping_has_been_heard(store: Store) -> None:
    with following(store) as follower:
        for generation in range(1, 6):
            publish(store)
            published = time.monotonic()
            while follower.changes.heard < published:
                follower.answered()
            assert follower.heard.get_nowait()[0].generation == generation


# Away, forbidden, closed


def test_a_store_that_is_away_raises_nothing(tmp_path: Path) -> None:
    with open_store(f"unix://{tmp_path}/nobody.sock") as store:
        changes = store.changes()
        thread = threading.Thread(target=list, args=(changes,))
        thread.start()
        assert not changes.live
        changes.close()
        thread.join(LONG)
        assert not thread.is_alive()


@pytest.mark.parametrize("close", [Changes.close, None], ids=["itself", "the store"])
def test_closing_ends_it_from_another_thread(store_url: str, close: object) -> None:
    with open_store(store_url) as store:
        follower = Follower(store)
        follower.gap()
        if close:
            follower.changes.close()
            follower.thread.join(LONG)
    follower.thread.join(LONG)
    assert not follower.thread.is_alive()
    assert list(follower.changes) == []


def test_a_closed_embedded_store_stays_stopped(tmp_path: Path) -> None:
    with open_store(f"embedded:{tmp_path}/store") as store:
        follower = Follower(store)
        follower.gap()
    follower.thread.join(LONG)
    assert not (tmp_path / "store" / "valkey.pid").exists()


def test_a_server_that_forbids_the_channel_takes_deletions_only_and_says_why(
    store_url: str, store: Store, raw_store: redis.Redis
) -> None:
    publish(store)
    raw_store.acl_setuser(
        "builder", enabled=True, nopass=True, keys=["*"], commands=["+@all"], reset_channels=True
    )
    try:
        with open_store(store_url.replace("unix://", "unix://builder:any@")) as forbidden:
            with pytest.raises(StoreError, match="&perslm:changes"):
                publish(forbidden)
            assert store.head("ada").generation == 1
            with pytest.raises(StoreError, match="&perslm:changes"):
                forbidden.forget("ada")
            assert store.head("ada") == Head(0, 2)
            thread = threading.Thread(target=list, args=(forbidden.changes(),))
            thread.start()
        thread.join(LONG)
        assert not thread.is_alive()
    finally:
        raw_store.acl_deluser("builder")


def test_a_store_that_was_closed_has_no_changes_to_wait_for(store_url: str) -> None:
    store = open_store(store_url)
    store.close()
    follower = Follower(store)
    follower.thread.join(LONG)
    ended = not follower.thread.is_alive()
    follower.changes.close()
    assert ended
    assert follower.heard.empty()
