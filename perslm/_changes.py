"""Hearing of changes in the store as they happen, for caches that follow it.

What is sent, and by whom, is in ``perslm._store_scripts``: every script that changes a user's model
publishes a line on the installation's channel. Here the line is read again.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self, TypeAlias, cast

import redis

from perslm import _store_keys as keys
from perslm._connection import Connection
from perslm._store_errors import FAILURES
from perslm.errors import StoreError

HEARTBEAT_SECONDS: Final = 0.25
"""How often the server is asked for an answer; after three times as long it counts as gone."""

_TICK_SECONDS: Final = 0.1  # how soon an idle reader sees that it is closed
_CONNECT_SECONDS: Final = 1.0
_LONGEST_PAUSE: Final = 5.0
_AWAY: Final[tuple[type[Exception], ...]] = (*FAILURES, StoreError)
_ANNOUNCED: Final = ("publish", "rollback", "forget", "learn", "rules")

Kind: TypeAlias = Literal["publish", "rollback", "forget", "learn", "rules", "gap"]


@dataclass(frozen=True, slots=True)
class Change:
    """One user's model changed or, if ``kind`` is ``gap``, anything may have.

    What is known of (``tenant``, ``user``) with a generation below ``generation`` is out of date,
    or with this one and fewer than ``pending`` learned messages; for ``forget`` that number is the
    fence. ``rules`` that changed have the generation 0 and put all that is known out of date, if
    ``user`` is empty of everybody of the tenant. A gap has no tenant, no user and the generation 0.
    """

    kind: Kind
    tenant: str = ""
    user: str = field(default="", repr=False)
    generation: int = 0
    pending: int = 0


class Changes:
    """The changes of all tenants as they happen: iterate over it in one thread, made for that.

    Made by ``Store.changes``. Iteration ends when this or the store is closed, and raises nothing:
    while the store is away it goes on trying. It yields a gap, with ``live`` True, after each time
    it has connected, also the first, and one, with ``live`` False, when the connection is lost.

    A fetch after a change was heard of sees it. A server that hangs is found out by ``heard``, and
    by ``live`` a little later. An announcement can get lost without a gap, by a failover or in a
    cluster: who must not miss a change polls as well, if more seldom.
    """

    def __init__(self, connection: Connection, installation: str) -> None:
        self._connection = connection
        self._installation = installation
        self._closed = threading.Event()
        self.live = False
        """Whether announcements arrive."""
        self.heard = -math.inf
        """All that was announced before this time (of ``time.monotonic``) has been yielded.

        −∞ while not ``live``, and always with a cluster, where no node can tell.
        """
        connection.close_with_me(self)

    def __repr__(self) -> str:
        return f"Changes({self._connection.location!r}, live={self.live})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the iteration soon, from any thread, without waiting for it."""
        self._closed.set()

    def __iter__(self) -> Iterator[Change]:
        pause = _TICK_SECONDS
        while not self._closed.is_set():
            try:
                for change in self._listen():
                    pause = _TICK_SECONDS
                    yield change
            except _AWAY:
                pass
            self.heard = -math.inf
            if self.live:
                self.live = False
                yield Change("gap")
            # not all at once, when a server is back that many have waited for
            self._closed.wait(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _listen(self) -> Iterator[Change]:
        """Yield what is announced on one connection, until it is lost or this is closed."""
        client = self._connection.separate_client(_CONNECT_SECONDS)
        try:
            subscription = client.pubsub()
            subscription.subscribe(keys.channel(self._installation))
            asked = 0.0  # when the last ping was sent
            waiting = time.monotonic()  # since when for an answer, to that or to the subscription
            while not self._closed.is_set():
                message = subscription.get_message(timeout=_TICK_SECONDS)
                now = time.monotonic()
                if message is not None and message["type"] == "pong":
                    waiting = 0.0
                    if not isinstance(client, redis.RedisCluster):
                        self.heard = asked
                elif message is not None:
                    if message["type"] == "subscribe":
                        waiting = 0.0
                    change = self._change(message)
                    if change is not None:
                        yield change
                elif waiting and now - waiting > 3 * HEARTBEAT_SECONDS:
                    self._connection.drop_idle()
                    return
                if self.live and not waiting and now - asked >= HEARTBEAT_SECONDS:
                    asked = waiting = time.monotonic()
                    subscription.ping()
        finally:
            client.close()

    def _change(self, message: dict[str, Any]) -> Change | None:
        if message["type"] == "subscribe":  # again, if the client connected anew by itself
            self.live, self.heard = True, -math.inf
            return Change("gap")
        if message["type"] != "message":
            return None
        return parse(message["data"], self._installation)


def parse(line: bytes, installation: str) -> Change | None:
    """Return what a script announced: ``KIND GENERATION HEAD``; None if it is no such line.

    Of a learned message ``GENERATION.PENDING`` is announced, of everybody's rules their key.
    """
    try:
        kind, number, key = line.decode().split(" ")
        owner = keys.owner(key, installation)
        if owner is None and kind == "rules":
            owner = keys.ruled(key, installation)
        if kind not in _ANNOUNCED or owner is None:
            return None
        generation, _, pending = number.partition(".")
        return Change(cast(Kind, kind), *owner, int(generation), int(pending or 0))
    except ValueError:
        return None
