"""How a store reaches its server: URL to client, a second try, every failure as one of our errors.

Keys and scripts are ``perslm.store``'s; which failure means what is in ``perslm._store_errors``,
how a cluster is spoken to in ``perslm._cluster``.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, TypeVar
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.exceptions import AuthenticationError, RedisClusterException
from redis.retry import Retry

from perslm._cluster import Cluster
from perslm._store_errors import FAILURES, explain, timed_out, worth_repeating
from perslm.errors import ArgumentError, StoreUnavailableError

if TYPE_CHECKING:
    from perslm.embedded import EmbeddedServer

_SCHEMES: Final = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")

_T = TypeVar("_T")


class _Closable(Protocol):
    def close(self) -> None: ...


class Connection:
    """The way to one server, for a store and its views; safe to use from many threads.

    Nothing is connected or started before the first use. ``location`` is the URL without
    credentials. ``patient`` says that readers, too, wait while a cluster heals. Raises
    ArgumentError if ``url`` is none that perslm knows.
    """

    def __init__(self, url: str, timeout: float, *, patient: bool = False) -> None:
        self._url = url
        self._timeout = timeout
        self._patient = patient
        self._mutex = threading.Lock()
        self._client: Any = None  # redis.Redis or Cluster, whose types differ
        self._closed = False
        self._followers: weakref.WeakSet[_Closable] = weakref.WeakSet()
        self._server: EmbeddedServer | None = None
        self.location = self._locate(url)

    def run(self, operation: Callable[[Any], _T], *, repeat_timeouts: bool = False) -> _T:
        """Run ``operation``, a second time if the connection was lost: all of ours allow that."""
        try:
            return operation(self.client())
        except FAILURES as error:
            self._drop_idle(error)
            if not worth_repeating(error, timeouts=repeat_timeouts):
                self.fail(error)
        if self._server is not None:
            self._server.ensure()
        try:
            return operation(self.client())
        except FAILURES as error:
            self._drop_idle(error)
            self.fail(error)

    def at(self, key: str, *command: str | bytes | int | float, writes: bool) -> Any:
        """Run one ``command``, whose keys all have the hash tag of ``key``.

        A reader would rather have nothing than wait twice; a writer must know what happened. On a
        cluster a write is done when a replica has it, too (``perslm._cluster``).
        """

        def operation(client: Any) -> Any:
            if isinstance(client, Cluster):
                return client.at(key, *command, writes=writes)
            return client.execute_command(*command)

        return self.run(operation, repeat_timeouts=writes)

    def fail(self, error: Exception) -> NoReturn:
        """Raise what ``error``, one of ``FAILURES``, means to a caller of the store."""
        trouble = None if self._server is None else self._server.trouble()
        # Not chained: a server's message may repeat arguments, and with them blobs and user ids.
        raise explain(error, self.location, trouble) from None

    def client(self) -> Any:
        """Return the client that all share; an embedded server is started if need be."""
        with self._mutex:
            if self._client is None:
                self._client = self._new(self._timeout)
            return self._client

    def separate_client(self, timeout: float) -> Any:
        """Return a client of the caller's own, to close; it gives up after ``timeout`` seconds."""
        with self._mutex:
            return self._new(min(timeout, self._timeout))

    def drop_idle(self) -> None:
        """Close what nobody uses just now: it may be dead, and would cost a timeout to find out."""
        client = self._client
        if isinstance(client, redis.Redis):  # a cluster's client looks after its own
            client.connection_pool.disconnect(inuse_connections=False)

    def _drop_idle(self, error: Exception) -> None:
        if timed_out(error):
            self.drop_idle()

    def close_with_me(self, follower: _Closable) -> None:
        """Close ``follower`` when this is closed, or at once if it is."""
        with self._mutex:
            self._followers.add(follower)
            if self._closed:
                follower.close()

    def close(self) -> None:
        """Close all connections; an embedded server stops when its last user has closed."""
        with self._mutex:
            self._closed = True
            for follower in list(self._followers):
                follower.close()
            client, self._client = self._client, None
            if client is not None:
                client.close()
            if self._server is not None:
                self._server.close()

    def _new(self, timeout: float) -> Any:
        if self._closed:
            raise StoreUnavailableError("this store was closed: open it again")
        if self._server is not None:
            self._server.ensure()
        options: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
        if "+cluster://" in self._url:
            url, others = _hosts(self._url)
            if self._client is not None:  # the nodes of the URL may be gone by now
                others += [(node.host, node.port) for node in self._client.get_nodes()]
            nodes = [ClusterNode(*other) for other in others]  # type: ignore[no-untyped-call]
            try:
                return Cluster.from_url(url, startup_nodes=nodes, patient=self._patient, **options)
            except RedisClusterException as error:
                if isinstance(error.__cause__, AuthenticationError):
                    raise error.__cause__ from None
                raise
        options["retry"] = Retry(NoBackoff(), 0)
        if self._server is not None:
            return redis.Redis(unix_socket_path=str(self._server.socket), **options)
        return redis.Redis.from_url(self._url, **options)

    def _locate(self, url: str) -> str:
        """Check ``url`` and return it without credentials; set up the embedded server if it is."""
        scheme, _, rest = url.partition(":")
        if scheme == "embedded":
            from pathlib import Path

            from perslm.embedded import EmbeddedServer  # needs fcntl, which Windows lacks

            self._server = EmbeddedServer(Path(rest).expanduser() if rest else None)
            return f"embedded:{self._server.directory}"
        if scheme not in _SCHEMES or not rest.startswith("//"):
            schemes = ", ".join(f"{known}://" for known in _SCHEMES)
            raise ArgumentError(
                f"a store's URL is embedded:, embedded:/some/dir, or one of {schemes}"
            )
        try:
            first, others = _hosts(url) if "+cluster" in scheme else (url, [])
            parts = urlsplit(first)
            redis.ConnectionPool.from_url(first)  # parses, no more
            hosts = [(parts.hostname or "", parts.port), *others]
        except ValueError:
            raise ArgumentError(
                f"this {scheme}:// URL cannot be read: check host and port"
            ) from None
        masked = "***@" if "@" in parts.netloc else ""
        named = ",".join(f"{host}{f':{port}' if port else ''}" for host, port in hosts)
        return f"{scheme}://{masked}{named}{parts.path}"


def _hosts(url: str) -> tuple[str, list[tuple[str, int]]]:
    """Return a cluster's URL as redis-py reads it, with the first host, and the other hosts.

    ``redis+cluster://user:password@a:7000,b:7001`` names two nodes; one that answers is enough.
    """
    scheme, _, rest = url.replace("+cluster", "", 1).partition("://")
    end = next((i for i, c in enumerate(rest) if c in "/?#"), len(rest))
    user, at, places = rest[:end].rpartition("@")
    first, *others = places.split(",")
    found = [urlsplit(f"//{other}") for other in others]
    return (
        f"{scheme}://{user}{at}{first}{rest[end:]}",
        [(other.hostname or "", other.port or 6379) for other in found],
    )
