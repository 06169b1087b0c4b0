"""Nobody waits beyond a deadline, whatever the store does; and the impossible is refused at once.

Where a store has stopped, an answer proves that nobody waited for it: it would take an hour.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
import redis

from perslm.store import Store
from perslm.v1 import scorer_pb2
from service import core
from service.core import RequestError, ScoringService
from service.gate import Gate
from tests.service.grpc_server import CallRefusedError, GrpcCaller, calling, score_request
from tests.service.server import Caller, running
from tests.service.support import EMPTY, FINGERPRINT, HISTORIES, USER, settings
from tests.service.test_overload import stopped

PATIENT: dict[str, Any] = {"load_seconds": 3600.0, "fresh_seconds": 3600.0}
FIELDS: dict[str, Any] = {
    "user": USER,
    "vocabulary": FINGERPRINT,
    "histories": HISTORIES,
    "top_k": 3,
}
PATH = f"/v1/users/{USER}"
TOO_LONG = "x" * 257


def refused(call: GrpcCaller, name: str, message: Any, **options: Any) -> CallRefusedError:
    with pytest.raises(CallRefusedError) as caught:
        call(name, message, **options)
    return caught.value


def test_work_is_left_at_the_deadline_and_not_begun_after_it() -> None:
    done: list[str] = []

    async def use() -> None:
        gate = Gate(settings(max_inflight=1))
        begun, go_on = threading.Event(), threading.Event()

        def block() -> None:
            begun.set()
            assert go_on.wait(30)
            done.append("first")

        first = asyncio.create_task(gate.run_until(time.monotonic() + 0.2, block))
        assert await asyncio.to_thread(begun.wait, 30)
        with pytest.raises(TimeoutError):
            await gate.run_until(time.monotonic() - 1, done.append, "late")
        with pytest.raises(TimeoutError):
            await first
        go_on.set()
        assert await gate.run_until(time.monotonic() + 30, divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await gate.run_until(time.monotonic() + 30, divmod, 1, 0)
        await gate.run_until(float("inf"), done.append, "last")

    asyncio.run(use())
    assert done == ["first", "last"]


def test_a_header_says_how_long_the_caller_waits(store: Store, raw_store: redis.Redis) -> None:
    with running(settings(**PATIENT), store) as url:
        call = Caller(url)
        with stopped(raw_store):
            reply = call.score(FIELDS, "json", perslm_timeout_ms="50")
            found = reply.status, reply.json.get("reason"), reply.json.get("error")
            assert found in {(200, "loading", None), (504, None, "deadline_exceeded")}
            gone = f"/v1/users/{EMPTY}"  # its deletion will be done all the same
            for method, path in (("GET", PATH), ("GET", f"{PATH}/model"), ("DELETE", gone)):
                reply = call(method, path, perslm_timeout_ms="50")
                assert (reply.status, reply.json["error"]) == (504, "deadline_exceeded")
                assert reply.headers["x-request-id"]
        for ignored in ("0", "-1", "1e3", "9" * 10, "", "soon"):
            assert call.score(FIELDS, "json", perslm_timeout_ms=ignored).status == 200
        assert call.score(FIELDS, "json", perslm_timeout_ms="30000").json["status"] == "ok"
        call.close()


def test_a_body_that_does_not_come_is_not_waited_for(store: Store) -> None:
    with running(settings(), store) as url:
        call = Caller(url)
        head = {"content_type": "application/json", "content_length": "5"}
        reply = call("POST", "/v1/score", b"", **head, perslm_timeout_ms="50")
        assert (reply.status, reply.json["error"]) == (504, "deadline_exceeded")
        call.close()


def test_a_body_that_comes_in_pieces_is_waited_for(store: Store) -> None:
    body = json.dumps(FIELDS).encode()
    head = (
        "POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"connection: close\r\nperslm-timeout-ms: 30000\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with running(settings(), store) as url:
        call, place = Caller(url), urlsplit(url)
        assert place.hostname
        with socket.create_connection((place.hostname, place.port), 30) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in (head.encode(), body[:20], body[20:40], body[40:]):
                connection.sendall(piece)
                assert call("GET", "/healthz").status == 200  # by now it has been looked at
            received = b""
            while part := connection.recv(1 << 16):
                received += part
        call.close()
    assert received.startswith(b"HTTP/1.1 200")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["status"] == "ok"


def test_calls_of_grpc_end_at_their_deadline(store: Store, raw_store: redis.Redis) -> None:
    with calling(settings(**PATIENT), store) as call:
        with stopped(raw_store):
            asked = scorer_pb2.GetUserRequest(user=USER)
            error = refused(call, "GetUser", asked, timeout=0.05)
            assert error.status is grpc.StatusCode.DEADLINE_EXCEEDED
        call("GetUser", asked)


def test_a_request_on_a_stream_has_a_time_of_its_own(store: Store, raw_store: redis.Redis) -> None:
    quick, slow = score_request(FIELDS), score_request(FIELDS)
    quick.timeout_ms, slow.timeout_ms = 0, 30_000
    candidates = score_request({**FIELDS, "candidates": [[2]] * len(HISTORIES)})
    candidates.ClearField("top_k")
    candidates.timeout_ms = 0
    with calling(settings(**PATIENT), store) as call:
        stream = call.stream()
        for late in (quick, candidates):
            stream.send(late)
            problem = stream.receive().problem
            assert problem.code == "deadline_exceeded"
            assert problem.status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
            assert problem.request_id
        quick.timeout_ms = 50
        with stopped(raw_store):
            stream.send(quick)
            answer = stream.receive()
            assert answer.answer.reason == "loading" or answer.problem.code == "deadline_exceeded"
        stream.send(slow)
        assert stream.receive().answer.status == "ok"
        stream.send(candidates)  # in memory now, and late all the same
        assert stream.receive().problem.code == "deadline_exceeded"
        stream.send(None)


def test_management_does_not_wait_as_long_as_the_store(
    store: Store, raw_store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "MANAGEMENT_SECONDS", 0.05)
    with (
        running(settings(**PATIENT), store) as url,
        calling(settings(**PATIENT), store) as grpc_call,
    ):
        call = Caller(url)
        with stopped(raw_store):
            for method, path in (("GET", PATH), ("GET", f"{PATH}/model"), ("DELETE", PATH)):
                reply = call(method, path)
                assert (reply.status, reply.json["error"]) == (503, "store_unavailable")
            for name, message in (
                ("GetUser", scorer_pb2.GetUserRequest(user=USER)),
                ("GetModel", scorer_pb2.GetModelRequest(user=USER)),
                ("Forget", scorer_pb2.ForgetRequest(user=USER)),
            ):
                assert refused(grpc_call, name, message).code == "store_unavailable"
        call.close()


@pytest.mark.parametrize("user", ["", TOO_LONG, "\ud800"])
def test_an_impossible_user_is_refused_while_the_store_hangs(
    user: str, store: Store, raw_store: redis.Redis
) -> None:
    service = ScoringService(store, settings(load_seconds=0.0))
    with stopped(raw_store):
        with pytest.raises(RequestError) as caught:
            service.score(core.ScoreRequest(**{**FIELDS, "user": user}))
        assert caught.value.code == "invalid_user"
        for work in (service.model, service.blob, service.forget):
            with pytest.raises(RequestError) as caught:
                asyncio.run(service.manage(float("inf"), work, user))
            assert caught.value.code == "invalid_user"
