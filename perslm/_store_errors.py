"""The one place that knows how redis-py fails, and what each failure means to ``perslm.store``.

Nothing of what a server said is repeated in an error: servers quote arguments, and ours are blobs
and user ids. Only the kind of failure is told, with the remedy for it.
"""

from __future__ import annotations

import re
from typing import Final

from redis import exceptions

from perslm.errors import StoreError, StoreUnavailableError

FAILURES: Final[tuple[type[Exception], ...]] = (
    *(
        kind
        for kind in vars(exceptions).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
    OSError,  # sockets, TLS and name resolution, where redis-py lets one through
)
"""Everything that an operation on the store may raise besides our own errors."""

# Failures that a later try, another server or an administrator can mend: StoreUnavailableError.
_UNAVAILABLE: Final = {
    "OOM": "its memory is full (maxmemory): give it more, or delete users or other data",
    "MISCONF": "it cannot save to its disk and so takes no writes: see its log, most likely the "
    "disk is full",
    "READONLY": "it is a read-only replica: use the address of the primary",
    "NOAUTH": "it wants a password, or another one: put user and password into the URL, "
    "redis://user:password@host:port",
    "LOADING": "it is still reading its data from disk: try again in a moment",
    "MASTERDOWN": "it is a replica that lost its primary: use the primary, or wait",
    "CLUSTERDOWN": "the cluster is down or does not cover all slots: see CLUSTER INFO on a node",
    "TRYAGAIN": "the cluster is moving this user's keys: try again in a moment",
    "MOVED": "it is a node of a cluster: use redis+cluster:// in place of redis://",
    "NOREPLICAS": "no replica has confirmed a write in time, or too few are connected: see the "
    "replicas' state, and min-replicas-to-write",
    "BUSY": "a script of somebody else keeps it busy: try again, or end it with SCRIPT KILL",
}
# Failures of another kind: StoreError.
_REFUSED: Final = {
    "NOPERM": "its access control forbids this user a command or the channel (a deletion is done "
    "all the same): perslm needs EVAL, HMGET, HGET, HSET, HDEL, HGETALL, HKEYS, HLEN, HSTRLEN, "
    "HEXISTS, GET, SET, DEL, EXISTS, EXPIRE, TTL, PTTL, PERSIST, SCAN, PING, PUBLISH and "
    "SUBSCRIBE, on a cluster also WAIT, ASKING, ROLE, READONLY and CLUSTER, keys ~perslm* and the "
    "channel &perslm:changes",
    "WRONGTYPE": "a key of perslm's holds something else: use a namespace of your own",
    "CROSSSLOT": "it does not support hash tags: use a server that does",
}
_CODE: Final = re.compile(r"\b(" + "|".join((*_UNAVAILABLE, *_REFUSED)) + r")\b")
_FORBIDDEN: Final = re.compile(r"ACL failure in script|user executing the script can't")

# redis-py cuts the code from the messages that it knows and gives a class instead.
_CODE_OF_CLASS: Final = (
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.AuthenticationError, "NOAUTH"),
    (exceptions.AuthorizationError, "NOAUTH"),
    (exceptions.AuthenticationWrongNumberOfArgsError, "NOAUTH"),
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.SlotNotCoveredError, "CLUSTERDOWN"),
    (exceptions.TryAgainError, "TRYAGAIN"),
    (exceptions.AskError, "MOVED"),  # MovedError is one
    (exceptions.NoPermissionError, "NOPERM"),
    (exceptions.ClusterCrossSlotError, "CROSSSLOT"),
)


def _code(error: Exception) -> str | None:
    for kind, code in _CODE_OF_CLASS:
        if isinstance(error, kind):
            return code
    if isinstance(error, exceptions.ResponseError):
        # Redis 6.2 wraps an error inside a script, so the code may stand anywhere.
        if _FORBIDDEN.search(str(error)):
            return "NOPERM"
        found = _CODE.search(str(error))
        return found[1] if found else None
    return None


def _disconnected(error: Exception) -> bool:
    lost = (exceptions.ConnectionError, exceptions.RedisClusterException, OSError)
    return isinstance(error, lost) and _code(error) is None


def timed_out(error: Exception) -> bool:
    """Say whether the server did not answer in time."""
    return isinstance(error, exceptions.TimeoutError | TimeoutError)


def worth_repeating(error: Exception, *, timeouts: bool) -> bool:
    """Say whether a second try may do: the connection was lost or, with ``timeouts``, too slow."""
    return timeouts if timed_out(error) else _disconnected(error)


def explain(error: Exception, location: str, trouble: str | None) -> StoreError:
    """Return the error to raise for ``error`` of the store at ``location`` (without credentials).

    ``trouble`` is what the embedded server's log says, if anything.
    """
    code = _code(error)
    if code in _REFUSED:
        return StoreError(f"the store {location} refused: {_REFUSED[code]}")
    if code is not None:
        return StoreUnavailableError(f"the store {location} is of no use: {_UNAVAILABLE[code]}")
    if timed_out(error):
        return StoreUnavailableError(
            f"the store {location} did not answer in time: it or the network is overloaded; try "
            "again, or allow more time"
        )
    if _disconnected(error):
        if trouble:
            return StoreUnavailableError(f"the store {location} has stopped: {trouble}")
        return StoreUnavailableError(
            f"the store {location} cannot be reached: check that it runs, and that address and "
            "port are right"
        )
    return StoreError(
        f"the store {location} failed with {type(error).__name__}: see its log; a server of "
        "Redis 6.2 or later is needed"
    )
