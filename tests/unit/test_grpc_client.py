"""The client against gRPC services that misbehave; the real one is in ``tests/integration``."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import perslm
from perslm.client import Client
from perslm.errors import ArgumentError, NoModelError, ServiceError
from perslm.v1 import scorer_pb2
from tests.blocking import BlockingClient
from tests.unit.test_client import FINGERPRINT, ROWS, free_port, harmless

SERVICE = "perslm.v1.Scorer"
Handler = Callable[[bytes, Any], bytes]
Answers = Callable[[bytes], bytes]


def user(body: bytes, context: Any) -> bytes:
    facts = {"order": 3, "generation": 4, "vocabulary": FINGERPRINT, "vocabulary_size": 9}
    return scorer_pb2.User(**facts).SerializeToString()


@pytest.fixture(autouse=True, params=[Client, BlockingClient], ids=["blocks", "awaits"])
def both_clients(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both clients are held to every test here."""
    monkeypatch.setattr(f"{__name__}.Client", request.param)


@contextmanager
def service(
    answer: Answers, port: int = 0, ended: threading.Semaphore | None = None, **unary: Handler
) -> Iterator[tuple[str, list[int]]]:
    """A server that knows a user and answers what comes by stream; how many came by each.

    ``ended`` is released whenever a stream ends.
    """
    streams: list[int] = []
    ended = ended or threading.Semaphore()

    def score(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        number = len(streams)
        streams.append(0)
        context.add_callback(ended.release)
        for body in requests:
            streams[number] += 1
            try:
                yield answer(body)
            except ConnectionError:
                context.abort(grpc.StatusCode.UNAVAILABLE, "hung up")

    handlers = {
        name: grpc.unary_unary_rpc_method_handler(handler)
        for name, handler in {"GetUser": user, **unary}.items()
    }
    handlers["ScoreStream"] = grpc.stream_stream_rpc_method_handler(score)
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}", streams
    finally:
        server.stop(0).wait()


def scores(**changes: Any) -> bytes:
    """A sound answer to ``score`` of two states and three candidates, with changes."""
    fields = {
        "status": "ok",
        "reason": "ok",
        "generation": 4,
        "order": 3,
        "weights": np.array([0.5, 0.25], "<f4").tobytes(),
        "logprobs": rows([[-1, -2, -np.inf]] * 2),
    }
    answer = scorer_pb2.ScoreAnswer(**{**fields, **changes})
    return scorer_pb2.StreamAnswer(answer=answer).SerializeToString()


def rows(values: Any, dtype: str = "<f4") -> scorer_pb2.Array:
    array = np.array(values, dtype)
    return scorer_pb2.Array(n=array.shape[0], k=array.shape[1], data=array.tobytes())


def problem(status: grpc.StatusCode, code: str) -> bytes:
    said = scorer_pb2.Problem(status=status.value[0], code=code, message="")
    return scorer_pb2.StreamAnswer(problem=said).SerializeToString()


def test_scores_come_by_one_stream() -> None:
    with service(lambda body: scores()) as (url, streams), Client(url) as client:
        model = client.model("u", FINGERPRINT)
        states = model.states([[2], [3]])
        for _ in range(3):
            logprobs, _ = model.score(states, [[2, 3, 4]] * 2)
            assert logprobs.tolist() == [[-1, -2, -np.inf]] * 2
        assert model.weights(states).tolist() == [0.5, 0.25]
        assert streams == [3]


def test_what_is_asked_is_what_the_documentation_says() -> None:
    bodies = []

    def answer(body: bytes) -> bytes:
        bodies.append(scorer_pb2.ScoreRequest.FromString(body))
        return scores()

    with service(answer) as (url, _), Client(url) as client:
        model = client.model("u")
        model.score(model.states([[5, 6, 7], []]), [[2, 3, 1 << 40]] * 2)
    asked = scorer_pb2.ScoreRequest(
        user="u",
        vocabulary=FINGERPRINT,
        histories=scorer_pb2.Rows(lengths=[2, 0], data=np.array([6, 7], "<u4").tobytes()),
        candidates=rows([[2, 3, 2**32 - 1]] * 2, "<u4"),
    )
    assert 0 < bodies[0].timeout_ms <= 1000
    bodies[0].ClearField("timeout_ms")
    assert bodies == [asked]


