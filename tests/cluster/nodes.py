"""A Redis Cluster of the embedded server's binary, on this machine, made to be broken."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import redis
from redis.crc import key_slot

from perslm.embedded import server_binary
from perslm.errors import StoreUnavailableError

SLOTS: Final = 16384
LONG: Final = 60.0  # a test that fails, not one that waits
NODE_TIMEOUT: Final = 2000  # milliseconds; a failover begins after it


def until(condition: Callable[[], Any], what: str) -> Any:
    """Ask ``condition`` until it is true: no server tells when it is ready."""
    deadline, settled = time.monotonic() + LONG, threading.Event()
    while True:
        with contextlib.suppress(redis.RedisError, StoreUnavailableError):
            if found := condition():
                return found
        assert time.monotonic() < deadline, f"waited too long until {what}"
        settled.wait(0.02)


class Node:
    """One server; ``client`` speaks to it alone."""

    def __init__(self, directory: Path, port: int, bus: int, *options: str) -> None:
        self.port, self.bus, self._options = port, bus, options
        self.client = redis.Redis(port=port, socket_timeout=LONG)
        self._directory = directory
        directory.mkdir()
        self.start()

    def start(self) -> None:
        options = {
            "port": self.port, "cluster-port": self.bus, "cluster-enabled": "yes",
            "cluster-node-timeout": NODE_TIMEOUT, "cluster-replica-validity-factor": 0,
            "cluster-allow-replica-migration": "no",
            "bind": "127.0.0.1", "save": "", "repl-diskless-sync-delay": 0,
            "loglevel": "notice", "logfile": "log",
        }  # fmt: skip
        words = (word for name, value in options.items() for word in (f"--{name}", str(value)))
        self._process = subprocess.Popen(
            [str(server_binary()), *words, *self._options], cwd=self._directory
        )
        until(self.client.ping, "a node answers")
        self.id = self.ask("MYID").decode()

    def ask(self, *words: Any) -> Any:
        """Run CLUSTER ``words``; the reply as it is."""
        return self.client.execute_command("CLUSTER", *words)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def own_words(self) -> list[str]:
        """What the node says of itself: id, address, flags, primary, …, slots."""
        lines = self.ask("NODES").decode().splitlines()
        return next(line for line in lines if "myself" in line).split()

    def is_primary(self) -> bool:
        return "master" in self.own_words()[2]

    def ranges(self) -> list[int]:
        """First and last slot of every range that is the node's own."""
        words = (word for word in self.own_words()[8:] if not word.startswith("["))
        return [int(end) for low, _, high in map(_parted, words) for end in (low, high or low)]

    def slots(self) -> list[int]:
        ends = self.ranges()
        return [s for i in range(0, len(ends), 2) for s in range(ends[i], ends[i + 1] + 1)]

    def is_settled(self, nodes: int) -> bool:
        info = dict(line.split(":") for line in self.ask("INFO").decode().splitlines())
        if (info["cluster_state"], info["cluster_slots_ok"]) != ("ok", str(SLOTS)):
            return False
        lines = self.ask("NODES").decode().splitlines()
        flags = {flag for line in lines for flag in line.split()[2].split(",")}
        if len(lines) != nodes or flags & {"fail", "fail?", "handshake", "noaddr"}:
            return False
        role = self.client.execute_command("ROLE")
        if role[0] == b"slave":
            return bool(role[3] == b"connected")
        return self.is_primary()


class RedisCluster:
    """Three primaries and a replica of each; a context manager that ends them all."""

    def __init__(self, directory: Path, *options: str, primaries: int = 3) -> None:
        self.nodes: list[Node] = []
        self._options = options  # of every server
        try:
            for i in range(2 * primaries):
                self.add(directory / str(i), epoch=i + 1)
            first = self.nodes[:primaries]
            for i, node in enumerate(first):
                low, high = (SLOTS * j // primaries for j in (i, i + 1))
                node.ask("ADDSLOTSRANGE", low, high - 1)
            self.meet(self.nodes)
            for primary, replica in zip(first, self.nodes[primaries:], strict=True):
                replica.ask("REPLICATE", primary.id)
            self.settle()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RedisCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for node in self.nodes:
            node.kill()
            node.client.close()

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])
        return f"redis+cluster://{hosts}"

    def add(self, directory: Path, epoch: int) -> Node:
        node = Node(directory, *free_ports(2), *self._options)
        self.nodes.append(node)
        node.ask("SET-CONFIG-EPOCH", epoch)
        return node

    @contextmanager
    def another(self, directory: Path) -> Iterator[Node]:
        """A primary more, without slots; it must have none again at the end."""
        node = self.add(directory, epoch=100)
        try:
            self.meet([self.nodes[0], node])
            until(lambda: node.is_settled(len(self.nodes)), "the new node knows all slots")
            yield node
            assert not node.slots()
        finally:
            self.nodes.remove(node)
            node.kill()
            node.client.close()
            for other in self.nodes:
                other.ask("FORGET", node.id)

    def meet(self, nodes: list[Node]) -> None:
        """Make ``nodes`` known to all."""
        for node in nodes[1:]:
            node.ask("MEET", "127.0.0.1", nodes[0].port, nodes[0].bus)
        everybody = len(self.nodes)
        for node in self.nodes:
            until(
                lambda node=node: (
                    node.ask("NODES").count(b" connected") == everybody
                    and b"handshake" not in node.ask("NODES")
                ),
                "the nodes know each other",
            )

    def heal(self) -> None:
        """Start what was killed, wake what was paused, and wait until all is well."""
        for node in self.nodes:
            node.resume()
            if not node.is_running():
                node.start()
        self.settle()

    def settle(self) -> None:
        """Wait until all slots are served, and every replica has what its primary has."""
        for node in self.nodes:
            until(lambda node=node: node.is_settled(len(self.nodes)), "the cluster is settled")

    def primaries(self) -> list[Node]:
        return [node for node in self.nodes if node.is_running() and node.is_primary()]

    def owner(self, key: str) -> Node:
        slot = self.slot(key)
        return next(node for node in self.primaries() if slot in node.slots())

    def subscribed_node(self, channel: str) -> Node:
        """Return the node that has the subscriber of ``channel``."""

        def found() -> Node | None:
            counts = [node.client.pubsub_numsub(channel)[0][1] for node in self.nodes]
            return self.nodes[counts.index(1)] if 1 in counts else None

        node: Node = until(found, "somebody has subscribed")
        return node

    def slot(self, key: str) -> int:
        return int(key_slot(key.encode()))

    def move(self, slot: int, target: Node) -> None:
        """Migrate ``slot`` with its keys, as ``valkey-cli --cluster reshard`` does, key by key."""
        source = next(node for node in self.primaries() if slot in node.slots())
        if source is target:
            return
        target.ask("SETSLOT", slot, "IMPORTING", source.id)
        source.ask("SETSLOT", slot, "MIGRATING", target.id)
        while keys := source.ask("GETKEYSINSLOT", slot, 1):
            source.client.execute_command(
                "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys
            )
        target.ask("SETSLOT", slot, "NODE", target.id)
        source.ask("SETSLOT", slot, "NODE", target.id)
        for node in self.primaries():
            node.ask("SETSLOT", slot, "NODE", target.id)


def _parted(word: str) -> tuple[str, str, str]:
    return word.partition("-")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        listeners = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [listener.getsockname()[1] for listener in listeners]
