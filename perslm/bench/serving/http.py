"""HTTP as a load generator needs it: prepared bytes out, as little as possible done with the rest.

:class:`Caller` sends one request at a time and waits. :class:`Swarm` drives many connections from
one thread: as fast as they are answered (``closed``), or at given times whether or not the service
keeps up (``open``). In the latter a request whose time has come while all connections wait for the
service counts from then on: a service that is late makes later requests late, and that is what
their senders feel. What the generator itself is late by is not the service's, and told apart.

A swarm costs some 10 to 20 µs a request, and sleeps in between: the machine's other cores stay the
server's.
"""

from __future__ import annotations

import select
import socket
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from perslm.errors import ServiceError

ECHO: Final = "/echo"
BARE: Final = "/bare"
SCORE: Final = "/v1/score"

TIMEOUT: Final = 1.0
"""Seconds after which a request that should have been sent is given up, as perslm.Client does."""

_OK: Final = b"\xa6status\xa2ok"  # msgpack
_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"
_CHECK_SECONDS: Final = 0.01
_WARM_UP: Final = 16
_LIMIT_SECONDS: Final = 30.0
_BEGINNING: Final = 32
_RECEIVED: Final = 1 << 14  # larger ones are memory that the system must find each time
_SHORT: Final = 2e-5  # seconds that to sleep takes as long as not to
_clock: Final = time.perf_counter


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests as bytes, over and over; the i-th answer must hold ``expected[i]``, if it is there.

    ``users`` are put in place of the user's id, one for each request.
    """

    sent: list[bytes]
    expected: list[bytes] | None = None
    users: list[bytes] | None = None
    place: bytes = b""

    @classmethod
    def to(
        cls,
        path: str,
        bodies: Sequence[bytes],
        expected: Sequence[bytes] | None = None,
        *,
        place: str = "",
        users: Sequence[str] | None = None,
    ) -> Self:
        """Return requests to a route; ``users`` are named one after the other, for ``place``."""
        head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/msgpack\r\n"
        head += f"perslm-timeout-ms: {TIMEOUT * 1e3:.0f}\r\n"  # as perslm.Client says it
        sent = [f"{head}content-length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        named = None if users is None else [user.encode() for user in users]
        return cls(sent, None if expected is None else list(expected), named, place.encode())

    def __getitem__(self, number: int) -> bytes:
        request = self.sent[number % len(self.sent)]
        if self.users is None:
            return request
        return request.replace(self.place, self.users[number % len(self.users)], 1)

    def judge(self, number: int, status: bytes, body: bytes) -> str:
        """Return what became of a request: ``ok``, ``without`` a model, ``shed``, or an error."""
        if status != b"200":
            return "shed" if status == b"503" and b"overloaded" in body else "refused"
        if self.expected is not None:
            wanted = self.expected[number % len(self.expected)]
            at = body.find(wanted[:_BEGINNING])  # to find all of a long one takes microseconds
            if (at >= 0 and body.startswith(wanted, at)) or wanted in body:
                return "ok"
        if _OK not in body:
            return "without"
        return "ok" if self.expected is None else "wrong"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a load: latencies of answered requests and of refused ones in seconds.

    They count from when a connection was wanted; ``sent`` are those of answered requests too, but
    from when they were sent, and ``late`` is how long after it was due each request of all was
    looked at. ``kinds`` has the number of each kind of outcome; ``seconds`` is how long it went,
    ``busy`` the share of that in which the generator computed: near 1 it was the bottleneck.
    """

    seconds: float
    busy: float
    kinds: Counter[str]
    answered: npt.NDArray[np.float64]
    sent: npt.NDArray[np.float64]
    shed: npt.NDArray[np.float64]
    late: npt.NDArray[np.float64]

    @property
    def errors(self) -> dict[str, int]:
        """Return the numbers of requests that got neither scores nor a word that there are none."""
        return {kind: n for kind, n in self.kinds.items() if kind not in ("ok", "without", "shed")}

    @property
    def rate(self) -> float:
        """Return answers a second."""
        return self.kinds["ok"] / self.seconds

    def percentile(self, percent: float, *, since_sent: bool = False) -> float:
        """Return a percentile of the latencies of answered requests; infinity without any."""
        latencies = self.sent if since_sent else self.answered
        return float(np.percentile(latencies, percent)) if len(latencies) else np.inf


