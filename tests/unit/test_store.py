"""Every operation of the store, on a real server."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perslm import _store_scripts as scripts
from perslm.errors import (
    ArgumentError,
    ForgottenError,
    NoModelError,
    PublishConflictError,
    StoreUnavailableError,
)
from perslm.store import (
    FENCE_SECONDS,
    KEEP_GENERATIONS_SECONDS,
    Head,
    Store,
    open_store,
)

USER = "ada-l"
ODD_USERS = ["a{b}c", "{", "}", "a:b", "a%7Bb", "a b", "tab\there", "ünï@例.jp", "*", "x" * 256]


def publish(store: Store, blob: bytes, user: str = USER) -> int:
    return store.publish(user, blob, parent=store.head(user))


def keys_of(raw: redis.Redis, kind: str = "*") -> list[bytes]:
    found = raw.keys(f"perslm:{kind}:*")
    assert isinstance(found, list)
    return found


# Publishing and reading


def test_a_published_model_is_read_back(store: Store) -> None:
    assert store.fetch(USER) is None
    assert store.info(USER) is None
    head = store.head(USER)
    assert head == Head(generation=0, fence=0)
    generation = store.publish(
        USER,
        b"\x00blob\xff",
        parent=head,
        source_digest="d1",
        created=12.5,
        messages=3,
        tokens=40,
        vocabulary="v1",
    )
    assert generation == 1
    assert store.head(USER) == Head(generation=1, fence=0, source_digest="d1")
    stored = store.fetch(USER)
    assert stored is not None
    assert stored.blob == b"\x00blob\xff"
    assert (stored.generation, stored.previous, stored.bytes, stored.created) == (1, 0, 6, 12.5)
    assert (stored.source_digest, stored.messages, stored.tokens) == ("d1", 3, 40)
    info = store.info(USER)
    assert info is not None
    assert (info.user, info.generation, info.bytes, info.vocabulary) == (USER, 1, 6, "v1")


def test_a_generation_can_be_asked_for_by_number(store: Store) -> None:
    for blob in (b"one", b"two"):
        publish(store, blob)
    first = store.fetch(USER, generation=1)
    second = store.fetch(USER, generation=2)
    assert first is not None
    assert second is not None
    assert (first.blob, second.blob) == (b"one", b"two")
    assert store.fetch(USER, generation=3) is None
    assert store.fetch(USER, generation=1 + scripts.SLOTS) is None, "shares a slot with 1"


def test_a_build_on_an_old_parent_is_refused(store: Store) -> None:
    old = store.head(USER)
    publish(store, b"first")
    with pytest.raises(PublishConflictError) as caught:
        store.publish(USER, b"second", parent=old)
    assert (caught.value.expected, caught.value.found) == (0, 1)
    with pytest.raises(PublishConflictError):
        store.publish(USER, b"first", parent=old)
    stored = store.fetch(USER)
    assert stored is not None
    assert stored.blob == b"first"


def test_replaced_generations_expire_and_the_current_does_not(
    store: Store, raw_store: redis.Redis
) -> None:
    publish(store, b"one")
    publish(store, b"two")
    ages = {raw_store.hget(key, "b"): raw_store.ttl(key) for key in keys_of(raw_store)}
    assert KEEP_GENERATIONS_SECONDS - 60 < ages[b"one"] <= KEEP_GENERATIONS_SECONDS
    assert ages[b"two"] == -1


def test_as_many_replaced_generations_stay_as_there_are_slots(
    store: Store, raw_store: redis.Redis
) -> None:
    for i in range(2 + scripts.SLOTS):
        publish(store, b"%d" % i)
    assert all(raw_store.ttl(key) > 0 for key in keys_of(raw_store, "slot"))
    assert [info.generation for info in store.generations(USER)] == list(range(10, 1, -1))


def test_keeping_nothing_leaves_one_generation(store_url: str) -> None:
    with open_store(store_url, keep_generations_seconds=0) as store:
        publish(store, b"one")
        publish(store, b"two")
        assert [info.generation for info in store.generations(USER)] == [2]
        with pytest.raises(NoModelError, match="no earlier generation"):
            store.rollback(USER)


def test_readers_never_see_less_than_a_whole_model(store_url: str) -> None:
    """Old generations vanish at once here, which is the hardest case for a reader."""
    done = threading.Event()
    with open_store(store_url, keep_generations_seconds=0) as store:

        def whole(generation: int) -> bytes:
            return b"%d " % generation * 5000

        publish(store, whole(1))

        def read() -> int:
            last = 0
            while not done.is_set():
                stored = store.fetch(USER)
                assert stored is not None
                assert stored.blob == whole(stored.generation)
                assert stored.generation >= last
                last = stored.generation
            return last

        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(read) for _ in range(3)]
            for generation in range(2, 150):
                assert publish(store, whole(generation)) == generation
            done.set()
            for reader in readers:
                assert reader.result() > 0


@pytest.mark.parametrize("racers", [2, 8])
def test_of_racing_publishers_one_wins(store: Store, racers: int) -> None:
    publish(store, b"base")
    parent = store.head(USER)
    barrier = threading.Barrier(racers)

    def race(i: int) -> int:
        barrier.wait(10)
        try:
            return store.publish(USER, b"racer %d" % i, parent=parent)
        except PublishConflictError as error:
            return -error.found

    with ThreadPoolExecutor(racers) as pool:
        results = list(pool.map(race, range(racers)))
    assert sorted(results) == [*[-2] * (racers - 1), 2]
    stored = store.fetch(USER)
    assert stored is not None
    assert stored.blob == b"racer %d" % results.index(2)


# Rollback


def test_rollback_publishes_the_earlier_model_under_a_new_number(store: Store) -> None:
    publish(store, b"good")
    publish(store, b"bad")
    assert store.rollback(USER) == 3
    stored = store.fetch(USER)
    assert stored is not None
    assert (stored.generation, stored.blob) == (3, b"good")
    bad = store.fetch(USER, generation=2)
    assert bad is not None
    assert bad.blob == b"bad"


def test_rolling_back_twice_goes_back_two_steps(store: Store) -> None:
    for blob in (b"one", b"two", b"three"):
        publish(store, blob)
    assert [store.rollback(USER), store.rollback(USER)] == [4, 5]
    stored = store.fetch(USER)
    assert stored is not None
    assert stored.blob == b"one"
    with pytest.raises(NoModelError):
        store.rollback(USER)
    assert store.head(USER).generation == 5


def test_rollback_of_nobody(store: Store) -> None:
    with pytest.raises(NoModelError, match="nothing to roll back"):
        store.rollback(USER)


def test_a_rollback_stops_a_running_build(store: Store) -> None:
    publish(store, b"one")
    publish(store, b"two")
    parent = store.head(USER)
    store.rollback(USER)
    with pytest.raises(PublishConflictError):
        store.publish(USER, b"built on two", parent=parent)


# Deletion


def test_a_deleted_user_is_gone_and_a_running_build_cannot_bring_them_back(store: Store) -> None:
    publish(store, b"one")
    publish(store, b"two")
    running = store.head(USER)
    assert store.forget(USER) is True
    assert store.fetch(USER) is None
    assert store.fetch(USER, generation=2) is None
    assert store.info(USER) is None
    assert store.generations(USER) == []
    assert list(store.users()) == []
    with pytest.raises(ForgottenError):
        store.publish(USER, b"three", parent=running)
    assert store.fetch(USER) is None
    assert store.forget(USER) is False


def test_only_an_integer_is_left_and_not_for_ever(store: Store, raw_store: redis.Redis) -> None:
    publish(store, b"one")
    store.forget(USER)
    (key,) = keys_of(raw_store)
    assert key == b"perslm:fence:{ada-l}"
    assert raw_store.get(key) == b"2"
    assert FENCE_SECONDS - 60 < raw_store.ttl(key) <= FENCE_SECONDS


def test_the_first_build_of_a_new_user_is_fenced_off_too(store: Store) -> None:
    running = store.head(USER)
    assert store.forget(USER) is False
    with pytest.raises(ForgottenError):
        store.publish(USER, b"one", parent=running)


def test_a_build_begun_after_the_deletion_publishes_higher_numbers(store: Store) -> None:
    publish(store, b"one")
    publish(store, b"two")
    store.forget(USER)
    fresh = store.head(USER)
    assert fresh.generation == 0
    assert store.publish(USER, b"new life", parent=fresh) == 4
    assert store.head(USER) == Head(generation=4, fence=fresh.fence)
    with pytest.raises(NoModelError):
        store.rollback(USER)
    assert store.forget(USER) is True
    assert store.head(USER).fence > fresh.fence


def test_a_fence_outlives_its_key_while_the_user_has_a_model(
    store: Store, raw_store: redis.Redis
) -> None:
    store.forget(USER)
    publish(store, b"one")
    head = store.head(USER)
    raw_store.delete(*keys_of(raw_store, "fence"))  # as if 30 days had passed
    assert store.head(USER) == head
    assert store.publish(USER, b"two", parent=head) == head.generation + 1


# A script that a crash of the server cut short (on servers whose scripts are not atomic then)


def test_a_publish_cut_short_before_the_swap_changes_nothing(
    store: Store, raw_store: redis.Redis
) -> None:
    publish(store, b"one")
    raw_store.hset("perslm:slot:{ada-l}:1", mapping={"g": 1, "b": b"half a copy"})
    stored = store.fetch(USER)
    assert stored is not None
    assert stored.blob == b"one"
    assert publish(store, b"two") == 2
    stored = store.fetch(USER)
    assert stored is not None
    assert stored.blob == b"two"


def test_a_deletion_cut_short_counts_once_the_fence_is_up(
    store: Store, raw_store: redis.Redis
) -> None:
    publish(store, b"one")
    raw_store.set("perslm:fence:{ada-l}", 2)
    assert store.fetch(USER) is None
    assert store.fetch(USER, generation=1) is None
    assert store.info(USER) is None
    assert store.head(USER) == Head(generation=0, fence=2)


# Users


def test_users_are_listed_once_each_by_scanning(store: Store, raw_store: redis.Redis) -> None:
    expected = {f"user-{i}@example.org" for i in range(300)} | set(ODD_USERS)
    for user in expected:
        publish(store, b"blob", user)
        publish(store, b"blob", user)
    store.forget("user-7@example.org")
    raw_store.set("other:head:{user}", 1)
    listed = list(store.users())
    assert len(listed) == len(set(listed))
    assert set(listed) == expected - {"user-7@example.org"}


def test_similar_users_do_not_meet(store: Store) -> None:
    for user in ODD_USERS:
        publish(store, user.encode(), user)
    for user in ODD_USERS:
        stored = store.fetch(user)
        assert stored is not None
        assert stored.blob == user.encode()
        assert stored.user == user


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(user=st.text(min_size=1, max_size=64))
def test_any_text_is_a_user_and_all_its_keys_share_a_hash_tag(
    store: Store, raw_store: redis.Redis, user: str
) -> None:
    raw_store.flushall()
    if len(user.encode()) > 256:
        with pytest.raises(ArgumentError):
            store.head(user)
        return
    publish(store, b"blob", user)
    publish(store, b"blob", user)
    store.forget(user)
    publish(store, b"blob", user)
    assert list(store.users()) == [user]
    keys = keys_of(raw_store)
    assert len({redis.crc.key_slot(key) for key in keys}) == 1
    assert all(key.count(b"{") == key.count(b"}") == 1 for key in keys)


@pytest.mark.parametrize("user", ["", "x" * 257, "é" * 129, "\ud800", None, b"bytes"])
def test_what_is_not_a_user_id(store: Store, user: Any) -> None:
    for call in (store.head, store.fetch, store.forget, store.info, store.load):
        with pytest.raises(ArgumentError, match="user id"):
            call(user)


def test_namespaces_are_apart(store_url: str) -> None:
    with open_store(store_url, namespace="a") as a, open_store(store_url, namespace="b") as b:
        publish(a, b"from a")
        assert b.fetch(USER) is None
        assert list(b.users()) == []
        b.forget(USER)
        assert a.fetch(USER) is not None


# Tenants


def test_tenants_have_keys_of_their_own(store: Store, raw_store: redis.Redis) -> None:
    names = ("default", "acme", "acme-2", "head")
    for number, name in enumerate(names):
        tenant = store.of_tenant(name)
        for _ in range(number + 1):
            tenant.publish("ann", b"blob", parent=tenant.head("ann"))
        tenant.publish(name, b"blob", parent=tenant.head(name))
    for number, name in enumerate(names):
        tenant = store.of_tenant("other").of_tenant(name)
        assert tenant.head("ann").generation == number + 1
        assert set(tenant.users()) == {"ann", name}
    assert store.of_tenant("acme").forget("ann")
    assert [store.of_tenant(name).head("ann").generation for name in names] == [1, 0, 3, 4]
    assert raw_store.exists("perslm:head:{ann}", "perslm.head:head:{ann}") == 2


def test_a_view_closes_with_its_store(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSLM_TENANT", "acme")
    with open_store(store_url) as acme, open_store(store_url, tenant="default") as ours:
        acme.publish("ann", b"blob", parent=acme.head("ann"))
        view = ours.of_tenant("acme")
        with view:
            assert view.head("ann").generation == 1
        assert ours.head("ann").generation == 0
    with pytest.raises(StoreUnavailableError):
        view.head("ann")


@pytest.mark.parametrize("name", ["", "a:b", "a.b", "x" * 41, "é", "a\n"])
def test_names_that_no_tenant_has(store: Store, name: str) -> None:
    with pytest.raises(ArgumentError):
        store.of_tenant(name)


def test_what_is_shown_of_a_model_names_nobody(store: Store) -> None:
    publish(store, b"words")
    for shown in (store.info(USER), store.fetch(USER), store.generations(USER), store):
        assert USER not in repr(shown)
        assert "words" not in repr(shown)


def test_the_environment_says_how_long_replaced_generations_stay(
    store_url: str, raw_store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSLM_KEEP_GENERATIONS_SECONDS", "50")
    with open_store(store_url) as store:
        for blob in (b"one", b"two"):
            store.publish("ann", blob, parent=store.head("ann"))
    (replaced,) = raw_store.keys("perslm:slot:{ann}:*")
    assert 0 < raw_store.ttl(replaced) <= 50
    monkeypatch.setenv("PERSLM_KEEP_GENERATIONS_SECONDS", "a week")
    with pytest.raises(ArgumentError, match="PERSLM_KEEP_GENERATIONS_SECONDS"):
        open_store(store_url)
