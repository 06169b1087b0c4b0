"""The store on a cluster of two nodes, each with half of the slots."""

from __future__ import annotations

import contextlib
import math
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from perslm.embedded import server_binary
from perslm.errors import StoreUnavailableError
from perslm.store import Store, open_store
from tests.unit.test_changes import LONG, following

USERS = [f"user-{i}" for i in range(20)]


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        listeners = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [listener.getsockname()[1] for listener in listeners]


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[int]]:
    """Ports of the nodes, which know each other and own all slots."""
    first, second, *buses = free_ports(4)
    nodes = []
    with tempfile.TemporaryDirectory(prefix="perslm-test-") as place, contextlib.ExitStack() as end:
        for port, bus in zip((first, second), buses, strict=True):
            directory = Path(place, str(port))
            directory.mkdir()
            options = {
                "port": port, "cluster-port": bus, "cluster-enabled": "yes", "bind": "127.0.0.1",
                "save": "", "loglevel": "warning", "logfile": "log",
            }  # fmt: skip
            words = (word for key, value in options.items() for word in (f"--{key}", str(value)))
            server = subprocess.Popen([str(server_binary()), *words], cwd=directory)
            end.callback(server.wait)
            end.callback(server.kill)
            retry = Retry(ConstantBackoff(0.05), 200)
            node = redis.Redis(port=port, retry=retry, retry_on_error=[redis.ConnectionError])
            end.callback(node.close)
            nodes.append(node)
        for node, (low, high) in zip(nodes, ((0, 8191), (8192, 16383)), strict=True):
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", low, high)
        nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", second, buses[1])
        settled = threading.Event()

        def ready(node: redis.Redis) -> bool:
            info = node.cluster("info")
            return (info["cluster_state"], info["cluster_slots_ok"]) == ("ok", "16384")

        while not all(ready(node) for node in nodes):
            settled.wait(0.02)  # no server tells when it is ready
        yield [first, second]


@pytest.fixture
def store(cluster: list[int]) -> Iterator[Store]:
    with open_store(f"redis+cluster://127.0.0.1:{cluster[0]}") as opened:
        yield opened
        for user in list(opened.users()):
            opened.forget(user)


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


def test_changes_on_any_node_are_heard_and_nothing_is_vouched_for(store: Store) -> None:
    """One node cannot vouch for what another has yet to pass on."""
    with following(store) as follower:
        wanted = {f"heard-{i}" for i in range(20)}  # what others did before may still arrive
        for user in wanted:
            publish(store, user)
        while wanted:
            wanted.discard(follower.next().user)
        assert follower.changes.heard == -math.inf


def test_a_node_without_the_cluster_url_says_which_url_to_use(cluster: list[int]) -> None:
    with (
        open_store(f"redis://127.0.0.1:{cluster[0]}") as store,
        pytest.raises(StoreUnavailableError, match=r"redis\+cluster://"),
    ):
        [store.head(user) for user in USERS]


def test_a_follower_of_nobody_waits(cluster: list[int]) -> None:
    (port,) = free_ports(1)
    with open_store(f"redis+cluster://127.0.0.1:{port}") as store:
        changes = store.changes()
        thread = threading.Thread(target=list, args=(changes,))
        thread.start()
        changes.close()
        thread.join(LONG)
        assert not thread.is_alive()