def parse(data: bytes) -> tuple[bytes, bytes, bool] | None:
    """Return status, body and whether the connection ends; None if more is to come."""
    end = data.find(_END)
    if end < 0:
        return None
    length, ends = _said(data[:end])
    if len(data) < end + len(_END) + length:
        return None
    return data[9:12], data[end + len(_END) :], ends


@lru_cache(1024)  # the heads of a second differ in little
def _said(head: bytes) -> tuple[int, bool]:
    """Return the length of a body and whether the connection ends."""
    head = head.lower()
    at = head.find(_LENGTH)
    if at < 0:
        raise ServiceError("the scoring service sent a response without its length")
    stop = head.find(b"\r", at)
    length = int(head[at + len(_LENGTH) : stop if stop > 0 else len(head)])
    return length, b"connection: close" in head


def connect(url: str) -> socket.socket:
    """Return a connection to an ``http`` or ``grpc`` URL."""
    host, _, port = url.partition("://")[2].rpartition(":")
    connection = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class Caller:
    """One connection that is asked one thing at a time."""

    def __init__(self, url: str, requests: Requests) -> None:
        self._socket = connect(url)
        self._requests = requests

    def __call__(self, number: int) -> tuple[bytes, bytes]:
        """Send a request and return status and body of the answer."""
        self._socket.sendall(self._requests[number])
        data = b""
        while (found := parse(data)) is None:
            received = self._socket.recv(_RECEIVED)
            if not received:
                raise ServiceError("the scoring service hung up in the middle of a response")
            data += received
        return found[0], found[1]

    def check(self, number: int, answer: tuple[bytes, bytes]) -> None:
        """Return if an answer is right; raises ServiceError."""
        verdict = self._requests.judge(number, *answer)
        if verdict != "ok":
            raise ServiceError(f"an answer was not what the model says in process: {verdict}")

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class _Connection:
    __slots__ = ("number", "received", "sent", "socket", "wanted")

    def __init__(self, url: str) -> None:
        self.socket = connect(url)
        self.socket.setblocking(False)
        self.number = -1  # of the request that is out, if one is
        self.wanted = self.sent = 0.0
        self.received = b""


