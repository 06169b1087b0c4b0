"""Requests and answers as bytes: what is read, what is written, and what is turned away."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perslm import wire
from perslm.errors import ArgumentError
from service.codec import Format, decode, encode
from service.core import RequestError, ScoreAnswer, ScoreRequest
from tests.service.support import FINGERPRINT, USER

BASE = {"user": USER, "vocabulary": FINGERPRINT}
FORMS: tuple[Format, ...] = ("json", "msgpack")


def write(fields: Any, form: Format) -> bytes:
    return json.dumps(fields).encode() if form == "json" else msgpack.packb(fields)


def u4(*numbers: int) -> bytes:
    return b"".join(n.to_bytes(4, "little") for n in numbers)


def as_lists(request: ScoreRequest) -> tuple[Any, Any]:
    return [list(row) for row in request.histories], np.asarray(request.candidates).tolist()


def test_binary_arrays_and_lists_say_the_same() -> None:
    binary = {
        "histories": {"dtype": "<u4", "lengths": [2, 0, 1], "data": u4(5, 6, 7)},
        "candidates": {"dtype": "<u4", "shape": [3, 2], "data": u4(1, 2, 3, 4, 5, 256)},
    }
    lists = {"histories": [[5, 6], [], [7]], "candidates": [[1, 2], [3, 4], [5, 256]]}
    wanted = ([[5, 6], [], [7]], [[1, 2], [3, 4], [5, 256]])
    assert as_lists(decode(write({**BASE, **binary}, "msgpack"), "msgpack")) == wanted
    for form in FORMS:
        assert as_lists(decode(write({**BASE, **lists}, form), form)) == wanted


def test_positions() -> None:
    lists = {"positions": [0, 2**32 - 1]}
    binary = {"positions": {"dtype": "<u4", "shape": [2], "data": u4(0, 2**32 - 1)}}
    asked = {**BASE, "histories": [[2], []], "dense": True}
    for form in FORMS:
        for fields in [lists] + [binary] * (form == "msgpack"):
            positions = decode(write({**asked, **fields}, form), form).positions
            assert np.asarray(positions).tolist() == [0, 2**32 - 1]
        for nothing in ({}, {"positions": None}):
            assert decode(write({**asked, **nothing}, form), form).positions is None


def test_only_the_end_of_a_binary_history_is_kept() -> None:
    packed = {**BASE, "histories": wire.pack_rows([range(1000)]), "dense": True}
    assert decode(write(packed, "msgpack"), "msgpack").histories == [[996, 997, 998, 999]]


ANSWER = ScoreAnswer(
    status="ok",
    reason="stale",
    generation=7,
    order=3,
    weights=np.array([0.5], np.float32),
    logprobs=np.array([[-0.1, -np.inf]], np.float32),
    ids=np.array([[9, 1]], np.uint32),
)


def test_an_answer_in_msgpack() -> None:
    assert msgpack.unpackb(encode(ANSWER, "msgpack")) == {
        "status": "ok",
        "reason": "stale",
        "generation": 7,
        "order": 3,
        "weights": {"dtype": "<f4", "shape": [1], "data": bytes.fromhex("0000003f")},
        "logprobs": {"dtype": "<f4", "shape": [1, 2], "data": bytes.fromhex("cdccccbd000080ff")},
        "ids": {"dtype": "<u4", "shape": [1, 2], "data": u4(9, 1)},
    }


def test_an_answer_in_json_keeps_every_bit_and_writes_null_for_minus_infinity() -> None:
    answer = json.loads(encode(ANSWER, "json"))
    assert (answer["weights"], answer["ids"]) == ([0.5], [[9, 1]])
    (row,) = answer["logprobs"]
    assert np.float32(row[0]) == np.float32(-0.1)
    assert row[1] is None


BAD: dict[str, Any] = {
    "no map": [1, 2],
    "no user": {"vocabulary": FINGERPRINT, "histories": [], "dense": True},
    "null vocabulary": {**BASE, "vocabulary": None, "histories": [], "dense": True},
    "number for a user": {**BASE, "user": 5, "histories": [], "dense": True},
    "unknown field": {**BASE, "histories": [], "topk": 3},
    "text history": {**BASE, "histories": "2 3", "dense": True},
    "flat history": {**BASE, "histories": [2, 3], "dense": True},
    "text id": {**BASE, "histories": [["2"]], "dense": True},
    "fraction": {**BASE, "histories": [[2.0]], "dense": True},
    "boolean id": {**BASE, "histories": [[True]], "dense": True},
    "negative id": {**BASE, "histories": [[-1]], "dense": True},
    "large id": {**BASE, "histories": [[1 << 32]], "dense": True},
    "bad candidate": {**BASE, "histories": [[2]], "candidates": [[None]]},
    "text top": {**BASE, "histories": [[2]], "top_k": "3"},
    "boolean top": {**BASE, "histories": [[2]], "top_k": True},
    "number for dense": {**BASE, "histories": [[2]], "dense": 1},
    "number for positions": {**BASE, "histories": [[2]], "positions": 7},
    "text position": {**BASE, "histories": [[2]], "positions": ["7"]},
    "fraction of a position": {**BASE, "histories": [[2]], "positions": [7.0]},
    "boolean position": {**BASE, "histories": [[2]], "positions": [True]},
    "negative position": {**BASE, "histories": [[2]], "positions": [-1]},
    "large position": {**BASE, "histories": [[2]], "positions": [1 << 32]},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", BAD)
def test_wrong_fields_are_turned_away(name: str, form: Format) -> None:
    with pytest.raises(RequestError) as caught:
        decode(write(BAD[name], form), form)
    assert caught.value.code in {"invalid_request", "invalid_ids"}


@pytest.mark.parametrize(
    "packed",
    [
        {},
        {"dtype": "<u4", "shape": [1, 1]},
        {"dtype": "<u4", "shape": [1, 1], "data": u4(1), "more": 1},
        {"dtype": "<i4", "shape": [1, 1], "data": u4(1)},
        {"dtype": "<u4", "shape": [1], "data": u4(1)},
        {"dtype": "<u4", "shape": [1, 2], "data": u4(1)},
        {"dtype": "<u4", "shape": [1, -1], "data": u4(1)},
        {"dtype": "<u4", "shape": [0, 1 << 40], "data": b""},
        {"dtype": "<u4", "shape": [1, True], "data": u4(1)},
        {"dtype": "<u4", "shape": "11", "data": u4(1)},
        {"dtype": "<u4", "shape": [1, 1], "data": "text"},
    ],
)
def test_arrays_that_are_none(packed: Any) -> None:
    with pytest.raises(ArgumentError):
        wire.unpack_array(packed, "<u4", 2)
    body = write({**BASE, "histories": [[2]], "candidates": packed}, "msgpack")
    with pytest.raises(RequestError):
        decode(body, "msgpack")


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (b"", "json"),
        (b"{", "json"),
        (b"\xff\xfe", "json"),
        (b"[" * 100_000, "json"),
        (b'{"user": NaN}', "json"),
        (b'{"top_k": ' + b"9" * 5000 + b"}", "json"),
        (b"", "msgpack"),
        (b"\xc1", "msgpack"),
        (b"\x91" * 100_000, "msgpack"),
        (b"\x81\xa1a", "msgpack"),
        (b"\x80\x80", "msgpack"),
        (b"\x81\x91\x01\x01", "msgpack"),
        (b"\xdd\xff\xff\xff\xff", "msgpack"),
    ],
)
def test_bodies_that_are_no_request(body: bytes, form: Format) -> None:
    with pytest.raises(RequestError) as caught:
        decode(body, form)
    assert caught.value.code == "malformed_body"


@given(body=st.binary(max_size=200), form=st.sampled_from(FORMS))
def test_any_bytes_are_a_request_or_a_request_error(body: bytes, form: Format) -> None:
    code = "ok"
    try:
        decode(body, form)
    except RequestError as error:
        code = error.code
    assert code in {"ok", "malformed_body", "invalid_request", "invalid_ids"}


@given(
    rows=st.lists(st.lists(st.integers(0, wire.LARGEST_ID), max_size=5), max_size=5),
    columns=st.integers(0, 4),
)
def test_arrays_come_back_as_they_went(rows: list[list[int]], columns: int) -> None:
    assert [row.tolist() for row in wire.unpack_rows(wire.pack_rows(rows))] == rows
    table = np.arange(len(rows) * columns, dtype=np.float32).reshape(len(rows), columns) * -0.3
    packed = msgpack.unpackb(msgpack.packb(wire.pack_array(table, "<f4")))
    assert np.array_equal(wire.unpack_array(packed, "<f4", 2), table)


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_too_many_histories_are_refused_before_they_are_read(form: Format) -> None:
    """Neither the ids of the first rows nor the data that the lengths ask for is looked at."""
    bodies = [write({**BASE, "histories": ["no row"] * 6, "dense": True}, form)]
    if form == "msgpack":
        rows = {"dtype": "<u4", "lengths": [1] * 6, "data": b""}
        bodies.append(write({**BASE, "histories": rows, "dense": True}, form))
    for body in bodies:
        with pytest.raises(RequestError) as refused:
            decode(body, form, 5)
        assert refused.value.code == "too_many_histories"
