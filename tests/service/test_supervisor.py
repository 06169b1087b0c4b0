"""Several workers on one port: real processes, killed and stopped while they are asked."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from grpc_health.v1 import health_pb2

from perslm.errors import ArgumentError
from perslm.store import Store, open_store
from service import keyfile
from service.grpc import SERVICE
from service.run import serve_here
from service.supervisor import pause_seconds
from tests.service.grpc_server import CallRefusedError, GrpcCaller, score_request
from tests.service.server import Caller, arrays
from tests.service.support import (
    FINGERPRINT,
    HISTORIES,
    MAIL,
    USER,
    assert_same,
    blob_of,
    expected,
    publish,
    settings,
)
from tests.service.support import local as local_model
from tests.service.test_metrics import figures
from tests.support import ROOT

WEIGHT = 0.4
CASE: dict[str, Any] = {"candidates": [[2, 3, 4, 11]] * len(HISTORIES)}
REQUEST: dict[str, Any] = {
    "user": USER, "vocabulary": FINGERPRINT, "histories": HISTORIES, **CASE,
}  # fmt: skip


class Service:
    """A running ``perslm serve``: where it listens, and its processes."""

    def __init__(self, process: subprocess.Popen[str], urls: list[str]) -> None:
        self.process = process
        self.urls = urls
        self.url = urls[0] if urls else ""

    def workers(self) -> set[int]:
        """Ids of the processes that the supervisor has now."""
        task = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return {int(process) for process in Path(task).read_text().split()}

    def until_there_are(self, number: int, without: set[int]) -> set[int]:
        """Wait for so many workers that answer, none of them of ``without``."""
        call = Caller(self.url)
        patience = Patience()
        while True:
            now = self.workers()
            text = call("GET", "/metrics").body
            if figures(text)["perslm_workers"] == number == len(now) and not now & without:
                call.close()
                return now
            patience.go_on()

    def ended(self) -> int:
        """The exit status, which comes soon."""
        return self.process.wait(30)


class Patience:
    """For loops that wait: raises after half a minute."""

    def __init__(self) -> None:
        self._until = time.monotonic() + 30

    def go_on(self) -> None:
        assert time.monotonic() < self._until
        select.select([], [], [], 0.01)


@contextlib.contextmanager
def service(store_url: str, *options: str, lines: int = 1, **settings: str) -> Iterator[Service]:
    command = [sys.executable, "-m", "perslm", "serve", "--store", store_url, *options]
    command += ["--weight", str(WEIGHT)]
    environment = {**os.environ, **{f"PERSLM_{n.upper()}": v for n, v in settings.items()}}
    environment.setdefault("PERSLM_LOAD_SECONDS", "30")
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(lines)]
            yield Service(process, [line.removeprefix("listening on ").strip() for line in said])
        finally:
            process.kill()


class Load:
    """Threads that ask and check the answers, each on a connection of its own.

    ``failures`` has what was neither a good answer nor "nobody listens": that ends a thread.
    """

    def __init__(self, url: str, threads: int = 4) -> None:
        self.good = 0
        self.failures: list[str] = []
        self._url = url
        self._ending = threading.Event()
        self._wanted = expected(CASE, local_model(weight=WEIGHT))
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ending.set()
        self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def until_good(self, number: int) -> None:
        """Wait for so many more good answers."""
        enough = self.good + number
        patience = Patience()
        while self.good < enough:
            patience.go_on()

    def _ask(self) -> None:
        call = Caller(self._url)
        while not self._ending.is_set():
            try:
                reply = call.score(REQUEST, "msgpack")
            except urllib3.exceptions.NewConnectionError:
                break
            except urllib3.exceptions.HTTPError as error:
                self.failures.append(type(error).__name__)
                continue
            if reply.status == 200 and self._is_right(arrays(reply)):
                self.good += 1
            else:
                self.failures.append(str(reply.status))
        call.close()

    def _is_right(self, answer: dict[str, Any]) -> bool:
        return all((answer[name] == wanted).all() for name, wanted in self._wanted.items())


def requests_counted(url: str) -> float:
    """How many score requests the service says it has answered."""
    call = Caller(url)
    now = figures(call("GET", "/metrics").body)
    call.close()
    return sum(
        number
        for name, number in now.items()
        if name.startswith("perslm_requests_total{") and 'route="score"' in name
    )


@contextlib.contextmanager
def stopped(process: int) -> Iterator[None]:
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def test_a_killed_worker_is_replaced_and_only_its_requests_are_lost(
    store: Store, store_url: str
) -> None:
    with (
        service(store_url, "--workers", "2", "--http", "127.0.0.1:0") as served,
        Load(served.url) as load,
    ):
        load.until_good(50)
        before = served.workers()
        assert len(before) == 2
        victim = before.pop()
        os.kill(victim, signal.SIGKILL)
        load.until_good(50)
        now = served.until_there_are(2, without={victim})
        assert before < now
        load.until_good(50)
        assert len(load.failures) <= 4  # each connection has one request on its way
        call = Caller(served.url)
        assert figures(call("GET", "/metrics").body)["perslm_worker_restarts_total"] == 1
        call.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_request_is_lost_when_the_service_ends(
    store: Store, store_url: str, workers: str
) -> None:
    with service(store_url, "--workers", workers, "--http", "127.0.0.1:0") as served:
        with Load(served.url, threads=6) as load:
            load.until_good(100)
            served.process.terminate()
            assert served.ended() == 0
            load.join()  # all were refused, and no other way
        assert load.failures == []


def test_each_worker_answers_for_all_and_counts_go_on_after_it_died(
    store: Store, store_url: str
) -> None:
    with service(store_url, "--workers", "2", "--http", "127.0.0.1:0") as served:
        for one in served.workers():
            with stopped(one):  # so that the other answers
                call = Caller(served.url)
                for _ in range(5):
                    assert call.score(REQUEST, "msgpack").status == 200
                call.close()
        assert requests_counted(served.url) == 10
        call = Caller(served.url)
        now = figures(call("GET", "/metrics").body)
        assert now["perslm_workers"] == 2
        assert now["perslm_cache_models"] == 2  # one each
        assert now["process_resident_memory_bytes"] > 2**26
        victims = served.workers()
        for one in victims:
            os.kill(one, signal.SIGKILL)
        served.until_there_are(2, without=victims)
        assert requests_counted(served.url) == 10
        now = figures(Caller(served.url)("GET", "/metrics").body)
        assert now["perslm_cache_models"] == 0
        assert now["perslm_cache_loads_total"] == 2


def test_both_transports_at_ports_that_are_free_with_the_store_that_comes_with_it(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "store"
    options = ("--workers", "2", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
    with open_store(f"embedded:{directory}") as store:
        publish(store, USER, blob_of(MAIL))
        with service(f"embedded:{directory}", *options, lines=2) as served:
            assert [url.partition(":")[0] for url in served.urls] == ["http", "grpc"]
            wanted = expected(CASE, local_model(weight=WEIGHT))
            for one in served.workers():
                with stopped(one):
                    call = Caller(served.urls[0])
                    answer = arrays(call.score(REQUEST, "msgpack"))
                    assert_same(answer["logprobs"], wanted["logprobs"])
                    call.close()
            remote = GrpcCaller(served.urls[1])
            for _ in range(10):
                remote("Score", score_request(REQUEST))
            remote.close()
            assert requests_counted(served.urls[0]) == 12
            served.process.terminate()
            assert served.ended() == 0
            assert served.process.stdout is not None
            assert served.process.stdout.read() == ""
        assert store.head(USER).generation == 1  # which this process keeps alive


def test_workers_share_a_unix_socket(store: Store, store_url: str, tmp_path: Path) -> None:
    path = f"/tmp/perslm-test-{os.getpid()}.sock"
    with service(store_url, "--workers", "2", "--http", f"unix:{path}") as served:
        assert served.url == f"unix:{path}"
        for one in served.workers():
            with stopped(one), socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(30)
                connection.connect(path)
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert connection.recv(15) == b"HTTP/1.1 200 OK"
        served.process.terminate()
        assert served.ended() == 0
    assert not os.path.exists(path)


def until_ended(processes: set[int], action: Callable[[], None]) -> None:
    """Do ``action``, and wait until the processes have ended."""
    watched = [os.pidfd_open(process) for process in processes]
    action()
    for descriptor in watched:
        assert select.select([descriptor], [], [], 30)[0]
        os.close(descriptor)


def test_no_worker_outlives_a_killed_supervisor(store: Store, store_url: str) -> None:
    options = ("--workers", "2", "--http", "127.0.0.1:0")
    with service(store_url, *options) as served, Load(served.url) as load:
        load.until_good(20)
        until_ended(served.workers(), served.process.kill)
        load.join()
    assert load.failures == []


def test_a_worker_can_be_ended_by_itself(store: Store, store_url: str) -> None:
    with (
        service(store_url, "--workers", "2", "--http", "127.0.0.1:0") as served,
        Load(served.url) as load,
    ):
        load.until_good(20)
        one = min(served.workers())
        until_ended({one}, lambda: os.kill(one, signal.SIGTERM))
        served.until_there_are(2, without={one})
        load.until_good(20)
    assert load.failures == []


def test_a_signal_to_the_whole_group_drains_too(store: Store, store_url: str) -> None:
    with service(store_url, "--workers", "2", "--http", "127.0.0.1:0") as served:
        with Load(served.url) as load:
            load.until_good(20)
            for process in (*served.workers(), served.process.pid):  # as a terminal's Ctrl-C
                os.kill(process, signal.SIGINT)
            assert served.ended() == 0
            load.join()
        assert load.failures == []
        assert served.process.stderr is not None
        assert served.process.stderr.read() == ""


def test_a_second_signal_does_not_wait(store: Store, store_url: str) -> None:
    with (
        service(store_url, "--workers", "2", "--http", "127.0.0.1:0") as served,
        socket.socket() as connection,
    ):
        host, port = served.url.removeprefix("http://").split(":")
        connection.settimeout(30)
        connection.connect((host, int(port)))
        connection.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n")
        connection.sendall(b"Content-Type: application/json\r\n\r\nhalf")
        served.process.terminate()
        until_nobody_listens(host, int(port))
        served.process.terminate()
        assert served.process.stderr is not None
        said = served.process.stderr.read()
        assert served.ended() == 0
    assert "timeout graceful shutdown exceeded" not in said  # what is said after the wait


def until_nobody_listens(host: str, port: int) -> None:
    patience = Patience()
    while True:
        try:
            socket.create_connection((host, port), 30).close()
        except ConnectionError:
            return
        patience.go_on()


def test_it_gives_up_when_no_worker_can_live(store: Store, store_url: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keyfile.create(keys, "frontend", ["score"])
    options = ("--workers", "2", "--http", "127.0.0.1:0", "--keys", str(keys))
    with service(store_url, *options, log_format="json") as served:
        keys.write_text("nothing")  # those who run keep the last good keys; new ones have none
        for one in served.workers():
            os.kill(one, signal.SIGKILL)
        said = served.process.communicate(timeout=60)[1]
        assert served.process.returncode == 1
    *lines, last = said.splitlines()
    assert "no worker is left" in last
    assert any("another starts" in json.loads(line)["message"] for line in lines)
    assert any("cannot start" in json.loads(line)["message"] for line in lines)


def test_the_pause_before_another_worker_has_a_bound() -> None:
    """For hours: the others go on meanwhile."""
    pauses = [pause_seconds(deaths) for deaths in range(1, 3000)]
    assert pauses[:6] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    assert set(pauses[6:]) == {5.0}


@pytest.mark.parametrize(
    ("options", "remedy", "status"),
    [
        (("--grpc", "unix:/tmp/perslm-none.sock"), "give it a port", 2),
        (("--http", "127.0.0.1:0", "--keys", "/nowhere/keys.json"), "/nowhere/keys.json", 5),
        (("--http", "0.0.0.0:0"), "--insecure", 2),
    ],
)
def test_what_cannot_start_says_why(
    store_url: str, options: tuple[str, ...], remedy: str, status: int
) -> None:
    with service(store_url, "--workers", "2", *options, lines=0) as served:
        said, complaint = served.process.communicate(timeout=60)
        assert served.process.returncode == status
    assert said == ""
    assert remedy in complaint


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_a_port_in_use_is_noticed(store_url: str, transport: str) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with service(store_url, "--workers", "2", f"--{transport}", address, lines=0) as served:
            complaint = served.process.communicate(timeout=60)[1]
            assert served.process.returncode == 2
    assert f"choose another with --{transport}" in complaint


def test_a_port_that_another_took_since_is_no_beginning(store: Store) -> None:
    """Two services may bind the same port; the second to listen there must not say that it does."""
    listener, other = (socket.socket() for _ in range(2))
    with listener, other:
        for one in (listener, other):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        other.bind(listener.getsockname())
        other.listen()
        said: list[list[str]] = []
        with pytest.raises(ArgumentError, match="HTTP address"):
            serve_here(settings(), (listener, "http://"), said.append, store=store, orders=Stop())
    assert said == []


class Stop:
    """Orders to stop at once."""

    def obey(self, stop: Callable[[], None], hurry: Callable[[], None]) -> None:
        stop()


PATIENT = """
import sys
from perslm.store import open_store
from service.run import end_process, serve
from service.settings import Settings
settings = Settings(http="127.0.0.1:0", grpc="127.0.0.1:0", load_seconds=0.001)
serve(settings, open_store(sys.argv[1], timeout=600.0))
end_process()
"""


def test_a_store_that_hangs_does_not_hold_up_the_end(
    store: Store, store_url: str, raw_store: Any
) -> None:
    server = raw_store.info("server")["process_id"]
    with subprocess.Popen(
        [sys.executable, "-c", PATIENT, store_url], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            urls = [process.stdout.readline().split()[-1] for _ in range(2)]
            with stopped(server):
                call = Caller(urls[0])
                answer = arrays(call.score(REQUEST, "msgpack"))
                assert answer["reason"] == "loading"
                call.close()
                asking = GrpcCaller(urls[1])
                check = health_pb2.HealthCheckRequest(service=SERVICE)
                with pytest.raises(CallRefusedError, match="DEADLINE"):  # a thread asks the store
                    asking("Check", check, service="grpc.health.v1.Health", timeout=0.5)
                asking.close()
                process.terminate()
                assert process.wait(60) == 0
        finally:
            process.kill()