class Swarm:
    """Many connections, driven by the thread that calls."""

    def __init__(self, url: str, requests: Requests, connections: int) -> None:
        self._url = url
        self._requests = requests
        self._poll = select.epoll()
        self._open: dict[int, _Connection] = {}
        for _ in range(connections):
            self._connect()
        self._reset()
        # or the system may sleep 50 µs longer than it was asked to
        with suppress(OSError):
            Path("/proc/self/timerslack_ns").write_text("1000", "ascii")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for connection in self._open.values():
            connection.socket.close()
        self._poll.close()

    def closed(self, seconds: float) -> Outcome:
        """Ask on every connection as soon as the last answer is there."""
        self._reset()
        number = len(self._open)
        begin, cpu = _clock(), time.process_time()
        stop = begin + seconds
        for i, connection in enumerate(list(self._open.values())):
            self._send(connection, i, _clock())
        while any(connection.number >= 0 for connection in self._open.values()):
            for fd, _ in self._poll.poll(TIMEOUT):
                connection = self._receive(self._open[fd])
                now = _clock()
                if connection.number < 0 and now < stop:
                    self._send(connection, number, now)
                    number += 1
            if _clock() > stop:
                self._give_up(_clock() - TIMEOUT)
        return self._outcome(_clock() - begin, time.process_time() - cpu)

    def open(self, due: npt.NDArray[np.float64]) -> Outcome:
        """Ask at the times ``due``, ascending seconds from now, on whatever connection is idle."""
        self._reset()
        begin, cpu = _clock(), time.process_time()
        times = (due + begin + 0.001).tolist()
        coming, waiting = 0, deque[tuple[int, float]]()
        idle = list(self._open.values())
        checked = begin
        while True:
            now = _clock()
            while coming < len(times) and times[coming] <= now:
                waiting.append((coming, now))
                self._late.append(now - times[coming])
                coming += 1
            while waiting and idle:
                self._send(idle.pop(), *waiting.popleft())
            if now - checked > _CHECK_SECONDS:
                checked = now
                while waiting and waiting[0][1] < now - TIMEOUT:
                    waiting.popleft()
                    self._kinds["timeout"] += 1
                idle += self._give_up(now - TIMEOUT)
            if coming == len(times) and not waiting and len(idle) == len(self._open):
                break
            pause = _CHECK_SECONDS
            if coming < len(times):
                pause = min(pause, times[coming] - _clock())
            if pause > _SHORT:  # epoll itself sleeps for whole milliseconds only
                select.select([self._poll], [], [], pause)
            for fd, _ in self._poll.poll(0):
                before = self._open[fd]
                was_busy = before.number >= 0
                connection = self._receive(before)
                if connection is not before:
                    idle = [one for one in self._open.values() if one.number < 0]
                elif was_busy and connection.number < 0:
                    idle.append(connection)
        return self._outcome(_clock() - begin, time.process_time() - cpu)

    def _reset(self) -> None:
        self._answered, self._sent, self._shed = array("d"), array("d"), array("d")
        self._late = array("d")
        self._kinds: Counter[str] = Counter()

    def _outcome(self, seconds: float, cpu: float) -> Outcome:
        return Outcome(
            seconds,
            cpu / seconds,
            self._kinds,
            np.array(self._answered),
            np.array(self._sent),
            np.array(self._shed),
            np.array(self._late),
        )

    def _connect(self) -> _Connection:
        connection = _Connection(self._url)
        self._open[connection.socket.fileno()] = connection
        self._poll.register(connection.socket, select.EPOLLIN)
        return connection

    def _replace(self, connection: _Connection) -> _Connection:
        """Close a connection and return another one."""
        del self._open[connection.socket.fileno()]
        connection.socket.close()
        return self._connect()

    def _send(self, connection: _Connection, number: int, wanted: float) -> None:
        connection.number, connection.wanted, connection.received = number, wanted, b""
        connection.sent = _clock()
        request = self._requests[number]
        try:
            sent = connection.socket.send(request)
        except OSError:
            return  # the other side hung up: which is seen when its end is read
        if sent < len(request):  # cannot be: the last request was read and answered
            raise ServiceError("a request did not fit into the buffer of an idle connection")

    def _receive(self, connection: _Connection) -> _Connection:
        """Read what is there, and count the request if that is its answer."""
        try:
            data = connection.socket.recv(_RECEIVED)
        except BlockingIOError:
            return connection
        except OSError:
            data = b""
        if not data:
            if connection.number >= 0:
                self._kinds["disconnected"] += 1
            return self._replace(connection)
        if connection.received:
            data = connection.received + data
        found = parse(data)
        if found is None:
            connection.received = data
            return connection
        status, body, ends = found
        now = _clock()
        verdict = self._requests.judge(connection.number, status, body)
        connection.number = -1
        self._kinds[verdict] += 1
        if verdict == "ok":
            self._answered.append(now - connection.wanted)
            self._sent.append(now - connection.sent)
        elif verdict == "shed":
            self._shed.append(now - connection.wanted)
        return self._replace(connection) if ends else connection

    def _give_up(self, before: float) -> list[_Connection]:
        """Hang up where a request was wanted before a time; return the connections instead."""
        late = [one for one in self._open.values() if one.number >= 0 and one.wanted < before]
        if late:
            self._kinds["timeout"] += len(late)
        return [self._replace(connection) for connection in late]


def race(
    callers: Sequence[tuple[Callable[[int], Any], Callable[[int, Any], None] | None]],
    *,
    rounds: int,
    steps: int,
) -> npt.NDArray[np.float64]:
    """Return the seconds of calls that were made in turns: float64[callers, rounds, steps].

    Each caller has a check of its answers, or None; checks are not timed. Whoever has the first
    turn at one step has the last at the next. On a machine that is busy with other things there
    are fewer rounds, at least two, than a limit of time allows.
    """
    stop = _clock() + _LIMIT_SECONDS
    found = np.zeros((len(callers), rounds, steps))
    order = list(range(len(callers)))
    for i in range(_WARM_UP):
        for call, _ in callers:
            call(i)
    for r in range(rounds):
        for i in range(steps):
            order.append(order.pop(0))
            for k in order:
                call, check = callers[k]
                begin = _clock()
                answer = call(i)
                found[k, r, i] = _clock() - begin
                if check is not None:
                    check(i, answer)
        if r > 0 and _clock() > stop:
            return found[:, : r + 1]
    return found
