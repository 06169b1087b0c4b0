"""Encrypted stores as operators handle them: keys, rotation, backup, and kill -9 in the middle."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from perslm import encryption
from perslm.embedded import EmbeddedServer
from perslm.errors import StoreError
from perslm.store import Store, open_store
from tests.integration.mailboxes import Perslm

USERS = [f"user-{i}" for i in range(150)]


@pytest.fixture(autouse=True)
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands look for master keys; nothing is there yet."""
    monkeypatch.setenv("PERSLM_MASTER_KEYS", str(tmp_path / "master.json"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "master.json"


def blob(user: str, generation: int) -> bytes:
    return f"{user} {generation} ".encode() * 200


def publish(store: Store, user: str) -> None:
    parent = store.head(user)
    store.publish(user, blob(user, parent.generation + 1), parent=parent)


def all_is_readable(store: Store, generations: int = 1) -> None:
    """Check the published model of everybody, and of those replaced what is still kept."""
    for tenant, user in store.owners():
        view = store.of_tenant(tenant)
        current = view.fetch(user)
        assert current is not None
        kept = [view.fetch(user, generation=info.generation) for info in view.generations(user)]
        found = [stored for stored in (current, *kept) if stored is not None]
        assert len(found) > generations
        for stored in found:
            assert stored.blob == blob(user, stored.generation)


def test_from_an_open_store_to_the_second_master_key(
    perslm: Perslm, store_url: str, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PERSLM_MASTER_KEYS")
    with open_store(store_url) as store:
        for view in (store, store.of_tenant("acme")):
            for user in USERS[:5]:
                publish(view, user)
                publish(view, user)
    monkeypatch.setenv("PERSLM_MASTER_KEYS", str(key_file))
    first = perslm("keys", "master", "new", "--json").json["id"]
    nothing = dict.fromkeys(("encrypted", "rewrapped", "renewed", "current", "absent"), 0)
    expected = {"users": 10, **nothing, "failed": []}
    assert perslm("keys", "rotate", "--json").json == {**expected, "encrypted": 10}
    assert perslm("keys", "rotate", "--json").json == {**expected, "current": 10}
    second = perslm("keys", "master", "add", "--json").json["id"]
    rows = perslm("keys", "master", "list", "--json").lines
    assert [(row["id"], row["current"]) for row in rows] == [(first, False), (second, True)]
    assert "10 rewrapped" in perslm("keys", "rotate").err
    assert perslm("keys", "rotate", "--data-keys", "--json").json == {**expected, "renewed": 10}
    perslm("keys", "master", "remove", second, code=2)
    perslm("keys", "master", "remove", first)
    shown = perslm("keys", "master", "list").out
    assert second in shown
    assert first not in shown
    _, (key,) = encryption.read(key_file)
    assert key.key.hex() not in shown
    with open_store(store_url, master_keys=key_file) as store:
        all_is_readable(store, 2)


def test_models_under_a_lost_key_are_counted_and_left(
    perslm: Perslm, store_url: str, key_file: Path
) -> None:
    perslm("keys", "master", "new")
    with open_store(store_url, master_keys=key_file) as store:
        publish(store, "lost")
    key_file.unlink()
    perslm("keys", "master", "new")
    with open_store(store_url, master_keys=key_file) as store:
        publish(store, "found")
    done = perslm("keys", "rotate", "--json", code=1).json
    assert done["failed"] == [{"tenant": "default", "user": "lost"}]
    assert done["current"] == 1
    said = perslm("keys", "rotate", code=1).err
    assert "cannot be decrypted" in said
    assert "perslm forget" in said
    assert "lost" not in said
    with open_store(store_url, master_keys=key_file) as store:  # nobody overwrites them by mistake
        with pytest.raises(StoreError, match="add that key"):
            publish(store, "lost")
        perslm("forget", "lost", "--yes")
        publish(store, "lost")
    assert perslm("keys", "rotate", "--json").json["current"] == 2


def test_mistakes_are_told_in_a_line(perslm: Perslm, tmp_path: Path, key_file: Path) -> None:
    for arguments, remedy in (
        (("keys", "rotate"), "keys master new"),
        (("keys", "master", "add"), "keys master new"),
        (("users",), "keys master new"),
        (("forget",), "--from"),
        (("forget", "ann", "--from", "x"), "--from"),
    ):
        assert remedy in perslm(*arguments, code=2).err
    (tmp_path / "b").write_text("mail")
    perslm("keys", "master", "new")
    assert "not a backup" in perslm("store", "restore", tmp_path / "b", code=5).err
    key_file.chmod(0o644)
    assert "chmod 600" in perslm("users", code=2).err


def test_a_rotation_that_is_killed_leaves_all_readable_and_goes_on(
    perslm: Perslm, store_url: str, raw_store: redis.Redis, key_file: Path
) -> None:
    perslm("keys", "master", "new")
    with open_store(store_url, master_keys=key_file) as store:
        for user in USERS:
            publish(store, user)
            publish(store, user)

        def keys() -> list[Any]:
            return [raw_store.hget(f"perslm:head:{{{user}}}", "k") for user in USERS]

        for changed in (1, 20, 100):
            before = keys()
            process = subprocess.Popen(
                [sys.executable, "-m", "perslm", "keys", "rotate", "--data-keys"],
                env={**os.environ, "PERSLM_STORE": store_url},
                stderr=subprocess.DEVNULL,
            )
            while sum(a != b for a, b in zip(before, keys(), strict=True)) < changed:
                assert process.poll() is None, "it ended before it could be killed"
            process.kill()
            process.wait(60)
            all_is_readable(store, 2)
        assert perslm("keys", "rotate", "--data-keys", "--json").json["renewed"] == len(USERS)
        all_is_readable(store, 2)


@pytest.mark.parametrize("began_open", [False, True])
def test_a_server_killed_during_rotation_loses_nothing(
    tmp_path: Path, began_open: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one builder publishes; the store starts its server again by itself."""
    monkeypatch.delenv("PERSLM_MASTER_KEYS")
    file = tmp_path / "keys.json"
    encryption.create(file)
    url = f"embedded:{tmp_path}/store"
    done = threading.Event()
    with (
        open_store(url) as unencrypted,
        open_store(url, master_keys=file) as store,
        ThreadPoolExecutor(2) as pool,
    ):
        for user in USERS[:30]:
            publish(unencrypted if began_open else store, user)

        def rotate() -> int:
            rounds = 0
            while not done.is_set() or rounds < 2:
                encryption.add(file)
                with open_store(url, master_keys=file) as own:
                    for user in USERS[:30]:
                        assert own.protect(user, renew=rounds % 2 == 0) != "absent"
                rounds += 1
            return rounds

        def build() -> int:
            published = 0
            while not done.is_set() or published < 30:
                publish(store, USERS[published % 30])
                published += 1
            return published

        tasks = [pool.submit(rotate), pool.submit(build)]
        try:
            server = EmbeddedServer(tmp_path / "store")
            for _ in range(6):
                store.ping()
                with redis.Redis(unix_socket_path=str(server.socket)) as client:
                    os.kill(int(client.info("server")["process_id"]), signal.SIGKILL)
                all_is_readable(store)
        finally:
            done.set()
        for task in tasks:
            assert task.result(300) >= 2
        all_is_readable(store)


def test_a_backup_comes_back_without_those_deleted_since(
    perslm: Perslm,
    store_url: str,
    raw_store: redis.Redis,
    key_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    perslm("keys", "master", "new")
    with open_store(store_url, master_keys=key_file) as store:
        for user in USERS[:4]:
            publish(store, user)
        assert perslm("store", "backup", tmp_path / "b", "--json").json["users"] == 4
        (tmp_path / "deleted").write_text(f"{USERS[0]}\n{USERS[1]}\r\n\nnobody\n")
        raw_store.flushall()
        forgotten = perslm("forget", "--from", tmp_path / "deleted", "--yes", "--json").json
        assert forgotten == {"users": 3, "had_model": 0}
        done = perslm("store", "restore", tmp_path / "b", "--json").json
        assert done == {"restored": 2, "present": 0, "deleted": 2}
        assert set(store.users()) == set(USERS[2:4])
        all_is_readable(store)
        assert "0 users; 2 have a model already" in perslm("store", "restore", tmp_path / "b").err
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(USERS[2].encode())))
        forgotten = perslm("forget", "--from", "-", "--yes", "--json").json
        assert forgotten == {"users": 1, "had_model": 1}
        assert list(store.users()) == [USERS[3]]
