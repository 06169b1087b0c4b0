"""What the load process does: each function is one measurement, and returns numbers.

They run in a process of their own, so that nothing else there takes the interpreter away, with the
garbage collector off. Every answer is held against what the model says in process, untimed; one
that differs ends the run, unless the measurement is of what becomes of requests.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import urllib3

from perslm.bench.serving.http import BARE, ECHO, SCORE, Caller, Outcome, Requests, Swarm, race
from perslm.bench.serving.population import FINGERPRINT, Asked, user_id
from perslm.bench.serving.streams import ECHO_SERVICE, SERVICE, GrpcCaller
from perslm.client import Client
from perslm.errors import ServiceError
from perslm.exposition import Samples
from perslm.remote import RemoteModel

Times = npt.NDArray[np.float64]

_LATER = 3  # how often a user who is no longer cold is asked again


def begin() -> None:
    """Prepare the process: who interrupts the run does not wait for a measurement to end."""
    gc.disable()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(1))


def http_steps(url: str, asked: Sequence[Asked], rounds: int, steps: int) -> Times:
    """Return seconds of a score, an echo by a route, a bare echo: float64[3, rounds, steps]."""
    callers = [Caller(url, requests) for requests in _requests(asked)]
    found = race([(caller, caller.check) for caller in callers], rounds=rounds, steps=steps)
    for caller in callers:
        caller.close()
    return found


def grpc_steps(url: str, asked: Sequence[Asked], rounds: int, steps: int) -> Times:
    """Return seconds of a score and an echo, by a stream and by a call: float64[4, …]."""
    messages = [one.message for one in asked]
    scores = [one.expected for one in asked]
    callers = [
        GrpcCaller(url, f"/{SERVICE}/ScoreStream", messages, scores),
        GrpcCaller(url, f"/{ECHO_SERVICE}/Stream", messages, messages),
        GrpcCaller(url, f"/{SERVICE}/Score", messages, scores, unary=True),
        GrpcCaller(url, f"/{ECHO_SERVICE}/Unary", messages, messages, unary=True),
    ]
    found = race([(caller, caller.check) for caller in callers], rounds=rounds, steps=steps)
    for caller in callers:
        caller.close()
    return found


def client_steps(
    urls: Sequence[str], user: str, asked: Sequence[Asked], width: int, rounds: int, steps: int
) -> tuple[Times, Times]:
    """Return seconds of Client.score and of Client.mix, at each URL: float64[urls, …] each."""
    clients = [Client(url, strict=True, timeout=10) for url in urls]
    models = [client.model(user, FINGERPRINT) for client in clients]
    scores = [_client_score(model, asked) for model in models]
    mixes = [(_client_mix(model, asked, width), None) for model in models]
    found = (
        race(scores, rounds=rounds, steps=steps),
        race(mixes, rounds=rounds, steps=max(1, steps // 10)),
    )
    for client in clients:
        client.close()
    return found


def _client_score(
    model: RemoteModel, asked: Sequence[Asked]
) -> tuple[Callable[[int], Any], Callable[[int, Any], None]]:
    states = [model.states(one.step.histories) for one in asked]

    def score(number: int) -> Any:
        i = number % len(asked)
        return model.score(states[i], asked[i].step.candidates)[0]

    def check(number: int, answer: Any) -> None:
        if answer.tobytes() != asked[number % len(asked)].expected:
            raise _wrong()

    return score, check


def _client_mix(
    model: RemoteModel, asked: Sequence[Asked], width: int
) -> Callable[[int], npt.NDArray[np.float32]]:
    states = [model.states(one.step.histories) for one in asked]
    rows = np.full((len(asked[0].step.candidates), width), -np.log(width), np.float32)
    return lambda number: model.mix(states[number % len(asked)], rows)


@dataclass(frozen=True, slots=True)
class Throughput:
    """Answers a second, of scores, echoes by a route and bare echoes: float64[3, rounds].

    ``busy`` is the largest share of a core that the generator took.
    """

    rates: Times
    busy: float


def throughput(
    url: str, asked: Sequence[Asked], connections: int, rounds: int, seconds: float
) -> Throughput:
    """Ask as fast as answers come, on so many connections, in turns."""
    found = []
    for _ in range(rounds):
        for requests in _requests(asked):
            with Swarm(url, requests, connections) as swarm:
                outcome = swarm.closed(seconds)
            if outcome.kinds.keys() - {"ok", "timeout"}:  # a machine may stand still for a second
                raise _wrong()
            found.append((outcome.rate, outcome.busy))
    rates, busy = np.array(found).T
    return Throughput(rates.reshape(rounds, -1).T, float(busy.max()))


@dataclass(frozen=True, slots=True)
class Cold:
    """Seconds of the first request of each user, and of those after; outcomes of the first."""

    first: Times
    later: Times
    kinds: Counter[str]


def cold(url: str, asked: Sequence[Asked], place: str, numbers: Sequence[int]) -> Cold:
    """Ask once about each user, who was never asked about before, and then some times more."""
    users = [user_id(number) for number in numbers for _ in range(1 + _LATER)]
    requests = Requests.to(SCORE, [one.packed for one in asked], place=place, users=users)
    caller = Caller(url, requests)
    times = np.zeros(len(users))
    kinds: Counter[str] = Counter()
    for number in range(len(users)):
        began = time.perf_counter()
        answer = caller(number)
        times[number] = time.perf_counter() - began
        if number % (1 + _LATER) == 0:
            kinds[requests.judge(number, *answer)] += 1
    caller.close()
    rows = times.reshape(-1, 1 + _LATER)[1:]  # at the first the connection is new
    return Cold(rows[:, 0], rows[:, 1:], kinds)


def arrivals(url: str, asked: Sequence[Asked], rate: float, seconds: float, most: int) -> Outcome:
    """Ask about the hot user at random times, ``rate`` a second, on at most so many connections."""
    with Swarm(url, _requests(asked)[0], most) as swarm:
        return swarm.open(_poisson(rate, seconds))


@dataclass(frozen=True, slots=True)
class Crowd:
    """Users who are asked about as in Zipf's law: the one of rank r as often as 1 / r."""

    first: int
    number: int

    def draw(self, chance: np.random.Generator, requests: int) -> list[str]:
        """Return whom so many requests are about."""
        shares = np.cumsum(1 / np.arange(1, self.number + 1))
        ranks = np.searchsorted(shares, chance.random(requests) * shares[-1])
        return [user_id(self.first + rank) for rank in ranks.tolist()]


