"""Loading models from a store, its vocabularies, and how it is opened."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest
import redis

from perslm.blob import Metadata, encode
from perslm.counts import Specials, count
from perslm.errors import (
    ArgumentError,
    BlobError,
    NoModelError,
    StoreError,
    StoreUnavailableError,
    VocabularyMismatchError,
)
from perslm.model import NullModel, PersonalModel
from perslm.store import Head, Store, open_store
from perslm.vocabulary import Vocabulary
from tests.support import Seq
from tests.unit.test_store import USER, publish

# Vocabularies


def test_a_vocabulary_is_kept_once_and_compressed(store: Store, raw_store: redis.Redis) -> None:
    data = b"the same words " * 1000
    assert store.vocabulary("f1") is None
    store.put_vocabulary(data, "f1")
    store.put_vocabulary(b"something else", "f1")
    assert store.vocabulary("f1") == data
    assert raw_store.strlen("perslm:vocabulary:f1") == len(zlib.compress(data))
    assert list(store.users()) == []


def test_a_damaged_vocabulary_names_its_key(store: Store, raw_store: redis.Redis) -> None:
    raw_store.set("perslm:vocabulary:f1", b"not zlib")
    with pytest.raises(StoreError, match="perslm:vocabulary:f1"):
        store.vocabulary("f1")


def test_a_vocabulary_that_would_fill_the_memory(
    store: Store, raw_store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw_store.set("perslm:vocabulary:f1", zlib.compress(b"a" * 1001))
    assert store.vocabulary("f1") == b"a" * 1001
    monkeypatch.setattr("perslm._store_learning.VOCABULARY_BYTES", 1000)
    with pytest.raises(StoreError, match="perslm:vocabulary:f1"):
        store.vocabulary("f1")
    with pytest.raises(ArgumentError, match="1000 bytes"):
        store.put_vocabulary(b"a" * 1001, "f2")
    store.put_vocabulary(b"a" * 1000, "f2")
    assert store.vocabulary("f2") == b"a" * 1000


def test_a_vocabulary_that_was_cut_off(store: Store, raw_store: redis.Redis) -> None:
    raw_store.set("perslm:vocabulary:f1", zlib.compress(b"the same words " * 1000)[:-6])
    with pytest.raises(StoreError, match="perslm:vocabulary:f1"):
        store.vocabulary("f1")


@pytest.mark.parametrize("fingerprint", ["", "a b", "a{b}", "x" * 129])
def test_what_is_not_a_fingerprint(store: Store, fingerprint: str) -> None:
    with pytest.raises(ArgumentError, match="fingerprint"):
        store.vocabulary(fingerprint)


# Loading models

VOCABULARY = Vocabulary.from_words(["the", "power", "desk"])


def model_blob(fingerprint: str) -> bytes:
    specials = Specials(VOCABULARY.size, VOCABULARY.bos, VOCABULARY.eos)
    return encode(count([Seq([3, 4], True, True)], 2, specials), Metadata(fingerprint))


def test_load_gives_a_model_that_scores(store: Store) -> None:
    publish(store, model_blob(VOCABULARY.fingerprint))
    for vocabulary in (None, VOCABULARY, VOCABULARY.fingerprint):
        model = store.load(USER, vocabulary=vocabulary)
        assert isinstance(model, PersonalModel)
        assert model.generation == 1
        assert model.weights(model.states([[3]]))[0] > 0


def refused(store: Store, error: type[Exception], **arguments: Any) -> str:
    with pytest.raises(error):
        store.load(USER, strict=True, **arguments)
    model = store.load(USER, **arguments)
    assert isinstance(model, NullModel)
    return model.reason


def test_load_with_a_weight(store: Store) -> None:
    publish(store, model_blob(VOCABULARY.fingerprint))
    assert store.load(USER).weight is None
    assert store.load(USER, weight=0.75).weight == 0.75
    assert store.load(USER, weight=0).weight == 0
    with pytest.raises(ArgumentError):
        store.load(USER, weight=2)


def test_load_of_nobody(store: Store) -> None:
    assert refused(store, NoModelError) == "unknown_user"


def test_load_of_a_damaged_blob(store: Store) -> None:
    publish(store, model_blob(VOCABULARY.fingerprint)[:-1])
    assert refused(store, BlobError) == "bad_blob"


def test_load_with_another_vocabulary(store: Store) -> None:
    publish(store, model_blob("ab" * 16))
    assert refused(store, VocabularyMismatchError, vocabulary=VOCABULARY) == "vocabulary_mismatch"


def test_load_of_a_blob_that_claims_another_size(store: Store) -> None:
    specials = Specials(VOCABULARY.size + 1, VOCABULARY.bos, VOCABULARY.eos)
    counts = count([Seq([3, 4], True, True)], 2, specials)
    publish(store, encode(counts, Metadata(VOCABULARY.fingerprint)))
    assert refused(store, VocabularyMismatchError, vocabulary=VOCABULARY) == "vocabulary_mismatch"


def test_load_from_a_store_that_is_down(tmp_path: Path) -> None:
    with open_store(f"unix://{tmp_path}/nobody.sock") as store:
        assert refused(store, StoreUnavailableError) == "store_unavailable"


# Arguments


@pytest.mark.parametrize(
    "url",
    [
        "http://x",
        "redis:x",
        "redis://host:port",
        "redis://host:99999",
        "memory:",
        "/var/x",
        "unix:",
    ],
)
def test_what_is_not_a_url(url: str) -> None:
    with pytest.raises(ArgumentError):
        open_store(url)


def test_other_arguments_are_checked(store: Store) -> None:
    for arguments in (
        {"namespace": "a:b"},
        {"namespace": "a.b"},
        {"timeout": 0},
        {"keep_generations_seconds": -1},
    ):
        with pytest.raises(ArgumentError):
            open_store("redis://localhost", **arguments)
    with pytest.raises(ArgumentError, match="bytes"):
        store.publish(USER, "text", parent=Head(0, 0))
    with pytest.raises(ArgumentError, match="count from 1"):
        store.fetch(USER, generation=0)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:pass@host:6380/2", "redis://***@host:6380/2"),
        ("rediss://:pass@host?ssl_password=pass", "rediss://***@host"),
        ("unix://user:pass@/run/s.sock?password=pass", "unix://***@/run/s.sock"),
        ("redis+cluster://user:pass@host:7000", "redis+cluster://***@host:7000"),
    ],
)
def test_credentials_are_never_shown(url: str, shown: str) -> None:
    assert repr(open_store(url)) == f"Store('{shown}')"


def test_the_environment_names_the_default_store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PERSLM_STORE", "redis://elsewhere:1")
    assert open_store().location == "redis://elsewhere:1"
    assert open_store(f"embedded:{tmp_path}").location == f"embedded:{tmp_path}"
    monkeypatch.delenv("PERSLM_STORE")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert open_store().location == f"embedded:{tmp_path}/perslm/store"
    assert list(tmp_path.iterdir()) == [], "opening touches nothing"


def test_a_closed_store_says_so(store_url: str) -> None:
    with open_store(store_url) as store:
        store.ping()
    with pytest.raises(StoreUnavailableError, match="closed"):
        store.ping()
