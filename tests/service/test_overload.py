"""A store that is slow and a service that is full: nobody waits long, and nobody is harmed."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
import redis

from perslm import Client
from perslm.store import Store
from perslm.v1 import scorer_pb2
from service.core import ScoreRequest, ScoringService
from service.gate import Gate, OverloadedError
from tests.service.grpc_server import CallRefusedError, calling, score_request
from tests.service.server import Caller, running
from tests.service.support import EMPTY, FINGERPRINT, HISTORIES, USER, settings

FULL: dict[str, Any] = {
    "max_inflight": 1,
    "max_waiting": 1,
    "load_seconds": 3600.0,
    "fresh_seconds": 3600.0,
}
"""Two requests whose model is not in memory fill such a service, as long as the store is stopped.

It answers both within the time that the store has for an answer, so tests must be quick.
"""

FIELDS = {"user": USER, "vocabulary": FINGERPRINT, "histories": HISTORIES, "top_k": 3}
REQUEST = ScoreRequest(user=USER, vocabulary=FINGERPRINT, histories=HISTORIES, top_k=3)


@contextmanager
def stopped(server: redis.Redis) -> Iterator[None]:
    """A server that accepts what it is sent, and answers when the context is left."""
    process = server.info("server")["process_id"]
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


@pytest.mark.parametrize(
    ("load_seconds", "deadline"), [(0.0, 1e9), (0.01, 1e9), (3600.0, 0.0), (3600.0, -1.0)]
)
def test_a_slow_store_costs_one_answer_and_not_the_time(
    load_seconds: float, deadline: float, store: Store, raw_store: redis.Redis
) -> None:
    service = ScoringService(store, settings(load_seconds=load_seconds, fresh_seconds=3600.0))
    with stopped(raw_store):
        answer = service.score(REQUEST, time.monotonic() + deadline)
        assert (answer.status, answer.reason, answer.generation) == ("degraded", "loading", 0)
        assert answer.weights.tolist() == [0.0] * len(HISTORIES)
        assert answer.logprobs.shape == (len(HISTORIES), 0)
        assert not service.is_quick(REQUEST)
    service.model(USER)  # waits for what is loaded behind
    assert service.is_quick(REQUEST)
    answer = service.score(REQUEST, time.monotonic() + deadline)
    assert (answer.status, answer.reason, answer.generation) == ("ok", "ok", 1)


def test_who_may_not_wait_does_not(store: Store, raw_store: redis.Redis) -> None:
    """The event loop, should a model go between the look whether it is there and its use."""
    service = ScoringService(store, settings(load_seconds=3600.0))
    with stopped(raw_store):
        answer = service.score(REQUEST, wait=False)
        assert (answer.status, answer.reason) == ("degraded", "loading")


def test_a_slow_store_over_http(store: Store, raw_store: redis.Redis) -> None:
    with running(settings(load_seconds=0.0, fresh_seconds=3600.0), store) as url:
        caller = Caller(url)
        with stopped(raw_store):
            reply = caller.score(FIELDS, "json")
        assert reply.status == 200
        assert (reply.json["status"], reply.json["reason"]) == ("degraded", "loading")
        assert caller("GET", f"/v1/users/{USER}").status == 200
        assert caller.score(FIELDS, "json").json["status"] == "ok"
        caller.close()


def test_a_slow_store_over_grpc_is_not_waited_for_until_the_deadline(
    store: Store, raw_store: redis.Redis
) -> None:
    request = score_request(FIELDS)
    with calling(settings(load_seconds=3600.0, fresh_seconds=3600.0), store) as caller:
        with stopped(raw_store):
            answer = scorer_pb2.ScoreAnswer.FromString(caller("Score", request, timeout=2))
        assert (answer.status, answer.reason) == ("degraded", "loading")
        caller("GetUser", scorer_pb2.GetUserRequest(user=USER))
        answer = scorer_pb2.ScoreAnswer.FromString(caller("Score", request))
        assert (answer.status, answer.generation) == ("ok", 1)


def test_a_full_gate_refuses_at_once_and_what_is_given_up_is_not_begun() -> None:
    done = []

    async def use() -> None:
        gate = Gate(settings(max_inflight=1, max_waiting=1))
        begun, go_on = threading.Event(), threading.Event()

        def block() -> None:
            begun.set()
            assert go_on.wait(30)
            done.append("first")

        first = asyncio.create_task(gate.run(block))
        second = asyncio.create_task(gate.run(done.append, "second"))
        assert await asyncio.to_thread(begun.wait, 30)
        with pytest.raises(OverloadedError):
            await gate.run(done.append, "refused")
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        in_time = asyncio.create_task(gate.run_until(time.monotonic() + 60, done.append, "in time"))
        await asyncio.sleep(0)  # it waits
        in_time.cancel()
        with pytest.raises(asyncio.CancelledError):
            await in_time
        third = asyncio.create_task(gate.run(done.append, "third"))
        go_on.set()
        await asyncio.gather(first, third)
        with pytest.raises(ZeroDivisionError):
            await gate.run(divmod, 1, 0)
        await gate.run(done.append, "last")

    asyncio.run(use())
    assert done == ["first", "third", "last"]


def test_probes_ask_the_store_once_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    service = ScoringService(store, settings())
    asked, go_on = threading.Semaphore(0), threading.Event()

    def ping(self: Store) -> None:
        asked.release()
        assert go_on.wait(30)

    monkeypatch.setattr(Store, "ping", ping)

    async def use() -> None:
        probes = [asyncio.create_task(service.check()) for _ in range(100)]
        assert await asyncio.to_thread(asked.acquire, timeout=30)
        probes[0].cancel()  # which is nothing to the others
        await asyncio.sleep(0)
        probes += [asyncio.create_task(service.check())]
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*probes[1:])
        assert not asked.acquire(blocking=False)
        await service.check()
        assert asked.acquire(blocking=False)

    asyncio.run(use())


def test_a_full_service_refuses_over_http(store: Store, raw_store: redis.Redis) -> None:
    with (
        running(settings(**FULL), store) as url,
        ThreadPoolExecutor(5) as threads,
        Client(url) as client,
    ):
        caller = Caller(url)
        cached = {**FIELDS, "user": EMPTY}
        assert caller.score(cached, "json").json["status"] == "ok"
        with stopped(raw_store):
            replies = [threads.submit(caller.score, FIELDS, "json") for _ in range(5)]
            answered = as_completed(replies)
            for refused in itertools.islice(answered, 3):
                reply = refused.result()
                assert (reply.status, reply.json["error"]) == (503, "overloaded")
                assert reply.headers["retry-after"] == "1"
            assert caller.score(cached, "json").json["status"] == "ok"  # what is quick goes on
            assert caller("GET", "/healthz").status == 200
            assert client.fetch(USER).reason == "degraded"
        for accepted in answered:
            assert accepted.result().json["status"] == "ok"
        assert caller.score(FIELDS, "json").json["status"] == "ok"
        caller.close()


def test_a_full_service_refuses_over_grpc(store: Store, raw_store: redis.Redis) -> None:
    request = score_request(FIELDS)
    with calling(settings(**FULL), store) as caller, ThreadPoolExecutor(5) as threads:
        with stopped(raw_store):
            replies = [threads.submit(caller, "Score", request) for _ in range(5)]
            answered = as_completed(replies)
            for refused in itertools.islice(answered, 3):
                with pytest.raises(CallRefusedError) as caught:
                    refused.result()
                assert caught.value.status == grpc.StatusCode.RESOURCE_EXHAUSTED
                assert caught.value.code == "overloaded"
            with Client(f"grpc://{caller.target}") as client:
                assert client.fetch(USER).reason == "degraded"
        for accepted in answered:
            answer = scorer_pb2.ScoreAnswer.FromString(accepted.result())
            assert (answer.status, answer.generation) == ("ok", 1)
