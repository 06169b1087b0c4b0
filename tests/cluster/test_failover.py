"""Nodes of the cluster that die or hang, under load: what was answered holds."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from perslm._connection import Connection
from perslm.model import PersonalModel
from perslm.store import Store, open_store
from service.cache import ModelCache
from tests.cluster.load import under_load
from tests.cluster.nodes import LONG, RedisCluster, until
from tests.integration.mailboxes import process, write_people, write_vocabulary
from tests.service.support import MAIL, NEW_MAIL, USER, blob_of, publish, settings
from tests.unit.test_changes import following

TAG = "{" + USER + "}"


def test_a_primary_that_is_killed_takes_nothing_with_it(cluster: RedisCluster) -> None:
    with under_load(cluster.url) as load:
        victim = cluster.owner("{user-0}")
        victim.kill()
        until(lambda: len(cluster.primaries()) == 3, "a replica takes over")
        load.goes_on()
        victim.start()  # as a replica of the other, from which it gets everything anew
        load.goes_on()


def test_a_failover_by_hand_is_hardly_felt(cluster: RedisCluster) -> None:
    with under_load(cluster.url) as load:
        replica = next(node for node in cluster.nodes if not node.is_primary())
        replica.ask("FAILOVER")
        until(replica.is_primary, "it has taken over")
        load.goes_on()


def test_a_replica_that_hangs_is_waited_for_until_the_cluster_gives_it_up(
    cluster: RedisCluster,
) -> None:
    primary = cluster.owner("{ada}")
    replica = next(node for node in cluster.nodes if primary.id == node.own_words()[3])

    def given_up() -> bool:
        line = primary.ask("NODES").decode().split(replica.id)[1].split("\n")[0]
        return "fail" in line.split()[1].split(",")

    with open_store(cluster.url, timeout=1.0) as store:
        store.publish("ada", b"one", parent=store.head("ada"))
        replica.pause()
        store.publish("ada", b"two", parent=store.head("ada"))
        assert given_up()
        assert store.forget("ada")
        replica.resume()
        cluster.settle()
        until(lambda: has_replica(store, "ada"), "it is waited for again")
        store.publish("ada", b"three", parent=store.head("ada"))
        primary.kill()
        stored = until(lambda: store.fetch("ada"), "the replica has taken over")
        assert stored.blob == b"three"


def test_a_patient_reader_waits_for_the_failover(cluster: RedisCluster) -> None:
    with closing(Connection(cluster.url, 1.0, patient=True)) as connection:
        connection.at(TAG, "SET", TAG, "here", writes=True)
        cluster.owner(TAG).kill()
        assert connection.at(TAG, "GET", TAG, writes=False) == b"here"


def test_a_server_that_cannot_wait_for_replicas(tmp_path: Path) -> None:
    """As an older Kvrocks: a write is done when its primary has it."""
    with (
        RedisCluster(tmp_path, "--rename-command", "WAIT", "", primaries=1) as cluster,
        open_store(cluster.url) as store,
    ):
        for generation in (1, 2):
            assert store.publish("ada", b"blob", parent=store.head("ada")) == generation


def has_replica(store: Store, user: str) -> bool:
    """Write something, by which the client hears of replicas that are back."""
    store.forget(user)
    return bool(store._connection.client()._has_replica(f"{{{user}}}"))


def test_a_subscription_outlives_the_node_that_it_was_made_at(
    cluster: RedisCluster, store: Store
) -> None:
    with following(store) as follower:
        node = cluster.subscribed_node("perslm:changes")
        node.kill()
        assert not follower.gap()
        assert follower.gap(), "it listens at another node"
        until(lambda: len(cluster.primaries()) == 3, "a replica takes over")
        for user in (f"user-{i}" for i in range(12)):  # of all nodes
            store.publish(user, b"blob", parent=store.head(user))
            while follower.next().user != user:
                pass


def test_a_node_of_the_url_may_be_gone(cluster: RedisCluster) -> None:
    cluster.nodes[0].kill()
    with open_store(cluster.url) as store:
        assert f"127.0.0.1:{cluster.nodes[0].port},127.0.0.1:" in store.location
        store.ping()
        assert list(store.users()) == []


def test_a_cache_goes_on_through_a_failover(cluster: RedisCluster, store: Store) -> None:
    """What it has answers, called stale, or nothing; then the new model, on every replica."""
    publish(store, USER, blob_of(MAIL))
    with open_store(cluster.url) as second:
        caches = [ModelCache(one, settings(fresh_seconds=0.05)) for one in (store, second)]
        with caches[0].following(), caches[1].following():
            assert [cache.get(USER).generation for cache in caches] == [1, 1]
            cluster.owner(TAG).kill()
            until(lambda: caches[0].get(USER).stale, "the gap is felt")
            entry = caches[0].get(USER)
            assert isinstance(entry.model, PersonalModel)
            assert entry.generation == 1
            until(lambda: publish(store, USER, blob_of(NEW_MAIL)) or True, "it is published")
            for cache in caches:
                until(lambda cache=cache: cache.get(USER).generation == 2, "the new one is there")
                assert not cache.get(USER).stale
            store.forget(USER)
            for cache in caches:
                until(
                    lambda cache=cache: not isinstance(cache.get(USER).model, PersonalModel),
                    "the deletion is heeded",
                )


def test_a_build_goes_on_when_a_primary_dies(
    cluster: RedisCluster, store: Store, tmp_path: Path
) -> None:
    mail = write_people(tmp_path / "mail.jsonl", 200, mails=2)
    words = write_vocabulary(tmp_path / "words.json")
    with process(
        cluster.url, "build", mail, "--vocab", words, "--jobs", 1, "--json",
        environment={"PERSLM_LEDGER": str(tmp_path / "ledger")},
    ) as running:  # fmt: skip
        until(lambda: any(store.users()), "the first are published")
        cluster.owner("{user-0}").kill()
        out, err = running.communicate(timeout=LONG)
    assert running.returncode == 0, err
    assert {user["status"] for user in json.loads(out)["users"]} == {"published"}
    assert len(list(store.users())) == 200
