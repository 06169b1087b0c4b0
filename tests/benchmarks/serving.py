"""Latency of a beam step against the scoring service, beside an echo of the same server.

    python -m tests.benchmarks.serving [--json] [--steps N]

A synthetic user (order 3, some 45,000 n-grams, a vocabulary of 50,000) in an embedded store, the
service in a process of its own, one connection kept open, one step at a time: 8 hypotheses, 64
candidates each. *echo* is a route of the same server that sends back what it got, as large as a
score request: what is above it is the scoring. *raw* callers write bytes to a socket; *client* is
``perslm.Client``; *in process* is the same model fetched by ``Client.fetch``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import fastapi
import msgpack
import numpy as np
import uvicorn

from perslm import wire
from perslm.blob import Metadata, encode
from perslm.client import Client
from perslm.counts import Specials, count
from perslm.model import PersonalModel
from perslm.store import open_store
from service import run
from service.settings import Settings
from tests.support import Seq

SIZE, BEAM, CANDIDATES = 50_000, 8, 64
FINGERPRINT, USER = "ab" * 16, "user"


def synthetic_mail(random: np.random.Generator) -> list[Seq]:
    """Sentences over a vocabulary as skewed as that of mail."""
    words = np.minimum(random.zipf(1.3, (4000, 12)), 8000) + 2
    return [Seq(row, True, True) for row in words.tolist()]


def serve(store_url: str, ready: Connection) -> None:
    """Run the service with one more route, and send its URL."""
    create_app = run.create_app

    def with_echo(*arguments: Any) -> fastapi.FastAPI:
        app = create_app(*arguments)

        async def echo(request: fastapi.Request) -> fastapi.Response:
            return fastapi.Response(await request.body(), media_type="application/msgpack")

        app.router.add_route("/echo", echo, ["POST"])
        return app

    run.create_app = with_echo
    settings = Settings(store=store_url, http="127.0.0.1:0")
    run.serve(settings, on_ready=lambda urls: ready.send(urls[0]))


def caller(url: str, path: str, media_type: str, body: bytes) -> Callable[[], bytes]:
    """A function that sends one and the same request over a socket and returns the body."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {media_type}\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    def call() -> bytes:
        connection.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.recv(1 << 16)
        head, _, reply = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(reply) < length:
            reply += connection.recv(1 << 16)
        return reply

    return call


def latency(call: Callable[[], object], steps: int) -> dict[str, float]:
    for _ in range(steps // 10):
        call()
    times = np.zeros(steps)
    for i in range(steps):
        begin = time.perf_counter()
        call()
        times[i] = time.perf_counter() - begin
    p50, p99 = np.percentile(times * 1e6, [50, 99])
    return {"p50_us": round(float(p50), 1), "p99_us": round(float(p99), 1)}


def measure(url: str, mail: list[Seq], steps: int) -> dict[str, dict[str, float]]:
    random = np.random.default_rng(2)
    histories = [sequence.ids[:6] for sequence in mail[:BEAM]]
    candidates = random.integers(2, 8000, (BEAM, CANDIDATES), np.uint32)
    rows = np.full((BEAM, SIZE), -np.log(SIZE), np.float32)
    base = {"user": USER, "vocabulary": FINGERPRINT}
    packed = msgpack.packb(
        {
            **base,
            "histories": wire.pack_rows(histories),
            "candidates": wire.pack_array(candidates, "<u4"),
        }
    )
    text = json.dumps({**base, "histories": histories, "candidates": candidates.tolist()}).encode()
    with Client(url, strict=True) as client:
        remote, local = client.model(USER), client.fetch(USER)
        assert isinstance(local, PersonalModel)
        there, here = remote.states(histories), local.states(histories)
        assert np.array_equal(remote.score(there, candidates)[0], local.score(here, candidates)[0])
        return {
            "echo, raw": latency(caller(url, "/echo", "application/msgpack", packed), steps),
            "score, msgpack, raw": latency(
                caller(url, "/v1/score", "application/msgpack", packed), steps
            ),
            "score, json, raw": latency(caller(url, "/v1/score", "application/json", text), steps),
            "score, client": latency(lambda: remote.score(there, candidates), steps),
            "mix, client": latency(lambda: remote.mix(there, rows), steps // 5),
            "score, in process": latency(lambda: local.score(here, candidates), steps),
            "mix, in process": latency(lambda: local.mix(here, rows), steps // 5),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--steps", type=int, default=3000)
    arguments = parser.parse_args()
    mail = synthetic_mail(np.random.default_rng(1))
    blob = encode(count(mail, 3, Specials(SIZE, 0, 1)), Metadata(FINGERPRINT, len(mail)))
    spawning = multiprocessing.get_context("spawn")
    ready, ready_there = spawning.Pipe()
    with tempfile.TemporaryDirectory(prefix="perslm-bench-") as directory:
        url = f"embedded:{directory}/store"
        with open_store(url) as store:
            store.publish(USER, blob, parent=store.head(USER), vocabulary=FINGERPRINT)
            process = spawning.Process(target=serve, args=(url, ready_there))
            process.start()
            try:
                results = measure(ready.recv(), mail, arguments.steps)
            finally:
                process.terminate()
                process.join()
            store.forget(USER)
    machine = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "fastapi": fastapi.__version__,
        "uvicorn": uvicorn.__version__,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
    }
    if arguments.json:
        json.dump({"machine": machine, "blob_bytes": len(blob), "latency": results}, sys.stdout)
        return
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"{BEAM} hypotheses, {CANDIDATES} candidates, a blob of {len(blob)} bytes")
    for name, result in results.items():
        print(f"{name:22} p50 {result['p50_us']:7.0f} µs   p99 {result['p99_us']:7.0f} µs")


if __name__ == "__main__":
    main()
