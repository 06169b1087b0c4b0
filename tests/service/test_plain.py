"""The short way of a plain request, from bytes to bytes, goes to the same place as the long way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as trying
from hypothesis import strategies as st

from perslm import _backend, wire
from perslm.model import Estimator, PersonalModel
from perslm.v1 import scorer_pb2
from service import codec
from service.core import RequestError, ScoreAnswer, ScoreRequest, ScoringService
from service.grpc import _answer, _frame, _parse, _request, _stream_frame
from tests.service.grpc_server import score_request
from tests.service.support import (
    EMPTY,
    FINGERPRINT,
    HISTORIES,
    MAIL,
    OTHER_FINGERPRINT,
    POSITIONS,
    SCORED,
    USER,
    blob_of,
    local,
    settings,
)

if TYPE_CHECKING:
    from perslm.wire import Query

pytestmark = pytest.mark.skipif(
    _backend.native is None, reason="nothing is plain without the kernel"
)

MOST = 8
CANDIDATES = np.array(SCORED["candidates"]["candidates"], "<u4")
MODEL = local(weight=None)


def packed(**changes: Any) -> bytes:
    fields = {
        "user": USER,
        "vocabulary": FINGERPRINT,
        "histories": wire.pack_rows(HISTORIES),
        "candidates": wire.pack_array(CANDIDATES, "<u4"),
        **changes,
    }
    body: bytes = msgpack.packb({name: v for name, v in fields.items() if v is not None})
    return body


def message(**changes: Any) -> bytes:
    fields = {"user": USER, "vocabulary": FINGERPRINT, "histories": HISTORIES}
    fields |= {"candidates": CANDIDATES.tolist(), **changes}
    return score_request(fields).SerializeToString()


def read_message(body: bytes) -> ScoreRequest:
    return _request(_parse(scorer_pb2.ScoreRequest, body), MOST)


Read = Callable[[bytes], ScoreRequest]
Plain = Callable[[bytes, int], "Query | None"]

FORMS: dict[str, tuple[bytes, Plain, Read]] = {
    "msgpack": (packed(), wire.plain_query, lambda body: codec.decode(body, "msgpack", MOST)),
    "protobuf": (message(), wire.plain_query_of_protobuf, read_message),
}
FORMS |= {
    "msgpack with positions": (
        packed(positions=wire.pack_array(POSITIONS, "<u4")),
        *FORMS["msgpack"][1:],
    ),
    "protobuf with positions": (message(positions=POSITIONS), *FORMS["protobuf"][1:]),
}


def assert_read_alike(query: Query, request: ScoreRequest, model: PersonalModel = MODEL) -> None:
    assert (query.user, query.vocabulary) == (request.user, request.vocabulary)
    assert request.candidates is not None
    assert (query.n, query.k) == np.shape(request.candidates)
    assert (request.top_k, request.dense, request.compact) == (None, False, False)
    states = model.states(request.histories)
    logprobs = model.score(states, request.candidates)[0].tobytes()
    weights = model.weights(states, request.positions).tobytes()
    wanted = b"before" + weights + b"between" + logprobs
    assert model.answer(query, b"before", b"between") == wanted


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("estimator", get_args(Estimator))
def test_every_estimator_answers_the_short_way(estimator: Estimator, form: str) -> None:
    body, plain, read = FORMS[form]
    query = plain(body, len(HISTORIES))
    assert query is not None
    model = PersonalModel.from_blob(blob_of(MAIL), estimator=estimator)
    assert_read_alike(query, read(body), model)


@pytest.mark.parametrize("form", FORMS)
def test_what_clients_write_is_plain(form: str) -> None:
    body, plain, read = FORMS[form]
    query = plain(body, len(HISTORIES))
    assert query is not None
    assert_read_alike(query, read(body))
    assert plain(body, len(HISTORIES) - 1) is None
    for end in range(len(body)):
        cut = plain(body[:end], MOST)
        assert cut is None or body[:end] == FORMS["protobuf"][0]  # which lacks the last field only
    assert plain(body + b"\0", MOST) is None


@pytest.mark.parametrize("form", FORMS)
@trying(deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_plain_after_damage_is_read_alike(form: str, data: st.DataObject) -> None:
    whole, plain, read = FORMS[form]
    body = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        kind = data.draw(st.sampled_from(["set", "delete", "insert"]))
        body[at : at + (kind != "insert")] = (
            b"" if kind == "delete" else bytes([data.draw(st.integers(0, 255))])
        )
    query = plain(bytes(body), MOST)
    if query is not None:
        assert_read_alike(query, read(bytes(body)))


ROWS = st.lists(st.lists(st.integers(0, wire.LARGEST_ID) | st.integers(0, 12), max_size=9))


@given(
    rows=ROWS,
    n=st.integers(0, 9),
    k=st.integers(0, 5),
    extra=st.sampled_from([0, -4, 4]),
    places=st.none() | st.lists(st.integers(0, wire.LARGEST_ID) | st.integers(0, 300), max_size=9),
)
def test_odd_shapes_are_read_alike(
    rows: list[list[int]], n: int, k: int, extra: int, places: list[int] | None
) -> None:
    lengths = [len(row) for row in rows]
    data = b"".join(np.array(row, "<u4").tobytes() for row in rows)
    ids = np.arange(n * k, dtype="<u4").tobytes() + bytes(max(0, extra))
    ids = ids[: len(ids) + min(0, extra)]
    body = packed(
        histories={"dtype": "<u4", "lengths": lengths, "data": data},
        candidates={"dtype": "<u4", "shape": [n, k], "data": ids},
        positions=None if places is None else wire.pack_array(places, "<u4"),
    )
    same = scorer_pb2.ScoreRequest(
        user=USER,
        vocabulary=FINGERPRINT,
        histories=scorer_pb2.Rows(lengths=lengths, data=data),
        candidates=scorer_pb2.Array(n=n, k=k, data=ids),
        positions=None if places is None else np.array(places, "<u4").tobytes(),
    ).SerializeToString()
    for form, found in (("msgpack", body), ("protobuf", same)):
        _, plain, read = FORMS[form]
        query = plain(found, MOST)
        good = 0 < len(rows) <= MOST and n == len(rows) and k > 0 and extra == 0
        good = good and (places is None or len(places) == n)
        assert (query is not None) == good
        if query is not None:
            assert_read_alike(query, read(found))


@pytest.mark.parametrize(
    "changes",
    [
        {"top_k": 3},
        {"dense": False},
        {"candidates": None},
        {"candidates": CANDIDATES.tolist()},
        {"histories": HISTORIES},
        {"user": None},
        {"user": 5},
        {"user": b"bytes"},
        {"more": 1},
        {"candidates": {**wire.pack_array(CANDIDATES, "<u4"), "dtype": "<i4"}},
        {"candidates": {**wire.pack_array(CANDIDATES, "<u4"), "shape": [6, 2**40]}},
        {"candidates": {**wire.pack_array(CANDIDATES, "<u4"), "shape": [2**32 - 1] * 2}},
        {"histories": {**wire.pack_rows(HISTORIES), "lengths": [2**32 - 1] * 6}},
        {"positions": POSITIONS},
        {"positions": wire.pack_array(POSITIONS[1:], "<u4")},
        {"positions": wire.pack_array(POSITIONS, "<f4")},
        {"positions": wire.pack_array([POSITIONS], "<u4")},
        {"positions": {**wire.pack_array(POSITIONS, "<u4"), "shape": [7]}},
        {"positions": {**wire.pack_array(POSITIONS, "<u4"), "shape": []}},
    ],
)
def test_everything_else_takes_the_long_way(changes: dict[str, Any]) -> None:
    assert wire.plain_query(packed(**changes), MOST) is None


def test_the_time_that_a_message_allows() -> None:
    for milliseconds in (None, 0, 1, 2**32 - 1):
        request = scorer_pb2.ScoreRequest.FromString(message())
        if milliseconds is not None:
            request.timeout_ms = milliseconds
        query = wire.plain_query_of_protobuf(request.SerializeToString(), MOST)
        assert query is not None
        assert query.timeout_ms == (-1 if milliseconds is None else milliseconds)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (6, 7), (31, 3), (32, 64), (300, 200)])
@pytest.mark.parametrize("generation", [0, 1, 2**63])
def test_frames_are_those_of_whole_answers(n: int, k: int, generation: int) -> None:
    random = np.random.default_rng(n)
    weights = random.random(n, np.float32)
    logprobs = -random.random((n, k), np.float32)
    for status, reason, order in (("ok", "stale", 3), ("no_model", "unknown_user", 0)):
        about: Any = status, reason, generation, order
        answer = ScoreAnswer(*about, weights, logprobs)
        written = scorer_pb2.StreamAnswer(answer=_answer(answer))
        for frame, whole in (
            (codec.frame, codec.encode(answer, "msgpack")),
            (_frame, written.answer.SerializeToString()),
            (_stream_frame, written.SerializeToString()),
        ):
            before, between = frame(*about, n, k)
            assert before + weights.tobytes() + between + logprobs.tobytes() == whole


def test_fields_that_come_twice_take_the_long_way() -> None:
    body = packed(positions=wire.pack_array(POSITIONS, "<u4"))
    name = msgpack.packb("positions")
    field = body[body.index(name) :]
    twice = bytes([body[0] + 1]) + body[1:] + field
    assert wire.plain_query(twice, MOST) is None
    assert codec.decode(twice, "msgpack", MOST).positions is not None
    assert wire.plain_query(bytes([body[0] - 1]) + body[1 : -len(field)], MOST) is not None
    sent = message(positions=POSITIONS)
    again = scorer_pb2.ScoreRequest(positions=b"").SerializeToString()
    assert wire.plain_query_of_protobuf(sent + again, MOST) is None


@pytest.mark.parametrize("weight", [None, 0.4])
@pytest.mark.parametrize("places", [None, wire.pack_array(POSITIONS, "<u4")])
def test_the_short_way_gives_what_the_long_way_gives(
    places: Any, weight: float | None, store: Any
) -> None:
    service = ScoringService(store, settings(weight=weight, fresh_seconds=3600.0))
    for user, vocabulary, known in (
        (USER, FINGERPRINT, False),
        (USER, OTHER_FINGERPRINT, True),
        ("nobody", FINGERPRINT, False),
        (EMPTY, FINGERPRINT, False),
    ):
        body = packed(user=user, vocabulary=vocabulary, positions=places)
        query = wire.plain_query(body, MOST)
        assert query is not None
        watch = service.metrics.watch("http")
        if not known:
            assert service.answer(query, codec.frame, watch) is None
        answer = service.score(codec.decode(body, "msgpack", MOST))
        assert service.answer(query, codec.frame, watch) == codec.encode(answer, "msgpack")
        assert (watch.status, watch.reason) == (answer.status, answer.reason)
    small = ScoringService(store, settings(fresh_seconds=3600.0, max_answer_values=41))
    request = codec.decode(packed(), "msgpack", MOST)
    with pytest.raises(RequestError):
        small.score(request)
    query = wire.plain_query(packed(), MOST)
    assert query is not None
    assert small.answer(query, codec.frame, small.metrics.watch("http")) is None