def test_a_stream_that_breaks_is_opened_once_more() -> None:
    replies = iter([True, False, True, False, False, True])

    def answer(body: bytes) -> bytes:
        if not next(replies):
            raise ConnectionError
        return scores()

    with service(answer) as (url, streams), Client(url, strict=True) as client:
        model = client.model("u", FINGERPRINT)
        states = model.states([[2], [3]])
        for _ in range(2):
            model.score(states, [[2, 3, 4]] * 2)
        assert streams == [2, 1]
        with pytest.raises(ServiceError, match="UNAVAILABLE"):
            model.score(states, [[2, 3, 4]] * 2)
        assert streams == [2, 2, 1]
        model.score(states, [[2, 3, 4]] * 2)
        assert streams == [2, 2, 1, 1]


def test_a_service_that_comes_back() -> None:
    with service(lambda body: scores()) as (url, _):
        client = Client(url, pause=0)
        model = client.model("u", FINGERPRINT)
        states = model.states([[2], [3]])
        assert np.isfinite(model.score(states, [[2, 3, 4]] * 2)[0]).any()
    harmless(model)
    assert model.reason == "degraded"
    with service(lambda body: scores(), int(url.rpartition(":")[2])), client:
        back = threading.Event()  # gRPC pauses up to a second before it tries again
        for _ in range(300):
            if np.isfinite(model.score(states, [[2, 3, 4]] * 2)[0]).any():
                break
            back.wait(0.1)
        assert model.reason == "ok"


def test_a_service_that_is_not_there(tmp_path: Path) -> None:
    for url in (f"grpc://127.0.0.1:{free_port()}", f"grpc+unix:{tmp_path}/s"):
        with Client(url, pause=0) as client:
            model = client.model("u", FINGERPRINT)
            assert model.reason == "degraded"
            harmless(model)
            assert client.health() == "degraded"
            assert client.fetch("u").reason == "degraded"
            for call in (client.info, client.forget):
                with pytest.raises(ServiceError, match="perslm serve"):
                    call("u")


def test_a_client_that_was_closed_is_harmless() -> None:
    with service(lambda body: scores()) as (url, _):
        with perslm.Client(url, pause=0) as client:
            model = client.model("u", FINGERPRINT)
            states = model.states([[2], [3]])
            assert np.isfinite(model.score(states, [[2, 3, 4]] * 2)[0]).any()
        harmless(model)
        assert client.fetch("u").reason == "degraded"
        with pytest.raises(ServiceError, match="closed"):
            client.info("u")


def test_a_service_that_hangs_costs_one_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"grpc://127.0.0.1:{listener.getsockname()[1]}"
        with Client(url, timeout=0.05, pause=3600) as client:
            model = client.model("u", FINGERPRINT)
            assert model.reason == "degraded"
            harmless(model)


def test_a_stream_that_hangs_costs_one_timeout() -> None:
    go_on = threading.Event()

    def hang(body: bytes) -> bytes:
        go_on.wait(30)
        return scores()

    with service(hang) as (url, streams), Client(url, timeout=0.2, pause=3600) as client:
        model = client.model("u", FINGERPRINT)
        harmless(model)
        assert model.reason == "degraded"
        go_on.set()
        client.strict = True  # asks again, on a stream where no old answer can come
        assert np.isfinite(model.score(model.states([[2], [3]]), [[2, 3, 4]] * 2)[0]).any()
        assert streams == [1, 1]


