"""The cases of the core over HTTP, on a real server; and all that only HTTP has."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as fuzzing
from hypothesis import strategies as st

from perslm.store import Store, open_store
from service.codec import Format
from service.core import ScoringService
from tests.service.server import Caller, arrays, running
from tests.service.support import (
    BROKEN,
    FINGERPRINT,
    HISTORIES,
    MAIL,
    OTHER_FINGERPRINT,
    REFUSED,
    SCORED,
    TIGHT,
    USER,
    assert_same,
    blob_of,
    expected,
    local,
    publish,
    settings,
)

FORMS = ("json", "msgpack")
PATH = f"/v1/users/{quote(USER, safe='')}"


def fields(case: dict[str, Any], **changes: Any) -> dict[str, Any]:
    base = {"user": USER, "vocabulary": FINGERPRINT, "histories": HISTORIES}
    return {**base, **case, **changes}


@pytest.fixture
def call(store: Store) -> Iterator[Caller]:
    with running(settings(), store) as url:
        caller = Caller(url)
        yield caller
        caller.close()


@pytest.fixture
def tight(store: Store) -> Iterator[Caller]:
    with running(settings(**TIGHT), store) as url:
        caller = Caller(url)
        yield caller
        caller.close()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("accept", FORMS)
def test_scores_are_those_of_the_model(form: Format, accept: Format, call: Caller) -> None:
    for case in SCORED.values():
        reply = call.score(fields(case), form, accept=f"application/{accept}")
        assert (reply.status, reply.headers["content-type"]) == (200, f"application/{accept}")
        answer, wanted = arrays(reply), expected(case, local())
        assert (answer["status"], answer["reason"]) == ("ok", "ok")
        assert (answer["generation"], answer["order"]) == (1, 3)
        assert ("ids" in answer) == ("ids" in wanted)
        for name in wanted:
            assert_same(answer[name], wanted[name])


@pytest.mark.parametrize("form", FORMS)
def test_without_a_model_nothing_is_harmed(form: Format, call: Caller) -> None:
    for changes, status, reason in (
        ({"user": "nobody"}, "no_model", "unknown_user"),
        ({"vocabulary": OTHER_FINGERPRINT}, "vocabulary_mismatch", "vocabulary_mismatch"),
        ({"user": BROKEN}, "degraded", "bad_blob"),
    ):
        for case in SCORED.values():
            reply = call.score(fields(case, **changes), form)
            assert reply.status == 200
            answer = arrays(reply)
            assert (answer["status"], answer["reason"]) == (status, reason)
            assert not answer["weights"].any()
            assert np.isneginf(answer["logprobs"]).all()


def test_a_store_that_is_away_is_no_error_of_the_beam() -> None:
    with open_store("redis://127.0.0.1:1") as nowhere, running(settings(), nowhere) as url:
        call = Caller(url)
        reply = call.score(fields({"dense": True}), "json")
        assert (reply.status, reply.json["status"]) == (200, "degraded")
        assert reply.json["reason"] == "store_unavailable"
        for method, path in (
            ("GET", "/readyz"),
            ("GET", PATH),
            ("DELETE", PATH),
            ("GET", f"{PATH}/model"),
        ):
            reply = call(method, path)
            assert (reply.status, reply.json["error"]) == (503, "store_unavailable")
        assert call("GET", "/healthz").json == {"status": "ok"}
        call.close()


@pytest.mark.parametrize("form", FORMS)
def test_what_cannot_be_answered_is_refused(form: Format, tight: Caller) -> None:
    for case, code in REFUSED.values():
        reply = tight.score(fields(case), form)
        assert (reply.status, reply.json["error"]) == (422, code)
        assert reply.json.keys() == {"error", "message"}


def test_the_answer_has_the_request_s_format_unless_told_otherwise(call: Caller) -> None:
    for form in FORMS:
        for accept in ("*/*", "text/html, */*;q=0.1", ""):
            reply = call.score(fields({"top_k": 1}), form, accept=accept)
            assert reply.headers["content-type"] == f"application/{form}"
    browser = "text/html, application/x-msgpack;q=0.9"
    reply = call.score(fields({"top_k": 1}), "json", accept=browser)
    assert reply.headers["content-type"] == "application/msgpack"


def test_bodies_that_cannot_be_read(tight: Caller) -> None:
    cases = (
        (b"{", "application/json; charset=utf-8", 400, "malformed_body"),
        (b"\xc1", "application/msgpack", 400, "malformed_body"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"x" * 4001, "application/json", 413, "body_too_large"),
        (b"[]", "application/json", 422, "invalid_request"),
    )
    for body, media_type, status, code in cases:
        reply = tight("POST", "/v1/score", body, content_type=media_type)
        assert (reply.status, reply.json["error"]) == (status, code)
    reply = tight("POST", "/v1/score", b"{}")
    assert (reply.status, reply.json["error"]) == (415, "unsupported_media_type")


def test_bodies_without_a_length_are_bounded_too(tight: Caller) -> None:
    body: Any = iter([b"x" * 1000] * 100)
    reply = tight("POST", "/v1/score", body, content_type="application/json")
    assert (reply.status, reply.json["error"]) == (413, "body_too_large")


def test_errors_do_not_repeat_what_was_sent(call: Caller) -> None:
    secret = "hunter2"
    for body in (
        {secret: 1},
        fields({"top_k": secret}),
        fields({"top_k": 1}, user=secret * 50),
        fields({"top_k": 1}, histories=[[secret]]),
        fields({"top_k": 1, secret: 1}),
    ):
        for form in FORMS:
            reply = call.score(body, form)
            assert reply.status == 422
            assert secret.encode() not in reply.body
    reply = call("POST", "/v1/score", secret.encode(), content_type="application/json")
    assert (reply.status, secret.encode() in reply.body) == (400, False)


scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=5)
)
junk = st.recursive(
    scalars | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data", "lengths", "x"]), inner)
    ),
    max_leaves=9,
)
almost = st.fixed_dictionaries(
    {"user": st.just(USER) | junk, "vocabulary": st.just(FINGERPRINT) | junk},
    optional={
        "histories": st.lists(st.lists(st.integers(0, 15), max_size=4), max_size=3) | junk,
        "candidates": st.lists(st.lists(st.integers(0, 15), max_size=3), max_size=3) | junk,
        "top_k": st.integers(-1, 20) | junk,
        "dense": st.booleans() | junk,
        "compact": st.booleans() | junk,
    },
)
KNOWN_CODES = {
    400: {"malformed_body"},
    422: {"invalid_request", "invalid_user", "invalid_ids", "too_many_histories"},
}


def check_fuzzed(call: Caller, body: bytes, form: str) -> None:
    reply = call("POST", "/v1/score", body, content_type=f"application/{form}")
    if reply.status == 200:
        assert arrays(reply)["status"] in {"ok", "no_model", "vocabulary_mismatch", "degraded"}
    else:
        assert reply.json["error"] in KNOWN_CODES[reply.status]


@fuzzing(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=st.binary(max_size=300), form=st.sampled_from(FORMS))
def test_any_bytes_get_an_answer(body: bytes, form: str, call: Caller) -> None:
    check_fuzzed(call, body, form)


@fuzzing(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(request=almost, cut=st.none() | st.integers(0, 100))
def test_almost_requests_get_an_answer(request: Any, cut: int | None, call: Caller) -> None:
    check_fuzzed(call, msgpack.packb(request)[:cut], "msgpack")
    body = json.dumps(request, default=lambda data: data.hex()).encode("ascii")
    check_fuzzed(call, body[:cut], "json")


def test_the_blob_and_its_etag(call: Caller, store: Store) -> None:
    reply = call("GET", f"{PATH}/model")
    assert (reply.status, reply.body) == (200, blob_of_user(store))
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["etag"] == '"1"'
    assert reply.headers["perslm-generation"] == "1"
    assert reply.headers["perslm-vocabulary"] == FINGERPRINT
    for tag in ('"1"', 'W/"1"'):
        reply = call("GET", f"{PATH}/model", if_none_match=tag)
        assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", '"1"')
    for tag in ('"2"', '"x"', "*", '"' + "9" * 40 + '"'):
        assert call("GET", f"{PATH}/model", if_none_match=tag).status == 200
    publish(store, USER, blob_of([]))
    reply = call("GET", f"{PATH}/model", if_none_match='"1"')
    assert (reply.status, reply.headers["etag"], reply.body) == (200, '"2"', blob_of([]))


def blob_of_user(store: Store) -> bytes:
    stored = store.fetch(USER)
    assert stored is not None
    return stored.blob


def test_metadata(call: Caller) -> None:
    assert call("GET", PATH).json == {
        "order": 3,
        "ngrams": [8, 13, 10],
        "bytes": len(blob_of(MAIL)),
        "generation": 1,
        "messages": 5,
        "tokens": 19,
        "vocabulary": FINGERPRINT,
        "vocabulary_size": 12,
        "created": 1735689600.0,
        "weight_by_state": False,
        "pending": 0,
    }
    reply = call("GET", "/v1/users/nobody")
    assert (reply.status, reply.json["error"]) == (404, "unknown_user")
    reply = call("GET", f"/v1/users/{quote(BROKEN, safe='')}")
    assert (reply.status, reply.json["error"]) == (503, "bad_blob")


def test_deleting_a_user(call: Caller, store: Store) -> None:
    assert call("DELETE", PATH).status == 204
    assert store.info(USER) is None
    for method, path in (("DELETE", PATH), ("GET", PATH), ("GET", f"{PATH}/model")):
        reply = call(method, path)
        assert (reply.status, reply.json["error"]) == (404, "unknown_user")
    assert call.score(fields({"top_k": 1}), "json").json["status"] == "no_model"


@pytest.mark.parametrize("user", ["a/b", "a/model", "ä b", "%2F", "?x#y", "..", "a%"])
def test_any_user_id_fits_into_a_path(user: str, call: Caller, store: Store) -> None:
    publish(store, user, blob_of([]))
    path = f"/v1/users/{quote(user, safe='').replace('..', '%2E%2E')}"
    assert call("GET", path).json["tokens"] == 0
    assert call("GET", f"{path}/model").body == blob_of([])
    assert call("DELETE", path).status == 204
    assert store.info(user) is None
    assert store.info(USER) is not None


@pytest.mark.parametrize("user", ["%FF", "x" * 257])
def test_impossible_user_ids_in_a_path(user: str, call: Caller) -> None:
    for method, path in (("GET", ""), ("GET", "/model"), ("DELETE", "")):
        reply = call(method, f"/v1/users/{user}{path}")
        assert (reply.status, reply.json["error"]) == (422, "invalid_user")


def test_ready(call: Caller) -> None:
    assert call("GET", "/readyz").json == {"status": "ok"}


def test_unknown_paths_and_methods(call: Caller) -> None:
    reply = call("GET", "/v2/score")
    assert (reply.status, reply.json["error"]) == (404, "not_found")
    reply = call("GET", "/v1/score")
    assert (reply.status, reply.json["error"]) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "POST"


def test_the_documentation_names_every_route(call: Caller) -> None:
    schema = call("GET", "/openapi.json").json
    routes = {(path, method) for path, methods in schema["paths"].items() for method in methods}
    assert routes == {
        ("/v1/score", "post"),
        ("/v1/users/{user}", "get"),
        ("/v1/users/{user}", "delete"),
        ("/v1/users/{user}/model", "get"),
        ("/v1/users/{user}/messages", "post"),
        ("/healthz", "get"),
        ("/readyz", "get"),
        ("/metrics", "get"),
    }
    assert call("GET", "/docs").status == 200
    content = schema["paths"]["/v1/score"]["post"]["requestBody"]["content"]
    for example in content["application/json"]["examples"].values():
        assert call.score(example["value"], "json").json["status"] == "vocabulary_mismatch"


def test_what_nobody_foresaw_stays_inside(
    call: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*request: object, **more: object) -> None:
        raise ZeroDivisionError("hunter2")

    monkeypatch.setattr(ScoringService, "score", fail)
    with caplog.at_level(logging.DEBUG):
        reply = call.score(fields({"top_k": 1}), "json")
    assert reply.status == 500
    assert reply.json["error"] == "internal"
    assert reply.json["request_id"] in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert "hunter2" not in reply.body.decode() + caplog.text
