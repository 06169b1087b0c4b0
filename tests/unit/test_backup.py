"""A store in a file and back: everything, nothing twice, nobody who was deleted."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import redis

from perslm import encryption
from perslm.backup import Restored, backup, restore
from perslm.errors import ForgottenError, SourceError
from perslm.rules import Rules
from perslm.store import Store, open_store
from tests.unit.test_encryption import blobs, everything
from tests.unit.test_store import ODD_USERS, USER, publish
from tests.unit.test_store_learning import FINGERPRINT, VOCABULARY, add, marks


class Silent:
    def stage(self, name: str, total: int) -> None:
        self.total = total

    def advance(self, amount: int) -> None:
        self.total -= amount


def saved(store: Store, path: Path) -> tuple[int, int]:
    progress = Silent()
    counted = backup(store, path, progress)
    assert progress.total == 0
    return counted


def put_back(store: Store, path: Path) -> Restored:
    progress = Silent()
    done = restore(store, path, progress)
    assert progress.total == 0
    return done


@pytest.fixture(params=["open", "encrypted"])
def either(request: pytest.FixtureRequest, store_url: str, tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "keys").mkdir()
    file = tmp_path / "keys" / "master.json"
    encryption.create(file)
    with open_store(
        store_url, master_keys=file if request.param == "encrypted" else None
    ) as opened:
        yield opened


def without_fences(raw: redis.Redis) -> dict[bytes, object]:
    """Return all that the server has, but the numbers that a restore raises."""
    found = everything(raw)
    for value in found.values():
        if isinstance(value, dict):
            value.pop(b"f", None)
    return found


def test_everything_comes_back(either: Store, raw_store: redis.Redis, tmp_path: Path) -> None:
    for user in (*ODD_USERS, "ann"):
        for tenant in ("default", "acme"):
            for blob in (b"one", bytes(range(256)) * 100):
                publish(either.of_tenant(tenant), blob, user)
    either.rollback("ann")
    either.put_vocabulary(b"the words", "f1")
    either.of_tenant("acme").put_vocabulary(b"other words", "f2")
    with open_store(
        either.location, namespace="perslm2"
    ) as other:  # of another installation: stays out
        publish(other, b"theirs", "ann")
    before, kept = without_fences(raw_store), blobs(either, "ann")
    ages = {key: raw_store.ttl(key) > 0 for key in raw_store.scan_iter()}
    assert saved(either, tmp_path / "b") == (2 * (len(ODD_USERS) + 1), 2)
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
    raw_store.flushall()
    assert put_back(either, tmp_path / "b") == Restored(2 * (len(ODD_USERS) + 1), 0, 0)
    after = without_fences(raw_store)
    assert after == {key: value for key, value in before.items() if b"perslm2" not in key}
    assert {key: raw_store.ttl(key) > 0 for key in raw_store.scan_iter()} == {
        key: age for key, age in ages.items() if b"perslm2" not in key
    }
    assert blobs(either, "ann") == kept
    assert either.vocabulary("f1") == b"the words"


def test_numbers_go_on_where_no_lost_model_had_them(either: Store, tmp_path: Path) -> None:
    publish(either, b"one", "ann")
    running = either.head("ann")
    saved(either, tmp_path / "b")
    lost = publish(either, b"after the backup", "ann")
    either._connection.run(lambda client: client.flushall())
    put_back(either, tmp_path / "b")
    assert either.head("ann").generation == 1
    with pytest.raises(ForgottenError):
        either.publish("ann", b"of a build from before", parent=running)
    assert publish(either, b"two", "ann") > lost + 1000
    assert either.rollback("ann") > lost + 1001
    assert blobs(either, "ann")[0][2] == b"one"
    assert either.forget("ann")


def test_whoever_is_there_or_was_deleted_stays_so(
    either: Store, raw_store: redis.Redis, tmp_path: Path
) -> None:
    for user in ("ann", "bob", "eve"):
        publish(either, b"old", user)
    saved(either, tmp_path / "b")
    publish(either, b"new", "ann")
    either.forget("bob")
    assert put_back(either, tmp_path / "b") == Restored(0, 2, 1)
    assert set(either.users()) == {"ann", "eve"}
    assert blobs(either, "ann")[0] == (2, 1, b"new")
    raw_store.flushall()  # and on another server, told of the deletion first
    either.forget("bob")
    assert put_back(either, tmp_path / "b") == Restored(2, 0, 1)
    assert put_back(either, tmp_path / "b") == Restored(0, 2, 1)
    assert set(either.users()) == {"ann", "eve"}
    assert either.fetch("bob") is None


def test_an_encrypted_backup_holds_no_model_and_no_key(store_url: str, tmp_path: Path) -> None:
    encryption.create(tmp_path / "m.json")
    with open_store(store_url, master_keys=tmp_path / "m.json") as store:
        publish(store, b"the user's words " * 10, "ann")
    with open_store(store_url) as store:  # backing up takes no master keys
        saved(store, tmp_path / "b")
        data = (tmp_path / "b").read_bytes()
        _, (master,) = encryption.read(tmp_path / "m.json")
        assert b"the user's words" not in data
        assert master.key not in data


def test_a_backup_that_is_not_whole_changes_nothing(
    store: Store, raw_store: redis.Redis, tmp_path: Path
) -> None:
    for i in range(3):
        publish(store, b"blob %d" % i, f"user-{i}")
    saved(store, tmp_path / "b")
    data = (tmp_path / "b").read_bytes()
    raw_store.flushall()
    wrong = [data[:length] for length in range(0, len(data), 7)]
    wrong += [bytes([*data[:i], data[i] ^ 1, *data[i + 1 :]]) for i in range(0, len(data), 5)]
    wrong += [data + b"\0", data + data, b"perslm backup 1\n" + msgpack.packb(7)]
    bare = b"perslm backup 1\n"
    wrong.append(bare + msgpack.packb({"users": 0, "crc": zlib.crc32(bare)}))
    for damaged in wrong:
        (tmp_path / "b").write_bytes(damaged)
        with pytest.raises(SourceError) as caught:
            restore(store, tmp_path / "b", Silent())
        assert "user-" not in str(caught.value)
        assert raw_store.dbsize() == 0


def test_keys_of_others_on_the_server_are_none_of_ours(
    store: Store, raw_store: redis.Redis, tmp_path: Path
) -> None:
    publish(store, b"one", "ann")
    for place in ("perslm.staging.acme", "perslm.default", "perslm. ", "perslm.", "perslmx"):
        raw_store.copy("perslm:head:{ann}", f"{place}:head:{{bob}}")
        raw_store.set(f"{place}:vocabulary:f1", b"theirs")
    assert list(store.owners()) == [("default", "ann")]
    assert saved(store, tmp_path / "b") == (1, 0)


def test_a_backup_that_fails_leaves_the_one_before(store: Store, tmp_path: Path) -> None:
    publish(store, b"one", "ann")
    saved(store, tmp_path / "b")
    before = (tmp_path / "b").read_bytes()

    class Full(Silent):
        def advance(self, amount: int) -> None:
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="space"):
        backup(store, tmp_path / "b", Full())
    assert (tmp_path / "b").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_an_empty_store(store: Store, tmp_path: Path) -> None:
    assert saved(store, tmp_path / "b") == (0, 0)
    assert put_back(store, tmp_path / "b") == Restored(0, 0, 0)


def test_learned_messages_and_rules_come_back(
    either: Store, raw_store: redis.Redis, tmp_path: Path
) -> None:
    either.put_vocabulary(VOCABULARY.to_bytes(), FINGERPRINT)
    rules = Rules().block(["zephyr"], [VOCABULARY])
    add(either, b"m1", b"m2")
    either.set_rules(USER, rules)
    either.set_rules("bob", Rules(opted_out=True))
    either.set_rules(None, rules)
    either.of_tenant("acme").set_rules(None, rules)
    before = without_fences(raw_store)
    assert saved(either, tmp_path / "b") == (2, 1)
    raw_store.flushall()
    assert put_back(either, tmp_path / "b") == Restored(1, 0, 0)
    assert without_fences(raw_store) == before
    assert marks(either) == [b"m1", b"m2"]
    either.set_rules(USER, Rules())
    either.set_rules(None, Rules(phrases=frozenset({"desk"})))
    either.forget("bob")
    assert put_back(either, tmp_path / "b") == Restored(0, 1, 1)
    assert either.rules(USER) == Rules(), "who is there stays as they are"
    assert either.rules(None).phrases == {"desk"}
    assert either.rules("bob").opted_out


def test_who_opted_out_is_not_brought_back(
    either: Store, raw_store: redis.Redis, tmp_path: Path
) -> None:
    either.put_vocabulary(VOCABULARY.to_bytes(), FINGERPRINT)
    for user in (USER, "ann", "bob"):
        add(either, b"m1", user=user)
    publish(either, b"two", "ann")
    saved(either, tmp_path / "b")
    raw_store.flushall()
    out = Rules(opted_out=True)
    either.set_rules(USER, out)  # whose fence is gone
    either.set_rules("ann", Rules(True, frozenset({"desk"})))
    for done in (Restored(1, 0, 2), Restored(0, 1, 2)):
        assert put_back(either, tmp_path / "b") == done
        assert list(either.users()) == list(either.learners()) == ["bob"]
    for user in (USER, "ann"):
        assert not raw_store.keys(f"perslm:[^r]*{{{user}}}*")
        assert either.rules(user).opted_out


def test_who_was_opting_out_during_the_backup_is_out(
    either: Store, raw_store: redis.Redis, tmp_path: Path
) -> None:
    publish(either, b"one")
    either.set_rules(USER, Rules(opted_out=True))
    saved(either, tmp_path / "b")
    raw_store.flushall()
    for _ in range(2):
        assert put_back(either, tmp_path / "b") == Restored(0, 0, 1)
        assert list(either.users()) == []
        assert either.rules(USER) == Rules(opted_out=True)


def test_who_opted_out_before_the_backup_and_is_deleted_is_out(
    either: Store, raw_store: redis.Redis, tmp_path: Path
) -> None:
    publish(either, b"one", "bob")
    either.set_rules("bob", Rules().block(["desk"], [VOCABULARY]))
    either.set_rules(USER, Rules(opted_out=True))
    saved(either, tmp_path / "b")
    raw_store.flushall()
    for user in (USER, "bob"):
        either.forget(user)
    assert put_back(either, tmp_path / "b") == Restored(0, 0, 2)
    assert either.rules(USER) == Rules(opted_out=True)
    assert either.rules("bob") == Rules()


def test_a_backup_of_the_first_version_is_read(store: Store, tmp_path: Path) -> None:
    fields = {"generation": 1, "blob": b"old", "previous": 0, "bytes": 3, "created": 5.0}
    fields |= {"source_digest": "", "messages": 1, "tokens": 1, "vocabulary": "f1", "nonce": "n"}
    words = [str(word).encode() if word != b"old" else word for p in fields.items() for word in p]
    head = [b"generation", b"1", b"fence", b"0"]
    slots = [{"seconds": -1, "fields": words}]
    data = b"perslm backup 1\n" + msgpack.packb(
        {"tenant": "default", "user": "ann", "head": head, "slots": slots}
    )
    last = {"users": 1, "vocabularies": 0, "crc": zlib.crc32(data)}
    (tmp_path / "b").write_bytes(data + msgpack.packb(last))
    assert put_back(store, tmp_path / "b") == Restored(1, 0, 0)
    stored = store.fetch("ann")
    assert stored is not None
    assert (stored.blob, stored.pending, stored.rules) == (b"old", (), None)
