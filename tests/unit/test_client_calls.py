"""What clients send twice, how long a call may take, which models they keep; see test_client.py."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile

import pytest

from perslm.client import Client
from perslm.errors import ArgumentError, ServiceError
from perslm.model import PersonalModel
from tests.blocking import BlockingClient
from tests.unit.test_client import BLOB, FINGERPRINT, INFO, Reply, replying, scores, service


@pytest.fixture(autouse=True, params=[Client, BlockingClient], ids=["blocks", "awaits"])
def both_clients(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both clients are held to every test here."""
    monkeypatch.setattr(f"{__name__}.Client", request.param)


@contextmanager
def hanging_up(replies: int) -> Iterator[tuple[str, list[list[bytes]]]]:
    """A server that answers so many requests on each connection, and hangs up at the next.

    Yields its URL, and the heads of the requests that came by each connection.
    """
    calls: list[list[bytes]] = []
    body = json.dumps(INFO).encode()

    def answer(connection: socket.socket, heads: list[bytes]) -> None:
        with connection, connection.makefile("rb") as lines:
            for number in range(replies + 1):
                heads.append(b"".join(takewhile(b"\r\n".__ne__, lines)))
                if not heads[-1]:
                    heads.pop()
                    return
                if number < replies:
                    length = str(len(body)).encode()
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\ncontent-length: " + length + b"\r\n\r\n" + body
                    )

    def serve() -> None:
        answering = []
        while True:
            connection, _ = listener.accept()
            if stopping.is_set():
                connection.close()
                break
            calls.append([])
            answering.append(threading.Thread(target=answer, args=(connection, calls[-1])))
            answering[-1].start()
        for thread in answering:
            thread.join()

    stopping = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{address[1]}", calls
        finally:
            stopping.set()
            socket.create_connection(address).close()
            thread.join()


def test_a_connection_that_was_kept_and_breaks_is_tried_once_more() -> None:
    with hanging_up(1) as (url, calls), Client(url, timeout=30) as client:
        assert client.info("u")["order"] == 3
        assert client.info("u")["order"] == 3
        assert [len(heads) for heads in calls] == [2, 1]


def test_a_new_connection_that_breaks_is_not_tried_again() -> None:
    with hanging_up(0) as (url, calls), Client(url, timeout=30) as client:
        with pytest.raises(ServiceError, match="no answer"):
            client.info("u")
        assert len(calls) == 1


def test_a_deletion_is_sent_once_and_on_a_connection_of_its_own() -> None:
    with hanging_up(1) as (url, calls), Client(url, timeout=30) as client:
        assert client.info("u")["order"] == 3
        with pytest.raises(ServiceError, match="HTTP status 200"):
            client.forget("u")
        assert [len(heads) for heads in calls] == [1, 1]
    with hanging_up(0) as (url, calls), Client(url, timeout=30) as client:
        with pytest.raises(ServiceError, match="no answer"):
            client.forget("u")
        assert len(calls) == 1


