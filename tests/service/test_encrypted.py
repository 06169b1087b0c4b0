"""The service on an encrypted store: the same scores, and nothing but the null where keys lack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import redis

from perslm import encryption
from perslm.store import Store, open_store
from tests.service.server import Caller, arrays, running
from tests.service.support import (
    FINGERPRINT,
    HISTORIES,
    MAIL,
    NEW_MAIL,
    SCORED,
    USER,
    assert_same,
    blob_of,
    expected,
    local,
    publish,
    settings,
)

PATH = f"/v1/users/{quote(USER, safe='')}"
OTHER = "somebody-else"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    encryption.create(tmp_path / "master.json")
    return tmp_path / "master.json"


@pytest.fixture
def sealed(store_url: str, key_file: Path) -> Iterator[Store]:
    with open_store(store_url, master_keys=key_file) as store:
        publish(store, USER, blob_of(MAIL))
        publish(store, OTHER, blob_of(NEW_MAIL))
        yield store


def ask(url: str, case: dict[str, object]) -> dict[str, object]:
    caller = Caller(url)
    try:
        fields = {"user": USER, "vocabulary": FINGERPRINT, "histories": HISTORIES, **case}
        reply = caller.score(fields, "msgpack")
        assert reply.status == 200
        return arrays(reply)
    finally:
        caller.close()


def harmless(url: str) -> None:
    for case in SCORED.values():
        answer = ask(url, case)
        assert (answer["status"], answer["reason"]) == ("degraded", "bad_blob")
        assert not np.any(answer["weights"])  # type: ignore[arg-type]


def test_scores_and_the_model_are_those_of_an_open_store(sealed: Store) -> None:
    with running(settings(), sealed) as url:
        for case in SCORED.values():
            answer, wanted = ask(url, case), expected(case, local())
            assert answer["reason"] == "ok"
            for name in wanted:
                assert_same(answer[name], wanted[name])  # type: ignore[arg-type]
        caller = Caller(url)
        reply = caller("GET", f"{PATH}/model")
        assert (reply.status, reply.body) == (200, blob_of(MAIL))
        caller.close()


def test_without_keys_or_with_moved_models_nobody_is_harmed(
    sealed: Store, store_url: str, raw_store: redis.Redis
) -> None:
    with open_store(store_url) as keyless, running(settings(), keyless) as url:
        harmless(url)
        caller = Caller(url)
        reply = caller("GET", f"{PATH}/model")
        assert (reply.status, reply.json["error"]) == (503, "bad_blob")
        assert caller("DELETE", PATH).status == 204, "to delete takes no keys"
        caller.close()
    publish(sealed, USER, blob_of(MAIL))
    with running(settings(), sealed) as url:
        assert ask(url, {"top_k": 3})["reason"] == "ok"
        others = raw_store.hget(f"perslm:head:{{{OTHER}}}", "b")
        assert isinstance(others, bytes)
        raw_store.hset(f"perslm:head:{{{USER}}}", "b", others)
    with running(settings(), sealed) as url:  # one that has not loaded it before
        harmless(url)


def test_keys_are_rotated_under_a_running_service(
    sealed: Store, store_url: str, key_file: Path
) -> None:
    with running(settings(cache_bytes=0), sealed) as url:
        old, _ = encryption.read(key_file)
        encryption.add(key_file)
        with open_store(store_url, master_keys=key_file) as store:
            for user in (USER, OTHER):
                assert store.protect(user) == "rewrapped"
        encryption.remove(key_file, old)
        assert ask(url, {"top_k": 3})["reason"] == "ok"
        assert ask(url, {"top_k": 3, "user": OTHER})["reason"] == "ok"
