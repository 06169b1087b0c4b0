"""The store when things go wrong: lost replies, and every failure as one of our errors."""

from __future__ import annotations

import contextlib
import inspect
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from redis import exceptions

from perslm import encryption
from perslm._store_errors import _REFUSED
from perslm.backup import Restored, backup, restore
from perslm.errors import StoreError, StoreUnavailableError
from perslm.rules import Rules
from perslm.store import Head, Store, open_store
from perslm.vocabulary import Vocabulary
from tests.unit.test_backup import Silent
from tests.unit.test_store import USER, publish

# Lost connections


class LossyServer:
    """A unix socket before the real one that carries requests in and loses replies on demand."""

    def __init__(self, path: Path, real: str) -> None:
        self.lose = 0  # how many more replies are lost, each with its connection
        self._real = real
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        """Serve one connection after the other: the tests hold one at a time."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            with client, socket.socket(socket.AF_UNIX) as server:
                server.connect(self._real)
                while request := client.recv(1 << 20):
                    server.sendall(request)
                    reply = server.recv(1 << 20)
                    if self.lose and b"EVAL" in request:
                        self.lose -= 1
                        break
                    client.sendall(reply)


@pytest.fixture
def lossy(tmp_path: Path, store_url: str) -> Iterator[tuple[LossyServer, Store]]:
    server = LossyServer(tmp_path / "lossy.sock", store_url.removeprefix("unix://"))
    with contextlib.closing(server), open_store(f"unix://{tmp_path}/lossy.sock") as store:
        yield server, store


def test_a_publish_whose_reply_was_lost_is_recognized(lossy: tuple[LossyServer, Store]) -> None:
    server, store = lossy
    publish(store, b"one")
    head = store.head(USER)
    server.lose = 1
    assert store.publish(USER, b"two", parent=head) == 2
    assert [info.generation for info in store.generations(USER)] == [2, 1]


def test_a_rollback_whose_reply_was_lost_happens_once(lossy: tuple[LossyServer, Store]) -> None:
    server, store = lossy
    for blob in (b"one", b"two", b"three"):
        publish(store, blob)
    head = store.head(USER)
    server.lose = 1
    assert store._publish(USER, head, None) == 4
    stored = store.fetch(USER)
    assert stored is not None
    assert (stored.generation, stored.blob) == (4, b"two")


def test_rules_whose_reply_was_lost_are_changed_once(lossy: tuple[LossyServer, Store]) -> None:
    server, store = lossy
    vocabulary = Vocabulary.from_words(["desk"])
    changes: list[Rules] = []

    def change(rules: Rules) -> Rules:
        server.lose = 1  # what was read has arrived
        how = rules.unblock if rules.phrases else rules.block
        changes.append(how(["desk"], [vocabulary]))
        return changes[-1]

    for phrases in ({"desk"}, set()):
        assert store.change_rules(USER, change).phrases == phrases
        assert store.rules(USER).phrases == phrases
        assert server.lose == 0
    assert len(changes) == 2


def test_a_server_that_loses_every_reply_is_unavailable(lossy: tuple[LossyServer, Store]) -> None:
    server, store = lossy
    head = store.head(USER)
    server.lose = 2
    with pytest.raises(StoreUnavailableError, match="cannot be reached"):
        store.publish(USER, b"secret", parent=head)
    assert store.head(USER).generation == 1, "it arrived all the same"


def test_a_silent_server_is_given_up_after_the_timeout(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/silent.sock")
        listener.listen()
        with (
            open_store(f"unix://{tmp_path}/silent.sock", timeout=0.05) as store,
            pytest.raises(StoreUnavailableError, match="did not answer in time"),
        ):
            store.fetch(USER)


class FreezingServer:
    """A unix socket before the real one; while frozen, its connections stay open and silent."""

    def __init__(self, path: Path, real: str) -> None:
        self.opened = 0
        self._real = real
        self._going = threading.Event()
        self._going.set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self._sockets: list[socket.socket] = []

    def freeze(self) -> None:
        """Freeze all connections there are, for ever; later ones work."""
        self._going.clear()
        self._going = threading.Event()
        self._going.set()

    def close(self) -> None:
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._sockets):
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._real)
            self._sockets += [client, server]
            self.opened += 1
            for ends in ((client, server), (server, client)):
                self._threads.append(
                    threading.Thread(target=self._carry, args=(*ends, self._going))
                )
                self._threads[-1].start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket, going: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if going.is_set():
                    target.sendall(data)


def test_connections_that_died_silently_cost_one_timeout_in_all(
    tmp_path: Path, store_url: str
) -> None:
    server = FreezingServer(tmp_path / "f.sock", store_url.removeprefix("unix://"))
    url = f"unix://{tmp_path}/f.sock"
    with contextlib.closing(server), open_store(url, timeout=0.5) as store:
        barrier = threading.Barrier(5)

        def occupy(_: int) -> None:
            barrier.wait(10)  # and then hold a connection while the others take theirs
            store._connection.run(lambda client: client.blpop(["nothing"], timeout=0.1))

        with ThreadPoolExecutor(5) as pool:
            list(pool.map(occupy, range(5)))
            assert server.opened == 5
            server.freeze()
            with pytest.raises(StoreUnavailableError, match="did not answer in time"):
                store.head(USER)
            list(pool.map(occupy, range(5)))
        assert server.opened == 10


# Errors


def failure_types() -> list[type[Exception]]:
    own = [kind for kind in vars(exceptions).values() if inspect.isclass(kind)]
    system = [OSError, *OSError.__subclasses__()]
    return [kind for kind in (*own, *system) if issubclass(kind, Exception)]


class Failing:
    """A client whose every command fails in one way."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        def fail(*_: object, **__: object) -> None:
            raise self._error

        return fail


