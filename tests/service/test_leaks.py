"""Nothing of users gets out: no id, no text, no token, in whatever form, whatever goes wrong.

Canaries are put wherever a request can hold something: paths, queries, headers, bodies, metadata.
Then all that the service says to others than the caller of a good request is searched for them:
standard output and error, audit records, /metrics, refusals with their headers. The errors of the
client library and of the command line are searched, too.
"""

from __future__ import annotations

import base64
import json
import logging
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import grpc
import jwt
import msgpack
import numpy as np
import pytest
import redis

from perslm import Client
from perslm.embedded import EmbeddedServer
from perslm.errors import PerslmError
from perslm.store import Store, open_store
from perslm.v1 import scorer_pb2
from service import keyfile
from service.cache import ModelCache
from service.logs import JsonFormatter, TextFormatter
from tests.blocking import BlockingClient
from tests.integration.mailboxes import Perslm
from tests.service.grpc_server import (
    CallRefusedError,
    GrpcCaller,
    GrpcStream,
    calling,
    score_request,
)
from tests.service.process import ServedProcess
from tests.service.server import TYPES, Caller, running
from tests.service.support import FINGERPRINT, MAIL, OTHER_FINGERPRINT, blob_of, publish, settings
from tests.unit.test_client import free_port

USER = "canary-zq7x.user/ü@example.com"
BROKEN = "canary-zq7x-broken@example.com"
NOBODY = "canary-zq7x-nobody"
TEXT = "canary-zq7x text that somebody wrote"
TOKEN = "canary-zq7x.token.4711"  # no credential
IDS = [314159265, 271828182, 161803398]
SECRET = "canary-zq7x-secret-of-tokens-that-is-long-enough"
WORDS = (USER, BROKEN, NOBODY, TEXT, TOKEN, SECRET, "canary-zq7x")