def crowd(
    url: str,
    asked: Sequence[Asked],
    place: str,
    users: Crowd,
    *,
    seed: int,
    seconds: float,
    connections: int,
    rate: float | None = None,
) -> tuple[Outcome, Samples]:
    """Ask about a crowd: as fast as answers come, or ``rate`` times a second.

    Also returns how the service's figures grew meanwhile.
    """
    chance = np.random.default_rng(seed)
    drawn = users.draw(chance, 100_000)
    requests = Requests.to(SCORE, [one.packed for one in asked], place=place, users=drawn)
    before = figures(url)
    with Swarm(url, requests, connections) as swarm:
        if rate is None:
            outcome = swarm.closed(seconds)
        else:
            outcome = swarm.open(_poisson(rate, seconds, seed))
    return outcome, figures(url).since(before)


def figures(url: str) -> Samples:
    """Return what /metrics says."""
    with urllib3.connection_from_url(url, timeout=10) as pool:
        return Samples.parse(pool.request("GET", "/metrics").data.decode())


def _requests(asked: Sequence[Asked]) -> list[Requests]:
    """Return requests for a score, an echo by a route, a bare echo."""
    bodies = [one.packed for one in asked]
    return [
        Requests.to(SCORE, bodies, [one.expected for one in asked]),
        Requests.to(ECHO, bodies, bodies),
        Requests.to(BARE, bodies, bodies),
    ]


def _poisson(rate: float, seconds: float, seed: int = 3) -> Times:
    """Return times at which independent people ask."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, max(1, int(rate * seconds)))
    return np.cumsum(gaps)


def _wrong() -> ServiceError:
    return ServiceError("an answer was not what the model says in process")
