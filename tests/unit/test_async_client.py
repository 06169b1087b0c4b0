"""What only the async client has; all else it shares with the other, and with its tests."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

import msgpack
import numpy as np
import pytest

from perslm.async_client import AsyncClient, AsyncRemoteModel
from perslm.errors import ServiceError
from perslm.v1 import scorer_pb2
from tests.unit import test_client as over_http
from tests.unit import test_grpc_client as over_grpc
from tests.unit.test_client import BLOB, FINGERPRINT, INFO, ROWS, Reply

Answer: TypeAlias = Callable[[int], float]
"""Makes λ of an answer of the histories' number in a request, or waits."""
Serving: TypeAlias = Callable[[Answer], AbstractContextManager[str]]

FOREVER = 30.0


@contextmanager
def http(answer: Answer) -> Iterator[str]:
    def script(method: str, path: str, body: bytes) -> Reply:
        if method == "GET":
            return 200, json.dumps(INFO).encode()
        n = len(msgpack.unpackb(body)["histories"]["lengths"])
        weights = over_http.wire.pack_array([answer(n)] * n, "<f4")
        logprobs = over_http.wire.pack_array(np.zeros((n, 0)), "<f4")
        return over_http.scores(weights=weights, logprobs=logprobs)

    with over_http.service(script) as url:
        yield url


@contextmanager
def grpc(answer: Answer) -> Iterator[str]:
    def script(body: bytes) -> bytes:
        n = len(scorer_pb2.ScoreRequest.FromString(body).histories.lengths)
        weights = np.array([answer(n)] * n, "<f4").tobytes()
        return over_grpc.scores(weights=weights, logprobs=over_grpc.rows(np.zeros((n, 0))))

    with over_grpc.service(script) as (url, _):
        yield url


@pytest.fixture(params=[http, grpc], ids=["http", "grpc"])
def serving(request: pytest.FixtureRequest) -> Serving:
    """Starts a service that answers with λ of our choice; by both transports."""
    chosen: Serving = request.param
    return chosen


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def play() -> None:
        async with asyncio.timeout(FOREVER):
            await scene()

    asyncio.run(play())


async def weights(model: AsyncRemoteModel, n: int) -> list[float]:
    """λ of n states that were not asked for before."""
    first = int(model.states([[7, 7]])[0])
    states = model.states([[first + i, 1000 + first] for i in range(n)])
    found: list[float] = (await model.weights(states)).tolist()
    return found


class Gate:
    """Holds up the first answer until it is told."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self.answers = 0

    def __call__(self, n: int) -> float:
        self.answers += 1
        if self.answers == 1:
            self.reached.set()
            self.go_on.wait(FOREVER)
            return 0.125  # of the request that nobody waits for any more
        return 0.75


def test_a_cancelled_call_harms_none_after_it(serving: Serving) -> None:
    gate = Gate()

    async def scene() -> None:
        async with AsyncClient(url, timeout=FOREVER) as client:
            model = await client.model("u", FINGERPRINT)
            waiting = asyncio.create_task(weights(model, 2))
            assert await asyncio.to_thread(gate.reached.wait, FOREVER)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            gate.go_on.set()
            for _ in range(3):
                assert await weights(model, 2) == [0.75, 0.75]
            assert model.reason == "ok"

    with serving(gate) as url:
        run(scene)


def test_a_callers_own_timeout_is_the_callers(serving: Serving) -> None:
    gate = Gate()

    async def scene() -> None:
        async with AsyncClient(url, timeout=FOREVER) as client:
            model = await client.model("u", FINGERPRINT)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await weights(model, 2)
            gate.go_on.set()
            assert await weights(model, 2) == [0.75, 0.75]

    with serving(gate) as url:
        run(scene)


def test_the_loop_goes_on_while_an_answer_is_awaited(serving: Serving) -> None:
    gate = Gate()

    async def scene() -> None:
        async with AsyncClient(url, timeout=FOREVER) as client:
            model, other = [await client.model("u", FINGERPRINT) for _ in range(2)]
            waiting = asyncio.create_task(weights(model, 2))
            assert await asyncio.to_thread(gate.reached.wait, FOREVER)
            assert await weights(other, 2) == [0.75, 0.75]  # by a connection or stream of its own
            assert not waiting.done()
            gate.go_on.set()
            assert await waiting == [0.125, 0.125]

    with serving(gate) as url:
        run(scene)


def test_many_tasks_each_get_their_own_answer(serving: Serving) -> None:
    async def ask(model: AsyncRemoteModel, n: int) -> None:
        states = model.states([[n, i] for i in range(n)])
        assert (await model.weights(states)).tolist() == [1 / (n + 1)] * n

    async def scene() -> None:
        async with AsyncClient(url, timeout=FOREVER, strict=True) as client:
            models = await asyncio.gather(*(client.model("u", FINGERPRINT) for _ in range(5)))
            await asyncio.gather(*(ask(models[n % 5], 2**n - 1) for n in range(1, 8) for _ in "ab"))

    with serving(lambda n: 1 / (n + 1)) as url:
        run(scene)


def test_a_client_that_is_closed_meanwhile_is_no_cancellation(serving: Serving) -> None:
    gate = Gate()

    async def scene() -> None:
        client = AsyncClient(url, timeout=FOREVER, strict=True)
        model = await client.model("u", FINGERPRINT)
        waiting = asyncio.create_task(weights(model, 2))
        assert await asyncio.to_thread(gate.reached.wait, FOREVER)
        await client.close()
        with pytest.raises(ServiceError, match="no answer"):
            await waiting
        gate.go_on.set()
        async with client:  # it can be used again
            assert await weights(await client.model("u", FINGERPRINT), 2) == [0.75, 0.75]

    with serving(gate) as url:
        run(scene)


def test_a_cancelled_deletion_may_have_happened() -> None:
    reached, go_on = threading.Event(), threading.Event()
    away = False

    def script(method: str, path: str, body: bytes) -> Reply:
        if method == "DELETE":
            reached.set()
            go_on.wait(FOREVER)
            return 204, b""
        return (503, b"") if away else (200, BLOB, {"perslm-generation": "4"})

    async def scene() -> None:
        nonlocal away
        async with AsyncClient(url, timeout=FOREVER) as client:
            assert (await client.fetch("u")).reason == "ok"
            deleting = asyncio.create_task(client.forget("u"))
            assert await asyncio.to_thread(reached.wait, FOREVER)
            deleting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await deleting
            go_on.set()
            away = True
            assert (await client.fetch("u")).reason == "degraded"

    with over_http.service(script) as url:
        run(scene)


def test_mixing_and_what_is_shown() -> None:
    async def scene() -> None:
        async with AsyncClient(url) as client:
            model = await client.model("u", FINGERPRINT)
            assert await model.mix(model.states([[2], [3]]), ROWS) is ROWS
            assert repr(client) == f"AsyncClient({url!r})"
            assert repr(model) == f"AsyncRemoteModel({url!r}, order=3, generation=4, reason='ok')"

    reply = over_http.scores(
        weights=over_http.wire.pack_array([0, 0], "<f4"),
        ids=over_http.wire.pack_array([2, 3, 4], "<u4"),
    )
    with over_http.service(over_http.replying(reply)) as url:
        run(scene)


def test_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "import perslm\n"
        "try: perslm.AsyncClient('http://localhost')\n"
        "except perslm.errors.MissingExtraError as error: print(error.extra)\n"
        "perslm.AsyncClient('grpc://localhost:1')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "async\n"
