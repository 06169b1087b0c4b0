"""Damaged requests to a running service: each is refused in its own words, or answered rightly.

Bodies are made of sound ones: some value is replaced, or some bytes are. What the service answers
with scores must be what the model itself says to the request as the format's own library reads it;
everything else must be a refusal with a code of ours that is the caller's fault. Never a failure of
the service, never silence; the process lives on, in bounded memory. Seeds are fixed;
``PERSLM_FUZZ_EXAMPLES`` asks for more than the few hundred that every run of the tests sends.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import msgpack
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as fuzzing
from hypothesis import strategies as st

from perslm.model import PersonalModel
from perslm.store import Store
from perslm.v1 import scorer_pb2
from service.codec import Format
from tests.service.grpc_server import (
    CallRefusedError,
    GrpcCaller,
    GrpcStream,
    answer_arrays,
    score_request,
)
from tests.service.process import ServedProcess
from tests.service.server import TYPES, Caller, Reply, arrays
from tests.service.support import (
    EMPTY,
    FINGERPRINT,
    HISTORIES,
    MAIL,
    POSITIONS,
    SCORED,
    USER,
    local,
)

EXAMPLES = int(os.environ.get("PERSLM_FUZZ_EXAMPLES", "120"))
MEMORY = 256 << 20  # above what the process has when it is up
REFUSALS = {
    "malformed_body": 400,
    "body_too_large": 413,
    "invalid_request": 422,
    "invalid_user": 422,
    "invalid_ids": 422,
    "too_many_histories": 422,
    "answer_too_large": 422,
}
EXHAUSTED = {"too_many_histories", "answer_too_large"}
WROTE = sorted({i for sequence in MAIL for i in sequence.ids} | {1})

Fields: TypeAlias = dict[str, Any]
fuzzed = fuzzing(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def served(store: Store, store_url: str, tmp_path: Path) -> Iterator[ServedProcess]:
    """A process that is alive and of bounded size at the end, too."""
    with ServedProcess(store_url, tmp_path, load_seconds=30) as process:
        before = process.memory
        yield process
        assert process.is_alive
        assert process.memory - before < MEMORY
        log = process.stderr.read_text()
        assert "ERROR" not in log
        assert "Traceback" not in log


# what is sent

NUMBERS = st.sampled_from(
    [0, 1, 2, 3, 7, 11, 12, -1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1, 0.5, math.nan, math.inf]
)
JUNK = st.recursive(
    st.one_of(
        st.none(), st.booleans(), NUMBERS, st.integers(0, 2**64 - 1), st.text(max_size=4),
        st.binary(max_size=9), st.sampled_from([USER, EMPTY, FINGERPRINT, "x" * 257, "<f4", "<u4"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip


def sound(form: str) -> st.SearchStrategy[Fields]:
    """The fields of requests that the service answers with scores."""
    cases = st.sampled_from(sorted(SCORED))
    packs = st.booleans() if form == "msgpack" else st.just(False)

    def make(name: str, packed: bool, placed: bool) -> Fields:
        fields: Fields = {"user": USER, "vocabulary": FINGERPRINT, "histories": HISTORIES}
        fields |= SCORED[name]
        if placed:
            fields["positions"] = POSITIONS
        if packed:
            flat = np.array([i for row in HISTORIES for i in row], "<u4").tobytes()
            lengths = [len(row) for row in HISTORIES]
            fields["histories"] = {"dtype": "<u4", "lengths": lengths, "data": flat}
            if "candidates" in fields:
                rows = np.array(fields["candidates"], "<u4")
                data, shape = rows.tobytes(), list(rows.shape)
                fields["candidates"] = {"dtype": "<u4", "shape": shape, "data": data}
            if placed:
                data = np.array(POSITIONS, "<u4").tobytes()
                fields["positions"] = {"dtype": "<u4", "shape": [len(POSITIONS)], "data": data}
        return fields

    return st.builds(make, cases, packs, st.booleans())


@st.composite
def altered(draw: st.DrawFn, form: str) -> Fields:
    """Sound fields, of which one to three values are replaced, dropped or put elsewhere."""
    # through a library, so that nothing is shared
    fields: Fields = msgpack.unpackb(msgpack.packb(draw(sound(form))))
    for _ in range(draw(st.integers(1, 3))):
        place: Any = fields
        while True:
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            inner = place[key]
            if isinstance(inner, dict | list) and inner and draw(st.booleans()):
                place = inner
                continue
            match draw(st.sampled_from(["replace", "drop", "repeat"])):
                case "replace":
                    place[key] = draw(JUNK)
                case "drop":
                    del place[key]
                case "repeat" if isinstance(place, list):
                    place += [inner] * draw(st.sampled_from([1, 2, 2000]))
                case "repeat":
                    place[draw(st.sampled_from(["dense", "compact", "top_k", "x"]))] = draw(JUNK)
            break
    return fields


@st.composite
def damaged(draw: st.DrawFn, bodies: st.SearchStrategy[bytes]) -> bytes:
    """A body of which some bytes are changed, cut out, put in or sent twice."""
    body = bytearray(draw(bodies))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(body) - 1)))
        end = at + draw(st.sampled_from([1, 2, 4, 40]))
        match draw(st.sampled_from(["set", "cut", "insert", "double", "end"])):
            case "set":
                body[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "cut":
                del body[at:end]
            case "insert":
                body[at:at] = draw(st.binary(min_size=1, max_size=6))
            case "double":
                body[at:at] = body[at:end]
            case "end":
                del body[at:]
    return bytes(body)


def in_json(fields: Fields) -> bytes:
    return json.dumps(fields, default=lambda b: b.hex()).encode()


def in_msgpack(fields: Fields) -> bytes:
    body: bytes = msgpack.packb(fields)
    return body


def in_protobuf(fields: Fields) -> bytes:
    return score_request(fields).SerializeToString()


@st.composite
def odd_messages(draw: st.DrawFn) -> bytes:
    """Messages of the right type whose fields do not fit, and several messages in one."""
    numbers = st.sampled_from([0, 1, 2, 3, 6, 2**16, 2**31, 2**32 - 1])
    data = st.sampled_from([b"", b"\0" * 4, b"\0" * 24, b"\0" * 23, b"\xff" * 24, b"\1" * 4000])
    texts = st.sampled_from([USER, EMPTY, FINGERPRINT, "", "nobody", "x" * 257])
    part = st.builds(
        scorer_pb2.ScoreRequest,
        user=st.none() | texts,
        vocabulary=st.none() | texts,
        histories=st.none()
        | st.builds(scorer_pb2.Rows, lengths=st.lists(numbers, max_size=7), data=data),
        candidates=st.none() | st.builds(scorer_pb2.Array, n=numbers, k=numbers, data=data),
        top_k=st.none() | numbers,
        dense=st.none() | st.booleans(),
        compact=st.none() | st.booleans(),
        timeout_ms=st.none() | st.just(30_000),
        positions=st.none() | data,
    )
    parts = [draw(part).SerializeToString()]
    if draw(st.booleans()):
        whole = in_protobuf(draw(sound("protobuf")))
        parts = draw(st.permutations([whole, parts[0]]))
    unknown = st.sampled_from([b"", b"\xf8\x01\x05", b"\xfa\x01\x03abc", b"\x0a\x00", b"\x20\x00"])
    return b"".join(parts) + draw(unknown)


MESSAGES = st.one_of(
    odd_messages(), damaged(sound("protobuf").map(in_protobuf)), damaged(odd_messages())
)
SCORE_TEXT: dict[Format, tuple[st.SearchStrategy[bytes], Callable[[bytes], Any]]] = {
    "json": (
        altered("json").map(in_json) | damaged(sound("json").map(in_json)),
        json.loads,
    ),
    "msgpack": (
        altered("msgpack").map(in_msgpack) | damaged(sound("msgpack").map(in_msgpack)),
        msgpack.unpackb,
    ),
}


# what is expected


def plain(value: Any) -> Any:
    """Lists of integers, or lists of them, however they were written."""
    if not isinstance(value, dict):
        return value
    flat = np.frombuffer(value["data"], "<u4").tolist()
    if "shape" in value:
        if len(value["shape"]) == 1:
            return flat
        n, k = value["shape"]
        return [flat[i * k : (i + 1) * k] for i in range(n)]
    ends = np.cumsum([0, *value["lengths"]]).tolist()
    return [flat[begin:end] for begin, end in pairwise(ends)]


def assert_right(fields: Fields, answer: Fields, models: dict[str, PersonalModel]) -> None:
    """Hold scores against what the model itself says, or the nothing that is declared."""
    histories = plain(fields["histories"])
    candidates = plain(fields.get("candidates"))
    model = models.get(fields["user"])
    if model is None or fields["vocabulary"] != FINGERPRINT:
        reason = "unknown_user" if model is None else "vocabulary_mismatch"
        assert answer["reason"] in (reason, "bad_blob")
        assert not answer["weights"].any()
        assert np.isneginf(answer["logprobs"]).all()
        return
    assert answer["status"] == "ok"
    states = model.states(histories)
    positions = plain(fields.get("positions"))
    assert answer["weights"].tobytes() == model.weights(states, positions).tobytes()
    if candidates is not None:
        wanted = model.score(states, candidates)[0]
    elif fields.get("top_k") is not None:
        wanted = model.continuations(states, fields["top_k"])[1]
    else:
        wanted = model.distribution(states)
        if fields.get("compact"):
            wanted = wanted[:, np.asarray(answer["ids"], np.int64)]
    assert answer["logprobs"].tobytes() == wanted.tobytes()


@pytest.fixture(scope="module")
def models() -> dict[str, PersonalModel]:
    return {USER: local(weight=None), EMPTY: local([], weight=None)}


def check_text(call: Caller, form: Format, body: bytes, models: dict[str, PersonalModel]) -> Reply:
    reply = call("POST", "/v1/score", body, content_type=TYPES[form])
    if reply.status == 200:
        assert_right(SCORE_TEXT[form][1](body), arrays(reply), models)
    else:
        assert REFUSALS.get(reply.json["error"]) == reply.status, (reply.json, body)
    return reply


# the tests


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_http(form: Format, served: ServedProcess, models: dict[str, PersonalModel]) -> None:
    call = Caller(served.http)
    answered = set()

    @fuzzed
    @given(body=SCORE_TEXT[form][0])
    def send(body: bytes) -> None:
        answered.add(check_text(call, form, body, models).status)

    send()
    assert answered >= {200, 400, 422}  # it was no idle exercise
    call.close()


def read_message(body: bytes) -> Fields | None:
    try:
        message = scorer_pb2.ScoreRequest.FromString(body)
    except DecodeError:
        return None
    fields: Fields = {"user": message.user, "vocabulary": message.vocabulary}
    fields["dense"], fields["compact"] = message.dense, message.compact
    rows = {"lengths": list(message.histories.lengths), "data": message.histories.data}
    fields["histories"] = rows
    if message.HasField("candidates"):
        found = message.candidates
        fields["candidates"] = {"shape": [found.n, found.k], "data": found.data}
    if message.HasField("top_k"):
        fields["top_k"] = message.top_k
    if message.HasField("positions"):
        places = message.positions
        fields["positions"] = {"shape": [len(places) // 4], "data": places}
    return fields


def assert_refused(status: object, code: str | None) -> None:
    assert code in REFUSALS
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    wanted = exhausted if code in EXHAUSTED else grpc.StatusCode.INVALID_ARGUMENT
    assert status in (wanted, wanted.value[0])


def assert_answered(body: bytes, answer: scorer_pb2.ScoreAnswer, models: Any) -> None:
    fields = read_message(body)
    assert fields is not None
    assert_right(fields, answer_arrays(answer, fields), models)


def test_grpc_unary(served: ServedProcess, models: dict[str, PersonalModel]) -> None:
    call = GrpcCaller(served.grpc)
    answered = set()

    @fuzzed
    @given(body=MESSAGES)
    def send(body: bytes) -> None:
        try:
            reply = call("Score", body)
        except CallRefusedError as error:
            assert_refused(error.status, error.code)
            answered.add(error.code)
        else:
            assert_answered(body, scorer_pb2.ScoreAnswer.FromString(reply), models)
            answered.add("ok")

    send()
    assert answered >= {"ok", "malformed_body", "invalid_request"}
    call.close()


def test_grpc_stream(served: ServedProcess, models: dict[str, PersonalModel]) -> None:
    """All go by one stream, and after each a sound request is answered as ever."""
    call = GrpcCaller(served.grpc)
    sound_one = in_protobuf(
        {"user": USER, "vocabulary": FINGERPRINT, "histories": HISTORIES, "dense": True}
    )
    stream = GrpcStream(call.channel, timeout=600)

    @fuzzed
    @given(body=MESSAGES)
    def send(body: bytes) -> None:
        stream.send(body)
        stream.send(sound_one)
        reply, after = stream.receive(), stream.receive()
        if reply.HasField("problem"):
            assert_refused(reply.problem.status, reply.problem.code)
        else:
            assert_answered(body, reply.answer, models)
        assert_answered(sound_one, after.answer, models)

    send()
    stream.send(None)
    call.close()


@pytest.mark.parametrize("call", ["GetUser", "GetModel", "Forget"])
def test_the_other_calls(call: str, served: ServedProcess) -> None:
    """Refused, or found nothing; nobody's model is deleted by accident."""
    caller = GrpcCaller(served.grpc)
    sound_one = scorer_pb2.GetModelRequest(user="nobody", unless=3).SerializeToString()
    refusals = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}

    @fuzzed
    @given(body=damaged(st.just(sound_one)))
    def send(body: bytes) -> None:
        with pytest.raises(CallRefusedError) as caught:
            caller(call, body)
        assert caught.value.status in refusals
        assert caught.value.code in ("malformed_body", "invalid_user", "unknown_user")

    send()
    caller.close()


