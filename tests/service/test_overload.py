"""A store that is slow and a service that is full: nobody waits long, and nobody is harmed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from perslm.store import Store
from perslm.v1 import scorer_pb2
from service.core import ScoreRequest, ScoringService
from tests.service.grpc_server import calling, score_request
from tests.service.server import Caller, running
from tests.service.support import FINGERPRINT, HISTORIES, USER, settings

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
