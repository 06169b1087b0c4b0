"""All that only gRPC has; what it answers to score requests is in test_transports."""

from __future__ import annotations

import json
import logging
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import HealthCheck, given
from hypothesis import settings as fuzzing
from hypothesis import strategies as st

from perslm.client import Client
from perslm.errors import ArgumentError
from perslm.store import Store, open_store
from perslm.v1 import scorer_pb2
from service import keyfile
from service.core import ScoringService
from service.grpc import SERVICE
from tests.service.certificates import authority
from tests.service.grpc_server import (
    CallRefusedError,
    GrpcCaller,
    GrpcStream,
    RunningServer,
    calling,
    score_request,
)
from tests.service.support import (
    BROKEN,
    FINGERPRINT,
    HISTORIES,
    MAIL,
    TIGHT,
    USER,
    blob_of,
    publish,
    settings,
)

Code = grpc.StatusCode
SERVING = health_pb2.HealthCheckResponse.SERVING


def request(**changes: Any) -> scorer_pb2.ScoreRequest:
    fields = {"user": USER, "vocabulary": FINGERPRINT, "histories": HISTORIES, "top_k": 1}
    return score_request({**fields, **changes})


@pytest.fixture
def call(store: Store) -> Iterator[GrpcCaller]:
    with calling(settings(), store) as caller:
        yield caller


def refused(call: GrpcCaller, name: str, message: Any, **options: Any) -> CallRefusedError:
    with pytest.raises(CallRefusedError) as caught:
        call(name, message, **options)
    return caught.value


def model_of(call: GrpcCaller, **fields: Any) -> scorer_pb2.Model:
    asked = scorer_pb2.GetModelRequest(user=USER, **fields)
    return scorer_pb2.Model.FromString(call("GetModel", asked))


def test_the_blob_is_sent_only_if_it_changed(call: GrpcCaller, store: Store) -> None:
    stored = store.fetch(USER)
    assert stored is not None
    whole = scorer_pb2.Model(generation=1, blob=stored.blob, vocabulary=FINGERPRINT, tag="1")
    assert model_of(call) == whole
    unchanged = scorer_pb2.Model(generation=1, unchanged=True, tag="1")
    assert model_of(call, unless=1) == model_of(call, unless_tag="1") == unchanged
    for other in (0, 2, 2**64 - 1):
        assert model_of(call, unless=other) == whole
    publish(store, USER, blob_of([]))
    assert model_of(call, unless=1).blob == blob_of([])


def test_metadata(call: GrpcCaller) -> None:
    reply = call("GetUser", scorer_pb2.GetUserRequest(user=USER))
    assert scorer_pb2.User.FromString(reply) == scorer_pb2.User(
        order=3,
        ngrams=[8, 13, 10],
        bytes=len(blob_of(MAIL)),
        generation=1,
        messages=5,
        tokens=19,
        vocabulary=FINGERPRINT,
        vocabulary_size=12,
        created=1735689600.0,
        weight_by_state=False,
    )


def test_positions_have_four_bytes_each(call: GrpcCaller) -> None:
    asked = request()
    for data in (b"\0" * (4 * len(HISTORIES) + 1), b"\0"):
        asked.positions = data
        error = refused(call, "Score", asked)
        assert (error.status, error.code) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "invalid_request",
        )


def test_deleting_a_user(call: GrpcCaller, store: Store) -> None:
    call("Forget", scorer_pb2.ForgetRequest(user=USER))
    assert store.info(USER) is None
    for name, kind in (
        ("Forget", scorer_pb2.ForgetRequest),
        ("GetUser", scorer_pb2.GetUserRequest),
        ("GetModel", scorer_pb2.GetModelRequest),
    ):
        error = refused(call, name, kind(user=USER))
        assert (error.status, error.code) == (Code.NOT_FOUND, "unknown_user")
        error = refused(call, name, kind(user=""))
        assert (error.status, error.code) == (Code.INVALID_ARGUMENT, "invalid_user")
    error = refused(call, "GetUser", scorer_pb2.GetUserRequest(user=BROKEN))
    assert (error.status, error.code) == (Code.DATA_LOSS, "bad_blob")


def health_of(call: GrpcCaller, service: str) -> int:
    asked = health_pb2.HealthCheckRequest(service=service)
    reply = call("Check", asked, service="grpc.health.v1.Health")
    return health_pb2.HealthCheckResponse.FromString(reply).status


