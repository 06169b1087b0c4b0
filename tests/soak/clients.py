"""Load: threads that ask like real callers do, by every transport, and have each answer judged."""

from __future__ import annotations

import http.client
import json
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Any
from urllib.parse import quote

import grpc
import msgpack

from perslm import Client
from perslm.v1 import scorer_pb2
from service.grpc import SERVICE
from tests.service.grpc_server import answer_arrays, score_request
from tests.service.server import TYPES, Reply, arrays
from tests.soak.contents import FINGERPRINT, KINDS, fields
from tests.soak.ledger import Ledger, Owner

ANSWER_SECONDS = 20.0  # longer than anything may take
_REFUSALS = frozenset(("overloaded", "store_unavailable", "deadline_exceeded"))


@dataclass(frozen=True)
class Replica:
    """Where one process of the service listens, and the keys that it takes."""

    number: int
    http: str
    grpc: str
    keys: dict[str, str]  # by tenant

    def connect(self) -> http.client.HTTPConnection:
        if self.http.startswith("unix:"):
            return _UnixConnection(self.http.removeprefix("unix:"))
        return http.client.HTTPConnection(self.http.removeprefix("http://"), timeout=ANSWER_SECONDS)

    def raw(self, transport: str) -> socket.socket:
        """Return a bare connection."""
        url = self.http if transport == "http" else self.grpc
        place = url.removeprefix("http://").removeprefix("grpc://").removeprefix("grpc+")
        if place.startswith("unix:"):
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(place.removeprefix("unix:"))
            return connection
        host, _, port = place.rpartition(":")
        return socket.create_connection((host, int(port)), ANSWER_SECONDS)

    def channel(self) -> grpc.Channel:
        target = self.grpc.removeprefix("grpc://").removeprefix("grpc+")
        return grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)])

    def metadata(self, tenant: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.keys[tenant]}"),)

    def headers(self, tenant: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[tenant]}"}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Crowd:
    """Who asks: mostly the popular users, sometimes anybody, at times somebody unknown."""

    def __init__(self, owners: list[Owner]) -> None:
        self._owners = owners
        self._odds = [*accumulate(1 / (rank + 1) for rank in range(len(owners)))]

    def draw(self, random: Random) -> Owner:
        luck = random.random()
        if luck < 0.02:
            return random.choice(self._owners)[0], f"nobody-{random.getrandbits(40):x}"
        if luck < 0.2:
            return random.choice(self._owners)
        return random.choices(self._owners, cum_weights=self._odds)[0]


class Load:
    """Runs callers in threads until it is stopped."""

    def __init__(
        self, ledger: Ledger, crowd: Crowd, replicas: list[Replica], seed: int, pause: float
    ) -> None:
        self.ledger, self.crowd, self.replicas = ledger, crowd, replicas
        self.pause = pause  # mean seconds between two requests of one caller
        self.stopped = threading.Event()
        self._seed = seed
        self._threads: list[threading.Thread] = []

    def start(self, name: str, replica: Replica, caller: Callable[..., None]) -> None:
        random = Random(f"{self._seed} {name} {len(self._threads)}")
        thread = threading.Thread(
            target=self._run, args=(name, replica, caller, random), name=f"soak-{name}"
        )
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        self.stopped.set()
        for thread in self._threads:
            thread.join(3 * ANSWER_SECONDS)
            assert not thread.is_alive(), f"{thread.name} hangs"

    def _run(
        self, name: str, replica: Replica, caller: Callable[..., None], random: Random
    ) -> None:
        while not self.stopped.is_set():
            try:
                caller(self, name, replica, random)
            except Exception as error:  # noqa: BLE001 - whatever it is, the service caused it
                detail = f"{name} replica {replica.number}: {type(error).__name__}: {error}"
                self.ledger.violate("no answer", detail)
                self.stopped.wait(0.2)


def http_caller(form: str) -> Callable[..., None]:
    """Return a caller with a connection that is kept for a while."""

    def call(load: Load, name: str, replica: Replica, random: Random) -> None:
        connection = replica.connect()
        try:
            for _ in range(random.randint(20, 300)):
                _http_step(load, name, replica, random, connection, form)
                if load.stopped.wait(random.expovariate(1 / load.pause)):
                    return
        finally:
            connection.close()

    return call


def _http_step(
    load: Load,
    name: str,
    replica: Replica,
    random: Random,
    connection: http.client.HTTPConnection,
    form: str,
) -> None:
    owner, kind, index, asked = _question(load, random)
    body = json.dumps(asked).encode() if form == "json" else msgpack.packb(asked)
    headers = {**replica.headers(owner[0]), "content-type": TYPES[form]}
    if random.random() < 0.5:
        headers["perslm-timeout-ms"] = str(random.choice((2, 10, 30, 100, 1000)))
    sent = time.monotonic()
    connection.request("POST", "/v1/score", body, headers)
    response = connection.getresponse()
    reply = Reply(response.status, response.headers, response.read())
    if reply.status == 200:
        answer = arrays(reply)
        load.ledger.judge(name, replica.number, owner, kind, index, answer, sent)
        return
    code = reply.json["error"]
    load.ledger.count(name, code, time.monotonic() - sent)
    if code not in _REFUSALS or (code == "overloaded" and "retry-after" not in reply.headers):
        load.ledger.violate("a good request refused", f"{name}: {reply.status} {code}")


