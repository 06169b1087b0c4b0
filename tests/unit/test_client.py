"""The client against services that misbehave; ``tests/integration`` has it with the real one.

What is sent twice, deadlines and fetched models are in test_client_calls.py.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from perslm import backoff, wire
from perslm.blob import Metadata, encode
from perslm.client import Client
from perslm.counts import Specials, count
from perslm.errors import (
    ArgumentError,
    NoModelError,
    PerslmError,
    ServiceError,
    VocabularyMismatchError,
)
from perslm.interpolate import Float32Array, mix_columns, uncertainty
from perslm.model import NullModel
from perslm.remote import RemoteModel
from perslm.vocabulary import Vocabulary
from tests.blocking import BlockingClient
from tests.support import Seq

FINGERPRINT = "ab" * 16
INFO = {"order": 3, "generation": 4, "vocabulary": FINGERPRINT, "vocabulary_size": 9}
BLOB = encode(count([Seq([2, 3], True, True)], 2, Specials(9, 0, 1)), Metadata(FINGERPRINT, 1))
ROWS = np.log(np.full((2, 9), 1 / 9, np.float32))

Reply = tuple[int, bytes] | tuple[int, bytes, dict[str, str]]
Script = Callable[[str, str, bytes], Reply]


@pytest.fixture(autouse=True, params=[Client, BlockingClient], ids=["blocks", "awaits"])
def both_clients(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both clients are held to every test here."""
    monkeypatch.setattr(f"{__name__}.Client", request.param)


