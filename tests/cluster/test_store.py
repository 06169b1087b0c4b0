"""A store on a Redis Cluster that is well: everything works as on one server."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pytest

from perslm import encryption
from perslm.backup import Restored, backup, restore
from perslm.errors import ArgumentError, StoreUnavailableError
from perslm.model import NullModel, PersonalModel
from perslm.store import Head, Store, open_store
from perslm.vocabulary import Vocabulary
from tests.cluster.nodes import LONG, RedisCluster, free_ports
from tests.integration.mailboxes import Perslm, write_people, write_vocabulary
from tests.unit.test_backup import Silent
from tests.unit.test_changes import following
from tests.unit.test_store import ODD_USERS

USERS = [f"user-{i}" for i in range(20)]


def publish(store: Store, user: str, blob: bytes = b"blob") -> int:
    return store.publish(user, blob, parent=store.head(user))


def test_every_operation(store: Store) -> None:
    for user in USERS:
        publish(store, user, b"one")
        publish(store, user, user.encode())
    assert set(store.users()) == set(USERS)
    for user in USERS:
        stored = store.fetch(user)
        assert stored is not None
        assert stored.blob == user.encode()
    assert store.rollback(USERS[0]) == 3
    assert store.forget(USERS[1])
    assert set(store.users()) == set(USERS) - {USERS[1]}
    assert [head.generation for head in store.heads(USERS)] == [3, 0] + [2] * 18
    store.put_vocabulary(b"words", "f1")
    assert store.vocabulary("f1") == b"words"
    assert list(store.vocabularies()) == [("default", "f1")]


def test_odd_users_and_tenants(store: Store) -> None:
    for tenant in ("default", "acme"):
        for user in ODD_USERS:
            publish(store.of_tenant(tenant), user, f"{tenant}{user}".encode())
    for tenant in ("default", "acme"):
        of_tenant = store.of_tenant(tenant)
        assert sorted(of_tenant.users()) == sorted(ODD_USERS)
        for user in ODD_USERS:
            stored = of_tenant.fetch(user)
            assert stored is not None
            assert stored.blob == f"{tenant}{user}".encode()
    assert len(set(store.owners())) == 2 * len(ODD_USERS)


def test_heads_of_more_users_than_go_into_a_request(store: Store) -> None:
    users = [f"user-{i}" for i in range(700)]
    for user in users[::7]:
        publish(store, user)
    heads = store.heads(users)
    assert heads == [store.head(user) if i % 7 == 0 else Head(0, 0) for i, user in enumerate(users)]


def test_a_backup_goes_to_another_kind_of_store_and_back(
    cluster: RedisCluster, store: Store, store_url: str, tmp_path: Path
) -> None:
    for user in USERS:
        publish(store.of_tenant("acme"), user, user.encode())
    assert backup(store, tmp_path / "there", Silent()) == (20, 0)
    with open_store(store_url) as single:
        assert restore(single, tmp_path / "there", Silent()) == Restored(20, 0, 0)
        assert single.of_tenant("acme").forget(USERS[0])
        assert backup(single, tmp_path / "back", Silent()) == (19, 0)
    for node in cluster.primaries():
        node.client.flushall()
    assert restore(store, tmp_path / "back", Silent()) == Restored(19, 0, 0)
    assert set(store.owners()) == {("acme", user) for user in USERS[1:]}


def test_encryption(cluster: RedisCluster, store: Store, tmp_path: Path) -> None:
    encryption.create(tmp_path / "m.json")
    for user in USERS:
        publish(store, user, user.encode())
    with open_store(cluster.url, master_keys=tmp_path / "m.json") as sealed:
        assert {sealed.protect(user) for user in USERS} == {"encrypted"}
        publish(sealed, USERS[0], b"new")
        assert [s.blob for u in USERS[:2] if (s := sealed.fetch(u))] == [b"new", b"user-1"]


def test_models_that_the_command_line_builds(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cluster: RedisCluster,
    store_url: str,
    tmp_path: Path,
) -> None:
    """Blob for blob those of one server; a second build finds nothing to do."""
    perslm = Perslm(monkeypatch, capsys, cluster.url)
    mail = write_people(tmp_path / "mail.jsonl", 12, mails=3)
    words = write_vocabulary(tmp_path / "words.json")
    for url, ledger in ((cluster.url, "one"), (store_url, "two")):
        monkeypatch.setenv("PERSLM_LEDGER", str(tmp_path / ledger))
        build = ("build", mail, "--vocab", words, "--jobs", 1, "--json")
        built = perslm(*build, store=url).json
        assert {user["status"] for user in built["users"]} == {"published"}
        again = perslm(*build, store=url).json
        assert not any(user["status"] == "published" for user in again["users"])
    with open_store(cluster.url) as here, open_store(store_url) as there:
        users = sorted(here.users())
        assert users == sorted(there.users())
        assert len(users) == 12
        for user in users:
            one, other = here.fetch(user), there.fetch(user)
            assert one is not None
            assert other is not None
            assert one.blob == other.blob
        vocabulary = Vocabulary.load(words)
        model = here.load(users[0], vocabulary=vocabulary, strict=True)
        assert isinstance(model, PersonalModel)
    assert perslm("users").out.split() == users
    perslm("forget", users[0], "--yes")
    with open_store(cluster.url) as here:
        assert isinstance(here.load(users[0]), NullModel)
        assert sorted(here.users()) == users[1:]


def test_changes_on_any_node_are_heard_and_nothing_is_vouched_for(store: Store) -> None:
    """One node cannot vouch for what another has yet to pass on."""
    with following(store) as follower:
        wanted = {f"heard-{i}" for i in range(20)}  # what others did before may still arrive
        for user in wanted:
            publish(store, user)
        while wanted:
            wanted.discard(follower.next().user)
        assert follower.changes.heard == -math.inf


# What is said to be a cluster


def test_a_node_without_the_cluster_url_says_which_url_to_use(cluster: RedisCluster) -> None:
    with (
        open_store(f"redis://127.0.0.1:{cluster.nodes[0].port}") as store,
        pytest.raises(StoreUnavailableError, match=r"redis\+cluster://"),
    ):
        [store.head(user) for user in USERS]


def test_a_follower_of_nobody_waits(cluster: RedisCluster) -> None:
    (port,) = free_ports(1)
    with open_store(f"redis+cluster://127.0.0.1:{port}") as store:
        changes = store.changes()
        thread = threading.Thread(target=list, args=(changes,))
        thread.start()
        changes.close()
        thread.join(LONG)
        assert not thread.is_alive()


def test_any_node_will_do_also_with_a_password(cluster: RedisCluster) -> None:
    for node in cluster.nodes:
        node.client.acl_setuser("perslm", enabled=True, passwords=["+s3cret"], keys=["*"],
                                channels=["*"], commands=["+@all"])  # fmt: skip
    try:
        for node in cluster.nodes:
            with open_store(f"redis+cluster://perslm:s3cret@127.0.0.1:{node.port}") as store:
                publish(store, "ada")
                assert "s3cret" not in store.location
        with (
            open_store(f"redis+cluster://perslm:wrong@127.0.0.1:{node.port}") as store,
            pytest.raises(StoreUnavailableError, match="password"),
        ):
            store.head("ada")
    finally:
        for node in cluster.nodes:
            node.client.acl_deluser("perslm")


@pytest.mark.parametrize(
    "url", ["redis+cluster://a:1,b:x", "redis+cluster://a:1,b:99999", "redis+cluster://a:x,b:1"]
)
def test_a_url_that_cannot_be_read(url: str) -> None:
    with pytest.raises(ArgumentError, match="check host and port"):
        open_store(url)


def test_a_location_names_all_hosts_and_no_password() -> None:
    store = open_store("redis+cluster://user:pw@a:7000,b,[::1]:7001/?socket_keepalive=yes")
    assert store.location == "redis+cluster://***@a:7000,b:6379,::1:7001/"