DEEP = 100_000
BOMBS: dict[str, tuple[Format, bytes]] = {
    "lists in lists in JSON": ("json", b"[" * DEEP),
    "maps in maps in JSON": ("json", b'{"a":' * DEEP),
    "lists in lists in msgpack": ("msgpack", b"\x91" * DEEP),
    "a list of 2³² in msgpack": ("msgpack", b"\xdd\xff\xff\xff\xff"),
    "a map of 2³² in msgpack": ("msgpack", b"\xdf\xff\xff\xff\xff"),
    "data of 2³² in msgpack": ("msgpack", b"\xc6\xff\xff\xff\xff"),
    "a number of many digits": ("json", b'{"user": ' + b"9" * DEEP + b"}"),
    "an extension": ("msgpack", b"\xc7\x04\x05abcd"),
    "a time": ("msgpack", b"\xd6\xff\x00\x00\x00\x00"),
    "half a character": ("json", b'{"user": "\\ud800", "vocabulary": "", "histories": []}'),
    "another encoding": ("json", '{"user": "ü"}'.encode("utf-16")),
}


def test_bombs(served: ServedProcess, models: dict[str, PersonalModel]) -> None:
    call = Caller(served.http)
    for name, (form, body) in BOMBS.items():
        assert check_text(call, form, body, models).status in (400, 422), name
    call.close()
