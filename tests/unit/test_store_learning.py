"""Learned messages that wait for a build, and rules: what the store keeps of them, on a server."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import msgpack
import pytest
import redis

from perslm import encryption
from perslm.errors import (
    ArgumentError,
    BlobError,
    DecryptionError,
    ForgottenError,
    OptedOutError,
    StoreError,
    TooManyPendingError,
    VocabularyError,
    VocabularyMismatchError,
)
from perslm.rules import Rules
from perslm.store import FENCE_SECONDS, Change, Head, Pending, Store, open_store
from perslm.vocabulary import Sequence, Vocabulary
from tests.unit.test_encryption import everything

USER = "ada-l"
VOCABULARY = Vocabulary.from_words(["the", "power", "desk", "zephyr"])
FINGERPRINT = VOCABULARY.fingerprint
POWER, DESK, ZEPHYR = (VOCABULARY.encode(w)[0].ids[0] for w in ("power", "desk", "zephyr"))

OfRules: TypeAlias = Callable[[Rules], Rules]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "master.json"
    encryption.create(path)
    return path


@pytest.fixture(params=["plain", "encrypted"])
def either(request: pytest.FixtureRequest, store_url: str, key_file: Path) -> Iterator[Store]:
    """A store, once without and once with master keys, that has the vocabulary."""
    keys = key_file if request.param == "encrypted" else None
    with open_store(store_url, master_keys=keys) as opened:
        opened.put_vocabulary(VOCABULARY.to_bytes(), FINGERPRINT)
        yield opened


def message(mark: bytes = b"m1", *ids: int, sent: float = 5.0) -> Pending:
    sequence = Sequence(ids or (POWER, DESK), opens=True, closes=True)
    return Pending(mark, sent, (b"d" + mark,), (sequence,))


def add(store: Store, *marks: bytes, user: str = USER) -> list[bool]:
    return [store.add_message(user, message(mark), vocabulary=FINGERPRINT) for mark in marks]


def publish(store: Store, blob: bytes = b"blob", user: str = USER, **more: Any) -> int:
    return store.publish(user, blob, parent=store.head(user), vocabulary=FINGERPRINT, **more)


def marks(store: Store, user: str = USER) -> list[bytes]:
    return sorted(found.mark for found in store.pending(user))


# Learned messages


def test_a_message_waits_beside_the_model(either: Store) -> None:
    publish(either, source_digest="d1")
    assert either.add_message(USER, message(), vocabulary=FINGERPRINT)
    (found,) = either.pending(USER)
    assert found == Pending(b"m1", 5.0, (b"dm1",), message().sequences, FINGERPRINT)
    assert either.head(USER) == Head(1, 0, pending=1, source_digest="d1")
    stored = either.fetch(USER)
    assert stored is not None
    assert (stored.blob, stored.pending) == (b"blob", (found,))


def test_a_message_that_is_there_is_not_added_again(either: Store) -> None:
    publish(either)
    assert add(either, b"m1", b"m2", b"m1") == [True, True, False]
    assert marks(either) == [b"m1", b"m2"]
    before = either.pending(USER)
    assert not either.add_message(USER, message(b"m1", DESK), vocabulary=FINGERPRINT)
    assert either.pending(USER) == before, "replicas would not hear of another one"


def test_messages_come_oldest_first(either: Store) -> None:
    for mark, sent in ((b"c", 1.0), (b"a", 3.0), (b"b", 2.0)):
        either.add_message(USER, message(mark, sent=sent), vocabulary=FINGERPRINT)
    assert [found.mark for found in either.pending(USER)] == [b"c", b"b", b"a"]


def test_who_has_no_model_gets_an_empty_one(either: Store) -> None:
    add(either, b"m1")
    assert either.head(USER) == Head(1, 0, pending=1)
    info = either.info(USER)
    assert info is not None
    assert (info.messages, info.tokens, info.vocabulary) == (0, 0, FINGERPRINT)
    assert list(either.users()) == [USER]
    assert either.load(USER, vocabulary=VOCABULARY, strict=True).states([[]]).shape == (1,)
    assert publish(either, folded=[b"m1"]) == 2


def test_a_vocabulary_that_the_store_lacks(store: Store) -> None:
    with pytest.raises(VocabularyError, match="perslm build"):
        add(store, b"m1")
    assert store.head(USER) == Head(0, 0)
    publish(store)
    assert add(store, b"m1") == [True], "who has a model needs none"


def test_another_vocabulary_than_the_models(either: Store) -> None:
    publish(either)
    with pytest.raises(VocabularyMismatchError) as caught:
        either.add_message(USER, message(), vocabulary="f" * 32)
    assert (caught.value.expected, caught.value.got) == (FINGERPRINT, "f" * 32)
    assert either.pending(USER) == []


def test_a_build_takes_away_what_it_counted_and_no_more(either: Store) -> None:
    publish(either)
    add(either, b"m1", b"m2", b"m3")
    assert publish(either, folded=[b"m1", b"m3", b"gone"]) == 2
    assert marks(either) == [b"m2"]
    assert publish(either) == 3
    assert marks(either) == [b"m2"]
    assert either.rollback(USER) == 4
    assert marks(either) == [b"m2"]


def test_a_publish_that_is_refused_takes_nothing_away(either: Store) -> None:
    old = either.head(USER)
    publish(either)
    add(either, b"m1")
    with pytest.raises(StoreError):
        either.publish(USER, b"late", parent=old, vocabulary=FINGERPRINT, folded=[b"m1"])
    assert marks(either) == [b"m1"]


def test_a_deletion_takes_messages_along_and_fences_off_others(
    either: Store, raw_store: redis.Redis
) -> None:
    publish(either)
    add(either, b"m1")
    fence = either.head(USER).fence
    either.forget(USER)
    assert either.pending(USER) == []
    assert raw_store.keys("perslm:pending:*") == []
    with pytest.raises(ForgottenError):
        either.add_message(USER, message(), vocabulary=FINGERPRINT, fence=fence)
    assert either.head(USER).generation == 0
    assert add(either, b"m2") == [True]
    assert (marks(either), either.head(USER).generation) == ([b"m2"], 3)


def test_no_more_wait_than_may(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perslm._store_learning.MOST_PENDING", 2)
    publish(store)
    add(store, b"m1", b"m2")
    with pytest.raises(TooManyPendingError, match="perslm build"):
        add(store, b"m3")
    assert add(store, b"m1") == [False], "known ones are no more"
    publish(store, folded=[b"m1"])
    assert add(store, b"m3") == [True]


def test_messages_that_are_none(store: Store) -> None:
    publish(store)
    for mark in (b"", b"x" * 65):
        with pytest.raises(ArgumentError, match="mark"):
            store.add_message(USER, message(mark), vocabulary=FINGERPRINT)
    with pytest.raises(ArgumentError, match="too long"):
        store.add_message(USER, message(b"m", *[DESK] * 70_000), vocabulary=FINGERPRINT)


NO_TIMES = [math.nan, math.inf, -math.inf, 1e300, -1e300, 2.0**40]


@pytest.mark.parametrize("sent", [*NO_TIMES, pytest.param(10**400, id="huge")])
def test_a_message_of_no_time_is_refused(either: Store, sent: float) -> None:
    with pytest.raises(ArgumentError, match="POSIX time"):
        either.add_message(USER, message(sent=sent), vocabulary=FINGERPRINT)
    assert either.head(USER) == Head(0, 0)


@pytest.mark.parametrize("sent", [0, -1.5, 2.0**40 - 1, -(2.0**40) + 1])
def test_a_message_of_any_time_is_learned(either: Store, sent: float) -> None:
    either.add_message(USER, message(sent=sent), vocabulary=FINGERPRINT)
    assert either.pending(USER)[0].sent == sent
    assert either.load(USER, strict=True).generation == 1


@pytest.mark.parametrize("sent", NO_TIMES)
def test_a_stored_message_of_no_time_is_damaged(
    store: Store, raw_store: redis.Redis, sent: float
) -> None:
    store.put_vocabulary(VOCABULARY.to_bytes(), FINGERPRINT)
    add(store, b"m1")
    sequences = [[s.opens, s.closes, s.ids] for s in message().sequences]
    data = msgpack.packb([FINGERPRINT, sent, [b"d"], sequences])
    raw_store.hset("perslm:pending:{ada-l}", "m1", data)
    with pytest.raises(BlobError, match="learned message"):
        store.pending(USER)
    assert store.load(USER).reason == "bad_blob"


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"\x94\x01\x02\x03\x04", b"\x90", b"\x80"])
def test_a_damaged_message(store: Store, raw_store: redis.Redis, damage: bytes) -> None:
    publish(store)
    add(store, b"m1")
    raw_store.hset("perslm:pending:{ada-l}", "m1", damage)
    for read in (store.pending, store.fetch):
        with pytest.raises(BlobError, match="learned message"):
            read(USER)
    assert store.load(USER).reason == "bad_blob"


# Heads of many


def test_heads_of_many_users_are_those_of_each(either: Store) -> None:
    users = [f"user {i}" for i in range(1203)]
    publish(either, user=users[0], source_digest="d0")
    for _ in range(9):
        publish(either, user=users[1], source_digest="d1")
    add(either, b"m1", b"m2", user=users[1])
    publish(either, user=users[2])
    either.forget(users[2])
    either.set_rules(users[1202], Rules().block(["zephyr"], [VOCABULARY]))
    heads = either.heads(users)
    assert len(heads) == len(users)
    assert heads[:3] == [
        Head(1, 0, 0, "d0"), Head(9, 0, 2, "d1"), Head(0, 2),
    ]  # fmt: skip
    for i in (0, 1, 2, 3, 499, 500, 1202):
        assert heads[i] == either.head(users[i])
    assert either.heads([]) == []
    since = heads[2].since_deletion
    assert since is not None
    assert 0 <= since < FENCE_SECONDS / 2
    assert heads[0].since_deletion is None
    assert list(either.learners()) == [users[1]]
    assert list(either.of_tenant("acme").learners()) == []


# Purging


def test_publishing_may_leave_no_earlier_generation(either: Store, raw_store: redis.Redis) -> None:
    publish(either, b"one")
    publish(either, b"two")
    assert publish(either, b"three", alone=True) == 3
    assert [info.generation for info in either.generations(USER)] == [3]
    assert raw_store.keys("perslm:slot:*") == []
    assert either.fetch(USER, generation=2) is None
    with pytest.raises(StoreError, match="earlier"):
        either.rollback(USER)
    assert publish(either, b"four") == 4
    assert either.rollback(USER) == 5


# Rules


def test_rules_come_back(either: Store, raw_store: redis.Redis) -> None:
    assert either.rules(USER) == either.rules(None) == Rules()
    rules = Rules().block(["zephyr"], [VOCABULARY])
    either.set_rules(USER, rules)
    assert either.rules(USER) == rules
    assert either.rules("bob") == either.rules(None) == Rules()
    either.set_rules(None, rules)
    assert either.rules(None) == rules
    first = either.head(USER).rules
    either.set_rules(USER, rules.block(["desk"], [VOCABULARY]))
    assert first != either.head(USER).rules != ""
    assert sorted(either.ruled()) == [("default", ""), ("default", USER)]
    assert list(either.users()) == []
    either.set_rules(USER, Rules())
    either.set_rules(None, Rules())
    assert raw_store.keys("perslm:rules*") == []


def beside(*others: Callable[[], object], change: OfRules) -> OfRules:
    """A change while which others do something, each of them once."""
    waiting = list(others)

    def changed(rules: Rules) -> Rules:
        if waiting:
            waiting.pop(0)()
        return change(rules)

    return changed


def blocking(*phrases: str) -> OfRules:
    return lambda rules: rules.block(phrases, [VOCABULARY])


def unblocking(*phrases: str) -> OfRules:
    return lambda rules: rules.unblock(phrases, [VOCABULARY])


def test_rules_are_changed(either: Store) -> None:
    for owner in (USER, None):
        new = either.change_rules(owner, blocking("zephyr"))
        assert new == either.rules(owner) == Rules().block(["zephyr"], [VOCABULARY])
        assert either.change_rules(owner, unblocking("zephyr")) == either.rules(owner) == Rules()
    either.set_rules(USER, Rules(opted_out=True))
    assert either.change_rules(USER, blocking("zephyr")).opted_out
    with pytest.raises(ArgumentError, match="not blocked"):
        either.change_rules(USER, unblocking("desk"))
    with pytest.raises(ArgumentError, match="everybody"):
        either.change_rules(None, lambda rules: replace(rules, opted_out=True))
    assert either.rules(USER) == replace(new, opted_out=True)


def test_an_opt_out_is_not_lost_to_another_change(either: Store) -> None:
    publish(either)

    def opt_out() -> None:
        either.set_rules(USER, Rules(opted_out=True))
        either.forget(USER)

    for before in (Rules(), Rules().block(["desk"], [VOCABULARY])):
        for change in (blocking("zephyr"), unblocking()):
            either.set_rules(USER, before)
            new = either.change_rules(USER, beside(opt_out, change=change))
            assert new == either.rules(USER)
            assert new.opted_out
            assert "desk" not in new.phrases, "the deletion took it"
    with pytest.raises(OptedOutError):
        publish(either)
    in_again = beside(opt_out, change=lambda rules: replace(rules, opted_out=False))
    either.set_rules("bob", Rules(opted_out=True))
    assert not either.change_rules("bob", in_again)
    assert not either.rules("bob").opted_out, "of another user it says nothing"
    assert either.rules(USER).opted_out


def test_what_others_block_meanwhile_stays_blocked(either: Store) -> None:
    for owner in (USER, None):

        def block(phrase: str, owner: str | None = owner) -> Callable[[], object]:
            return lambda: either.change_rules(owner, blocking(phrase))

        others = (block("desk"), block("power"))
        new = either.change_rules(owner, beside(*others, change=blocking("zephyr")))
        assert new.phrases == either.rules(owner).phrases == {"desk", "power", "zephyr"}
        new = either.change_rules(owner, beside(block("the"), change=unblocking("desk")))
        assert new.phrases == either.rules(owner).phrases == {"power", "the", "zephyr"}


def test_who_never_stops_changing_is_given_up_on(store: Store) -> None:
    def never(rules: Rules) -> Rules:
        store.set_rules(USER, Rules().block(["desk"], [VOCABULARY]))
        return rules

    with pytest.raises(StoreError, match="rules"):
        store.change_rules(USER, never)
    assert store.rules(USER).phrases == {"desk"}


def test_rules_of_tenants_are_apart(either: Store) -> None:
    acme = either.of_tenant("acme")
    for owner in (USER, None):
        acme.set_rules(owner, Rules().block(["zephyr"], [VOCABULARY]))
        assert either.rules(owner) == Rules()
    assert sorted(either.ruled()) == [("acme", ""), ("acme", USER)]


def test_of_who_opted_out_nothing_is_taken(either: Store) -> None:
    publish(either)
    either.set_rules(USER, Rules(opted_out=True))
    with pytest.raises(OptedOutError):
        publish(either)
    with pytest.raises(OptedOutError):
        add(either, b"m1")
    assert either.head(USER).generation == 1
    assert either.pending(USER) == []
    either.set_rules(USER, Rules())
    assert publish(either) == 2


def test_a_deletion_leaves_of_rules_the_wish_alone(either: Store, raw_store: redis.Redis) -> None:
    blocked = Rules().block(["zephyr"], [VOCABULARY])
    either.set_rules("bob", blocked)
    either.forget("bob")
    assert raw_store.keys("perslm:rules*") == []
    publish(either)
    either.set_rules(USER, Rules(True, blocked.phrases, blocked.blocked))
    either.forget(USER)
    assert either.rules(USER) == Rules(opted_out=True)
    assert all(head.rules for head in (either.head(USER), *either.heads([USER])))
    assert raw_store.hgetall("perslm:rules:{ada-l}") == {b"out": b"1"}
    with pytest.raises(OptedOutError):
        add(either, b"m1")


def test_everybody_cannot_opt_out(store: Store) -> None:
    with pytest.raises(ArgumentError, match="everybody"):
        store.set_rules(None, Rules(opted_out=True))
    with pytest.raises(ArgumentError, match="user id"):
        store.rules("")


# Announcements


def test_messages_and_rules_are_announced(store: Store) -> None:
    changes = iter(store.changes())
    assert next(changes).kind == "gap"
    publish(store)
    add(store, b"m1", b"m2", b"m2")
    store.set_rules(USER, Rules(opted_out=True))
    store.of_tenant("acme").set_rules(None, Rules().block(["desk"], [VOCABULARY]))
    assert [next(changes) for _ in range(5)] == [
        Change("publish", "default", USER, 1),
        Change("learn", "default", USER, 1, 1),
        Change("learn", "default", USER, 1, 2),
        Change("rules", "default", USER),
        Change("rules", "acme", ""),
    ]


# Encryption


@pytest.fixture
def sealed(store_url: str, key_file: Path) -> Iterator[Store]:
    with open_store(store_url, master_keys=key_file) as opened:
        opened.put_vocabulary(VOCABULARY.to_bytes(), FINGERPRINT)
        yield opened


def test_the_server_has_no_words(sealed: Store, raw_store: redis.Redis) -> None:
    word = Vocabulary.from_words(["the", "unmistakable"])
    sealed.set_rules(USER, Rules().block(["unmistakable"], [word]))
    sealed.set_rules(None, Rules().block(["unmistakable"], [word]))
    assert "unmistakable" not in repr(everything(raw_store))
    publish(sealed)
    same = message(b"m1", *[ZEPHYR] * 40)
    sealed.add_message(USER, same, vocabulary=FINGERPRINT)
    stored = raw_store.hget("perslm:pending:{ada-l}", "m1")
    assert isinstance(stored, bytes)
    assert stored.startswith(encryption.BLOB_MAGIC)
    assert same.to_bytes(FINGERPRINT)[-40:] not in stored


def test_nobody_reads_or_adds_without_keys(sealed: Store, store: Store) -> None:
    publish(sealed)
    add(sealed, b"m1")
    sealed.set_rules(USER, Rules().block(["zephyr"], [VOCABULARY]))
    for read in (store.pending, store.rules):
        with pytest.raises(DecryptionError, match="PERSLM_MASTER_KEYS"):
            read(USER)
    with pytest.raises(StoreError, match="PERSLM_MASTER_KEYS"):
        add(store, b"m2")
    assert marks(sealed) == [b"m1"]


def test_messages_do_not_move(sealed: Store, raw_store: redis.Redis) -> None:
    for user in (USER, "bob"):
        publish(sealed, user=user)
    add(sealed, b"m1", b"m2")
    stored = raw_store.hgetall("perslm:pending:{ada-l}")
    raw_store.hset("perslm:pending:{ada-l}", "m1", stored[b"m2"])
    with pytest.raises(DecryptionError):
        sealed.pending(USER)
    raw_store.hset("perslm:pending:{ada-l}", "m1", b"plain")
    with pytest.raises(DecryptionError):
        sealed.pending(USER)
    raw_store.hset("perslm:pending:{bob}", "m2", stored[b"m2"])
    raw_store.hset("perslm:head:{bob}", "k", raw_store.hget("perslm:head:{ada-l}", "k"))
    with pytest.raises(DecryptionError):
        sealed.pending("bob")


def test_rules_do_not_move(sealed: Store, raw_store: redis.Redis) -> None:
    sealed.set_rules(USER, Rules().block(["zephyr"], [VOCABULARY]))
    stored = raw_store.hgetall("perslm:rules:{ada-l}")
    for key, owner in (("perslm:rules:{bob}", "bob"), ("perslm:rules", None)):
        raw_store.hset(key, mapping=stored)
        with pytest.raises(DecryptionError):
            sealed.rules(owner)


def test_what_was_open_is_encrypted_with_the_user(
    sealed: Store, store: Store, raw_store: redis.Redis
) -> None:
    publish(store)
    add(store, b"m1", b"m2")
    rules = Rules().block(["zephyr"], [VOCABULARY])
    for owner in (USER, "bob", None):
        store.set_rules(owner, rules)
    assert sealed.protect(USER) == "encrypted"
    assert sealed.protect("bob") == "encrypted"
    assert sealed.protect("") == "encrypted"
    assert "zephyr" not in repr(everything(raw_store))
    assert marks(sealed) == [b"m1", b"m2"]
    for owner in (USER, "bob", None):
        assert sealed.rules(owner) == rules
    assert sealed.protect(USER) == sealed.protect("bob") == sealed.protect("") == "current"


def test_adding_encrypts_what_was_open(sealed: Store, store: Store) -> None:
    publish(store)
    add(store, b"m1")
    add(sealed, b"m2")
    assert marks(sealed) == [b"m1", b"m2"]
    with pytest.raises(DecryptionError):
        store.pending(USER)


def test_keys_are_rotated_with_messages_and_rules(
    sealed: Store, key_file: Path, store_url: str
) -> None:
    publish(sealed)
    add(sealed, b"m1")
    rules = Rules().block(["zephyr"], [VOCABULARY])
    for owner in (USER, None):
        sealed.set_rules(owner, rules)
    old = encryption.read(key_file)[0]
    encryption.add(key_file)
    assert [sealed.protect(owner) for owner in (USER, "")] == ["rewrapped", "rewrapped"]
    encryption.remove(key_file, old)
    assert sealed.protect(USER, renew=True) == "renewed"
    with open_store(store_url, master_keys=key_file) as again:
        assert marks(again) == [b"m1"]
        assert again.rules(USER) == again.rules(None) == rules


def test_a_damaged_data_key_takes_messages_along(sealed: Store, raw_store: redis.Redis) -> None:
    publish(sealed)
    add(sealed, b"m1")
    wrapped = raw_store.hget("perslm:head:{ada-l}", "k")
    assert isinstance(wrapped, bytes)
    raw_store.hset("perslm:head:{ada-l}", "k", wrapped[:-1] + bytes([wrapped[-1] ^ 1]))
    with pytest.raises(DecryptionError, match="build the user again"):
        add(sealed, b"m2")
    assert publish(sealed) == 2
    assert sealed.pending(USER) == []
    assert add(sealed, b"m1") == [True]
