"""What /openapi.json says, held against a running service by schemathesis.

Requests are made of the document, sound ones and unsound ones; each answer must be one that the
document knows: its status, content type, headers and body. Which sound requests are refused all the
same a JSON schema cannot tell (all rows equally long, ids of the vocabulary, 256 bytes rather than
characters), so that one check is left out. So is the one for server errors, which knows only that
there should be none: 503 and 504 are sound answers to a service that is full and to a caller that
waits for a millisecond. That there is no 500 is asserted here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from perslm.store import Pending, Store
from perslm.vocabulary import Sequence, Vocabulary
from service import keyfile, openapi
from service.core import ScoringService
from service.http import create_app
from tests.service.server import Caller, running
from tests.service.support import FINGERPRINT, USER, settings

NOT_TOLD = [positive_data_acceptance, not_a_server_error]
USERS = ("nobody", USER, USER, "broken/blob", "a/b c%", "ö" * 128)
SCORES = openapi.SCORE["requestBody"]["content"]["application/json"]["examples"]
SOUND = {"/v1/score": [one["value"] for one in SCORES.values()]}  # those of a document are rarely
ROUTES = [
    ("POST", "/v1/score"),
    ("GET", "/v1/users/{user}/model"),
    ("POST", "/v1/users/{user}/messages"),
    ("GET", "/v1/users/{user}"),
    ("DELETE", "/v1/users/{user}"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
]


WORDS = Vocabulary.from_words(["the", "power"])


def prepare(fields: Mapping[str, object], user: str, vocabulary: Vocabulary) -> Pending | str:
    """Learn the same of every message, or nothing of one without a body."""
    if not fields.get("body"):
        return "no_own_words"
    mark = repr(sorted(fields.items())).encode()[:64]
    return Pending(mark, 5.0, (mark,), (Sequence((2, 3), opens=True, closes=True),))


@pytest.fixture(params=["open", "keys"])
def served(
    request: pytest.FixtureRequest, store: Store, tmp_path: Path
) -> Iterator[tuple[str, dict[str, str]]]:
    """A service that asks for nothing, and one that asks for keys: its URL, and what to send."""
    headers: dict[str, str] = {}
    limits: dict[str, Any] = {}
    if request.param == "keys":
        path = tmp_path / "keys.json"
        token, _ = keyfile.create(path, "all", list(keyfile.SCOPES))
        headers["Authorization"] = f"Bearer {token}"
        limits["keys"] = str(path)
    store.put_vocabulary(WORDS.to_bytes(), FINGERPRINT)
    service = ScoringService(store, settings(**limits), prepare=prepare)
    with running(settings(**limits), store, service=service) as url:
        yield url, headers


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_the_service_does_what_its_document_says(
    method: str, path: str, served: tuple[str, dict[str, str]]
) -> None:
    url, headers = served
    operation = schemathesis.openapi.from_url(f"{url}/openapi.json")[path][method]
    cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in GenerationMode))
    statuses = set()
    sound = SOUND.get(path, [])

    @given(case=cases, data=st.data())
    @hypothesis_settings(
        max_examples=60,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case, data: st.DataObject) -> None:
        if case.path_parameters and data.draw(st.integers(0, 3)):
            case.path_parameters["user"] = data.draw(st.sampled_from(USERS))
        if isinstance(case.body, dict) and data.draw(st.booleans()):
            case.body |= {"user": USER, "vocabulary": FINGERPRINT}
        if sound and not data.draw(st.integers(0, 5)):
            case.body = data.draw(st.sampled_from(sound))
        sent = headers if data.draw(st.integers(0, 3)) else {}
        response = case.call_and_validate(headers=sent, excluded_checks=NOT_TOLD, timeout=30)
        assert response.status_code < 500 or response.status_code in (503, 504)
        statuses.add(response.status_code)

    check()
    assert statuses & {200, 204}
    if headers and path not in ("/healthz", "/readyz"):
        assert 401 in statuses


def test_the_document_is_one(store: Store) -> None:
    limits = settings()
    document = create_app(limits, ScoringService(store, limits)).openapi()
    schemathesis.openapi.from_dict(document).validate()
    told = [
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods
    ]
    assert sorted(told) == sorted(ROUTES)


@pytest.mark.parametrize("name", SCORES)
def test_the_examples_are_requests(name: str, store: Store) -> None:
    with running(settings(), store) as url:
        call = Caller(url)
        reply = call.score(SCORES[name]["value"], "json")
        assert reply.status == 200
        assert reply.json["status"] == "vocabulary_mismatch"
        known = {**SCORES[name]["value"], "vocabulary": FINGERPRINT, "histories": [[0, 2]]}
        if "candidates" in known:
            known["candidates"] = [[2, 3]]
        assert json.loads(call.score(known, "json").body)["status"] == "ok"
        call.close()
