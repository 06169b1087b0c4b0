"""Slots that move between nodes, with their keys and under load."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import redis

from perslm.backup import backup, restore
from perslm.store import Store
from tests.cluster.load import under_load
from tests.cluster.nodes import LONG, Node, RedisCluster, until
from tests.unit.test_backup import Silent

_T = TypeVar("_T")


def moved(cluster: RedisCluster, users: list[str], nodes: list[Node]) -> None:
    """Move the slots of ``users`` once around all ``nodes``."""
    for user, target in itertools.product(users, nodes):
        cluster.move(cluster.slot(f"{{{user}}}"), target)


def test_slots_that_move_key_by_key_under_load(cluster: RedisCluster) -> None:
    """While some of a user's keys are here and some there, readers are refused, writers wait."""
    with under_load(cluster.url) as load:
        moved(cluster, load.users[:6], cluster.primaries())
        load.goes_on()


def test_slots_that_move_at_once_under_load(cluster: RedisCluster) -> None:
    """As Valkey 9 moves them, in its command CLUSTER MIGRATESLOTS."""
    source, target, _ = cluster.primaries()
    try:
        source.ask("GETSLOTMIGRATIONS")
    except redis.ResponseError:
        pytest.skip("this server moves slots key by key only")
    with under_load(cluster.url) as load:
        for giver, taker in ((source, target), (target, source)):
            giver.ask("MIGRATESLOTS", "SLOTSRANGE", *giver.ranges(), "NODE", taker.id)
            until(lambda giver=giver: not giver.slots(), "all slots are there")
            load.goes_on()


def test_slots_that_move_to_a_node_that_had_none(cluster: RedisCluster, tmp_path: Path) -> None:
    """Clients hear of it by its first keys: it has no place in the map of slots yet."""
    homes = {}
    with cluster.another(tmp_path / "new") as new, under_load(cluster.url) as load:
        for user in load.users[:4]:
            homes[user] = cluster.owner(f"{{{user}}}")
            cluster.move(cluster.slot(f"{{{user}}}"), new)
        load.goes_on()
        for user, home in homes.items():
            cluster.move(cluster.slot(f"{{{user}}}"), home)
        load.goes_on()


@pytest.fixture
def everybody(store: Store) -> list[str]:
    users = [f"user-{i:03}" for i in range(200)]
    for user in users:
        store.publish(user, b"blob", parent=store.head(user))
    return users


@contextmanager
def repeated(call: Callable[[], _T]) -> Iterator[list[_T]]:
    """Call it in a thread, again and again until the context ends, and keep what it returns."""
    results: list[_T] = []
    failures: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            while not ended.is_set():
                results.append(call())
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield results
    finally:
        ended.set()
        thread.join(LONG)
    assert not thread.is_alive()
    assert not failures


@pytest.mark.chaos
def test_nobody_is_missed_in_a_listing_while_slots_move(
    cluster: RedisCluster, store: Store, everybody: list[str]
) -> None:
    with repeated(lambda: sorted(store.users())) as listings:
        moved(cluster, everybody[:12], 2 * cluster.primaries())
    assert listings
    assert {user for found in listings for user in set(found) ^ set(everybody)} == set()


@pytest.mark.chaos
def test_nobody_is_missed_in_a_backup_while_slots_move(
    cluster: RedisCluster, store: Store, everybody: list[str], tmp_path: Path
) -> None:
    with repeated(lambda: backup(store, tmp_path / "backup", Silent())) as backups:
        moved(cluster, everybody[:6], cluster.primaries())
    assert backups
    assert {users for users, _ in backups} == {len(everybody)}
    for node in cluster.primaries():
        node.client.flushall()
    with repeated(lambda: restore(store, tmp_path / "backup", Silent())):
        moved(cluster, everybody[:6], cluster.primaries())
    assert sorted(store.users()) == everybody