def error_of(kind: type[Exception], *args: str) -> Exception:
    error = kind.__new__(kind, *args)  # some constructors want a server's reply
    error.args = args
    return error


@pytest.mark.parametrize("kind", failure_types(), ids=lambda kind: kind.__name__)
def test_no_lower_failure_escapes_and_none_tells_secrets(kind: type[Exception]) -> None:
    store = open_store("redis://user:hunter2@localhost:1")
    store._connection._client = Failing(error_of(kind, "sees blob-content and ada-l"))
    calls = (
        store.ping,
        lambda: store.head(USER),
        lambda: store.fetch(USER),
        lambda: store.info(USER),
        lambda: store.generations(USER),
        lambda: store.publish(USER, b"blob-content", parent=Head(0, 0)),
        lambda: store.rollback(USER),
        lambda: store.forget(USER),
        lambda: list(store.users()),
        lambda: store.vocabulary("f"),
        lambda: store.put_vocabulary(b"", "f"),
    )
    for call in calls:
        with pytest.raises(StoreError) as caught:
            call()
        told = f"{caught.value!r} {caught.value}"
        assert "localhost:1" in told
        assert not any(secret in told for secret in ("hunter2", "blob-content", USER))
        assert caught.value.__suppress_context__, "a traceback would show the server's words"


@pytest.mark.parametrize(
    ("message", "error", "remedy"),
    [
        ("MISCONF Errors writing to the AOF file", StoreUnavailableError, "disk is full"),
        (
            "ERR Error running script (call to f_1): @user_script:9: -OOM command not allowed",
            StoreUnavailableError,
            "maxmemory",
        ),
        ("NOREPLICAS Not enough good replicas", StoreUnavailableError, "min-replicas"),
        ("ERR unknown command 'EVAL', with args beginning with: 'x'", StoreError, "Redis 6.2"),
    ],
)
def test_what_a_server_may_answer(message: str, error: type[Exception], remedy: str) -> None:
    store = open_store("redis://localhost:1")
    store._connection._client = Failing(exceptions.ResponseError(message))
    with pytest.raises(StoreError, match=remedy) as caught:
        store.head(USER)
    assert type(caught.value) is error


def test_a_server_whose_memory_is_full(store: Store, raw_store: redis.Redis) -> None:
    publish(store, b"one")
    raw_store.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailableError, match="maxmemory"):
            store.publish(USER, b"two", parent=store.head(USER))
        stored = store.fetch(USER)
        assert stored is not None
        assert stored.blob == b"one"
        assert store.forget(USER), "deleting is the remedy, so it must work"
    finally:
        raw_store.config_set("maxmemory", "0")


def test_a_server_that_wants_a_password(store_url: str, raw_store: redis.Redis) -> None:
    raw_store.config_set("requirepass", "s3cret")
    try:
        with open_store(store_url) as store, pytest.raises(StoreUnavailableError, match="password"):
            store.head(USER)
        with open_store(f"{store_url}?password=s3cret") as store:
            assert store.head(USER) == Head(0, 0)
    finally:
        raw_store.config_set("requirepass", "")


def test_what_a_refusal_names_is_all_that_is_needed(
    store_url: str, raw_store: redis.Redis, tmp_path: Path
) -> None:
    named = _REFUSED["NOPERM"].partition("perslm needs ")[2]
    commands = re.findall(r"\b[A-Z]+\b", named)
    keys, channels = re.findall(r"[~&](\S+)", named)
    raw_store.acl_setuser(
        "perslm",
        enabled=True,
        nopass=True,
        reset_channels=True,
        keys=[keys],
        channels=[channels],
        commands=["-@all", *(f"+{command}" for command in commands)],
    )
    encryption.create(tmp_path / "m.json")
    try:
        url = store_url.replace("unix://", "unix://perslm:any@")
        with open_store(url) as store, open_store(url, master_keys=tmp_path / "m.json") as sealed:
            changes = iter(store.changes())
            assert next(changes).kind == "gap"
            for one in (store, sealed):
                publish(one, b"one", "ann")
                publish(one, b"two", "ann")
                one.rollback("ann")
            sealed.protect("ann", renew=True)
            encryption.add(tmp_path / "m.json")
            with open_store(url, master_keys=tmp_path / "m.json") as rotated:
                assert rotated.protect("ann") == "rewrapped"
            store.put_vocabulary(b"words", "f1")
            assert store.vocabulary("f1") == b"words"
            assert list(store.users()) == ["ann"]
            assert len(sealed.generations("ann")) == 6
            backup(store, tmp_path / "b", Silent())
            store.forget("ann")
            assert restore(store, tmp_path / "b", Silent()) == Restored(0, 0, 1)
            raw_store.delete("perslm:fence:{ann}")
            assert restore(store, tmp_path / "b", Silent()) == Restored(1, 0, 0)
            assert [next(changes).kind for _ in range(7)][-1] == "forget"
    finally:
        raw_store.acl_deluser("perslm")


def test_a_read_only_replica(store: Store, raw_store: redis.Redis) -> None:
    raw_store.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        with pytest.raises(StoreUnavailableError, match="primary"):
            store.publish(USER, b"blob", parent=Head(0, 0))
    finally:
        raw_store.execute_command("REPLICAOF", "NO", "ONE")


def test_a_key_of_another_program(store: Store, raw_store: redis.Redis) -> None:
    raw_store.set("perslm:head:{ada-l}", "something else")
    with pytest.raises(StoreError, match="namespace"):
        store.fetch(USER)
