"""The cache: how fresh, how stale, how large, and one load at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from perslm.errors import BlobError
from perslm.model import NullModel, PersonalModel
from perslm.store import Store, open_store
from service.cache import Entry, ModelCache
from service.settings import Settings
from tests.service.support import (
    BROKEN,
    MAIL,
    NEW_MAIL,
    USER,
    Clock,
    blob_of,
    publish,
    settings,
    until,
)
from tests.support import ROOT


class Counting:
    """A store that counts what it is asked, and can go away or be held up."""

    def __init__(self, store: Store) -> None:
        self.store: Any = store
        self.fetches = 0
        self.heads = 0
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.after = False

    def of_tenant(self, tenant: str) -> Counting:
        assert tenant == "default"
        return self

    def hold(self) -> None:
        self.entered.clear()
        self.gate.clear()

    def hold_after(self) -> None:
        """Hold up what was fetched, on its way back."""
        self.hold()
        self.after = True

    def fetch(self, user: str) -> Any:
        self.fetches += 1
        if self.after:
            stored = self.store.fetch(user)
            self.entered.set()
            assert self.gate.wait(30)
            return stored
        self.entered.set()
        assert self.gate.wait(30)
        return self.store.fetch(user)

    def rules(self, user: str | None) -> Any:
        return self.store.rules(user)

    def head(self, user: str) -> Any:
        self.heads += 1
        return self.store.head(user)


def words(entry: Entry) -> int:
    assert isinstance(entry.model, PersonalModel)
    return entry.model.ngrams[0]


def test_a_fresh_model_asks_nothing_and_a_due_one_only_its_generation(store: Store) -> None:
    clock, counting = Clock(), Counting(store)
    cache = ModelCache(counting, settings(fresh_seconds=1.0), clock=clock)
    assert cache.peek(USER) is None
    first = cache.get(USER)
    assert cache.peek(USER) is first
    assert cache.get(USER) is first
    assert (counting.fetches, counting.heads) == (1, 0)
    clock.now += 1.0
    assert cache.peek(USER) is None
    assert cache.get(USER).model is first.model
    assert (counting.fetches, counting.heads) == (1, 1)


def test_models_are_made_by_the_estimator_of_the_settings(store: Store) -> None:
    publish(store, USER, blob_of(MAIL))
    for name in ("kneser_ney", "backoff"):
        model = ModelCache(store, settings(estimator=name, weight=None)).get(USER).model
        assert isinstance(model, PersonalModel)
        assert (model.estimator, model.weight) == (name, None)


def test_a_new_generation_is_seen_when_the_old_is_due(store: Store) -> None:
    clock = Clock()
    cache = ModelCache(store, settings(fresh_seconds=1.0), clock=clock)
    before = words(cache.get(USER))
    assert publish(store, USER, blob_of(NEW_MAIL)) == 2
    assert words(cache.get(USER)) == before
    clock.now += 1.0
    entry = cache.get(USER)
    assert (words(entry), entry.generation) == (before + 1, 2)


def test_unknown_users_are_remembered_for_a_moment(store: Store) -> None:
    clock, counting = Clock(), Counting(store)
    cache = ModelCache(counting, settings(fresh_seconds=1.0), clock=clock)
    assert cache.get("new").model.reason == "unknown_user"
    publish(store, "new", blob_of(MAIL))
    assert cache.get("new").model.reason == "unknown_user"
    assert counting.fetches == 1
    clock.now += 1.0
    assert cache.get("new").model.reason == "ok"
    assert (len(cache), cache.figures.entries) == (1, 1)  # in the place of what was known before


def test_the_store_may_be_away_for_a_while(store: Store) -> None:
    clock, counting = Clock(), Counting(store)
    cache = ModelCache(counting, settings(fresh_seconds=1.0, stale_seconds=60.0), clock=clock)
    good = cache.get(USER)
    with open_store("redis://127.0.0.1:1") as nowhere:
        counting.store = nowhere
        clock.now += 59.0
        entry = cache.get(USER)
        assert (entry.model, entry.stale) == (good.model, True)
        clock.now += 2.0
        assert cache.get(USER).model.reason == "store_unavailable"
    counting.store = store
    clock.now += 1.0
    entry = cache.get(USER)
    assert (entry.model.reason, entry.stale) == ("ok", False)


def test_while_the_store_is_asked_only_what_it_said_lately_is_used(store: Store) -> None:
    clock, counting = Clock(), Counting(store)
    cache = ModelCache(counting, settings(fresh_seconds=1.0, stale_seconds=60.0), clock=clock)
    old = cache.get(USER)
    publish(store, USER, blob_of(NEW_MAIL))
    clock.now += 4.9
    counting.hold()
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(cache.get, USER)
        assert counting.entered.wait(30)
        entry = cache.get(USER, seconds=0.0)
        assert (entry.model, entry.stale) == (old.model, True)
        clock.now += 0.2
        assert cache.get(USER, seconds=0.0).model.reason == "loading"
        counting.gate.set()
        assert asking.result().generation == 2
    assert counting.fetches == 2


def test_while_the_store_fails_an_old_model_needs_no_waiting(store: Store) -> None:
    clock, counting = Clock(), Counting(store)
    cache = ModelCache(counting, settings(fresh_seconds=1.0, stale_seconds=60.0), clock=clock)
    old = cache.get(USER)
    with open_store("redis://127.0.0.1:1") as nowhere:
        counting.store = nowhere
        clock.now += 30.0
        assert cache.get(USER).stale
    counting.store = store
    publish(store, USER, blob_of(NEW_MAIL))
    clock.now += 20.0
    counting.hold()
    entry = cache.get(USER, seconds=0.0)
    assert (entry.model, entry.stale) == (old.model, True)
    clock.now += 10.0
    assert cache.get(USER, seconds=0.0).model.reason == "loading"
    counting.gate.set()


def test_that_there_was_no_model_is_not_said_of_later_times(store: Store) -> None:
    clock, counting = Clock(), Counting(store)
    cache = ModelCache(counting, settings(fresh_seconds=1.0), clock=clock)
    assert cache.get("new").model.reason == "unknown_user"
    publish(store, "new", blob_of(MAIL))
    clock.now += 1.0
    counting.hold()
    assert cache.get("new", seconds=0.0).model.reason == "loading"
    counting.gate.set()
    assert cache.get("new").model.reason == "ok"


def test_what_was_asked_long_ago_and_answered_now_is_called_stale(store: Store) -> None:
    clock, counting = Clock(), Counting(store)
    limits = settings(fresh_seconds=1.0, load_seconds=0.05)
    cache = ModelCache(counting, limits, clock=clock)
    counting.hold()
    assert cache.get(USER, seconds=0.0).model.reason == "loading"
    assert counting.entered.wait(30)
    clock.now += 3.0
    store.forget(USER)
    with ThreadPoolExecutor(1) as threads:
        joining = threads.submit(cache.get, USER)
        counting.gate.set()
        assert joining.result().stale or joining.result().model.reason == "unknown_user"
    assert cache.get(USER).model.reason == "unknown_user"


def test_nobody_waits_longer_than_they_can(store: Store) -> None:
    counting = Counting(store)
    cache = ModelCache(counting, settings(fresh_seconds=60.0))
    counting.hold()
    for _ in range(5):
        entry = cache.get(USER, seconds=0.0)
        assert (entry.model.reason, entry.generation) == ("loading", 0)
    assert counting.entered.wait(30)
    assert len(cache) == 0
    counting.gate.set()
    assert cache.get(USER).model.reason == "ok"
    assert counting.fetches == 1


def test_a_load_that_takes_long_is_waited_for_once(store: Store) -> None:
    counting = Counting(store)
    cache = ModelCache(counting, settings(fresh_seconds=60.0))
    counting.hold()
    assert cache.get(USER, seconds=0.0).model.reason == "loading"
    cache._loads["default", USER]._begun -= 3600.0
    assert cache.get(USER, seconds=3600.0).model.reason == "loading"
    counting.gate.set()
    assert cache.get(USER).model.reason == "ok"
    assert counting.fetches == 1


def test_a_due_model_is_used_when_the_store_takes_too_long(store: Store) -> None:
    clock, counting = Clock(), Counting(store)
    cache = ModelCache(counting, settings(fresh_seconds=1.0, stale_seconds=60.0), clock=clock)
    old = cache.get(USER)
    publish(store, USER, blob_of(NEW_MAIL))
    clock.now += 1.0
    counting.hold()
    entry = cache.get(USER, seconds=0.0)
    assert (entry.model, entry.stale) == (old.model, True)
    clock.now += 59.0
    assert cache.get(USER, seconds=0.0).model.reason == "loading"
    counting.gate.set()
    entry = cache.get(USER)
    assert (entry.generation, entry.stale) == (2, False)


def test_loads_are_few_at_a_time_and_not_too_many_wait(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.cache._MOST_LOADS", 2)
    counting = Counting(store)
    cache = ModelCache(counting, settings(fresh_seconds=60.0))
    counting.hold()
    for user in (USER, "a", "b", "c"):
        assert cache.get(user, seconds=0.0).model.reason == "loading"
    assert cache.get("b").model.reason == "loading"  # at once: nothing is under way for it
    counting.gate.set()
    assert cache.get(USER).model.reason == "ok"
    assert cache.get("a").model.reason == "unknown_user"
    assert cache.get("b").model.reason == "unknown_user"
    assert counting.fetches == 3


def test_a_returned_store_ends_staleness(store: Store) -> None:
    clock, counting = Clock(), Counting(store)
    cache = ModelCache(counting, settings(fresh_seconds=1.0), clock=clock)
    cache.get(USER)
    with open_store("redis://127.0.0.1:1") as nowhere:
        counting.store = nowhere
        clock.now += 1.0
        assert cache.get(USER).stale
    counting.store = store
    clock.now += 1.0
    assert not cache.get(USER).stale


def test_least_recently_used_go_first(store: Store) -> None:
    size = ModelCache(store, settings(fresh_seconds=60.0)).get(USER).bytes
    cache = ModelCache(store, settings(fresh_seconds=60.0, cache_bytes=2 * size))
    for user in "abc":
        publish(store, user, blob_of(MAIL))
    cache.get("a")
    cache.get("b")
    cache.get("a")
    cache.get("c")
    assert [user for user in "abc" if cache.peek(user)] == ["a", "c"]
    assert repr(cache) == f"ModelCache(entries=2, bytes={2 * size})"


def test_a_model_larger_than_the_bound_is_kept_alone(store: Store) -> None:
    cache = ModelCache(store, settings(fresh_seconds=60.0, cache_bytes=0))
    for user in ("nobody", "another nobody", "a", USER):
        cache.get(user)
    assert cache.peek(USER) is not None
    assert len(cache) == 2  # and the last of those without a model


def test_many_requests_load_a_user_once(store: Store) -> None:
    counting = Counting(store)
    cache = ModelCache(counting, settings(fresh_seconds=60.0))
    counting.gate.clear()
    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(cache.get, USER) for _ in range(8)]
        assert counting.entered.wait(30)
        counting.gate.set()
        models = {id(answer.result().model) for answer in answers}
    assert len(models) == 1
    assert counting.fetches == 1


def test_an_entry_in_use_is_renewed_behind_before_it_is_due(store: Store) -> None:
    clock, counting = Clock(), Counting(store)
    cache = ModelCache(counting, settings(fresh_seconds=1.0), clock=clock)
    old = cache.get(USER)
    publish(store, USER, blob_of(NEW_MAIL))
    clock.now += 0.74
    assert cache.hit(USER) is old
    assert (counting.fetches, counting.heads) == (1, 0)
    clock.now += 0.02
    assert cache.hit(USER) is None  # it is more than a hit
    counting.hold()
    assert cache.get(USER) is old  # nobody waits
    assert counting.entered.wait(30)
    assert cache.get(USER) is old
    assert cache.hit(USER) is old  # for it is asked for already
    assert cache.peek(USER) is old
    counting.gate.set()
    clock.now += 0.25
    assert cache.get(USER).generation == 2
    assert counting.fetches == 2


def test_a_load_that_began_before_a_drop_is_not_kept(store: Store) -> None:
    counting = Counting(store)
    cache = ModelCache(counting, settings(fresh_seconds=60.0))
    counting.hold()
    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(cache.get, USER)
        assert counting.entered.wait(30)
        cache.drop(USER)
        counting.gate.set()
        assert loading.result().model.reason == "ok"
    assert cache.peek(USER) is None


def test_a_load_that_began_after_a_drop_is_kept(store: Store) -> None:
    counting = Counting(store)
    cache = ModelCache(counting, settings(fresh_seconds=60.0))
    counting.hold()
    with ThreadPoolExecutor(2) as threads:
        before = threads.submit(cache.get, USER)
        assert counting.entered.wait(30)
        cache.drop(USER)
        counting.entered.clear()
        after = threads.submit(cache.get, USER)
        assert counting.entered.wait(30)
        counting.gate.set()
        before.result()
        assert cache.get(USER) is after.result()
    assert counting.fetches == 2


@pytest.mark.parametrize("user", ["", "x" * 257, "\ud800"])
def test_impossible_users_are_not_remembered(user: str, store: Store) -> None:
    cache = ModelCache(store, settings())
    with pytest.raises(ValueError, match="user id"):
        cache.get(user)
    assert len(cache) == 0


def test_the_same_user_id_of_two_tenants_is_two_users(store: Store) -> None:
    acme = store.of_tenant("acme")
    cache = ModelCache(store, settings(fresh_seconds=3600.0))
    assert isinstance(cache.get(USER, "acme").model, NullModel)
    publish(acme, USER, blob_of(NEW_MAIL))
    cache.drop(USER, "acme")
    theirs, ours = cache.get(USER, "acme"), cache.get(USER)
    assert words(theirs) == words(ours) + 1
    assert cache.peek(USER, "acme") is theirs
    assert cache.peek(USER) is ours
    cache.drop(USER, "acme")
    assert cache.peek(USER) is ours
    assert cache.peek(USER, "other") is None


def test_unknown_users_cannot_evict_models(store: Store) -> None:
    size = ModelCache(store, settings(fresh_seconds=60.0)).get(USER).bytes
    bound = 64 * 768
    cache = ModelCache(store, settings(fresh_seconds=60.0, cache_bytes=bound))
    users = [f"known-{i}" for i in range((bound - bound // 16) // size)]
    for user in users:
        publish(store, user, blob_of(MAIL))
        cache.get(user)
    for i in range(200):
        cache.get(f"unknown-{i}")
    assert all(cache.peek(user) for user in users)
    assert [i for i in range(200) if cache.peek(f"unknown-{i}")] == [196, 197, 198, 199]
    assert cache.figures.bytes <= bound
    assert (cache.figures.models, cache.figures.entries) == (len(users), len(users) + 4)


def test_without_models_unknown_users_keep_to_their_share(store: Store) -> None:
    cache = ModelCache(store, settings(fresh_seconds=60.0, cache_bytes=64 * 768))
    for i in range(50):
        cache.get(f"unknown-{i}")
    assert len(cache) == 4


def test_the_bound_of_bytes_is_one_of_memory() -> None:
    """In a process of its own, which says how much it grew for a full cache of 24 MiB."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.service.cache_memory"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    models, flooded = (int(word) / (24 << 20) for word in done.stdout.split())
    # what the threads that load have freed, malloc keeps for them: up to half as much again
    assert 0.7 < models < 2
    assert flooded < models + 0.2


