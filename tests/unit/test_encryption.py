"""Encryption at rest: what the page says, read by other code; nothing altered or moved is accepted.

The file of master keys is in test_master_keys.py, ``perslm keys`` and rotation while others work in
tests/integration/test_rotation.py.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perslm import encryption
from perslm.errors import (
    ArgumentError,
    DecryptionError,
    NoModelError,
    PublishConflictError,
    StoreError,
)
from perslm.model import NullModel, PersonalModel
from perslm.store import Head, Store, open_store
from tests.unit.test_store import USER, keys_of, publish
from tests.unit.test_store_loading import VOCABULARY, model_blob

SECRET = b"the user's words, which nobody may read " * 10


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    encryption.create(tmp_path / "master.json")
    return tmp_path / "master.json"


@pytest.fixture
def sealed(store_url: str, key_file: Path) -> Iterator[Store]:
    """The store, opened with master keys."""
    with open_store(store_url, master_keys=key_file) as opened:
        yield opened


def everything(raw: redis.Redis) -> dict[bytes, object]:
    """Return all that the server has."""
    return {
        key: raw.hgetall(key) if raw.type(key) == b"hash" else raw.get(key)
        for key in raw.scan_iter()
    }


# An independent reader, from the description in perslm/encryption.py


def read_as_described(
    raw: redis.Redis, file: Path, namespace: str, user: str, generation: int
) -> bytes:
    content = json.loads(file.read_text())
    masters = {key["id"]: base64.b64decode(key["key"]) for key in content["keys"]}
    place = namespace.encode() + b"\0" + user.encode()
    wrapped = raw.hget(f"{namespace}:head:{{{user}}}", "k")
    assert isinstance(wrapped, bytes)
    assert len(wrapped) == 89
    assert wrapped[:5] == b"pslk\x01"
    master = AESGCM(masters[wrapped[21:29].hex()])
    data_key = master.decrypt(wrapped[29:41], wrapped[41:], wrapped[:21] + place)
    assert len(data_key) == 32
    place_of_it = f"{namespace}:head:{{{user}}}"
    if int(raw.hget(place_of_it, "g") or 0) != generation:
        place_of_it = f"{namespace}:slot:{{{user}}}:{generation % 8}"
    blob = raw.hget(place_of_it, "b")
    assert isinstance(blob, bytes)
    assert blob[:5] == b"psle\x01"
    assert blob[5:21] == wrapped[5:21]
    bound = blob[:21] + generation.to_bytes(8, "big") + place
    return AESGCM(data_key).decrypt(blob[21:33], blob[33:], bound)


def test_the_format_is_as_described(sealed: Store, raw_store: redis.Redis, key_file: Path) -> None:
    for tenant, namespace in (("default", "perslm"), ("acme", "perslm.acme")):
        store = sealed.of_tenant(tenant)
        for blob in (b"first " + SECRET, b"second " + SECRET):
            publish(store, blob)
        store.rollback(USER)
        for generation, start in ((1, b"first "), (2, b"second "), (3, b"first ")):
            found = read_as_described(raw_store, key_file, namespace, USER, generation)
            assert found == start + SECRET


def test_the_server_has_neither_blobs_nor_keys(
    sealed: Store, raw_store: redis.Redis, key_file: Path
) -> None:
    publish(sealed, SECRET)
    sealed.protect(USER, renew=True)
    publish(sealed, SECRET)
    all_of_it = repr(everything(raw_store)).encode("latin-1")
    assert SECRET[:20] not in all_of_it
    _, (master,) = encryption.read(key_file)
    data_key = sealed._master_keys.data_key(  # type: ignore[union-attr]
        raw_store.hget("perslm:head:{ada-l}", "k"), b"perslm\0ada-l"
    )
    for key in (master.key, data_key._key):
        assert repr(key)[2:-1].encode("latin-1") not in all_of_it
    for shown in (repr(master), repr(data_key), repr(sealed), repr(sealed._master_keys)):
        assert not any(secret in shown for secret in (repr(master.key), USER, repr(data_key._key)))


def test_equal_models_are_stored_differently(sealed: Store, raw_store: redis.Redis) -> None:
    for user in ("ann", "bob"):
        for _ in range(2):
            publish(sealed, SECRET, user)
    blobs = {raw_store.hget(key, "b") for key in keys_of(raw_store)}
    keys = {raw_store.hget(key, "k") for key in keys_of(raw_store, "head")}
    assert (len(blobs), len(keys)) == (4, 2)


def test_a_store_with_keys_scores_and_one_without_says_why_not(sealed: Store, store: Store) -> None:
    blob = model_blob(VOCABULARY.fingerprint)
    publish(sealed, blob)
    assert isinstance(sealed.load(USER, vocabulary=VOCABULARY), PersonalModel)
    stored = sealed.fetch(USER)
    assert stored is not None
    assert (stored.blob, stored.bytes) == (blob, len(blob))
    with pytest.raises(DecryptionError, match="PERSLM_MASTER_KEYS"):
        store.load(USER, strict=True)
    model = store.load(USER)
    assert isinstance(model, NullModel)
    assert model.reason == "bad_blob"
    assert store.info(USER) == sealed.info(USER)


def test_nobody_without_keys_publishes_or_rolls_back_an_encrypted_user(
    sealed: Store, store: Store, raw_store: redis.Redis
) -> None:
    publish(sealed, b"one")
    publish(sealed, b"two")
    before = everything(raw_store)
    for change in (lambda: publish(store, b"plain"), lambda: store.rollback(USER)):
        with pytest.raises(StoreError, match="PERSLM_MASTER_KEYS"):
            change()
    assert everything(raw_store) == before
    assert store.forget(USER)


def test_deletion_destroys_the_data_key(sealed: Store, raw_store: redis.Redis) -> None:
    publish(sealed, SECRET)
    wrapped = raw_store.hget("perslm:head:{ada-l}", "k")
    sealed.forget(USER)
    assert list(everything(raw_store)) == [b"perslm:fence:{ada-l}"]
    publish(sealed, SECRET)
    again = raw_store.hget("perslm:head:{ada-l}", "k")
    assert again[5:21] != wrapped[5:21]


# Nothing altered or moved is accepted


def refused(store: Store, user: str = USER, generation: int | None = None) -> str:
    with pytest.raises(DecryptionError) as caught:
        store.fetch(user, generation=generation)
    told = f"{caught.value!r} {caught.value}"
    assert user not in told
    assert "words" not in told
    model = store.load(user)
    if generation is None:
        assert isinstance(model, NullModel)
        assert model.reason == "bad_blob"
    return told


def flipped(data: bytes, bit: int) -> bytes:
    found = bytearray(data)
    found[bit // 8] ^= 1 << bit % 8
    return bytes(found)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), which=st.sampled_from(["key", "blob"]))
def test_any_bit_counts(
    sealed: Store, raw_store: redis.Redis, data: st.DataObject, which: str
) -> None:
    raw_store.flushall()
    publish(sealed, SECRET[:40])
    key, name = "perslm:head:{ada-l}", {"key": "k", "blob": "b"}[which]
    value = raw_store.hget(key, name)
    assert isinstance(value, bytes)
    bit = data.draw(st.integers(0, 8 * len(value) - 1))
    raw_store.hset(key, name, flipped(value, bit))
    refused(sealed)


def test_every_length_counts(sealed: Store, raw_store: redis.Redis) -> None:
    publish(sealed, b"x")
    key = "perslm:head:{ada-l}"
    for name in ("k", "b"):
        value = raw_store.hget(key, name)
        assert isinstance(value, bytes)
        for wrong in (*(value[:length] for length in range(1, len(value))), value + b"\0"):
            raw_store.hset(key, name, wrong)
            refused(sealed)
        raw_store.hset(key, name, value)
    assert sealed.fetch(USER)


def moved(raw: redis.Redis, source: str, target: str, *kinds: str) -> None:
    for kind in kinds:
        raw.copy(source.format(kind), target.format(kind), replace=True)


def test_models_do_not_move_between_users(sealed: Store, raw_store: redis.Redis) -> None:
    publish(sealed, SECRET, "ann")
    publish(sealed, SECRET, "bob")
    blob = raw_store.hget("perslm:head:{ann}", "b")
    assert isinstance(blob, bytes)
    raw_store.hset("perslm:head:{bob}", "b", blob)
    refused(sealed, "bob")
    moved(raw_store, "perslm:{}:{{ann}}", "perslm:{}:{{bob}}", "head")
    refused(sealed, "bob")
    assert sealed.fetch("ann")


def test_models_do_not_move_between_tenants_or_installations(
    sealed: Store, store_url: str, key_file: Path, raw_store: redis.Redis
) -> None:
    publish(sealed, SECRET)
    other = open_store(store_url, master_keys=key_file, namespace="elsewhere")
    with other:
        for place, reader in (
            ("perslm.acme", sealed.of_tenant("acme")),
            ("elsewhere", other),
        ):
            raw_store.copy("perslm:head:{ada-l}", f"{place}:head:{{ada-l}}")
            assert reader.head(USER).generation == 1
            refused(reader)


def test_models_do_not_move_between_generations(sealed: Store, raw_store: redis.Redis) -> None:
    publish(sealed, b"good")
    publish(sealed, b"bad")
    old = raw_store.hget("perslm:slot:{ada-l}:1", "b")
    assert isinstance(old, bytes)
    raw_store.hset("perslm:head:{ada-l}", "b", old)
    refused(sealed)
    raw_store.hset("perslm:head:{ada-l}", "g", 3)
    refused(sealed)


def test_an_open_model_in_the_place_of_an_encrypted_one(
    sealed: Store, raw_store: redis.Redis
) -> None:
    publish(sealed, SECRET)
    raw_store.hset("perslm:head:{ada-l}", "b", model_blob(VOCABULARY.fingerprint))
    assert "not encrypted" in refused(sealed)


def test_keys_that_do_not_fit(sealed: Store, store_url: str, key_file: Path) -> None:
    publish(sealed, SECRET)
    known, _ = encryption.read(key_file)
    content = json.loads(key_file.read_text())
    content["keys"][0]["key"] = base64.b64encode(os.urandom(32)).decode()
    key_file.write_text(json.dumps(content))
    with open_store(store_url, master_keys=key_file) as store:
        refused(store)
    stranger = key_file.with_name("other.json")
    encryption.create(stranger)
    with open_store(store_url, master_keys=stranger) as store:
        assert known in refused(store), "which key to look for"
        with pytest.raises(StoreError, match=known):
            publish(store, b"new")
        with pytest.raises(DecryptionError):
            store.protect(USER)


def test_a_user_whose_data_key_is_damaged_can_be_built_again(
    sealed: Store, raw_store: redis.Redis
) -> None:
    publish(sealed, b"one")
    key = raw_store.hget("perslm:head:{ada-l}", "k")
    assert isinstance(key, bytes)
    raw_store.hset("perslm:head:{ada-l}", "k", flipped(key, 8 * 60))
    refused(sealed)
    assert publish(sealed, b"two") == 2
    stored = sealed.fetch(USER)
    assert stored is not None
    assert stored.blob == b"two"
    refused(sealed, generation=1)


# Bringing users under the current key


def blobs(store: Store, user: str = USER) -> list[tuple[int, int, bytes]]:
    found = [store.fetch(user, generation=info.generation) for info in store.generations(user)]
    return [(stored.generation, stored.previous, stored.blob) for stored in found if stored]


def test_an_open_store_is_encrypted_with_all_that_it_keeps(
    store: Store, sealed: Store, raw_store: redis.Redis
) -> None:
    for blob in (b"one", b"two", b"three"):
        publish(store, blob)
    store.rollback(USER)
    before, infos = blobs(store), store.generations(USER)
    ages = {key: raw_store.ttl(key) for key in keys_of(raw_store)}
    assert blobs(sealed) == before, "with keys, too, while it is not encrypted yet"
    assert sealed.protect(USER) == "encrypted"
    assert blobs(sealed) == before
    assert sealed.generations(USER) == infos
    assert {key: raw_store.ttl(key) for key in keys_of(raw_store)} == ages
    for key in keys_of(raw_store):
        assert raw_store.hget(key, "b").startswith(b"psle")
    assert sealed.protect(USER) == "current"
    assert sealed.rollback(USER) == 5


def test_publishing_encrypts_what_was_kept_too(store: Store, sealed: Store) -> None:
    publish(store, b"one")
    publish(sealed, b"two")
    assert blobs(sealed) == [(2, 1, b"two"), (1, 0, b"one")]
    assert sealed.rollback(USER) == 3
    assert blobs(sealed)[0] == (3, 0, b"one")
    with pytest.raises(NoModelError):
        sealed.rollback(USER)


def test_a_new_master_key_wraps_the_same_data_key(
    sealed: Store, key_file: Path, store_url: str, raw_store: redis.Redis
) -> None:
    publish(sealed, SECRET)
    blob, old = raw_store.hget("perslm:head:{ada-l}", "b"), encryption.read(key_file)[0]
    new = encryption.add(key_file)
    with open_store(store_url, master_keys=key_file) as store:
        assert store.protect(USER) == "rewrapped"
        assert store.protect(USER) == "current"
        assert raw_store.hget("perslm:head:{ada-l}", "b") == blob
        assert raw_store.hget("perslm:head:{ada-l}", "k")[21:29].hex() == new.id
        encryption.remove(key_file, old)
        assert blobs(store) == [(1, 0, SECRET)]
    assert blobs(sealed) == [(1, 0, SECRET)], "opened before, it reads the file again"


def test_what_runs_while_a_master_key_is_added_uses_it_from_then_on(
    sealed: Store, key_file: Path, store_url: str
) -> None:
    """Else the old one, removed after a rotation, would still be in use."""
    publish(sealed, SECRET)
    old = encryption.read(key_file)[0]
    encryption.add(key_file)
    publish(sealed, SECRET, "bob")
    assert sealed.protect(USER) == "rewrapped"
    encryption.remove(key_file, old)
    with open_store(store_url, master_keys=key_file) as store:
        for user in (USER, "bob"):
            assert blobs(store, user) == [(1, 0, SECRET)]


def test_a_renewed_data_key_leaves_the_old_one_useless(
    sealed: Store, raw_store: redis.Redis
) -> None:
    publish(sealed, b"one")
    publish(sealed, b"two")
    old = raw_store.hget("perslm:head:{ada-l}", "k")
    before = blobs(sealed)
    assert sealed.protect(USER, renew=True) == "renewed"
    assert blobs(sealed) == before
    raw_store.hset("perslm:head:{ada-l}", "k", old)
    refused(sealed)


def test_protecting_nobody_or_without_keys(store: Store, sealed: Store) -> None:
    assert sealed.protect(USER) == "absent"
    with pytest.raises(ArgumentError, match="PERSLM_MASTER_KEYS"):
        store.protect(USER)


def test_what_cannot_be_read_is_left_as_it_is(sealed: Store, raw_store: redis.Redis) -> None:
    publish(sealed, b"one")
    publish(sealed, b"two")
    raw_store.hset("perslm:slot:{ada-l}:1", "b", b"psle\x01" + bytes(60))
    before = everything(raw_store)
    with pytest.raises(DecryptionError):
        sealed.protect(USER, renew=True)
    assert everything(raw_store) == before


@pytest.mark.parametrize("began_open", [False, True])
def test_a_server_that_stopped_in_the_middle_leaves_all_readable(
    store: Store, sealed: Store, raw_store: redis.Redis, began_open: bool
) -> None:
    """On servers whose scripts are not atomic then: after each write of the script."""
    for blob in (b"one", b"two"):
        publish(store if began_open else sealed, blob)
    state = {key: raw_store.dump(key) for key in keys_of(raw_store)}
    assert sealed.protect(USER, renew=True) == ("encrypted" if began_open else "renewed")
    wanted = everything(raw_store)
    new = raw_store.hget("perslm:head:{ada-l}", "k")
    for done in ([], [1], [1, 2]):
        for key, dumped in state.items():
            raw_store.restore(key, 0, dumped, replace=True)
        raw_store.hset("perslm:head:{ada-l}", "c", new)
        for generation in done:
            key = "perslm:slot:{ada-l}:1" if generation == 1 else "perslm:head:{ada-l}"
            raw_store.hset(key, "b", wanted[key.encode()][b"b"])  # type: ignore[index]
        assert blobs(sealed) == [(2, 1, b"two"), (1, 0, b"one")]
        assert sealed.protect(USER) in ("renewed", "encrypted")
        assert blobs(sealed) == [(2, 1, b"two"), (1, 0, b"one")]
        assert raw_store.hget("perslm:head:{ada-l}", "k") == new
        assert not raw_store.hexists("perslm:head:{ada-l}", "c")


def test_keys_change_while_builders_publish_and_readers_read(
    store: Store, sealed: Store, key_file: Path, store_url: str
) -> None:
    def whole(generation: int) -> bytes:
        return b"%d " % generation * 500

    publish(store, whole(1))
    done = threading.Event()

    def read() -> int:
        reads = 0
        while not done.is_set() or not reads:
            stored = sealed.fetch(USER)
            assert stored is not None
            assert stored.blob == whole(stored.generation)
            reads += 1
        return reads

    def rotate() -> set[str]:
        seen = set()
        with open_store(store_url, master_keys=key_file) as own:
            while not done.is_set() or not seen:
                seen.add(own.protect(USER, renew=True))
        return seen

    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(read), pool.submit(read), pool.submit(rotate)]
        try:
            for generation in range(2, 80):
                assert publish(sealed, whole(generation)) == generation
        finally:
            done.set()
        for task in tasks:
            assert task.result()


def test_of_racing_first_publishers_one_wins(sealed: Store) -> None:
    barrier = threading.Barrier(8)

    def race(i: int) -> int:
        barrier.wait(10)
        try:
            return sealed.publish(USER, b"racer %d" % i, parent=Head(0, 0))
        except PublishConflictError:
            return 0

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(race, range(8)))
    assert sorted(results) == [*[0] * 7, 1]
    stored = sealed.fetch(USER)
    assert stored is not None
    assert stored.blob == b"racer %d" % results.index(1)