def test_a_store_that_is_away(call: GrpcCaller) -> None:
    assert health_of(call, "") == health_of(call, SERVICE) == SERVING
    with open_store("redis://127.0.0.1:1") as nowhere, calling(settings(), nowhere) as away:
        assert health_of(away, "") == SERVING
        assert health_of(away, SERVICE) == health_pb2.HealthCheckResponse.NOT_SERVING
        error = refused(away, "Forget", scorer_pb2.ForgetRequest(user=USER))
        assert (error.status, error.code) == (Code.UNAVAILABLE, "store_unavailable")


def test_reflection_names_the_services(call: GrpcCaller) -> None:
    name = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    replies = call.channel.stream_stream(name)(iter([a.SerializeToString() for a in asked]))
    listed, described = map(reflection_pb2.ServerReflectionResponse.FromString, replies)
    names = {service.name for service in listed.list_services_response.service}
    assert names >= {SERVICE, "grpc.health.v1.Health"}
    files = described.file_descriptor_response.file_descriptor_proto
    assert files == [scorer_pb2.DESCRIPTOR.serialized_pb]


def test_answers_come_in_the_order_of_the_requests(call: GrpcCaller) -> None:
    stream = call.stream()
    for k in range(40):
        stream.send(request(top_k=k))
    answers = [stream.receive() for _ in range(40)]
    stream.send(None)
    assert answers[0].problem.code == "invalid_request"
    assert [len(a.answer.ids.data) for a in answers[1:]] == [
        4 * len(HISTORIES) * min(k, 8) for k in range(1, 40)
    ]


def test_messages_that_cannot_be_read(store: Store) -> None:
    array = scorer_pb2.Array(n=6, k=1, data=b"123")
    with calling(settings(**TIGHT), store) as call:
        for body, code in (
            (b"\xff", "malformed_body"),
            (b"\x0a\x01\xff", "malformed_body"),  # a user that is no UTF-8
            (b"", "invalid_request"),
            (
                scorer_pb2.ScoreRequest(user=USER, histories=request().histories, candidates=array),
                "invalid_request",
            ),
            (
                scorer_pb2.ScoreRequest(user=USER, histories={"lengths": [2], "data": b"1234"}),
                "invalid_request",
            ),
        ):
            error = refused(call, "Score", body)
            assert (error.status, error.code) == (Code.INVALID_ARGUMENT, code)
            stream = call.stream()
            stream.send(body)
            assert stream.receive().problem.code == code
            stream.send(None)
        error = refused(call, "Score", b"x" * 4001)
        assert (error.status, error.code) == (Code.RESOURCE_EXHAUSTED, None)
        stream = call.stream()
        stream.send(b"x" * 4001)
        with pytest.raises(CallRefusedError) as caught:
            stream.receive()
        assert caught.value.status is Code.RESOURCE_EXHAUSTED


arrays = st.builds(
    scorer_pb2.Array,
    n=st.integers(0, 3) | st.just(2**32 - 1),
    k=st.integers(0, 3) | st.just(2**32 - 1),
    data=st.binary(max_size=24),
)
rows = st.builds(
    scorer_pb2.Rows,
    lengths=st.lists(st.integers(0, 4) | st.just(2**32 - 1), max_size=4),
    data=st.binary(max_size=24),
)
almost = st.builds(
    scorer_pb2.ScoreRequest,
    user=st.just(USER) | st.text(max_size=5),
    vocabulary=st.just(FINGERPRINT) | st.text(max_size=5),
    histories=st.just(request().histories) | rows,
    candidates=st.none() | arrays,
    top_k=st.none() | st.integers(0, 20),
    dense=st.booleans(),
    compact=st.booleans(),
).map(lambda message: message.SerializeToString())
KNOWN_CODES = {
    "malformed_body",
    "invalid_request",
    "invalid_user",
    "invalid_ids",
    "too_many_histories",
    "answer_too_large",
}