BAD_ANSWERS = {
    "no protobuf": b"\xff",
    "nothing": b"",
    "new status": scores(status="fine"),
    "degraded for an odd reason": scores(status="degraded", reason="x"),
    "weights missing": scores(weights=None),
    "weights cut": scores(weights=b"1234567"),
    "weights by far": scores(weights=np.array([7, 7], "<f4").tobytes()),
    "scores missing": scores(logprobs=None),
    "scores cut": scores(logprobs=scorer_pb2.Array(n=2, k=3, data=b"123")),
    "scores of others": scores(logprobs=rows([[-1, -2]] * 2)),
    "scores above 0": scores(logprobs=rows([[1, -2, -3]] * 2)),
    "order of 9": scores(order=9),
    "server error": problem(grpc.StatusCode.INTERNAL, "internal"),
    "problem of no known status": scorer_pb2.StreamAnswer(
        problem=scorer_pb2.Problem(status=77)
    ).SerializeToString(),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_answers_that_cannot_be_are_not_believed(name: str) -> None:
    with service(lambda body: BAD_ANSWERS[name]) as (url, _), Client(url, pause=0) as client:
        model = client.model("u", FINGERPRINT)
        assert model.reason == "ok"
        harmless(model)
        assert model.reason == "degraded"
        client.strict = True
        with pytest.raises(ServiceError):
            model.score(model.states([[2], [3]]), [[2, 3, 4]] * 2)


@pytest.mark.parametrize(
    "ids", [None, rows([[2, 3]], "<u4"), rows([[2, 3, 9]], "<u4"), rows([[2, 3, 4]] * 2, "<u4")]
)
def test_columns_that_cannot_be_are_not_believed(ids: Any) -> None:
    with service(lambda body: scores(ids=ids)) as (url, _), Client(url) as client:
        model = client.model("u", FINGERPRINT)
        assert model.mix(model.states([[2], [3]]), ROWS) is ROWS
        assert model.reason == "degraded"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (scores(status="no_model", reason="unknown_user"), "unknown_user"),
        (scores(status="degraded", reason="bad_blob"), "bad_blob"),
        (problem(grpc.StatusCode.RESOURCE_EXHAUSTED, "too_many_histories"), "refused"),
        (problem(grpc.StatusCode.UNAUTHENTICATED, "unauthenticated"), "refused"),
        (problem(grpc.StatusCode.UNAVAILABLE, "store_unavailable"), "store_unavailable"),
    ],
)
def test_reasons(reply: bytes, reason: str) -> None:
    with service(lambda body: reply) as (url, streams), Client(url, pause=0) as client:
        model = client.model("u", FINGERPRINT)
        model.score(model.states([[2]]), [[2]])
        model.score(model.states([[2]]), [[2]])
        assert model.reason == reason
        assert streams == [2]  # a problem does not end the stream


def test_calls_that_fail() -> None:
    def aborting(status: grpc.StatusCode, *codes: tuple[str, str]) -> Handler:
        def handle(body: bytes, context: Any) -> bytes:
            context.set_trailing_metadata(codes)
            context.abort(status, "hunter2")
            return b""

        return handle

    handlers = {
        "GetUser": aborting(grpc.StatusCode.NOT_FOUND, ("perslm-code", "unknown_user")),
        "Forget": aborting(grpc.StatusCode.NOT_FOUND, ("perslm-code", "unknown_user")),
        "GetModel": aborting(grpc.StatusCode.DATA_LOSS, ("perslm-code", "bad_blob")),
    }
    with service(lambda body: b"", **handlers) as (url, _), Client(url) as client:
        with pytest.raises(NoModelError):
            client.info("u")
        assert client.forget("u") is False
        assert client.fetch("u").reason == "bad_blob"
        assert client.health() == "degraded"  # it has no such service
    handlers = {
        "GetUser": aborting(grpc.StatusCode.PERMISSION_DENIED),
        "Forget": aborting(grpc.StatusCode.INTERNAL, ("perslm-code", "internal")),
    }
    with service(lambda body: b"", **handlers) as (url, _), Client(url, strict=True) as client:
        for call in (client.info, client.forget, client.fetch):
            with pytest.raises(ServiceError, match="refused") as caught:
                call("u")
            assert "hunter2" not in str(caught.value)


def test_a_stream_ends_with_its_model() -> None:
    ended = threading.Semaphore(0)
    with service(lambda body: scores(), ended=ended) as (url, _), Client(url) as client:
        other = client.model("u", FINGERPRINT)
        model = client.model("u", FINGERPRINT)
        for each in (other, model):
            each.score(each.states([[2], [3]]), [[2, 3, 4]] * 2)
        del model, each
        gc.collect()
        assert ended.acquire(timeout=30)
        assert np.isfinite(other.score(other.states([[2], [3]]), [[2, 3, 4]] * 2)[0]).any()
        assert not ended.acquire(blocking=False)


@pytest.mark.parametrize(
    "url", ["grpc:", "grpc://", "grpc://host", "grpc://h:99999", "grpc://u:p@h:1", "grpc://h:1/p"]
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ArgumentError):
        Client(url)


@pytest.mark.parametrize("url", ["grpc://127.0.0.1:8378", "grpc://[::1]:80", "grpc+unix:/run/s"])
def test_what_is_shown_of_a_url(url: str) -> None:
    with Client(url) as client:
        assert repr(client) == f"Client({url!r})"


def test_certificates_are_for_tls(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("")
    with pytest.raises(ArgumentError, match="grpcs"):
        Client("grpc://127.0.0.1:1", ca=str(ca))
