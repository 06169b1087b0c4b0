"""Messages that are learned through the service: by every transport, visible on every replica."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis

import perslm
from builders.hygiene import MOST_TOKENS
from perslm.blob import Metadata, encode
from perslm.cli.learning import Prepare
from perslm.counts import Specials, count
from perslm.errors import ArgumentError, ServiceError
from perslm.rules import Rules
from perslm.store import Pending, Store, open_store
from perslm.v1 import scorer_pb2
from perslm.vocabulary import Vocabulary
from service import keyfile
from service.audit import Pseudonyms
from service.core import ScoreRequest, ScoringService
from service.gate import OverloadedError
from service.settings import Settings
from tests.service.grpc_server import CallRefusedError, GrpcCaller, RunningServer
from tests.service.server import Caller, running
from tests.service.support import USER, settings

WORDS = "the power desk needs new figures by noon please send them to us today . , zephyr"
VOCABULARY = Vocabulary.from_words(WORDS.split())
FINGERPRINT = VOCABULARY.fingerprint
SPECIALS = Specials(VOCABULARY.size, VOCABULARY.bos, VOCABULARY.eos)
MAIL = "The power desk needs the new figures by noon. Please send them to us today."
LEARNED = "Please send the zephyr figures to the power desk by noon today."
PATH = f"/v1/users/{USER}/messages"


def fields(number: int = 1, body: str = LEARNED, **more: Any) -> dict[str, Any]:
    return {
        "message_id": f"<{number}@example.com>",
        "date": "2026-01-31T09:30:00Z",
        "from": f"Engineer <{USER}>",
        "to": ["Desk <desk@example.com>"],
        "subject": "Figures",
        "body": body,
        **more,
    }


def publish(store: Store, user: str = USER, **more: Any) -> int:
    store.put_vocabulary(VOCABULARY.to_bytes(), FINGERPRINT)
    counts = count(VOCABULARY.encode(MAIL), 3, SPECIALS)
    blob = encode(counts, Metadata(FINGERPRINT, 1))
    return store.publish(
        user, blob, parent=store.head(user), vocabulary=FINGERPRINT, messages=1, **more
    )


@pytest.fixture
def ready(store: Store) -> Store:
    """A store with the vocabulary, and a model of it for one user: the second generation."""
    publish(store)
    return store


def service_of(store: Store, limits: Settings | None = None) -> ScoringService:
    return ScoringService(store, limits or settings(), prepare=Prepare())


@contextmanager
def http(store: Store, limits: Settings | None = None) -> Iterator[str]:
    limits = limits or settings()
    with running(limits, store, service=service_of(store, limits)) as url:
        yield url


@contextmanager
def grpc(store: Store, limits: Settings | None = None) -> Iterator[str]:
    limits = limits or settings()
    with RunningServer(limits, store, service_of(store, limits)) as server:
        yield server.url


def seen(service: ScoringService, word: str = "zephyr") -> float:
    """The personal log-probability of a word at the beginning of a sentence."""
    (sequence,) = VOCABULARY.encode(word)
    asked = ScoreRequest(USER, FINGERPRINT, [[VOCABULARY.bos]], [[sequence.ids[0]]])
    return float(service.score(asked).logprobs[0, 0])


# By every transport

Learn = Callable[[dict[str, Any]], str]


@contextmanager
def by_client(url: str) -> Iterator[Learn]:
    with perslm.Client(url, timeout=30) as client:
        yield lambda message: client.learn(USER, message)


@contextmanager
def by_async_client(url: str) -> Iterator[Learn]:
    async def learn(message: dict[str, Any]) -> str:
        async with perslm.AsyncClient(url, timeout=30) as client:
            return await client.learn(USER, message)

    yield lambda message: asyncio.run(learn(message))


@pytest.mark.parametrize("serve", [http, grpc])
@pytest.mark.parametrize("client", [by_client, by_async_client])
def test_what_is_sent_is_learned_once(serve: Any, client: Any, ready: Store) -> None:
    service = service_of(ready)
    assert seen(service) == float("-inf")
    with serve(ready) as url, client(url) as learn:
        assert learn(fields()) == "learned"
        assert seen(service) > float("-inf")
        assert learn(fields()) == "known"
        assert learn(fields(2)) == "learned"
        assert learn(fields(3, body="> quoted only")) == "nothing"
        raw = f"From: {USER}\nDate: Sat, 31 Jan 2026 09:30:00 +0000\n\nThe zephyr desk today.\n"
        assert learn({"raw": raw}) == learn({"body": LEARNED * 2}) == "learned"
        assert learn({"raw": raw.encode()}) == "known"
        assert learn({"body": LEARNED * 2}) == "known", "by its content"
        ready.set_rules(USER, Rules(opted_out=True))
        assert learn(fields(4)) == "opted_out"
        for wrong in ({"body": 5}, {"subject": "no body"}, {"body": "", "to": [1]}):
            with pytest.raises(ArgumentError, match="message"):
                learn(wrong)
    assert ready.head(USER).pending == 4
    (one, *_) = ready.pending(USER)
    assert (one.sent, one.vocabulary) == (0.0, FINGERPRINT)


def test_the_answers_of_http(ready: Store) -> None:
    with http(ready, settings(max_body_bytes=2000)) as url:
        call = Caller(url)

        def post(body: bytes, kind: str = "application/json", path: str = PATH) -> Any:
            return call("POST", path, body, content_type=kind)

        whole = json.dumps(fields()).encode()
        reply = post(whole)
        assert (reply.status, reply.json) == (200, {"status": "learned", "reason": "ok"})
        reply = post(json.dumps(fields(2, body="> quoted only")).encode())
        assert reply.json == {"status": "nothing", "reason": "no_own_words"}
        for body, kind, path, status, code in (
            (b"{", "application/json", PATH, 400, "malformed_body"),
            (b"[]", "application/json", PATH, 400, "malformed_body"),
            (b"{}", "application/json", PATH, 422, "invalid_message"),
            (whole, "text/plain", PATH, 415, "unsupported_media_type"),
            (b" " * 2001, "application/json", PATH, 413, "body_too_large"),
            (whole, "application/json", f"/v1/users/{'x' * 257}/messages", 422, "invalid_user"),
        ):
            reply = post(body, kind, path)
            assert (reply.status, reply.json["error"]) == (status, code)
            assert "zephyr" not in reply.body.decode()
            assert USER not in reply.body.decode()


def test_the_answers_of_grpc(ready: Store) -> None:
    with grpc(ready) as url:
        call = GrpcCaller(url)

        def add(**more: Any) -> scorer_pb2.Learned:
            asked = scorer_pb2.AddMessageRequest(user=USER, **more)
            return scorer_pb2.Learned.FromString(call("AddMessage", asked))

        assert add(message_id="<1@x>", body=LEARNED) == scorer_pb2.Learned(
            status="learned", reason="ok"
        )
        assert add(message_id="<1@x>", body=LEARNED).status == "known"
        with pytest.raises(CallRefusedError) as caught:
            add(subject="no body")
        assert caught.value.code == "invalid_message"
        asked = scorer_pb2.GetModelRequest(user=USER, unless=1)
        model = scorer_pb2.Model.FromString(call("GetModel", asked))
        assert not model.unchanged
        asked = scorer_pb2.GetModelRequest(user=USER, unless_tag=model.tag)
        assert scorer_pb2.Model.FromString(call("GetModel", asked)).unchanged


def test_dates_that_are_none_are_not_learned(ready: Store) -> None:
    dates = ("NaN", "Infinity", "1e300", "9" * 400, "9999-12-31T23:59:59-14:00", "0001-01-01")
    for serve in (http, grpc):
        with serve(ready) as url, perslm.Client(url, timeout=30) as client:
            for number, date in enumerate(dates):
                assert client.learn(USER, fields(number, date=date)) in ("learned", "known")
            raw = f"From: {USER}\nDate: {'9' * 40}\n\nThe zephyr desk today.\n"
            assert client.learn(USER, {"raw": raw}) in ("learned", "known")
    assert {one.sent for one in ready.pending(USER)} == {0.0}
    assert seen(service_of(ready)) > float("-inf")


@pytest.mark.parametrize("sent", [math.nan, math.inf, 1e300])
def test_a_time_that_is_none_is_an_invalid_message(ready: Store, sent: float) -> None:
    def prepare(fields: Mapping[str, object], user: str, vocabulary: Vocabulary) -> Pending:
        return Pending(b"m1", sent, (), tuple(vocabulary.encode(LEARNED)))

    service = ScoringService(ready, settings(), prepare=prepare)
    with running(settings(), ready, service=service) as url:
        body = json.dumps(fields()).encode()
        reply = Caller(url)("POST", PATH, body, content_type="application/json")
        assert (reply.status, reply.json["error"]) == (422, "invalid_message")
    service = ScoringService(ready, settings(), prepare=prepare)
    with RunningServer(settings(), ready, service) as server:
        asked = scorer_pb2.AddMessageRequest(user=USER, body=LEARNED)
        with pytest.raises(CallRefusedError) as caught:
            GrpcCaller(server.url)("AddMessage", asked)
        assert caught.value.code == "invalid_message"
    assert ready.pending(USER) == []


def test_a_stored_time_that_is_none_is_no_model(ready: Store, raw_store: redis.Redis) -> None:
    sequences = [[s.opens, s.closes, s.ids] for s in VOCABULARY.encode(LEARNED)]
    data = msgpack.packb([FINGERPRINT, math.nan, [], sequences])
    raw_store.hset(f"perslm:pending:{{{USER}}}", "m1", data)
    service = service_of(ready)
    asked = ScoreRequest(USER, FINGERPRINT, [[VOCABULARY.bos]], [[0]])
    assert service.score(asked).reason == "bad_blob"


@pytest.mark.parametrize(("serve", "status"), [(http, 501), (grpc, 404)])
def test_a_service_that_cannot_clean_says_so(serve: Any, status: int, ready: Store) -> None:
    limits = settings()
    with ExitStack() as stack:
        if serve is http:
            url = stack.enter_context(running(limits, ready))
        else:
            url = stack.enter_context(RunningServer(limits, ready)).url
        client = stack.enter_context(perslm.Client(url, timeout=30))
        with pytest.raises(ServiceError, match="learning_unavailable") as caught:
            client.learn(USER, fields())
        assert caught.value.status == status
        assert client.info(USER)["pending"] == 0


def test_a_store_without_vocabulary_names_the_remedy(store: Store) -> None:
    path, body = "/v1/users/newcomer/messages", json.dumps(fields()).encode()
    with http(store) as url:
        reply = Caller(url)("POST", path, body, content_type="application/json")
        assert (reply.status, reply.json["error"]) == (409, "no_vocabulary")
        assert "perslm build" in reply.json["message"]
        store.put_vocabulary(VOCABULARY.to_bytes(), FINGERPRINT)
        with perslm.Client(url, timeout=30) as client:
            assert client.learn("newcomer", fields()) == "learned"
            info = client.info("newcomer")
    assert (info["generation"], info["pending"], info["messages"]) == (1, 1, 1)
    assert info["tokens"] > 0
    assert info["vocabulary"] == FINGERPRINT


def test_too_many_wait_for_a_build(ready: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perslm._store_learning.MOST_PENDING", 1)
    with http(ready) as url, perslm.Client(url, timeout=30) as client:
        assert client.learn(USER, fields()) == "learned"
        with pytest.raises(ServiceError, match="too_many_pending") as caught:
            client.learn(USER, fields(2))
        assert caught.value.status == 409


# Who may, and what is written down


def test_who_may_write(ready: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = tmp_path / "keys.json"
    tokens = {
        scope: keyfile.create(keys, scope, [scope])[0] for scope in ("write", "score", "admin")
    }
    own = keyfile.create(keys, "own", ["write"], user=USER)[0]
    limits = settings(keys=str(keys))
    caplog.set_level("INFO", "perslm.audit")
    for serve in (http, grpc):
        with serve(ready, limits) as url:
            for scope, token in tokens.items():
                with perslm.Client(url, token=token, timeout=30) as client:
                    if scope == "write":
                        assert client.learn(USER, fields()) in ("learned", "known")
                        continue
                    with pytest.raises(ServiceError, match="forbidden"):
                        client.learn(USER, fields(2))
            with perslm.Client(url, token=own, timeout=30) as client:
                assert client.learn(USER, fields()) == "known"
                with pytest.raises(ServiceError, match="forbidden"):
                    client.learn("somebody else", fields(2))
    records = [json.loads(record.message) for record in caplog.records]
    told = [(record["action"], record["outcome"]) for record in records]
    assert told == 2 * [
        ("learn", "ok"), ("learn", "forbidden"), ("learn", "forbidden"), ("learn", "ok"),
        ("learn", "forbidden"),
    ]  # fmt: skip
    assert records[0]["user"] == Pseudonyms(limits).of("default", USER)
    assert "zephyr" not in caplog.text
    assert USER not in caplog.text


def test_learned_messages_are_counted(ready: Store) -> None:
    service = service_of(ready)
    with running(settings(), ready, service=service) as url:
        with perslm.Client(url, timeout=30) as client:
            for number in (1, 1, 2):
                client.learn(USER, fields(number))
        text = Caller(url)("GET", "/metrics").body.decode()
    for reason, number in (("learned", 2.0), ("known", 1.0)):
        labels = f'{{reason="{reason}",route="learn",status="ok",transport="http"}}'
        assert f"perslm_requests_total{labels} {number}" in sorted_labels(text)


def sorted_labels(text: str) -> list[str]:
    """The lines of metrics, their labels in the order of the alphabet."""
    lines = []
    for line in text.splitlines():
        name, brace, rest = line.partition("{")
        labels, _, value = rest.partition("}")
        lines.append(f"{name}{{{','.join(sorted(labels.split(',')))}}}{value}" if brace else line)
    return lines


# What readers see


def test_who_fetches_models_gets_the_new_one(ready: Store) -> None:
    word = VOCABULARY.encode("zephyr")[0].ids[0]
    for serve in (http, grpc):
        ready.forget(USER)
        publish(ready)
        with serve(ready) as url, perslm.Client(url, timeout=30) as client:
            before = client.fetch(USER, VOCABULARY)
            assert client.fetch(USER, VOCABULARY) is before
            client.learn(USER, fields())
            after = client.fetch(USER, VOCABULARY)
            assert after is not before
            assert word not in before.events
            assert word in after.events
            assert client.fetch(USER, VOCABULARY) is after


def test_etags_change_with_what_is_learned_and_blocked(ready: Store) -> None:
    service = service_of(ready, settings(fresh_seconds=0.0))
    tags = []
    for step in (
        lambda: None,
        lambda: service.learn(USER, fields()),
        lambda: service.learn(USER, fields(2)),
        lambda: ready.set_rules(USER, Rules().block(["zephyr"], [VOCABULARY])),
        lambda: ready.set_rules(None, Rules().block(["noon"], [VOCABULARY])),
        lambda: publish(ready, folded=[m.mark for m in ready.pending(USER)]),
    ):
        step()
        found = service.blob(USER)
        assert not isinstance(found, str)
        tags.append(found.tag)
        assert service.blob(USER, unless=found.tag) == found.tag
    assert len(set(tags)) == len(tags)
    assert tags[0] == "2"


def test_another_replica_sees_it_when_its_entry_is_due(ready: Store) -> None:
    one, other = service_of(ready), service_of(ready)
    assert seen(other) == float("-inf")
    one.learn(USER, fields())
    assert seen(other) > float("-inf")
    assert one.model(USER).pending == other.model(USER).pending == 1
    assert one.model(USER).generation == 2


def test_another_replica_is_told(ready: Store, store_url: str) -> None:
    """Entries that would be fresh for an hour: only an announcement can make the difference."""
    heard = threading.Event()
    with open_store(store_url) as second:
        one, other = service_of(ready), service_of(second, settings(fresh_seconds=3600.0))
        watched = other._cache._hear

        def hear(change: Any) -> None:
            watched(change)
            if change.kind in ("gap", "learn", "rules"):
                heard.set()

        other._cache._hear = hear  # type: ignore[method-assign]
        with other.following():
            assert heard.wait(30)
            assert seen(other) == float("-inf")
            for change in (
                lambda: one.learn(USER, fields()),
                lambda: ready.set_rules(USER, Rules().block(["zephyr"], [VOCABULARY])),
            ):
                heard.clear()
                before = seen(other)
                change()
                assert heard.wait(30)
                while seen(other) == before:  # it is loaded behind
                    pass


def test_what_is_blocked_or_opted_out_is_not_used(ready: Store) -> None:
    service = service_of(ready)
    service.learn(USER, fields())
    assert seen(service) > float("-inf")
    ready.set_rules(USER, Rules().block(["zephyr"], [VOCABULARY]))
    assert seen(service) == float("-inf")
    assert seen(service, "today") > float("-inf")
    ready.set_rules(USER, Rules())
    assert seen(service) > float("-inf")
    ready.set_rules(None, Rules().block(["zephyr"], [VOCABULARY]))
    assert seen(service) == float("-inf")
    ready.set_rules(None, Rules())
    ready.set_rules(USER, Rules(opted_out=True))
    asked = ScoreRequest(USER, FINGERPRINT, [[VOCABULARY.bos]], [[5]])
    assert service.score(asked).reason == "unknown_user"


def test_no_more_of_a_message_is_kept_than_a_build_counts() -> None:
    whole = Prepare()(fields(body=LEARNED), USER, VOCABULARY)
    long = Prepare()(fields(body=" ".join([LEARNED] * 300)), USER, VOCABULARY)
    assert isinstance(whole, Pending)
    assert isinstance(long, Pending)
    (sentence,) = whole.sequences
    assert set(long.sequences[:-1]) == {sentence}
    assert sum(len(sequence.ids) for sequence in long.sequences) == MOST_TOKENS
    cut = long.sequences[-1]
    assert cut.ids == sentence.ids[: len(cut.ids)]
    assert cut.closes == (len(cut.ids) == len(sentence.ids))


def test_who_is_deleted_meanwhile_does_not_come_back(ready: Store) -> None:
    prepare = Prepare()

    def slow(message: Any, user: str, vocabulary: Vocabulary) -> Any:
        ready.forget(USER)
        return prepare(message, user, vocabulary)

    service = ScoringService(ready, settings(), prepare=slow)
    learned = service.learn(USER, fields())
    assert (learned.status, learned.reason) == ("nothing", "forgotten")
    assert ready.head(USER).generation == 0


def test_learning_leaves_room_for_scoring(ready: Store) -> None:
    begun, gate = threading.Event(), threading.Event()
    prepare = Prepare()

    def slow(message: Any, user: str, vocabulary: Vocabulary) -> Any:
        begun.set()
        assert gate.wait(30)
        return prepare(message, user, vocabulary)

    service = ScoringService(ready, settings(max_inflight=2), prepare=slow)
    first = threading.Thread(target=service.learn, args=(USER, fields()))
    first.start()
    try:
        assert begun.wait(30)
        with pytest.raises(OverloadedError):
            service.of_tenant("acme").learn(USER, fields(2))
        assert seen(service, "today") > float("-inf")
    finally:
        gate.set()
        first.join(30)
    assert service.learn(USER, fields(2)).status == "learned"