@contextmanager
def service(script: Script) -> Iterator[str]:
    """A server that answers (method, path, body) with what ``script`` returns."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            try:
                status, reply, *headers = script(self.command, self.path, body)
            except ConnectionError:  # a script that does not answer
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers[0].items() if headers else ():
                self.send_header(name, value)
            self.send_header("content-length", str(len(reply)))
            with suppress(ConnectionError):  # it did not wait
                self.end_headers()
                self.wfile.write(reply)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the names that http.server calls

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def replying(score: Reply | Callable[[], Reply], info: dict[str, Any] | None = None) -> Script:
    """A script that knows the user and answers every score request alike."""

    def script(method: str, path: str, body: bytes) -> Reply:
        if method == "GET":
            return 200, json.dumps({**INFO, **(info or {})}).encode()
        return score() if callable(score) else score

    return script


def scores(**changes: Any) -> Reply:
    """A sound answer to ``score`` of two states and three candidates, with changes."""
    fields = {
        "status": "ok",
        "reason": "ok",
        "generation": 4,
        "order": 3,
        "weights": wire.pack_array([0.5, 0.25], "<f4"),
        "logprobs": wire.pack_array([[-1, -2, -np.inf]] * 2, "<f4"),
    }
    return 200, msgpack.packb({**fields, **changes})


def harmless(model: RemoteModel) -> None:
    """Assert that the model changes nothing, whatever it is asked."""
    states = model.states([[2], [3]])
    assert model.mix(states, ROWS) is ROWS
    logprobs, behind = model.score(states, [[2, 3, 4]] * 2)
    assert logprobs.dtype == np.float32
    assert np.isneginf(logprobs).all()
    assert logprobs.shape == behind.shape == (2, 3)
    assert model.weights(states).tolist() == [0.0, 0.0]
    ids, best = model.continuations(states)
    assert ids.shape == best.shape == (2, 0)
    assert np.isneginf(model.distribution(states)).all()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_service_that_is_not_there() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with Client(url, pause=0) as client:
        model = client.model("u", FINGERPRINT)
        assert model.reason == "degraded"
        harmless(model)
        assert client.health() == "degraded"
        null = client.fetch("u")
        assert isinstance(null, NullModel)
        assert null.reason == "degraded"
        for call in (client.info, client.forget):
            with pytest.raises(ServiceError, match="perslm serve"):
                call("u")
    with Client(url, strict=True) as strict:
        for ask in (strict.model, strict.fetch):
            with pytest.raises(ServiceError):
                ask("u")


def test_a_service_that_hangs_costs_one_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(url, timeout=0.05, pause=3600) as client:
            model = client.model("u", FINGERPRINT)
            assert model.reason == "degraded"
            harmless(model)
        listener.settimeout(0)
        listener.accept()[0].close()
        with pytest.raises(BlockingIOError):  # nobody else has called
            listener.accept()


BAD_ANSWERS: dict[str, Reply] = {
    "server error": (500, b'{"error": "internal", "message": ""}'),
    "proxy's page": (502, b"<html>Bad gateway</html>"),
    "redirect": (302, b""),
    "nothing": (200, b""),
    "no map": (200, msgpack.packb([1])),
    "other keys": (200, msgpack.packb({b"status": 1})),
    "odd status": scores(status=["ok"]),
    "new status": scores(status="fine"),
    "degraded for an odd reason": scores(status="degraded", reason=["x"]),
    "weights missing": scores(weights=None),
    "weights by far": scores(weights=wire.pack_array([7, 7], "<f4")),
    "weights of nobody": scores(weights=wire.pack_array([0.5], "<f4")),
    "weights not numbers": scores(weights=wire.pack_array([np.nan, 0], "<f4")),
    "scores cut": scores(logprobs={"dtype": "<f4", "shape": [2, 3], "data": b"123"}),
    "scores of others": scores(logprobs=wire.pack_array([[-1, -2]] * 2, "<f4")),
    "scores above 0": scores(logprobs=wire.pack_array([[1, -2, -3]] * 2, "<f4")),
    "scores not numbers": scores(logprobs=wire.pack_array([[np.nan, -2, -3]] * 2, "<f4")),
    "order of 9": scores(order=9),
    "generation as text": scores(generation="4"),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_answers_that_cannot_be_are_not_believed(name: str) -> None:
    with service(replying(BAD_ANSWERS[name])) as url, Client(url, pause=0) as client:
        model = client.model("u", FINGERPRINT)
        assert model.reason == "ok"
        states = model.states([[2], [3]])
        logprobs, _ = model.score(states, [[2, 3, 4]] * 2)
        assert model.reason == "degraded"
        assert np.isneginf(logprobs).all()
        harmless(model)
        client.strict = True
        with pytest.raises(ServiceError):
            model.score(states, [[2, 3, 4]] * 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"ids": None},
        {"ids": wire.pack_array([2, 3], "<u4")},
        {"ids": wire.pack_array([2, 3, 9], "<u4")},
        {"ids": wire.pack_array([[2, 3, 4]] * 2, "<u4")},
    ],
)
def test_columns_that_cannot_be_are_not_believed(changes: dict[str, Any]) -> None:
    with service(replying(scores(**changes))) as url, Client(url) as client:
        model = client.model("u", FINGERPRINT)
        assert model.mix(model.states([[2], [3]]), ROWS) is ROWS
        assert model.reason == "degraded"


@pytest.mark.parametrize(
    ("reply", "reason", "error"),
    [
        (scores(status="no_model", reason="unknown_user"), "unknown_user", NoModelError),
        (
            scores(status="vocabulary_mismatch", reason="vocabulary_mismatch"),
            "vocabulary_mismatch",
            VocabularyMismatchError,
        ),
        (scores(status="degraded", reason="bad_blob"), "bad_blob", ServiceError),
        (
            scores(status="degraded", reason="store_unavailable"),
            "store_unavailable",
            ServiceError,
        ),
        ((422, b'{"error": "too_many_histories"}'), "refused", ServiceError),
        ((503, b'{"error": "store_unavailable"}'), "store_unavailable", ServiceError),
    ],
)
def test_reasons(reply: Reply, reason: str, error: type[PerslmError]) -> None:
    with service(replying(reply)) as url, Client(url, pause=0) as client:
        model = client.model("u", FINGERPRINT)
        harmless(model)
        assert model.reason == reason
        client.strict = True
        with pytest.raises(error):
            model.score(model.states([[2]]), [[2]])


def test_a_model_that_is_being_loaded_is_asked_for_again_at_once() -> None:
    replies = [scores(status="degraded", reason="loading"), scores()]
    with service(replying(lambda: replies.pop(0))) as url, Client(url, pause=3600) as client:
        model = client.model("u", FINGERPRINT)
        states = model.states([[2], [3]])
        assert np.isneginf(model.score(states, [[2, 3, 4]] * 2)[0]).all()
        assert model.reason == "loading"
        assert np.isfinite(model.score(states, [[2, 3, 4]] * 2)[0]).any()
        assert model.reason == "ok"


@pytest.mark.parametrize("failure", [scores(status="degraded", reason="loading"), (500, b"")])
def test_weights_and_scores_are_of_one_answer(failure: Reply) -> None:
    """λ beside scores that could not be had would take probability from every word."""
    replies = [failure, scores(), scores()]
    with service(replying(lambda: replies.pop(0))) as url, Client(url, pause=0) as client:
        model = client.model("u", FINGERPRINT)
        states = model.states([[2], [3]])
        assert np.isneginf(model.score(states, [[2, 3, 4]] * 2)[0]).all()
        assert model.weights(states).tolist() == [0.0, 0.0]
        assert len(replies) == 2
        assert np.isfinite(model.score(states, [[2, 3, 4]] * 2)[0]).any()
        assert model.weights(states).tolist() == [0.5, 0.25]
        assert len(replies) == 1


def test_after_a_failure_there_is_a_pause_and_then_another_try() -> None:
    replies = [scores(), (500, b""), scores()]
    asked = []

    def score() -> Reply:
        asked.append(1)
        return replies[len(asked) - 1]

    with service(replying(score)) as url, Client(url, pause=3600) as client:
        model = client.model("u", FINGERPRINT)
        states = model.states([[2], [3]])
        model.score(states, [[2, 3, 4]] * 2)
        assert model.weights(states).tolist() == [0.5, 0.25]
        model.score(states, [[2, 3, 4]] * 2)
        assert model.weights(states).tolist() == [0.0, 0.0]  # what it knew is not used either
        harmless(model)
        assert len(asked) == 2
        client.pause = 0
        client.strict = True  # asks whatever the pause
        assert np.isfinite(model.score(states, [[2, 3, 4]] * 2)[0]).any()
        assert model.reason == "ok"
        assert len(asked) == 3


def test_weights_come_with_the_scores() -> None:
    asked = []

    def score() -> Reply:
        asked.append(1)
        return scores()

    with service(replying(score)) as url, Client(url) as client:
        model = client.model("u", FINGERPRINT)
        states = model.states([[2], [3]])
        model.score(states, [[2, 3, 4]] * 2)
        assert model.weights(states[::-1]).tolist() == [0.25, 0.5]
        assert len(asked) == 1


@pytest.mark.parametrize("told", [{"weight_by_state": True}, {"weight_by_state": False}, {}])
def test_places_move_weights_that_are_by_state_and_are_not_sent(told: dict[str, bool]) -> None:
    bodies = []

    def script(method: str, path: str, body: bytes) -> Reply:
        if method == "GET":
            return 200, json.dumps({**INFO, **told}).encode()
        bodies.append(msgpack.unpackb(body))
        return scores(ids=wire.pack_array([2, 3, 4], "<u4"))

    here, sure = np.array([0.5, 0.25], np.float32), uncertainty(ROWS)

    def at(*place: Any) -> Float32Array:
        moved = backoff.shift(here, backoff.population(3), *place)
        return moved if told.get("weight_by_state") else here  # services of old do not tell

    with service(script) as url, Client(url) as client:
        model = client.model("u", FINGERPRINT)
        states = model.states([[2], [3]])
        mixed = model.mix(states, ROWS, positions=[3, 200])
        logprobs = np.array([[-1, -2, -np.inf]] * 2, np.float32)
        wanted = mix_columns(ROWS, at([3, 200], sure), np.array([2, 3, 4]), logprobs)
        assert mixed.tobytes() == wanted.tobytes()
        assert model.weights(states, [3, 200]).tolist() == at([3, 200]).tolist()
        assert (
            model.weights(states, np.array([3, 200]), sure).tolist() == at([3, 200], sure).tolist()
        )
        assert model.weights(states, uncertainty=sure).tolist() == at(None, sure).tolist()
        assert model.weights(states).tolist() == [0.5, 0.25]
        if told.get("weight_by_state"):
            for wrong in ([3], [3, 4, 5], [0.5, 1.0], 7):
                with pytest.raises(ArgumentError):
                    model.weights(states, wrong)
    (body,) = bodies
    assert not {"positions", "uncertainty"} & set(body)


def test_a_model_made_while_the_service_was_away_learns_how_it_weighs() -> None:
    vocabulary = Vocabulary.from_words(["thanks", "for", "you"])
    told = {"vocabulary": vocabulary.fingerprint, "vocabulary_size": vocabulary.size}
    facts = json.dumps({**INFO, **told, "weight_by_state": True}).encode()
    replies: list[Reply] = [(500, b""), (200, facts), scores()]
    with service(lambda *_: replies.pop(0)) as url, Client(url, pause=0) as client:
        model = client.model("u", vocabulary)
        states = model.states([[2], [3]])
        model.score(states, [[2, 3, 4]] * 2)
        assert (model.weights(states, [0, 0]) > model.weights(states)).all()
    assert not replies


def test_what_is_asked_is_what_the_documentation_says() -> None:
    bodies = []

    def script(method: str, path: str, body: bytes) -> Reply:
        if method == "GET":
            assert path == "/v1/users/a%2Fb%20c"
            return 200, json.dumps(INFO).encode()
        bodies.append(msgpack.unpackb(body))
        return scores()

    with service(script) as url, Client(url) as client:
        model = client.model("a/b c")
        model.score(model.states([[5, 6, 7], []]), [[2, 3, 1 << 40]] * 2)
    assert bodies == [
        {
            "user": "a/b c",
            "vocabulary": FINGERPRINT,
            "histories": {
                "dtype": "<u4",
                "lengths": [2, 0],
                "data": np.array([6, 7], "<u4").tobytes(),
            },
            "candidates": {
                "dtype": "<u4",
                "shape": [2, 3],
                "data": np.array([[2, 3, 2**32 - 1]] * 2, "<u4").tobytes(),
            },
        }
    ]


def test_states_are_numbered_by_context() -> None:
    vocabulary = Vocabulary.from_words(["thanks", "for", "you"])
    a, b = vocabulary.id("thanks"), vocabulary.id("for")
    bos, eos = vocabulary.bos, vocabulary.eos
    info = {"vocabulary": vocabulary.fingerprint, "vocabulary_size": vocabulary.size}
    with service(replying((500, b""), info)) as url, Client(url) as client:
        model = client.model("u", vocabulary)
        assert (model.order, model.generation, model.reason) == (3, 4, "ok")
        same = [[a, b], [b, b, a, b], np.array([a, b])]
        assert model.states(same).tolist() == [0, 0, 0]
        assert model.states([[bos], [a, eos], [eos], [bos, bos]]).tolist() == [1, 1, 1, 1]
        assert model.states([[bos, a], [b, eos, a], [eos, a, b]]).tolist() == [2, 2, 0]
        assert model.states([]).shape == (0,)
        assert model.states([[]]).dtype == np.uint32


def test_the_states_behind_a_score_are_those_of_the_longer_histories() -> None:
    histories = [[2], [3, 4, 5, 6, 7]]
    for order in (1, 2, 3, 5):
        with (
            service(replying(scores(order=order), {"order": order})) as url,
            Client(url) as client,
        ):
            model = client.model("u", FINGERPRINT)
            _, behind = model.score(model.states(histories), [[2, 3, 4]] * 2)
            longer = [model.states([[*h, w] for w in (2, 3, 4)]).tolist() for h in histories]
            assert behind.tolist() == longer


def test_the_caller_s_mistakes_are_errors_always() -> None:
    with service(replying(scores())) as url, Client(url) as client:
        model = client.model("u", FINGERPRINT)
        states = model.states([[2], [3]])
        for wrong in ([5], [-1], [0.5], [[0]]):
            with pytest.raises(ArgumentError):
                model.weights(wrong)
        for candidates in ([[1]], [[1], [2, 3]], [[-1], [1]], [[0.5], [1]]):
            with pytest.raises(ArgumentError):
                model.score(states, candidates)
        with pytest.raises(ArgumentError, match="negative"):
            model.states([[-1]])
        with pytest.raises(ArgumentError, match="at least 1"):
            model.continuations(states, 0)
        for ask in (client.model, client.fetch, client.info, client.forget):
            for user in ("\ud800", None, 7, b"u"):
                with pytest.raises(ArgumentError, match="Unicode"):
                    ask(user)


@pytest.mark.parametrize(
    "url", ["", "localhost:80", "ftp://host", "http://", "http://host:99999", "redis://host"]
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ArgumentError):
        Client(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8377", "http://127.0.0.1:8377"),
        ("https://me:hunter2@host/perslm/", "https://***@host/perslm"),
        ("http://[::1]:80", "http://[::1]:80"),
        ("unix:/run/perslm.sock", "unix:/run/perslm.sock"),
        ("http+unix://%2Frun%2Fperslm.sock", "unix:/run/perslm.sock"),
    ],
)
def test_what_is_shown_of_a_url_holds_no_secret(url: str, shown: str) -> None:
    assert repr(Client(url)) == f"Client({shown!r})"


def test_credentials_and_path_prefix_are_sent() -> None:
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers["authorization"]))
            self.send_error(404)

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://me:hunter%322@127.0.0.1:{server.server_address[1]}/prefix"
        with Client(url) as client, pytest.raises(ServiceError) as caught:
            client.info("u")
        server.shutdown()
        thread.join()
    assert seen == [("/prefix/v1/users/u", "Basic bWU6aHVudGVyMjI=")]
    assert caught.value.status == 404
    assert "hunter" not in str(caught.value)


def test_a_unix_socket_that_is_not_there(tmp_path: Path) -> None:
    with Client(f"unix:{tmp_path}/s") as client:
        assert client.model("u").reason == "degraded"


@pytest.mark.parametrize(
    "info",
    [
        {"order": 6},
        {"order": True},
        {"vocabulary": 1},
        {"vocabulary_size": None},
        {"weight_by_state": 1},
    ],
)
def test_metadata_that_cannot_be_is_not_believed(info: dict[str, Any]) -> None:
    with service(replying(scores(), info)) as url, Client(url) as client:
        assert client.model("u").reason == "degraded"
        with pytest.raises(ServiceError):
            client.info("u")


@pytest.mark.parametrize(
    "times",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"timeout": 1e10},
        {"pause": -1},
        {"stale_seconds": -1},
        {"stale_seconds": float("nan")},
    ],
)
def test_times_that_make_no_sense(times: dict[str, float]) -> None:
    with pytest.raises(ArgumentError):
        Client("http://localhost", **times)
