"""Learned messages and rules on a Redis Cluster that changes: each counts once, none is lost."""

from __future__ import annotations

import itertools
import threading

import pytest

from perslm.errors import OptedOutError, PublishConflictError, StoreUnavailableError
from perslm.rules import Rules
from perslm.store import Change, Store, open_store
from tests.cluster.nodes import LONG, RedisCluster, until
from tests.unit.test_changes import following
from tests.unit.test_store_learning import FINGERPRINT, VOCABULARY, message

USERS = [f"user-{i}" for i in range(8)]


def add(store: Store, user: str, mark: bytes) -> bool:
    return store.add_message(user, message(mark), vocabulary=FINGERPRINT)


def fold(store: Store, user: str) -> None:
    """Build as a night does: the marks of a blob are those of the messages it has, once each."""
    head, stored = store.head(user), store.fetch(user)
    if stored is None or not stored.pending:
        return
    marks = [pending.mark for pending in stored.pending]
    had = stored.blob.split() if stored.messages else []
    blob = b" ".join([*had, *(mark for mark in marks if mark not in had)])
    store.publish(
        user, blob, parent=head, messages=1, vocabulary=FINGERPRINT,
        folded=marks,
    )  # fmt: skip


def counted(store: Store, user: str) -> list[bytes]:
    stored = store.fetch(user)
    assert stored is not None
    built = stored.blob.split() if stored.messages else []
    return sorted([*built, *(pending.mark for pending in stored.pending)])


@pytest.mark.chaos
def test_messages_are_kept_once_through_moves_and_a_failover(
    cluster: RedisCluster, store: Store
) -> None:
    store.put_vocabulary(VOCABULARY.to_bytes(), FINGERPRINT)
    added: dict[str, list[bytes]] = {user: [] for user in USERS}
    folded = dict.fromkeys(USERS, 0)
    failures: list[BaseException] = []
    ended = threading.Event()

    def learn() -> None:
        for number, user in enumerate(itertools.cycle(USERS)):
            if ended.is_set():
                return
            mark = b"m%d" % number
            while True:  # as who sends a message does: until it is known to be there
                try:
                    add(store, user, mark)
                    break
                except StoreUnavailableError:
                    if ended.is_set():
                        return
            added[user].append(mark)

    def build() -> None:
        for user in itertools.cycle(USERS):
            if ended.is_set():
                return
            try:
                fold(store, user)
                folded[user] += 1
            except (StoreUnavailableError, PublishConflictError):
                pass  # the next night

    def guarded(work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as error:
            failures.append(error)
            raise

    def go_on() -> None:
        before, nights = {user: len(added[user]) for user in USERS}, dict(folded)
        until(
            lambda: (
                failures
                or all(len(added[u]) > before[u] + 2 and folded[u] > nights[u] + 2 for u in USERS)
            ),
            "everybody has learned",
        )
        assert not failures

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (learn, build)]
    for thread in threads:
        thread.start()
    try:
        go_on()
        for user, target in itertools.product(USERS[:3], cluster.primaries()):
            cluster.move(cluster.slot(f"{{{user}}}"), target)
        home = cluster.owner("{user-0}")
        until(lambda: home.client.execute_command("ROLE")[2], "its replica is in sync")
        go_on()  # what a primary answers while it has no replica is its own
        home.kill()
        until(lambda: len(cluster.primaries()) == 3, "a replica takes over")
        go_on()
    finally:
        ended.set()
        for thread in threads:
            thread.join(LONG)
    assert not any(thread.is_alive() for thread in threads)
    for user in USERS:
        fold(store, user)
        found = counted(store, user)
        assert len(found) == len(set(found)), "a message counts twice"
        assert set(added[user]) <= set(found), "a message was lost"


def test_learned_messages_are_announced_from_all_nodes(cluster: RedisCluster, store: Store) -> None:
    store.put_vocabulary(VOCABULARY.to_bytes(), FINGERPRINT)
    with open_store(cluster.url) as other, following(other) as follower:
        wanted = set(USERS)
        for user in USERS:
            add(store, user, b"m1")
        while wanted:
            change: Change = follower.next()
            if change.kind == "learn":
                assert len(other.pending(change.user)) == 1
                wanted.discard(change.user)
    assert set(store.learners()) == set(USERS)
    assert [head.pending for head in store.heads(USERS)] == [1] * len(USERS)


def test_rules(cluster: RedisCluster, store: Store) -> None:
    store.put_vocabulary(VOCABULARY.to_bytes(), FINGERPRINT)
    for user in USERS:
        add(store, user, b"m1")
    blocked = Rules().block(["zephyr"], [VOCABULARY])
    store.set_rules(None, blocked)
    store.set_rules(USERS[0], Rules(opted_out=True))
    for user in USERS[:2]:
        assert store.forget(user)
    with open_store(cluster.url) as other:
        assert other.rules(None) == blocked
        assert other.rules(USERS[0]).opted_out
        with pytest.raises(OptedOutError):
            add(other, USERS[0], b"m2")
        assert add(other, USERS[1], b"m2")
        assert set(other.users()) == set(USERS[1:])
