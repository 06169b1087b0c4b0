"""The client of a Redis Cluster: scripts go to their user's node, through failovers and resharding.

``perslm._connection`` makes it. redis-py finds the nodes and keeps the map of slots; who is asked,
how long a call waits while the cluster heals, and when a write counts as done, is decided here.

**Writes wait for a replica.** A primary answers before its replicas have the write, so a failover
may lose what was answered. Here every write is followed by ``WAIT 1`` on the same connection: it is
done when a replica has it, too, and what is done survives the death of one node. A primary without
a replica in sync has nobody to wait for and writes alone; ``min-replicas-to-write 1`` forbids that.

**Patience.** A write goes on trying while a failover or a migration lasts, and so does a listing. A
reader gives up soon: no model now is better than threads that all wait for one dead node. The
readers of a ``patient`` client, such as a build's, go on as writes do. Every operation of a store
may be repeated.

**Listing.** Keys that move to another node during SCAN can be missed. So a listing goes over all
nodes again until no slot has moved, nor is about to, from the beginning to the end of it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import redis
from redis import exceptions
from redis.cluster import ClusterNode

WRITE_SECONDS: Final = 30.0
"""How long a write or a listing goes on trying; a failover takes ``cluster-node-timeout``, 15 s
unless it was set, and a moment."""

READ_SECONDS: Final = 0.25
"""How long a read does; a timeout of its connection may make it longer."""

_REFRESH_SECONDS: Final = 0.1  # between looks at the map of slots, which costs some milliseconds
_SYNC_SECONDS: Final = 1.0  # likewise, where a replica does not confirm what it should
_SHORTEST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.5
_PASSES: Final = 20  # of a listing while slots move

_T = TypeVar("_T")
if TYPE_CHECKING:
    _RedisCluster = Any  # what is called of it has no types
else:
    _RedisCluster = redis.RedisCluster
_AWAY: Final = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ClusterDownError,
    exceptions.SlotNotCoveredError,
    exceptions.MasterDownError,
    exceptions.ReadOnlyError,  # it was the primary until just now
    exceptions.TryAgainError,
    exceptions.RedisClusterException,  # no node answers
    OSError,
)
_FINAL: Final = (exceptions.AuthenticationError, exceptions.AuthorizationError)


class _UnconfirmedError(exceptions.ResponseError):
    """No replica confirmed a write in time, though there is one."""


class Cluster(_RedisCluster):  # type: ignore[misc]
    """A cluster, with what a store asks of one server; safe to use from many threads."""

    def __init__(self, *arguments: Any, patient: bool = False, **options: Any) -> None:
        self._patient = patient
        self._strangers: dict[str, ClusterNode] = {}  # nodes that the map does not have yet
        self._replicated: dict[str, bool] = {}  # whether a node had a replica in sync, last
        self._refreshed = 0.0
        self._wait = max(
            1, int(800 * (options.get("socket_timeout") or 5))
        )  # milliseconds, 0: no WAIT
        super().__init__(*arguments, **options)

    # One key, or keys of one user

    def at(self, key: str, *command: Any, writes: bool) -> Any:
        """Run ``command``, whose keys all share the slot of ``key``, on the node that has it.

        Raises what redis-py does, after ``WRITE_SECONDS`` or ``READ_SECONDS`` of trying.
        """
        patience = _Patience(WRITE_SECONDS if writes or self._patient else READ_SECONDS)
        elsewhere: exceptions.AskError | None = None  # or MovedError, which is one
        while True:
            try:
                node = self.get_node_from_key(key)
                if elsewhere is not None:
                    node = self._node(elsewhere.host or node.host, elsewhere.port)
                asking = type(elsewhere) is exceptions.AskError
                return self._run(node, key, command, asking, writes)
            except exceptions.AskError as error:
                elsewhere = error
                patience.use(error)
                if isinstance(error, exceptions.MovedError):
                    self._refresh()
            except _FINAL:
                raise
            except (*_AWAY, _UnconfirmedError) as error:
                elsewhere = None
                patience.use(error, pause=True)
                self._refresh()

    def _run(
        self, node: ClusterNode, key: str, command: tuple[Any, ...], asking: bool, writes: bool
    ) -> Any:
        server = self.get_redis_connection(node)
        pipe = server.pipeline(transaction=False)
        if asking:
            pipe.execute_command("ASKING")
        pipe.execute_command(*command)
        if not writes:
            return _checked(pipe.execute(raise_on_error=False))[-1]
        if node.name not in self._replicated:
            self._replicated[node.name] = _in_sync(server.execute_command("ROLE"))
        waits = self._wait > 0 and self._replicated[node.name] and self._has_replica(key)
        if waits:
            pipe.execute_command("WAIT", 1, self._wait)
        pipe.execute_command("ROLE")
        replies = pipe.execute(raise_on_error=False)
        if waits and _is_unknown(replies[-2]):
            self._wait, replies[-2] = 0, 0
        *_, reply, confirmed, role = _checked(replies, waits)
        in_sync = self._replicated[node.name] = _in_sync(role)
        if self._wait and in_sync and not confirmed:
            self._refresh(_SYNC_SECONDS)  # it hangs, and is given up one day; or it is back
            if waits and self._has_replica(key):
                raise _UnconfirmedError("NOREPLICAS")
        return reply

    def _has_replica(self, key: str) -> bool:
        """Say whether the cluster knows of a replica that has not failed."""
        return self.get_node_from_key(key, replica=True) is not None

    def _node(self, host: str, port: int) -> ClusterNode:
        node = self.get_node(host=host, port=port)
        if node is None:
            stranger = ClusterNode(host, port)  # type: ignore[no-untyped-call]
            return self._strangers.setdefault(stranger.name, stranger)
        return cast(ClusterNode, node)

    def _refresh(self, seconds: float = _REFRESH_SECONDS) -> None:
        """Read the map of slots again, if that was not done within ``seconds``."""
        now = time.monotonic()
        if now - self._refreshed < seconds:
            return
        self._refreshed = now
        self.nodes_manager.initialize()

    def pipeline(self, **_: Any) -> Batch:
        """Return what runs the reading scripts of many users together."""
        return Batch(self)

    # All nodes

    def ping(self, **_: Any) -> bool:
        """Return when a node of the cluster has answered."""
        nodes = self.get_nodes()
        random.shuffle(nodes)
        failure: Exception = exceptions.RedisClusterException("no nodes")
        for node in nodes:
            try:
                return bool(self.get_redis_connection(node).ping())
            except _AWAY as error:
                failure = error
        self._refresh()
        raise failure

    def scan_iter(self, match: Any = None, count: Any = None, **_: Any) -> Iterator[Any]:
        """Yield every key that is there all the time at least once, whichever node it is on."""
        for _pass in range(_PASSES):
            patience = _Patience(WRITE_SECONDS)
            before = self._patiently(self._layout, patience)
            try:
                for node in self._primaries():
                    yield from self.get_redis_connection(node).scan_iter(match=match, count=count)
            except _AWAY as error:
                patience.use(error, pause=True)
                self._refresh()
                continue
            after = self._patiently(self._layout, patience)
            if before == after and not any(slots.startswith(b"[") for _, slots in after):
                return
            patience.use(exceptions.TryAgainError("slots move"), pause=True)
        raise exceptions.TryAgainError("slots keep moving")

    def _layout(self) -> frozenset[tuple[bytes, bytes]]:
        """Return what each primary says of its own slots, those that it gives or gets too."""
        found = []
        for node in self._primaries():
            lines = self.get_redis_connection(node).execute_command("CLUSTER", "NODES").splitlines()
            words = next(line for line in lines if b"myself" in line).split()
            if b"master" not in words[2]:
                raise exceptions.ReadOnlyError("no primary any more")
            found += [(words[0] + words[6], slots) for slots in words[8:]]  # with its epoch
        return frozenset(found)

    def _primaries(self) -> list[ClusterNode]:
        """Return all primaries, also one that the map of slots does not have yet."""
        nodes = {node.name: node for node in self.get_primaries()}
        some = self.get_redis_connection(random.choice(list(nodes.values())))
        for line in some.execute_command("CLUSTER", "NODES").decode().splitlines():
            _, address, flags, *_ = line.split()
            if "master" not in flags or {"fail", "noaddr", "handshake"} & set(flags.split(",")):
                continue
            place, _, rest = address.partition("@")  # host:port@bus,name,…
            host, _, port = place.rpartition(":")
            name = [*rest.split(","), ""][1] or host
            if not {f"{host}:{port}", f"{name}:{port}"} & nodes.keys():
                node = self._node(name, int(port))
                nodes[node.name] = node
        return list(nodes.values())

    def _patiently(self, call: Callable[[], _T], patience: _Patience) -> _T:
        while True:
            try:
                return call()
            except _AWAY as error:
                patience.use(error, pause=True)
                self._refresh()

    def pubsub(self, **options: Any) -> Any:
        """Return a subscriber at any one node: all of them hear what is published."""
        return super().pubsub(node=self.get_random_node(), **options)


class Batch:
    """Scripts that only read, each with the keys of one user: one request for every node."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._commands: list[tuple[Any, ...]] = []

    def eval(
        self, script: str, number: int, *keys_and_arguments: str | bytes | int | float
    ) -> None:
        """Add one; it runs when all do."""
        self._commands.append(("EVAL", script, number, *keys_and_arguments))

    def execute(self) -> list[Any]:
        """Return all replies, in the order of the commands; raises as ``Cluster.at``."""
        replies: list[Any] = [None] * len(self._commands)
        places: dict[ClusterNode, list[int]] = {}
        for i, (_, _, _, key, *_) in enumerate(self._commands):
            places.setdefault(self._cluster.get_node_from_key(key), []).append(i)
        for node, of_node in places.items():
            pipe = self._cluster.get_redis_connection(node).pipeline(transaction=False)
            for i in of_node:
                pipe.execute_command(*self._commands[i])
            try:
                found = pipe.execute(raise_on_error=False)
            except _AWAY as error:
                found = [error] * len(of_node)
            for i, reply in zip(of_node, found, strict=True):
                replies[i] = reply
        for i, reply in enumerate(replies):
            if isinstance(reply, Exception):  # elsewhere by now, perhaps; if not, it fails again
                command = self._commands[i]
                replies[i] = self._cluster.at(command[3], *command, writes=False)
        return replies


class _Patience:
    """How long an operation may still be tried."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._pause = _SHORTEST_PAUSE

    def use(self, error: Exception, *, pause: bool = False) -> None:
        """Return when to try again, or raise ``error`` if it is too late for that."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise error
        if pause:
            threading.Event().wait(min(left, self._pause * random.uniform(0.5, 1)))
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def _checked(replies: list[Any], waits: bool = True) -> list[Any]:
    """Return ``replies``, with None for what was not waited for; raise the first error of them."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies if waits else [*replies[:-1], None, replies[-1]]


def _is_unknown(reply: Any) -> bool:
    """Say whether the server has no such command; an older Kvrocks has no WAIT."""
    return isinstance(reply, exceptions.ResponseError) and "unknown command" in str(reply)


def _in_sync(role: list[Any]) -> bool:
    """Say whether a primary that describes its role so has a replica that could confirm a write."""
    return role[0] in (b"master", "master") and bool(role[2])