@fuzzing(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=st.binary(max_size=200) | almost, cut=st.none() | st.integers(0, 60))
def test_any_bytes_get_an_answer(body: bytes, cut: int | None, call: GrpcCaller) -> None:
    stream = call.stream()
    stream.send(body[:cut])
    streamed = stream.receive()
    stream.send(None)
    if streamed.HasField("problem"):
        error = refused(call, "Score", body[:cut])
        assert error.code in KNOWN_CODES
        assert (streamed.problem.code, streamed.problem.message) == (error.code, error.text)
    else:
        answer = scorer_pb2.ScoreAnswer.FromString(call("Score", body[:cut]))
        assert streamed.answer == answer
        assert answer.status in {"ok", "no_model", "vocabulary_mismatch", "degraded"}


def test_errors_do_not_repeat_what_was_sent(call: GrpcCaller) -> None:
    secret = "hunter2"
    for body in (
        secret.encode(),
        request(user=secret * 50),
        request(user=secret, compact=True),
        request(vocabulary=secret, dense=True),
    ):
        assert secret not in refused(call, "Score", body).text


def test_what_nobody_foresaw_stays_inside(
    call: GrpcCaller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: object, *request: object, **more: object) -> None:
        raise ZeroDivisionError("hunter2")

    monkeypatch.setattr(ScoringService, "score", fail)
    stream = call.stream()
    with caplog.at_level(logging.DEBUG):
        error = refused(call, "Score", request())
        stream.send(request())
        problem = stream.receive().problem
    stream.send(None)
    assert (error.status, error.code) == (Code.INTERNAL, "internal")
    assert (problem.status, problem.code) == (Code.INTERNAL.value[0], "internal")
    assert error.request_id in error.text
    assert error.request_id in caplog.text
    assert problem.message.rpartition(" ")[2] in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert "hunter2" not in error.text + problem.message + caplog.text


