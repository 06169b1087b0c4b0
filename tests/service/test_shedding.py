"""More than can be answered: most of it is refused, for little, and the rest is answered soon."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import grpc
import pytest

from perslm.store import Store
from perslm.v1 import scorer_pb2
from service.core import ScoringService
from service.gate import Turn
from tests.service.grpc_server import CallRefusedError, GrpcCaller, RunningServer, score_request
from tests.service.server import Caller, running
from tests.service.support import FINGERPRINT, HISTORIES, USER, settings

FIELDS = {"user": USER, "vocabulary": FINGERPRINT, "histories": HISTORIES, "top_k": 3}


def turn_of(turn: Turn, arrived: int) -> int:
    """Let so many requests arrive in one turn of the loop; return how many may be answered."""
    admitted = sum([turn.admit() for _ in range(arrived)])
    turn.answering = True
    return admitted


def test_bursts_are_answered_and_a_flood_is_not() -> None:
    turn = Turn(settings(max_burst=32))
    assert [turn_of(turn, 32) for _ in range(50)] == [32] * 50
    assert [turn_of(turn, n) for n in (100, 3, 100, 3)] == [100, 3, 100, 3]
    assert turn_of(turn, 300) == 128  # whatever there was before
    assert turn_of(turn, 33) == 33
    # two on end: from now on turns are short
    assert [turn_of(turn, n) for n in (33, 10, 4, 300)] == [4, 4, 4, 4]
    assert [turn_of(turn, 4) for _ in range(15)] == [4] * 15
    assert turn_of(turn, 5) == 4
    for allowed in (8, 16):  # after some that were calm
        assert [turn_of(turn, 4) for _ in range(16)] == [4] * 16
        assert turn_of(turn, 30) == allowed
    assert turn_of(turn, 40) == 16
    assert turn_of(turn, 30) == 4  # not yet: from the beginning
    assert [turn_of(turn, 4) for _ in range(16 * 5)] == [4] * 16 * 5
    assert turn_of(turn, 300) == 128


class Flood(Turn):
    """Says no as long as it is told to."""

    full = False

    def admit(self) -> bool:
        return not self.full


@pytest.fixture
def service(store: Store) -> ScoringService:
    made = ScoringService(store, settings(fresh_seconds=3600.0))
    made.turns["http"] = Flood(settings())
    return made


@pytest.fixture
def url(service: ScoringService, store: Store) -> Iterator[str]:
    with running(settings(), store, service=service) as found:
        yield found


def requests(service: ScoringService) -> bytes:
    lines = service.metrics.text().splitlines()
    return b"".join(line for line in lines if line.startswith(b"perslm_requests_total"))


def test_what_is_too_much_is_refused_over_http(
    url: str, service: ScoringService, caplog: pytest.LogCaptureFixture
) -> None:
    turn = service.turns["http"]
    assert isinstance(turn, Flood)
    call = Caller(url)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # on one connection
            turn.full = True
            for _ in range(3):
                reply = call.score(FIELDS, "json")
                assert (reply.status, reply.json["error"]) == (503, "overloaded")
                assert reply.headers["retry-after"] == "1"
                assert reply.headers["content-type"] == "application/json"
            assert call("GET", f"/v1/users/{USER}").status == 200
            turn.full = False
            assert call.score(FIELDS, "json").json["status"] == "ok"
    call.close()
    assert b'reason="overloaded",route="score",status="refused"' in requests(service)
    assert b"} 6.0" in requests(service)
    lines = [record.getMessage() for record in caplog.records if "overloaded" in record.message]
    assert lines[0] == "overloaded: 1 refused since the last such line"
    assert len(lines) < 6  # one a second


def test_the_framing_of_http_survives(url: str, service: ScoringService) -> None:
    """A body in pieces, two requests in one write, one without keep-alive; refused and not."""
    turn = service.turns["http"]
    assert isinstance(turn, Flood)
    head = b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    whole = head + b"content-length: 2\r\n\r\n{}"
    last = head + b"connection: close\r\ncontent-length: 2\r\n\r\n{}"
    place = urlsplit(url)
    assert place.hostname
    for full, status in ((True, b"HTTP/1.1 503"), (False, b"HTTP/1.1 422")):
        turn.full = full
        with socket.create_connection((place.hostname, place.port), 30) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in (whole[:30], whole[30:-1], whole[-1:] + whole + whole, last):
                connection.sendall(piece)
            received = b""
            while part := connection.recv(1 << 16):
                received += part
        assert received.count(b"HTTP/1.1") == received.count(status) == 4


def test_what_is_too_much_is_refused_over_grpc(store: Store) -> None:
    with RunningServer(settings(fresh_seconds=3600.0), store) as server:
        server.service.turns["grpc"] = flood = Flood(settings())
        call = GrpcCaller(server.url)
        stream = call.stream()
        for _ in range(2):
            flood.full = True
            with pytest.raises(CallRefusedError) as caught:
                call("Score", score_request(FIELDS))
            assert caught.value.status is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert caught.value.code == "overloaded"
            stream.send(score_request(FIELDS))
            assert stream.receive().problem.code == "overloaded"
            call("GetUser", scorer_pb2.GetUserRequest(user=USER))
            flood.full = False
            call("Score", score_request(FIELDS))
            stream.send(score_request(FIELDS))
            assert stream.receive().answer.status == "ok"
        stream.send(None)
        call.close()