def test_a_blob_mended_in_its_place_is_found(store: Store, raw_store: redis.Redis) -> None:
    clock, counting = Clock(), Counting(store)
    cache = ModelCache(counting, settings(fresh_seconds=1.0), clock=clock)
    assert cache.get(BROKEN).model.reason == "bad_blob"
    raw_store.hset(f"perslm:head:{{{BROKEN}}}", "b", blob_of(MAIL))
    clock.now += 1.0
    assert cache.get(BROKEN).model.reason == "bad_blob"
    assert counting.fetches == 1  # not at every step
    clock.now += 5.0
    assert cache.get(BROKEN).model.reason == "ok"
    assert counting.fetches == 2


def test_a_blob_that_the_store_cannot_open_is_a_bad_blob(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(user: str) -> None:
        raise BlobError("it cannot be decrypted")

    counting = Counting(store)
    monkeypatch.setattr(counting, "fetch", fetch)
    cache = ModelCache(counting, settings(fresh_seconds=60.0))
    assert cache.get(USER).model.reason == "bad_blob"
    assert cache.figures.blob_failures == 1


def test_every_replica_serves_a_new_generation_within_a_second(
    store: Store, store_url: str
) -> None:
    clock = Clock()
    fresh = Settings().fresh_seconds
    assert fresh <= 1.0
    with open_store(store_url) as another:
        replicas = [
            ModelCache(opened, settings(fresh_seconds=fresh), clock=clock)
            for opened in (store, another)
        ]
        for sequences, generation in ((NEW_MAIL, 2), (MAIL, 3)):
            for moment in (0.0, 0.25, 0.5):  # in use, not in step
                clock.now += moment
                for cache in replicas:
                    assert cache.get(USER).generation == generation - 1
            until(lambda: not any(cache._loads for cache in replicas))  # those behind it
            publish(store, USER, blob_of(sequences))
            clock.now += 1.0
            assert [cache.get(USER).generation for cache in replicas] == [generation] * 2
        store.forget(USER)
        clock.now += 1.0
        assert [cache.get(USER).model.reason for cache in replicas] == ["unknown_user"] * 2
