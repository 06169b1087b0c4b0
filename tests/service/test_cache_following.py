"""The cache when the store tells it of changes, and when that stops."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from perslm.store import Change, Store, open_store
from service.cache import ModelCache
from tests.service.support import NEW_MAIL, USER, Clock, blob_of, publish, settings, until
from tests.service.test_cache import Counting


class Announcements:
    """What a followed store announces, when a test says so."""

    def __init__(self) -> None:
        self.heard = -math.inf
        self._queue: queue.Queue[Change | None] = queue.Queue()

    def __enter__(self) -> Announcements:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Change]:
        for change in iter(self._queue.get, None):
            yield change
            self._queue.task_done()

    def say(self, *changes: Change) -> None:
        """Announce, and return when the listener has dealt with it."""
        for change in changes:
            self._queue.put(change)
        self._queue.join()

    def close(self) -> None:
        self._queue.put(None)


@contextmanager
def followed(store: Any, clock: Clock) -> Iterator[tuple[ModelCache, Announcements]]:
    """A cache that hears what a test announces; its entries are fresh for a second."""
    announcements = Announcements()
    store.changes = lambda: announcements
    cache = ModelCache(store, settings(fresh_seconds=1.0), clock=clock)
    with cache.following():
        announcements.say(Change("gap"))
        announcements.heard = clock.now
        yield cache, announcements


def test_who_is_told_of_changes_need_not_ask(store: Store) -> None:
    clock, counting = Clock(), Counting(store)
    with followed(counting, clock) as (cache, announcements):
        for user in (USER, "nobody"):
            first = cache.get(user)
            for _ in range(6):
                clock.now += 0.4
                announcements.heard = clock.now - 0.2
                assert cache.hit(user) is first
            assert (counting.fetches, counting.heads) == (1, 0)
            clock.now += 1.1  # announcements can be lost: it is asked now and then
            announcements.heard = clock.now
            cache.get(user)
            counting.fetches = counting.heads = 0


def test_what_is_announced_is_loaded_behind(store: Store) -> None:
    clock, counting = Clock(), Counting(store)
    with followed(counting, clock) as (cache, announcements):
        old = cache.get(USER)
        publish(store, USER, blob_of(NEW_MAIL))
        assert cache.hit(USER) is old
        announcements.say(Change("publish", "default", USER, 2))
        assert cache.hit(USER) is None
        counting.hold()
        assert cache.get(USER) is not None  # the old one: nobody waits
        assert counting.entered.wait(30)
        counting.gate.set()
        clock.now += 0.25
        assert cache.get(USER).generation == 2
        assert counting.fetches == 2
        announcements.say(Change("publish", "default", USER, 2))  # known already
        assert cache.hit(USER) is not None


def test_what_is_announced_for_others_changes_nothing(store: Store) -> None:
    counting = Counting(store)
    with followed(counting, Clock()) as (cache, announcements):
        entry = cache.get(USER)
        announcements.say(
            Change("publish", "default", "another", 7),
            Change("forget", "acme", USER, 7),
            Change("rollback", "acme", USER, 7),
        )
        assert cache.hit(USER) is entry
        assert len(cache) == 1


def test_a_deletion_that_is_announced_is_heeded_at_once(store: Store) -> None:
    counting = Counting(store)
    with followed(counting, Clock()) as (cache, announcements):
        assert cache.get(USER).generation == 1
        store.forget(USER)
        announcements.say(Change("forget", "default", USER, 2))
        assert cache.peek(USER) is None
        assert cache.get(USER).model.reason == "unknown_user"


def test_what_is_announced_during_a_load_counts(store: Store) -> None:
    clock, counting = Clock(), Counting(store)
    for change, reason in (
        (Change("publish", "default", USER, 2), "ok"),
        (Change("forget", "default", USER, 2), "unknown_user"),
    ):
        with followed(counting, clock) as (cache, announcements):
            counting.hold_after()
            with ThreadPoolExecutor(1) as threads:
                loading = threads.submit(cache.get, USER)
                assert counting.entered.wait(30)  # the old one was read, and is on its way
                if change.kind == "forget":
                    store.forget(USER)
                else:
                    publish(store, USER, blob_of(NEW_MAIL))
                announcements.say(change)
                announcements.heard = clock.now
                counting.gate.set()
                loading.result()
            clock.now += 0.3
            announcements.heard = clock.now
            entry = cache.get(USER)
            assert (entry.model.reason, entry.generation) == (reason, 2 * (reason == "ok"))


@pytest.mark.parametrize("again", [False, True])
def test_an_interruption_of_announcements_makes_all_due(again: bool, store: Store) -> None:
    clock, counting = Clock(), Counting(store)
    with followed(counting, clock) as (cache, announcements):
        cache.get(USER)
        clock.now += 2.0
        announcements.heard = clock.now
        assert cache.hit(USER) is not None
        announcements.heard = -math.inf
        announcements.say(Change("gap"))
        if again:
            announcements.say(Change("gap"))
            announcements.heard = clock.now
        assert cache.peek(USER) is None
        assert cache.get(USER).generation == 1
        assert (counting.fetches, counting.heads) == (1, 1)
        clock.now += 2.0
        announcements.heard = clock.now if again else -math.inf
        assert (cache.hit(USER) is not None) == again


def test_announcements_that_stop_without_a_word_count_for_a_second(store: Store) -> None:
    clock = Clock()
    with followed(Counting(store), clock) as (cache, announcements):
        cache.get(USER)
        store.forget(USER)  # which is never announced
        clock.now += 0.99
        announcements.heard = 1000.0
        assert cache.peek(USER) is not None
        clock.now += 0.01
        assert cache.peek(USER) is None
        assert cache.get(USER).model.reason == "unknown_user"


def test_who_follows_no_longer_asks_again(store: Store) -> None:
    clock = Clock()
    with followed(Counting(store), clock) as (cache, announcements):
        cache.get(USER)
        clock.now += 2.0
        announcements.heard = clock.now
        assert cache.hit(USER) is not None
    assert cache.peek(USER) is None
    assert not [t for t in threading.enumerate() if t.name == "perslm-changes"]


def test_a_real_store_announces_to_every_cache(store: Store, store_url: str) -> None:
    with open_store(store_url) as another:
        caches = [ModelCache(opened, settings(fresh_seconds=60.0)) for opened in (store, another)]
        with caches[0].following(), caches[1].following():
            for cache in caches:
                until(lambda cache=cache: cache._changes is not None and cache._changes.live)
                until(lambda cache=cache: cache._gaps == 1)
                assert cache.get(USER).generation == 1
            publish(store, USER, blob_of(NEW_MAIL))
            for cache in caches:
                until(lambda cache=cache: cache.hit(USER) is None)
            store.forget(USER)
            for cache in caches:
                until(lambda cache=cache: cache.peek(USER) is None)
                assert cache.get(USER).model.reason == "unknown_user"
        assert [cache._changes for cache in caches] == [None, None]