def test_a_model_is_fetched_with_the_estimator_asked_for() -> None:
    def script(method: str, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        return 200, BLOB, {"perslm-generation": "4"}

    with service(script) as url, Client(url) as client:
        katz, usual = client.fetch("u", estimator="katz"), client.fetch("u")
        assert isinstance(katz, PersonalModel)
        assert isinstance(usual, PersonalModel)
        assert (katz.estimator, usual.estimator) == ("katz", "backoff")
        with pytest.raises(ArgumentError, match="witten_bell"):
            client.fetch("u", estimator="guess")  # type: ignore[arg-type]


def test_a_fetched_model_ages_while_the_service_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("perslm._asking.monotonic", lambda: now)
    known = True

    def script(method: str, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        asked.append(now)
        if not known:
            return 503, b"", {}
        return (200, BLOB, {"perslm-generation": "4"}) if len(asked) == 1 else (304, b"", {})

    asked: list[float] = []
    with service(script) as url, Client(url, stale_seconds=60) as client:
        model = client.fetch("u")
        assert model.reason == "ok"
        now = 1050.0
        assert client.fetch("u") is model  # not changed: the service vouches for it again
        known = False
        now = 1109.0
        assert client.fetch("u") is model
        now = 1110.0
        assert client.fetch("u").reason == "degraded"
        now = 1051.0
        assert client.fetch("u").reason == "degraded"  # it is gone
        client.strict = True
        with pytest.raises(ServiceError):
            client.fetch("u")
    assert len(asked) == 6


def test_the_models_that_were_used_last_are_kept() -> None:
    def script(method: str, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        user = path.split("/")[3]
        sent.append(user)
        return (200, BLOB, {"perslm-generation": "4"}) if sent.count(user) == 1 else (304, b"", {})

    sent: list[str] = []
    with service(script) as url, Client(url, timeout=30) as client:
        model = client.fetch("often")
        for i in range(2 * 64):
            client.fetch(f"user-{i}")
            assert client.fetch("often") is model
        assert client.fetch("user-0").reason == "degraded"  # given up: a 304 is no answer


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_service_that_drips_does_not_outlast_the_deadline(part: str) -> None:
    """Bytes come all the time: no wait is long, but all together would never end."""
    gone = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            if part == "body":
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
            else:
                connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
            try:
                while True:
                    connection.sendall(b"x")
                    gone.wait(0.005)
            except ConnectionError:  # it hung up
                gone.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(url, timeout=0.3) as client, pytest.raises(ServiceError, match="no answer"):
            client.info("u")
        assert gone.wait(30)
        thread.join()


def test_the_service_is_told_how_long_the_caller_waits() -> None:
    with hanging_up(1) as (url, calls), Client(url, timeout=7) as client:
        client.info("u")
    waits = re.search(rb"perslm-timeout-ms: (\d+)", calls[0][0])
    assert waits
    assert 0 < int(waits[1]) <= 7000


OVERLOADED = b'{"error": "overloaded", "message": ""}'


@pytest.mark.parametrize(
    ("after", "asked"), [("0", 2), ("3600", 1), ("-1", 1), ("soon", 1), ("", 1)]
)
def test_an_overloaded_service_is_asked_again_if_there_is_time(after: str, asked: int) -> None:
    replies = [(503, OVERLOADED, {"retry-after": after}), scores()]
    seen = []

    def score() -> Reply:
        seen.append(1)
        return replies[len(seen) - 1]

    with service(replying(score)) as url, Client(url, timeout=30) as client:
        model = client.model("u", FINGERPRINT)
        model.score(model.states([[2], [3]]), [[2, 3, 4]] * 2)
        assert model.reason == ("ok" if asked == 2 else "degraded")
    assert len(seen) == asked


def test_an_overloaded_service_is_asked_again_once_and_never_to_delete() -> None:
    seen = []

    def script(method: str, path: str, body: bytes) -> Reply:
        seen.append(method)
        return 503, OVERLOADED, {"retry-after": "0"}

    with service(script) as url, Client(url, timeout=30) as client:
        for call, times in ((client.info, 2), (client.forget, 1)):
            seen.clear()
            with pytest.raises(ServiceError, match="503, overloaded"):
                call("u")
            assert len(seen) == times


DELETIONS: dict[str, tuple[Reply | None, str]] = {
    "done": ((204, b""), "gone"),
    "there was none": ((404, b'{"error": "unknown_user"}'), "gone"),
    "not allowed": ((403, b'{"error": "forbidden"}'), "kept"),
    "overloaded": ((503, OVERLOADED), "kept"),
    "the store failed": ((503, b'{"error": "store_unavailable"}'), "doubted"),
    "server error": ((500, b'{"error": "internal"}'), "doubted"),
    "a proxy's word": ((403, b"<html>"), "doubted"),
    "no answer": (None, "doubted"),
}


@pytest.mark.parametrize("name", DELETIONS)
def test_what_a_deletion_leaves_of_fetched_models(name: str) -> None:
    reply, outcome = DELETIONS[name]
    known = {"u", "v"}
    away = False
    sent = []

    def script(method: str, path: str, body: bytes) -> Reply:
        if method == "DELETE":
            if reply is None:
                raise ConnectionError
            return reply
        if away:
            return 503, b""
        user = path.split("/")[3]
        sent.append(user)
        return (200, BLOB, {"perslm-generation": "4"}) if user in known else (304, b"")

    with service(script) as url, Client(url, timeout=30) as client:
        models = {user: client.fetch(user) for user in "uv"}
        known.clear()  # from now on nothing is sent twice
        try:
            client.forget("u")
        except ServiceError:
            assert outcome != "gone"
        else:
            assert outcome == "gone"
        away = True
        assert client.fetch("v") is models["v"]  # others have nothing to do with it
        if outcome == "kept":
            assert client.fetch("u") is models["u"]
        else:
            assert client.fetch("u").reason == "degraded"
        away = False
        if outcome == "doubted":
            known.add("u")
            assert client.fetch("u").reason == "ok"


def test_a_doubted_model_is_used_again_once_the_service_vouches_for_it() -> None:
    def script(method: str, path: str, body: bytes) -> Reply:
        if method == "DELETE":
            return 500, b""
        sent.append(method)
        return (200, BLOB, {"perslm-generation": "4"}) if len(sent) == 1 else (304, b"")

    sent: list[str] = []
    with service(script) as url, Client(url, timeout=30) as client:
        model = client.fetch("u")
        with pytest.raises(ServiceError):
            client.forget("u")
        assert client.fetch("u") is model  # which was not sent again
    assert len(sent) == 2


def test_a_model_that_arrives_after_its_deletion_is_not_kept() -> None:
    deleted = threading.Event()
    asked = threading.Event()
    away = False

    def script(method: str, path: str, body: bytes) -> Reply:
        if method == "DELETE":
            return 204, b""
        if away:
            return 503, b""
        asked.set()
        deleted.wait(30)
        return 200, BLOB, {"perslm-generation": "4"}

    with service(script) as url, Client(url, timeout=30) as client:
        fetching = threading.Thread(target=client.fetch, args=("u",))
        fetching.start()
        assert asked.wait(30)
        assert client.forget("u")
        deleted.set()
        fetching.join()
        away = True
        assert client.fetch("u").reason == "degraded"


def test_a_service_that_sends_a_model_without_its_generation() -> None:
    with service(lambda *_: (200, b"blob")) as url, Client(url) as client:
        assert client.fetch("u").reason == "degraded"
        client.strict = True
        with pytest.raises(ServiceError, match="generation"):
            client.fetch("u")
