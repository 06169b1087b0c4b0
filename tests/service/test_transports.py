"""One core: the same questions by every transport, with equal answers and equivalent refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import pytest

from perslm.store import Store, open_store
from perslm.v1 import scorer_pb2
from service.codec import Format
from service.core import RequestError, ScoreRequest, ScoringService
from service.settings import Settings
from tests.service.grpc_server import (
    CallRefusedError,
    GrpcCaller,
    answer_arrays,
    calling,
    score_request,
)
from tests.service.server import Caller, arrays, running
from tests.service.support import (
    BROKEN,
    EMPTY,
    FINGERPRINT,
    HISTORIES,
    OTHER_FINGERPRINT,
    POSITIONS,
    REFUSED,
    SCORED,
    TIGHT,
    USER,
    assert_same,
    expected,
    local,
    settings,
)

TRANSPORTS = ("core", "http json", "http msgpack", "grpc unary", "grpc stream")
EXHAUSTED = {"too_many_histories", "answer_too_large"}

Ask = Callable[[dict[str, Any]], dict[str, Any]]
"""Puts a question; returns the answer's fields with numpy arrays, or raises RefusedError."""


class RefusedError(Exception):
    def __init__(self, code: str) -> None:
        self.code = code


def ask_core(service: ScoringService, fields: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = service.score(ScoreRequest(**fields))
    except RequestError as error:
        raise RefusedError(error.code) from None
    found = {name: getattr(answer, name) for name in type(answer).__slots__}
    return {name: value for name, value in found.items() if value is not None}


def ask_http(call: Caller, form: Format, fields: dict[str, Any]) -> dict[str, Any]:
    reply = call.score(fields, form)
    if reply.status != 200:
        assert reply.status == 422
        raise RefusedError(reply.json["error"])
    return arrays(reply)


def check_status(status: grpc.StatusCode, code: str) -> None:
    exhausted = code in EXHAUSTED
    assert (status is grpc.StatusCode.RESOURCE_EXHAUSTED) == exhausted
    assert (status is grpc.StatusCode.INVALID_ARGUMENT) == (not exhausted)


def ask_grpc(call: GrpcCaller, fields: dict[str, Any]) -> dict[str, Any]:
    try:
        reply = call("Score", score_request(fields))
    except CallRefusedError as error:
        check_status(error.status, str(error.code))
        raise RefusedError(str(error.code)) from None
    return answer_arrays(scorer_pb2.ScoreAnswer.FromString(reply), fields)


def ask_stream(call: GrpcCaller, fields: dict[str, Any]) -> dict[str, Any]:
    stream = call.stream()
    for _ in range(2):  # a refused request ends nothing
        stream.send(score_request(fields))
    answers = [stream.receive(), stream.receive()]
    stream.send(None)
    ids = [answer.problem.request_id for answer in answers]
    if answers[0].HasField("problem"):
        assert len(set(ids)) == 2
        for answer in answers:
            answer.problem.ClearField("request_id")
    assert answers[0] == answers[1]
    if answers[0].HasField("problem"):
        problem = answers[0].problem
        status = next(s for s in grpc.StatusCode if s.value[0] == problem.status)
        check_status(status, problem.code)
        raise RefusedError(problem.code)
    return answer_arrays(answers[0].answer, fields)


@pytest.fixture(params=TRANSPORTS)
def opened(request: pytest.FixtureRequest) -> Iterator[Callable[[Settings, Store], Ask]]:
    """A function that starts the service with one transport and returns how to ask it."""
    with ExitStack() as stack:

        def start(chosen: Settings, store: Store) -> Ask:
            transport = request.param
            if transport == "core":
                service = ScoringService(store, chosen)
                return lambda fields: ask_core(service, fields)
            if transport.startswith("http"):
                call = Caller(stack.enter_context(running(chosen, store)))
                stack.callback(call.close)
                form: Format = "json" if transport.endswith("json") else "msgpack"
                return lambda fields: ask_http(call, form, fields)
            caller = stack.enter_context(calling(chosen, store))
            ask = ask_stream if transport.endswith("stream") else ask_grpc
            return lambda fields: ask(caller, fields)

        yield start


def question(case: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"user": USER, "vocabulary": FINGERPRINT, "histories": HISTORIES, **case, **changes}


Opened = Callable[[Settings, Store], Ask]


@pytest.mark.parametrize("fresh", [0.0, 3600.0])  # in a thread, and on the event loop
def test_scores_are_those_of_the_model(fresh: float, opened: Opened, store: Store) -> None:
    ask = opened(settings(fresh_seconds=fresh), store)
    for case in SCORED.values():
        answer, wanted = ask(question(case)), expected(case, local())
        assert (answer["status"], answer["reason"]) == ("ok", "ok")
        assert (answer["generation"], answer["order"]) == (1, 3)
        assert answer.keys() == wanted.keys() | {"status", "reason", "generation", "order"}
        for name in wanted:
            assert_same(answer[name], wanted[name])


@pytest.mark.parametrize("fresh", [0.0, 3600.0])
def test_positions_move_weights_that_are_by_state(
    fresh: float, opened: Opened, store: Store
) -> None:
    ask = opened(settings(weight=None, fresh_seconds=fresh), store)
    for case in SCORED.values():
        placed = {**case, "positions": POSITIONS}
        for asked in (case, placed):
            answer, wanted = ask(question(asked)), expected(asked, local(weight=None))
            for name in wanted:
                assert_same(answer[name], wanted[name])
        assert (answer["weights"] != expected(case, local(weight=None))["weights"]).all()


def test_positions_move_nothing_else(opened: Opened, store: Store) -> None:
    ask = opened(settings(), store)
    for case in SCORED.values():
        plain, placed = ask(question(case)), ask(question(case, positions=POSITIONS))
        assert placed.keys() == plain.keys()
        for name in ("weights", "logprobs"):
            assert_same(placed[name], plain[name])
    for user in ("nobody", EMPTY):
        assert not ask(question({"top_k": 3}, user=user, positions=POSITIONS))["weights"].any()
    answer = ask(question({"top_k": 3}, histories=[], positions=[]))
    assert answer["weights"].shape == (0,)


def test_without_a_model_nothing_is_harmed(opened: Opened, store: Store) -> None:
    ask = opened(settings(), store)
    for changes, status, reason in (
        ({"user": "nobody"}, "no_model", "unknown_user"),
        ({"vocabulary": OTHER_FINGERPRINT}, "vocabulary_mismatch", "vocabulary_mismatch"),
        ({"user": BROKEN}, "degraded", "bad_blob"),
    ):
        for case in SCORED.values():
            answer = ask(question(case, **changes))
            assert (answer["status"], answer["reason"]) == (status, reason)
            assert (answer["generation"], answer["order"]) == (0, 0)
            assert_same(answer["weights"], np.zeros(len(HISTORIES), np.float32))
            columns = len(case["candidates"][0]) if "candidates" in case else 0
            assert answer["logprobs"].shape == (len(HISTORIES), columns)
            assert np.isneginf(answer["logprobs"]).all()


def test_a_store_that_is_away_is_no_error_of_the_beam(opened: Opened) -> None:
    with open_store("redis://127.0.0.1:1") as nowhere:
        answer = opened(settings(), nowhere)(question({"dense": True}))
    assert (answer["status"], answer["reason"]) == ("degraded", "store_unavailable")


def test_who_wrote_nothing_and_what_has_no_histories(opened: Opened, store: Store) -> None:
    ask = opened(settings(), store)
    answer = ask(question({"dense": True}, user=EMPTY))
    assert answer["status"] == "ok"
    assert not answer["weights"].any()
    for case in ({"top_k": 3}, {"dense": True, "compact": True}, {"candidates": []}):
        answer = ask(question(case, histories=[]))
        assert answer["weights"].shape == (0,)
        assert len(answer["logprobs"]) == 0


def test_what_cannot_be_answered_is_refused(opened: Opened, store: Store) -> None:
    ask = opened(settings(**TIGHT), store)
    for name, (case, code) in REFUSED.items():
        if name == "ragged":  # protobuf cannot say it
            continue
        with pytest.raises(RefusedError) as caught:
            ask(question(case))
        assert caught.value.code == code, name