def unary_caller(load: Load, name: str, replica: Replica, random: Random) -> None:
    """Calls with deadlines from hopeless to generous."""
    with replica.channel() as channel:
        call = channel.unary_unary(f"/{SERVICE}/Score")
        for _ in range(random.randint(20, 300)):
            owner, kind, index, asked = _question(load, random)
            seconds = random.choice((0.002, 0.01, 0.03, 0.1, 1.0, ANSWER_SECONDS))
            sent = time.monotonic()
            try:
                reply = call(
                    score_request(asked).SerializeToString(),
                    timeout=seconds,
                    metadata=replica.metadata(owner[0]),
                )
            except grpc.RpcError as error:
                _refused(load, name, error, time.monotonic() - sent)
            else:
                answer = answer_arrays(scorer_pb2.ScoreAnswer.FromString(reply), asked)
                load.ledger.judge(name, replica.number, owner, kind, index, answer, sent)
            if load.stopped.wait(random.expovariate(1 / load.pause)):
                return


def stream_caller(load: Load, name: str, replica: Replica, random: Random) -> None:
    """Compose sessions: a stream for one user, which may end in the middle of anything."""
    with replica.channel() as channel:
        method = channel.stream_stream(f"/{SERVICE}/ScoreStream")
        for _ in range(random.randint(3, 30)):
            tenant, _ = owner = load.crowd.draw(random)
            requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            answers = method(
                iter(requests.get, None),
                timeout=3 * ANSWER_SECONDS,
                metadata=replica.metadata(tenant),
            )
            try:
                for _ in range(random.randint(1, 60)):
                    _, kind, index, asked = _question(load, random, owner)
                    sent = time.monotonic()
                    requests.put(score_request(asked).SerializeToString())
                    reply = scorer_pb2.StreamAnswer.FromString(next(answers))
                    if reply.WhichOneof("result") == "answer":
                        answer = answer_arrays(reply.answer, asked)
                        load.ledger.judge(name, replica.number, owner, kind, index, answer, sent)
                    else:
                        load.ledger.count(name, reply.problem.code, time.monotonic() - sent)
                        if reply.problem.code not in _REFUSALS:
                            load.ledger.violate("a good request refused", reply.problem.code)
                    if load.stopped.wait(random.expovariate(1 / load.pause)):
                        break
            except grpc.RpcError as error:
                _refused(load, name, error, 0.0)
            finally:
                requests.put(None)
                if random.random() < 0.3:
                    answers.cancel()
            if load.stopped.is_set():
                return


def export_caller(load: Load, name: str, replica: Replica, random: Random) -> None:
    """Downloads models, which come from the store and not from the cache."""
    connection = replica.connect()
    try:
        for _ in range(random.randint(5, 50)):
            owner = load.crowd.draw(random)
            path = f"/v1/users/{quote(owner[1], safe='')}/model"
            sent = time.monotonic()
            connection.request("GET", path, headers=replica.headers(owner[0]))
            response = connection.getresponse()
            body = response.read()
            if response.status == 200:
                generation = int(response.headers["perslm-generation"])
                load.ledger.judge_blob(name, replica.number, owner, generation, body, sent)
            else:
                code = json.loads(body)["error"]
                load.ledger.judge_refusal(name, replica.number, owner, code, sent)
            if load.stopped.wait(random.expovariate(1 / (4 * load.pause))):
                return
    finally:
        connection.close()


def library_caller(transport: str) -> Callable[..., None]:
    """Return a caller that uses ``perslm.Client``, as a beam search does."""

    def call(load: Load, name: str, replica: Replica, random: Random) -> None:
        owner = load.crowd.draw(random)
        url = replica.http if transport == "http" else replica.grpc
        with Client(url, token=replica.keys[owner[0]], timeout=ANSWER_SECONDS, pause=0.1) as client:
            model = client.model(owner[1], FINGERPRINT)
            for _ in range(random.randint(1, 30)):
                index = random.randrange(len(load.ledger.probes))
                probe = load.ledger.probes[index]
                order = model.order
                sent = time.monotonic()
                states = model.states(probe.histories)
                logprobs, _ = model.score(states, probe.candidates)
                answer = {
                    "logprobs": logprobs,
                    "weights": model.weights(states),
                    "generation": model.generation,
                    "order": model.order,
                }
                if model.order <= order:
                    load.ledger.judge_library(name, replica.number, owner, index, answer, sent)
                else:  # contexts were cut for the order before, which is the last time
                    load.ledger.count(name, "the order grew")
                if load.stopped.wait(random.expovariate(1 / load.pause)):
                    return

    return call


def score_once(
    ledger: Ledger,
    name: str,
    replica: Replica,
    owner: Owner,
    connection: http.client.HTTPConnection,
) -> dict[str, Any]:
    """Ask a replica once for a user's candidates, and return the answer, judged."""
    asked = {"user": owner[1], "vocabulary": FINGERPRINT, **fields("candidates", ledger.probes[0])}
    headers = {**replica.headers(owner[0]), "content-type": TYPES["msgpack"]}
    sent = time.monotonic()
    connection.request("POST", "/v1/score", msgpack.packb(asked), headers)
    response = connection.getresponse()
    answer = arrays(Reply(response.status, response.headers, response.read()))
    ledger.judge(name, replica.number, owner, "candidates", 0, answer, sent)
    return answer


def _question(
    load: Load, random: Random, owner: Owner | None = None
) -> tuple[Owner, str, int, dict[str, Any]]:
    owner = owner or load.crowd.draw(random)
    kind = random.choice(KINDS)
    index = random.randrange(len(load.ledger.probes))
    asked = fields(kind, load.ledger.probes[index])
    return owner, kind, index, {"user": owner[1], "vocabulary": FINGERPRINT, **asked}


def _refused(load: Load, name: str, error: Any, seconds: float) -> None:
    code = dict(error.trailing_metadata() or ()).get("perslm-code")
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        code = "deadline_exceeded"
    load.ledger.count(name, str(code), seconds)
    if code not in _REFUSALS:
        load.ledger.violate(
            "a good request refused", f"{name}: {error.code()} {code} {error.details()}"
        )