def test_what_nobody_waits_for_is_not_computed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks the event loop until the deadline of a request behind it has passed."""
    scored, entered, go_on = [], threading.Event(), threading.Event()
    is_quick = ScoringService.is_quick

    def hold(self: ScoringService, asked: Any) -> bool:
        if asked.user == "hold":
            entered.set()
            assert go_on.wait(30)
        return is_quick(self, asked)

    score = ScoringService.score

    def noted(self: ScoringService, asked: Any, *rest: Any, **more: Any) -> Any:
        scored.append(asked.user)
        return score(self, asked, *rest, **more)

    monkeypatch.setattr(ScoringService, "is_quick", hold)
    monkeypatch.setattr(ScoringService, "score", noted)
    with calling(settings(), store) as call:
        call("Score", request(user="first"))
        holding = threading.Thread(target=call, args=("Score", request(user="hold")))
        holding.start()
        assert entered.wait(30)
        error = refused(call, "Score", request(user="late"), timeout=0.05)
        assert error.status is Code.DEADLINE_EXCEEDED
        go_on.set()
        holding.join()
        call("Score", request(user="last"))
    assert scored == ["first", "hold", "last"]


def test_draining_finishes_what_is_being_answered(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    score = ScoringService.score

    def hold(self: ScoringService, asked: Any, *rest: Any, **more: Any) -> Any:
        if asked.user == "hold":
            entered.set()
            assert go_on.wait(30)
        return score(self, asked, *rest, **more)

    monkeypatch.setattr(ScoringService, "score", hold)
    with RunningServer(settings(), store) as server:
        call = GrpcCaller(server.url)
        idle, busy = call.stream(), call.stream()
        for stream in (idle, busy):
            stream.send(request())
            assert stream.receive().answer.status == "ok"
        busy.send(request(user="hold"))
        assert entered.wait(30)
        server.stop()
        for stream in (idle, busy):  # the one ends at once, the other with its answer
            if stream is busy:
                go_on.set()
                assert stream.receive().answer.status == "no_model"
            with pytest.raises(CallRefusedError) as caught:
                stream.receive()
            assert (caught.value.status, caught.value.code) == (Code.UNAVAILABLE, "draining")
        call.close()


def test_a_stream_that_is_cancelled_harms_nobody(call: GrpcCaller) -> None:
    with grpc.insecure_channel(call.target) as channel:
        stream = GrpcStream(channel)
        stream.send(request())
        assert stream.receive().answer.status == "ok"
    call("Score", request())


def test_who_calls_is_asked_before_anything_else(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.json"
    tokens = {
        scope: keyfile.create(path, scope.replace(":", "-"), [scope], user=USER)[0]
        for scope in ("score", "model:read", "forget")
    }
    other, _ = keyfile.create(path, "other", ["score"], tenant="elsewhere")
    asked: dict[str, tuple[Message, set[str]]] = {
        "Score": (request(), {"score"}),
        "GetUser": (scorer_pb2.GetUserRequest(user=USER), {"score", "model:read"}),
        "GetModel": (scorer_pb2.GetModelRequest(user=USER), {"model:read"}),
        "Forget": (scorer_pb2.ForgetRequest(user=USER), {"forget"}),
    }
    with (
        caplog.at_level(logging.INFO, "perslm.audit"),
        calling(settings(keys=str(path)), store) as call,
    ):
        for name, (message, scopes) in asked.items():
            for wrong in ((), bearer("psk_wrong"), bearer(secret="Basic eDp5")):
                error = refused(call, name, message, metadata=wrong)
                assert (error.status, error.code) == (Code.UNAUTHENTICATED, "unauthenticated")
                error = refused(call, name, b"\xff", metadata=wrong)
                assert error.code == "unauthenticated"
            for scope, token in tokens.items():
                if scope in scopes:
                    call(name, message, metadata=bearer(token))
                else:
                    error = refused(call, name, message, metadata=bearer(token))
                    assert (error.status, error.code) == (Code.PERMISSION_DENIED, "forbidden")
        score = bearer(tokens["score"])
        error = refused(call, "Score", request(user="somebody"), metadata=score)
        assert error.code == "forbidden"
        for metadata, wanted in ((score, ""), ((), "unauthenticated")):
            stream = GrpcStream(call.channel, metadata)
            stream.send(request())
            assert stream.receive().problem.code == wanted
            stream.send(None)
        publish(store, USER, blob_of(MAIL))
        reply = call("Score", request(), metadata=bearer(other))
        assert scorer_pb2.ScoreAnswer.FromString(reply).status == "no_model"
        assert health_of(call, SERVICE) == SERVING
    records = [json.loads(r.message) for r in caplog.records if r.name == "perslm.audit"]
    assert {(r["action"], r["outcome"]) for r in records} == {
        ("export", "ok"),
        ("export", "forbidden"),
        ("forget", "ok"),
        ("forget", "forbidden"),
    }
    assert USER not in caplog.text


def bearer(token: str = "", *, secret: str = "") -> Any:
    return (("authorization", secret or f"Bearer {token}"),)


def test_tls(store: Store, tmp_path: Path) -> None:
    ours, strangers = authority(tmp_path), authority(tmp_path, "strangers")
    chosen = settings(tls_cert=str(ours.issue("server")), tls_client_ca=str(ours.path))
    certificate = ours.issue("client")
    with RunningServer(chosen, store) as server:
        assert server.url.startswith("grpcs://")
        with Client(server.url, ca=str(ours.path), cert=str(certificate)) as client:
            assert client.health() == "ok"
            assert client.model(USER).reason == "ok"
        for options in (
            {},
            {"ca": str(strangers.path), "cert": str(certificate)},
            {"ca": str(ours.path)},
            {"ca": str(ours.path), "cert": str(strangers.issue("client"))},
        ):
            with Client(server.url, **options) as client:
                assert client.health() == "degraded"
        with Client(server.url.replace("grpcs:", "grpc:")) as client:
            assert client.health() == "degraded"
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    with pytest.raises(ArgumentError), RunningServer(settings(tls_cert=str(broken)), store):
        pass


def test_a_unix_socket_is_private_and_not_taken_over(store: Store) -> None:
    with tempfile.TemporaryDirectory(prefix="perslm-test-") as directory:
        path = Path(directory, "grpc.sock")
        chosen = settings(grpc=f"unix:{path}")
        with RunningServer(chosen, store) as server:
            assert server.url == f"grpc+unix:{path}"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            call = GrpcCaller(server.url)
            call("Score", request())
            with pytest.raises(ArgumentError, match="nothing else"), RunningServer(chosen, store):
                pass
            call("Score", request())
            call.close()
        assert not path.exists()


def test_a_port_in_use_is_not_shared(store: Store) -> None:
    with RunningServer(settings(), store) as server:
        taken = settings(grpc=server.url.removeprefix("grpc://"))
        with pytest.raises(ArgumentError, match="in use"), RunningServer(taken, store):
            pass
