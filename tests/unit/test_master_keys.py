"""The file of master keys: made, changed and read again, by one or several, whole or not at all."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from perslm import encryption
from perslm.errors import ArgumentError, MissingExtraError
from perslm.store import Store, open_store
from tests.unit.test_encryption import SECRET, key_file, refused, sealed
from tests.unit.test_store import USER, publish

__all__ = ["key_file", "sealed"]


def test_a_file_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "master.json"
    first = encryption.create(path)
    second = encryption.add(path)
    assert encryption.read(path) == (second.id, [first, second])
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ArgumentError, match="current"):
        encryption.remove(path, second.id)
    with pytest.raises(ArgumentError, match="master list"):
        encryption.remove(path, "0" * 16)
    encryption.remove(path, first.id)
    assert encryption.read(path) == (second.id, [second])
    with pytest.raises(ArgumentError, match="exists"):
        encryption.create(path)
    assert list(tmp_path.iterdir()) == [path]


def test_of_two_who_make_the_file_at_once_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "master.json"
    locked = encryption._locked
    made = []

    def late(directory: Path) -> object:
        monkeypatch.setattr(encryption, "_locked", locked)
        made.append(encryption.create(path))
        return locked(directory)

    monkeypatch.setattr(encryption, "_locked", late)
    with pytest.raises(ArgumentError, match="exists"):
        encryption.create(path)
    assert encryption.read(path) == (made[0].id, made)


def test_a_new_file_is_on_the_disk_before_anything_is_encrypted_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "master.json", []

    def fsync(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    encryption.create(path)
    assert synced == [(False, False), (True, True)]


def test_nobody_gets_hold_of_keys_by_opening_the_file_first(tmp_path: Path) -> None:
    waiting = tmp_path / f".master.json.{os.getpid()}.partial"  # left behind, or by others
    waiting.touch(0o666)
    waiting.chmod(0o666)
    with waiting.open() as opened:
        encryption.create(tmp_path / "master.json")
        assert opened.read() == ""
    assert (tmp_path / "master.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_is_refused(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    with pytest.raises(ArgumentError, match="chmod 600"):
        open_store("redis://localhost", master_keys=key_file)


def test_a_file_that_breaks_while_it_is_in_use_takes_no_key_away(
    sealed: Store, store_url: str, key_file: Path
) -> None:
    publish(sealed, SECRET)
    good = key_file.read_text()
    new = encryption.add(key_file)
    with open_store(store_url, master_keys=key_file) as store:
        publish(store, SECRET, "bob")
        whole = key_file.read_text()
        for broken in ("", "{", good.replace("version", "v")):
            key_file.write_text(broken)
            assert new.id in refused(sealed, "bob")
            assert sealed.fetch(USER)
        key_file.unlink()
        assert new.id in refused(sealed, "bob")
        key_file.touch(0o600)
        key_file.write_text(whole)
        assert sealed.fetch("bob")


def test_what_is_not_a_file_of_keys(key_file: Path) -> None:
    good = json.loads(key_file.read_text())
    key = good["keys"][0]
    wrong: list[object] = [
        None, [], {}, {**good, "version": 2}, {**good, "current": "0" * 16}, {**good, "keys": {}},
        {**good, "keys": [key, key]}, {**good, "keys": []},
        *({**good, "keys": [{**key, **change}]} for change in (
            {"id": "x" * 16}, {"id": 1}, {"key": "AAAA"}, {"key": "***"}, {"key": 1},
            {"created": "now"},
        )),
    ]  # fmt: skip
    texts = ["", "{", "[" * 100_000, *(json.dumps(value) for value in wrong)]
    for text in texts:
        key_file.write_text(text)
        with pytest.raises(ArgumentError) as caught:
            open_store("redis://localhost", master_keys=key_file)
        assert key["key"] not in str(caught.value)
    with pytest.raises(ArgumentError, match="keys master new"):
        open_store("redis://localhost", master_keys=key_file.with_name("nothing"))


def test_the_environment_names_the_file(
    store_url: str, key_file: Path, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    monkeypatch.setenv("PERSLM_MASTER_KEYS", str(key_file))
    with open_store(store_url) as sealed:
        publish(sealed, SECRET)
    refused(store)


def test_without_the_package_only_encryption_is_missing(tmp_path: Path, key_file: Path) -> None:
    program = f"""
import sys
sys.modules["cryptography"] = None
import perslm
from perslm.errors import MissingExtraError
perslm.open_store("redis://localhost")
try:
    perslm.open_store("redis://localhost", master_keys={str(key_file)!r})
except MissingExtraError as error:
    print(error.extra)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "encryption\n"
    assert issubclass(MissingExtraError, ImportError)
