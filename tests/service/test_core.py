"""The service without a transport: answers, limits, and what becomes of every failure."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from perslm.errors import BlobError, NoModelError, StoreUnavailableError
from perslm.store import Store, open_store
from service.core import ModelBlob, RequestError, ScoreRequest, ScoringService
from tests.service.support import (
    BROKEN,
    EMPTY,
    EOS,
    FINGERPRINT,
    HISTORIES,
    MAIL,
    NEW_MAIL,
    OTHER_FINGERPRINT,
    REFUSED,
    SCORED,
    SIZE,
    TIGHT,
    USER,
    Case,
    assert_same,
    blob_of,
    expected,
    local,
    publish,
    settings,
)


def request(case: Case, **changes: object) -> ScoreRequest:
    fields = {"user": USER, "vocabulary": FINGERPRINT, "histories": HISTORIES}
    return ScoreRequest(**{**fields, **case, **changes})


@pytest.mark.parametrize("name", SCORED)
def test_scores_are_those_of_the_model(name: str, store: Store) -> None:
    answer = ScoringService(store, settings()).score(request(SCORED[name]))
    assert (answer.status, answer.reason) == ("ok", "ok")
    assert (answer.generation, answer.order) == (1, 3)
    wanted = expected(SCORED[name], local())
    assert_same(answer.weights, wanted["weights"])
    assert_same(answer.logprobs, wanted["logprobs"])
    if "ids" in wanted:
        assert answer.ids is not None
        assert_same(answer.ids, wanted["ids"])
    else:
        assert answer.ids is None


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"user": "nobody"}, "no_model", "unknown_user"),
        ({"vocabulary": OTHER_FINGERPRINT}, "vocabulary_mismatch", "vocabulary_mismatch"),
        ({"user": BROKEN}, "degraded", "bad_blob"),
    ],
)
def test_without_a_model_nothing_is_harmed(
    changes: Case, status: str, reason: str, name: str, store: Store
) -> None:
    case = SCORED[name]
    answer = ScoringService(store, settings()).score(request(case, **changes))
    assert (answer.status, answer.reason, answer.generation) == (status, reason, 0)
    assert answer.weights.tolist() == [0.0] * len(HISTORIES)
    columns = len(case["candidates"][0]) if "candidates" in case else 0
    assert answer.logprobs.shape == (len(HISTORIES), columns)
    assert np.isneginf(answer.logprobs).all()


def test_a_user_who_wrote_nothing_has_a_model_without_weight(store: Store) -> None:
    answer = ScoringService(store, settings()).score(request({"dense": True}, user=EMPTY))
    assert answer.status == "ok"
    assert not answer.weights.any()
    assert answer.logprobs.shape == (len(HISTORIES), SIZE)


def test_a_weight_of_zero_is_an_exact_no_op(store: Store) -> None:
    answer = ScoringService(store, settings(weight=0.0)).score(request({"top_k": 2}))
    assert answer.status == "ok"
    assert_same(answer.weights, np.zeros(len(HISTORIES), np.float32))


def test_no_histories(store: Store) -> None:
    for case in SCORED.values():
        asked = {**case, "candidates": []} if "candidates" in case else case
        answer = ScoringService(store, settings()).score(request(asked, histories=[]))
        assert answer.weights.shape == (0,)
        assert len(answer.logprobs) == 0


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_answered_is_refused(name: str, store: Store) -> None:
    case, code = REFUSED[name]
    with pytest.raises(RequestError) as caught:
        ScoringService(store, settings(**TIGHT)).score(request(case))
    assert caught.value.code == code


def test_only_what_is_in_memory_and_small_is_quick(store: Store) -> None:
    service = ScoringService(store, settings(fresh_seconds=60))
    small_case = {"candidates": [[2, EOS]] * len(HISTORIES)}
    small = request(small_case)
    assert not service.is_quick(small)  # the store must be asked first
    service.score(small)
    assert service.is_quick(small)
    many = {"candidates": [[2] * 20000] * len(HISTORIES)}
    assert not service.is_quick(request(many))
    service.score(request(many, user="nobody"))
    assert service.is_quick(request(small_case, user="nobody"))
    assert not service.is_quick(request(many, user="nobody"))  # no scores, but as many values
    assert not service.is_quick(small, most=len(HISTORIES))


def test_metadata(store: Store) -> None:
    model = ScoringService(store, settings()).model(USER)
    info = store.info(USER)
    assert info is not None
    assert (model.order, model.generation, model.vocabulary_size) == (3, 1, SIZE)
    assert model.ngrams == (8, 13, 10)
    assert (model.bytes, model.created) == (info.bytes, 1735689600.0)
    assert (model.messages, model.tokens, model.vocabulary) == (5, 19, FINGERPRINT)


def test_whether_weights_are_by_state(store: Store) -> None:
    for user in (USER, EMPTY):
        assert not ScoringService(store, settings(weight=0.0)).model(user).weight_by_state
        assert ScoringService(store, settings(weight=None)).model(user).weight_by_state


def test_metadata_that_cannot_be_had(store: Store) -> None:
    service = ScoringService(store, settings())
    with pytest.raises(NoModelError):
        service.model("nobody")
    with pytest.raises(BlobError):
        service.model(BROKEN)
    with pytest.raises(RequestError):
        service.model("")
    with open_store("redis://127.0.0.1:1") as nowhere:
        away = ScoringService(nowhere, settings())
        with pytest.raises(StoreUnavailableError):
            away.model(USER)
        with pytest.raises(StoreUnavailableError):
            asyncio.run(away.check())
        assert away.score(request({"top_k": 1})).reason == "store_unavailable"


def test_the_blob_is_sent_only_if_it_changed(store: Store) -> None:
    service = ScoringService(store, settings())
    stored = ModelBlob(1, FINGERPRINT, "1", blob_of(MAIL))
    assert service.blob(USER) == stored
    assert service.blob(USER, unless="1") == "1"
    assert service.blob(USER, unless="7") == stored


def test_forgetting_takes_effect_at_once(store: Store) -> None:
    service = ScoringService(store, settings(fresh_seconds=3600))
    assert service.score(request({"top_k": 1})).status == "ok"
    service.forget(USER)
    assert service.score(request({"top_k": 1})).status == "no_model"
    assert store.fetch(USER) is None
    with pytest.raises(NoModelError):
        service.forget(USER)


def test_tenants_share_no_user(store: Store) -> None:
    ours = ScoringService(store, settings(fresh_seconds=3600))
    theirs = ours.of_tenant("acme")
    asked = request({"dense": True})
    assert ours.score(asked).status == "ok"
    assert not theirs.is_quick(asked)
    assert theirs.score(asked).reason == "unknown_user"
    with pytest.raises(NoModelError):
        theirs.forget(USER)
    with pytest.raises(NoModelError):
        theirs.blob(USER)
    publish(store.of_tenant("acme"), USER, blob_of(NEW_MAIL))
    theirs = theirs.of_tenant("default").of_tenant("acme")
    assert theirs.blob(USER) != ours.blob(USER)
    theirs.forget(USER)
    assert theirs.score(asked).reason == "unknown_user"
    assert ours.is_quick(asked)
    assert ours.score(asked).status == "ok"
    assert ours.model(USER).generation == 1
