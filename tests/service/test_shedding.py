"""More than can be answered: most of it is refused, for little, and the rest is answered soon."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import grpc
import msgpack
import pytest

from perslm import wire
from perslm.store import Store
from perslm.v1 import scorer_pb2
from service.core import ScoringService
from service.gate import Turn
from tests.service.grpc_server import CallRefusedError, GrpcCaller, RunningServer, score_request
from tests.service.server import Caller, running
from tests.service.support import FINGERPRINT, HISTORIES, USER, settings

FIELDS = {"user": USER, "vocabulary": FINGERPRINT, "histories": HISTORIES, "top_k": 3}


class Loop:
    """Turns of an event loop, whose answers take 30 µs and whose refusals 10."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self.turn = Turn(settings(turn_seconds=0.001), clock=lambda: self._seconds)

    def __call__(self, arrived: int) -> int:
        """Let so many requests arrive in one turn; return how many may be answered."""
        admitted = sum([self.turn.admit() for _ in range(arrived)])
        self.turn.answering = True
        self._seconds += 30e-6 * admitted + 1e-5 * (arrived - admitted)
        return admitted


def test_bursts_are_answered_and_a_flood_is_not() -> None:
    loop = Loop()
    assert [loop(30) for _ in range(100)] == [30] * 100
    assert [loop(n) for n in (500, 3, 300, 300, 3)] == [500, 3, 300, 300, 3]
    for _ in range(9):  # longer than a millisecond, on end
        assert loop(80) == 80
    answered = [loop(12) for _ in range(50)]
    assert min(answered) >= 8
    assert 200e-6 <= 30e-6 * answered[-1] + 1e-5 * (12 - answered[-1]) <= 300e-6
    answered = [loop(10_000) for _ in range(50)]
    assert 1000 <= answered[-1] <= 3000  # for half of what the refusals take, however many


def test_after_a_flood_all_are_answered_again() -> None:
    loop = Loop()
    for _ in range(50):
        loop(200)
    for _ in range(3):
        assert [loop(3) for _ in range(15)] == [3] * 15
        assert loop(200) < 60  # not yet: from the beginning
        loop(200)
    assert [loop(3) for _ in range(17)] == [3] * 17
    assert loop(200) == 200


def test_a_few_requests_are_answered_however_long_they_take() -> None:
    loop = Loop()
    for _ in range(100):
        loop._seconds += 0.005
        assert [loop(1), loop(8)] == [1, 8]
    for _ in range(100):  # nor does a flood shut them out
        loop._seconds += 0.005
        loop(100)
    assert loop(100) >= 8
    assert loop(8) == 8


def test_work_that_is_no_request_is_not_taken_for_a_flood() -> None:
    loop = Loop()
    for _ in range(100):
        loop._seconds += 0.1
        assert [loop(300), loop(1), loop(1)] == [300, 1, 1]


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
    for full, status in ((True, b"HTTP/1.1 503"), (False, b"HTTP/1.1 422")):
        turn.full = full
        received = sent_in_pieces(url, whole[:30], whole[30:-1], whole[-1:] + whole + whole, last)
        assert received.count(b"HTTP/1.1") == received.count(status) == 4


def test_plain_requests_have_the_same_framing(url: str, service: ScoringService) -> None:
    """Answers come in the order of their requests, whatever way those go."""
    fields = {
        "user": USER,
        "vocabulary": FINGERPRINT,
        "histories": wire.pack_rows(HISTORIES),
        "candidates": wire.pack_array([[2, 3]] * len(HISTORIES), "<u4"),
    }
    body = msgpack.packb(fields)
    head = b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-type: application/msgpack\r\n"
    length = b"content-length: %d\r\n\r\n" % len(body)
    plain, last = head + length + body, head + b"connection: close\r\n" + length + body
    chunks = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (9, body[:9], len(body) - 9, body[9:])
    chunked = head + b"transfer-encoding: chunked\r\n\r\n" + chunks
    expecting = head + b"expect: 100-continue\r\n" + length + body
    wrong = head + b"content-length: 1\r\n\r\n\xc1"
    other = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    received = sent_in_pieces(
        url, plain[:20], plain[20:-7], plain[-7:], plain + wrong + plain + other + chunked + plain
    )
    assert statuses(received) == [b"200"] * 2 + [b"400"] + [b"200"] * 5
    assert received.count(b"logprobs") == 5
    pieces = sent_in_pieces(url, chunked[:-20], chunked[-20:], expecting, plain + last)
    assert [status for status in statuses(pieces) if status != b"100"] == [b"200"] * 4
    assert pieces.count(b"logprobs") == 4


def test_trailers_are_no_headers(url: str) -> None:
    """Who looked at the head of a request, as a proxy does, has seen all that counts."""
    head = b"POST /v1/score HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    for kind, body in ((b"msgpack", b"\x80"), (b"json", b"{}")):
        trailer = b"content-type: application/%b\r\n\r\n" % kind
        whole = head + b"%x\r\n%b\r\n0\r\n%b" % (len(body), body, trailer)
        received = sent_in_pieces(url, whole, whole[:-3], whole[-3:])
        assert statuses(received) == [b"415", b"415", b"200"]


def statuses(received: bytes) -> list[bytes]:
    return [part[1:4] for part in received.split(b"HTTP/1.1")[1:]]


def sent_in_pieces(url: str, *pieces: bytes) -> bytes:
    """Return all that comes back until there is nothing more to come."""
    place = urlsplit(url)
    assert place.hostname
    with socket.create_connection((place.hostname, place.port), 30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
        if b"connection: close" not in pieces[-1]:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        received = b""
        while part := connection.recv(1 << 16):
            received += part
    return received


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