def forms(canary: bytes) -> Iterator[bytes]:
    """All that a canary could have become."""
    yield canary
    yield canary.hex().encode()
    yield canary.hex().upper().encode()
    for shift in range(3):  # wherever it began in what was encoded
        encoded = base64.b64encode(b"\0" * shift + canary)
        whole = encoded[4 if shift else 0 : len(encoded) // 4 * 4 - 4]
        yield whole
        yield whole.translate(bytes.maketrans(b"+/", b"-_"))


def traces(secrets: list[str]) -> list[bytes]:
    """Everything to search for."""
    ids = np.array(IDS, "<u4").tobytes()
    found = [*forms(ids), *(str(i).encode() for i in IDS)]
    for word in (*WORDS, *secrets):
        for text in (word, quote(word, safe=""), quote(word), quote_plus(word)):
            found += forms(text.encode())
        found += [json.dumps(word)[1:-1].encode(), word.encode("unicode_escape")]
        found += forms(word.encode("utf-16-le"))
    assert all(len(trace) > 7 for trace in found)
    return sorted(set(found))


def assert_clean(said: bytes, secrets: list[str], what: str) -> None:
    for trace in traces(secrets):
        assert trace not in said, (what, trace)


@pytest.mark.parametrize("word", [USER, TEXT, TOKEN])
@pytest.mark.parametrize(
    "form",
    [
        str.encode,
        lambda word: quote(word, safe="").encode(),
        lambda word: json.dumps(word).encode(),
        lambda word: base64.b64encode(b"x" + word.encode()),
        lambda word: base64.urlsafe_b64encode(b"xy" + word.encode() + b"z"),
        lambda word: word.encode().hex().encode(),
        lambda word: str(IDS).encode(),
        lambda word: base64.b64encode(b"x" + np.array(IDS, "<u4").tobytes() + b"y"),
    ],
)
def test_what_the_search_finds(word: str, form: Callable[[str], bytes]) -> None:
    with pytest.raises(AssertionError):
        assert_clean(b"something " + form(word) + b" something", [], "")


class Told:
    """Collects what the service tells in answers that are no models."""

    def __init__(self) -> None:
        self.said: list[bytes] = []
        self.statuses: set[object] = set()

    def http(
        self, call: Caller, method: str, path: str, body: bytes | None = None, **h: str
    ) -> int:
        reply = call(method, path, body, **h)
        self.statuses.add(reply.status)
        self.said.append(repr(dict(reply.headers)).encode())
        if not (reply.status == 200 and path.endswith("/model")):  # models are for their callers
            self.said.append(reply.body)
        return reply.status

    def grpc(self, call: GrpcCaller, name: str, body: Any, metadata: Any, **options: Any) -> None:
        try:
            reply = call(name, body, metadata=metadata, **options)
        except CallRefusedError as error:
            self.statuses.add(error.status)
            self.said.append(repr((error.args, error.request_id, error.__cause__)).encode())
        else:
            self.statuses.add(grpc.StatusCode.OK)
            if name != "GetModel":
                self.said.append(reply)

    def stream(self, call: GrpcCaller, bodies: list[Any], metadata: Any) -> None:
        stream = GrpcStream(call.channel, metadata)
        for body in bodies:
            stream.send(body)
        stream.send(None)
        try:
            for _ in bodies:
                answer = stream.receive()
                self.said.append(answer.SerializeToString())
                self.statuses.add("problem" if answer.HasField("problem") else "answer")
        except CallRefusedError as error:
            self.statuses.add(error.status)
            self.said.append(repr((error.args, error.request_id)).encode())


def requests() -> list[dict[str, Any]]:
    """Fields of good requests, of those without a model, and of impossible ones; all with words."""
    good = {"user": USER, "vocabulary": FINGERPRINT, "histories": [IDS, [2, 3]]}
    candidates = {"candidates": [IDS, IDS]}
    return [
        {**good, **candidates},
        {**good, "top_k": 2},
        {**good, "dense": True},
        {**good, **candidates, "user": NOBODY},
        {**good, **candidates, "user": BROKEN},
        {**good, **candidates, "vocabulary": TEXT},
        {**good, "user": USER * 20, "top_k": 1},
        {**good, "top_k": 1, "dense": True},
        {**good, "top_k": 0},
    ]


def drive_http(url: str, told: Told, credentials: list[str]) -> None:
    call = Caller(url)
    users = (USER, BROKEN, NOBODY, USER * 20, TEXT, "canary-zq7x%ff")
    odd: list[dict[str, Any]] = [
        {TEXT: TEXT},
        {"user": TEXT, "vocabulary": {TEXT: IDS}, "histories": TEXT},
        {"user": IDS, "vocabulary": TEXT, "histories": [[TEXT]], "top_k": TEXT},
    ]
    for credential in ("", *credentials):
        shown = {"authorization": credential} if credential else {}
        for form in TYPES:
            pack: Callable[[Any], bytes] = msgpack.packb
            if form == "json":
                pack = lambda fields: json.dumps(fields).encode()  # noqa: E731
            for fields in (*requests(), *odd):
                told.http(
                    call, "POST", "/v1/score", pack(fields), content_type=TYPES[form], **shown
                )
            for body in (TEXT.encode(), b'{"user": "' + TEXT.encode(), pack(requests()[0])[:-3]):
                told.http(call, "POST", "/v1/score", body, content_type=TYPES[form], **shown)
        told.http(call, "POST", "/v1/score", TEXT.encode(), content_type=f"{TOKEN}/x", **shown)
        told.http(call, "POST", f"/v1/score?user={quote(USER)}", b"{}", accept=TOKEN, **shown)
        for user in users:
            path = "/v1/users/" + quote(user, safe="%")
            for suffix in ("/model", "", f"/{quote(TEXT)}", f"?q={quote(USER)}"):
                odd_headers = {"if_none_match": TOKEN, "perslm_timeout_ms": TOKEN, "x_odd": TOKEN}
                told.http(call, "GET", path + suffix, **shown, **odd_headers)
            told.http(call, "PATCH", path, TEXT.encode(), **shown)
        told.http(call, "DELETE", f"/v1/users/{quote(NOBODY)}", **shown)
        told.http(call, "GET", f"/{quote(TEXT)}/{TOKEN}", **shown)
        for path in ("/metrics", "/readyz", "/healthz", "/openapi.json"):
            told.http(call, "GET", f"{path}?{TOKEN}={quote(USER)}", **shown)
    call.close()
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    user, word = quote(USER).encode(), TOKEN.encode()
    for garbage in (
        TEXT.encode() + b"\r\n\r\n",
        b"GET /v1/users/" + user + b" HTTP/9.9\r\n\r\n",
        b"GET /v1/users/" + user + b" HTTP/1.1\r\n" + word + b"\r\n\r\n",
        b"GET /" + user * 5000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: " + word + b"\r\n\r\n",
        b"POST /v1/score HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + word,
        b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: " + word + b"\r\nconnection: upgrade\r\n\r\n",
    ):
        with socket.create_connection(address, timeout=30) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(1 << 16):
                told.said.append(part)


def drive_grpc(url: str, told: Told, credentials: list[str]) -> None:
    call = GrpcCaller(url)
    bodies: list[Any] = [score_request(fields) for fields in requests()]
    bodies += [TEXT.encode(), bodies[0].SerializeToString()[:-3]]
    for credential in ("", *credentials):
        metadata = [("authorization", credential)] if credential else []
        metadata += [("x-odd", TOKEN), ("x-odd-bin", TEXT.encode())]
        for body in bodies:
            told.grpc(call, "Score", body, metadata)
        told.stream(call, bodies, metadata)
        for user in (USER, BROKEN, NOBODY, USER * 20):
            told.grpc(call, "GetUser", scorer_pb2.GetUserRequest(user=user), metadata)
            told.grpc(call, "GetModel", scorer_pb2.GetModelRequest(user=user), metadata)
        told.grpc(call, "Forget", scorer_pb2.ForgetRequest(user=NOBODY), metadata)
        told.grpc(call, TOKEN, TEXT.encode(), metadata)
        told.grpc(call, "Check", TEXT.encode(), metadata, service=TOKEN)
    call.close()


def show(process: ServedProcess, told: Told, credentials: list[str]) -> None:
    """Show each credential once, by each transport."""
    http, call = Caller(process.http), GrpcCaller(process.grpc)
    for credential in credentials:
        for user in (USER, NOBODY):
            told.http(http, "GET", f"/v1/users/{quote(user, safe='')}", authorization=credential)
            metadata = [("authorization", credential)]
            told.grpc(call, "GetUser", scorer_pb2.GetUserRequest(user=user), metadata)
            told.grpc(call, "Forget", scorer_pb2.ForgetRequest(user=NOBODY), metadata)
        told.stream(call, [score_request(requests()[0])], metadata)
    http.close()
    call.close()


@pytest.fixture
def own_store() -> Iterator[tuple[EmbeddedServer, str]]:
    """A store that can be killed."""
    server = EmbeddedServer(Path(tempfile.mkdtemp(prefix="perslm-test-")))
    server.ensure()
    yield server, f"unix://{server.socket}"
    server.close()


def test_a_service_with_everything_on(
    own_store: tuple[EmbeddedServer, str], tmp_path: Path
) -> None:
    server, store_url = own_store
    with open_store(store_url) as store:
        publish(store, USER, blob_of(MAIL))
        publish(store, BROKEN, b"canary-zq7x is no model")
    keys = tmp_path / "keys.json"
    all_scopes, _ = keyfile.create(keys, "everything", list(keyfile.SCOPES))
    few, _ = keyfile.create(keys, "few", ["score"])
    limited, _ = keyfile.create(keys, "limited", ["score", "forget"], user=USER)
    (tmp_path / "secret").write_text(SECRET)
    claims = {"exp": time.time() + 600, "scope": "score", "user": USER, "sub": TEXT}
    tokens = [
        jwt.encode(claims, SECRET, "HS256"),
        jwt.encode({**claims, "exp": 5}, SECRET, "HS256"),
        jwt.encode(claims, SECRET + "x", "HS256"),
    ]
    secrets = [all_scopes, few, limited, *tokens, *(t.rpartition(".")[2] for t in tokens)]
    credentials = [f"Bearer {secret}" for secret in secrets]
    credentials += [f"Bearer {TOKEN}", f"Basic {TOKEN}", TOKEN, f"Bearer {all_scopes}x"]
    audit = tmp_path / "audit.jsonl"
    told = Told()
    with ServedProcess(
        store_url,
        tmp_path,
        log_format="json",
        audit_log=audit,
        keys=keys,
        jwt_secret=tmp_path / "secret",
        load_seconds=5,
    ) as process:
        drive_http(process.http, told, credentials[:2])
        drive_grpc(process.grpc, told, credentials[:2])
        show(process, told, credentials)
        assert told.statuses >= {200, 304, 400, 401, 403, 404, 405, 415, 422, 503} - {304}
        assert told.statuses >= {"problem", "answer", grpc.StatusCode.DATA_LOSS}
        with redis.Redis(unix_socket_path=str(server.socket)) as connection:
            connection.shutdown(nosave=True)  # from here on nothing can be loaded
        admin = [f"Bearer {all_scopes}"]
        drive_http(process.http, told, admin)
        drive_grpc(process.grpc, told, admin)
        call = Caller(process.http)
        told.http(call, "GET", "/metrics", authorization=admin[0])
        assert b"perslm_" in told.said[-1]
        call.close()
        assert process.is_alive
        written = process.stop()
    records = audit.read_bytes()
    assert b'"forbidden"' in records
    assert b"invalid_request" in written
    assert_clean(written, secrets, "output")
    assert_clean(records, secrets, "audit")
    assert_clean(b"\n".join(told.said), secrets, "answers")


def test_exceptions_that_nobody_foresaw(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Their texts hold words; only types and places are written, and nothing of them is told."""

    def crash(*arguments: object, **named: object) -> None:
        raise RuntimeError(f"{USER} {TEXT} {IDS}")

    caplog.set_level(logging.DEBUG)
    told = Told()
    fields = requests()[0]
    with running(settings(), store) as http, calling(settings(), store) as call:
        for name in ("get", "peek"):
            monkeypatch.setattr(ModelCache, name, crash)
        caller = Caller(http)
        for form, body in (
            ("json", json.dumps(fields).encode()),
            ("msgpack", msgpack.packb(fields)),
        ):
            told.http(caller, "POST", "/v1/score", body, content_type=TYPES[form])
        told.http(caller, "GET", f"/v1/users/{quote(USER, safe='')}")
        told.grpc(call, "Score", score_request(fields), ())
        told.grpc(call, "GetUser", scorer_pb2.GetUserRequest(user=USER), ())
        told.stream(call, [score_request(fields)] * 2, ())
        caller.close()
    assert told.statuses == {500, grpc.StatusCode.INTERNAL, "problem"}
    assert_clean(b"\n".join(told.said), [], "answers")
    ours = [record for record in caplog.records if record.name.startswith(("service", "perslm"))]
    assert any("failed" in record.getMessage() for record in ours)
    for formatter in (TextFormatter(), JsonFormatter()):
        assert_clean("\n".join(map(formatter.format, ours)).encode(), [], "log")


def said_by(error: BaseException) -> bytes:
    """All that an exception shows of itself when it is printed or reported."""
    shown = [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
    return "\n".join(shown).encode()


@pytest.mark.parametrize("client_of", [Client, BlockingClient], ids=["blocks", "awaits"])
def test_the_client_s_errors(
    client_of: Any, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    publish(store, USER, blob_of(MAIL))
    publish(store, BROKEN, b"canary-zq7x is no model")
    errors: list[BaseException] = []

    def attempt(ask: Callable[[], object]) -> None:
        try:
            ask()
        except PerslmError as error:
            errors.append(error)

    with (
        running(settings(), store) as http,
        calling(settings(), store) as call,
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        ports = free_port(), silent.getsockname()[1]
        urls = [http, f"grpc://{call.target}", f"http://canary-zq7x:{TOKEN}@127.0.0.1:{ports[0]}"]
        urls += [f"{scheme}://127.0.0.1:{port}" for port in ports for scheme in ("http", "grpc")]
        for url in urls:
            secret = None if "@" in url else TOKEN
            patience = 30 if url in urls[:2] else 0.05
            with client_of(url, token=secret, strict=True, timeout=patience) as client:
                for user in (USER, BROKEN, NOBODY, USER * 20, "canary-zq7x \ud800"):
                    attempt(lambda: client.fetch(user, OTHER_FINGERPRINT))  # noqa: B023
                    attempt(lambda: client.info(user))  # noqa: B023
                    attempt(lambda: client.model(user, OTHER_FINGERPRINT))  # noqa: B023
                attempt(lambda: client.forget(NOBODY))
                assert_clean(repr(client).encode(), [], "repr")
        with client_of(http, strict=True, timeout=30) as client:
            model = client.model(USER, FINGERPRINT)
            assert_clean(repr(model).encode(), [], "repr")
            attempt(lambda: model.score(model.states([IDS]), [[-5, *IDS]]))
            attempt(lambda: model.states([[-IDS[0]]]))
    attempt(lambda: client_of("http://x", token=f"{TOKEN}\n"))
    attempt(lambda: client_of(f"ftp://{TOKEN}/"))
    attempt(lambda: client_of(f"http://me:{TOKEN}@x", token=TOKEN))
    assert len({type(error) for error in errors}) >= 5
    for error in errors:
        assert_clean(said_by(error), [], type(error).__name__)
    servers = ("uvicorn", "service", "perslm.audit")  # which are in this process only here
    records = [record for record in caplog.records if not record.name.startswith(servers)]
    assert_clean("\n".join(map(TextFormatter().format, records)).encode(), [], "log")


def test_the_command_line_s_errors(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    store: Store,
    store_url: str,
    tmp_path: Path,
) -> None:
    publish(store, BROKEN, b"canary-zq7x is no model")
    run = Perslm(monkeypatch, capsys, store_url)
    nowhere = f"redis://:{TOKEN}@127.0.0.1:{free_port()}"
    vocabulary = tmp_path / "vocabulary.json"
    for user, url, code in ((NOBODY, store_url, 3), (BROKEN, store_url, 5), (NOBODY, nowhere, 4)):
        for command in (
            ["complete", user, TEXT],
            ["score", user, TEXT],
            ["inspect", user],
            ["export", user, "--format", "arpa", "-o", tmp_path / "x"],
            ["rollback", user],
            ["forget", user, "--yes"],
        ):
            if user == BROKEN and command[0] in ("rollback", "forget"):
                continue  # they do not read the model
            done = run(*command, code=code, store=url)
            assert_clean(done.err.encode(), [], str(command[0]))
    assert not vocabulary.exists()
