"""Latency of a beam step against the scoring service, beside an echo of the same server.

    python -m tests.benchmarks.serving [--json] [--steps N]

A synthetic user (order 3, some 45,000 n-grams, a vocabulary of 50,000) in an embedded store, the
service in a process of its own, one connection kept open, one step at a time: 8 hypotheses, 64
candidates each. *echo* is a route, or a gRPC stream, of the same server that sends back what it
got, as large as a score request: what is above it is the scoring. *raw* callers write bytes to a
socket, or messages to a gRPC stream; *client* is ``perslm.Client``; *in process* is the same model
fetched by ``Client.fetch``. What is compared with an echo is measured in turns with it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import queue
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import fastapi
import grpc
import msgpack
import numpy as np
import uvicorn

import service.grpc
from perslm import wire
from perslm.blob import Metadata, encode
from perslm.client import Client
from perslm.counts import Specials, count
from perslm.model import PersonalModel
from perslm.store import open_store
from perslm.v1 import scorer_pb2
from service import run
from service.settings import Settings
from tests.support import Seq

SIZE, BEAM, CANDIDATES = 50_000, 8, 64
FINGERPRINT, USER = "ab" * 16, "user"


def synthetic_mail(random: np.random.Generator) -> list[Seq]:
    """Sentences over a vocabulary as skewed as that of mail."""
    words = np.minimum(random.zipf(1.3, (4000, 12)), 8000) + 2
    return [Seq(row, True, True) for row in words.tolist()]


async def echo_stream(requests: Any, context: Any) -> None:
    while (body := await context.read()) is not grpc.aio.EOF:
        await context.write(body)


class EchoServer(service.grpc.Server):
    """The gRPC server with one more stream."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        handlers = {"Stream": grpc.stream_stream_rpc_method_handler(echo_stream)}
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("Echo", handlers)]
        )


class Bare:
    """The application, and before it the least that the server needs for a body."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/bare":
            await self._app(scope, receive, send)
            return
        body = (await receive())["body"]
        headers = [
            (b"content-type", b"application/msgpack"),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def serve(store_url: str, ready: Connection) -> None:
    """Run the service with one more route and stream, and send its URLs."""
    create_app = run.create_app

    def with_echo(*arguments: Any) -> Any:
        app = create_app(*arguments)

        async def echo(scope: Any, receive: Any, watch: Any) -> tuple[Any, bytes]:
            message = await receive()
            assert not message.get("more_body", False)
            return [(b"content-type", b"application/msgpack")], message["body"]

        app.hot["/echo"] = "echo", echo
        return Bare(app)

    run.create_app = with_echo
    service.grpc.Server = EchoServer  # type: ignore[misc]
    settings = Settings(store=store_url, http="127.0.0.1:0", grpc="127.0.0.1:0")
    run.serve(settings, on_ready=ready.send)


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


def streamer(channel: grpc.Channel, method: str, body: bytes) -> Callable[[], bytes]:
    """A function that sends one and the same message by a stream and returns what comes back."""
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    replies = channel.stream_stream(method)(iter(requests.get, None))

    def call() -> bytes:
        requests.put(body)
        reply: bytes = next(replies)
        return reply

    return call


def latency(call: Callable[[], object], steps: int) -> dict[str, float]:
    return latencies({"": call}, steps)[""]


def latencies(calls: dict[str, Callable[[], object]], steps: int) -> dict[str, dict[str, float]]:
    """Latencies of several calls, made in turns, so that they meet the same machine."""
    times = {name: np.zeros(steps) for name in calls}
    turns = list(calls.items())
    for i in range(-(steps // 10), steps):
        turns.append(turns.pop(0))  # nobody always comes after the same one
        for name, call in turns:
            begin = time.perf_counter()
            call()
            if i >= 0:
                times[name][i] = time.perf_counter() - begin
    found = {}
    for name, row in times.items():
        p50, p99 = np.percentile(row * 1e6, [50, 99])
        found[name] = {"p50_us": round(float(p50), 1), "p99_us": round(float(p99), 1)}
    return found


def measure(urls: list[str], mail: list[Seq], steps: int) -> dict[str, dict[str, float]]:
    url, grpc_url = urls
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
    message = scorer_pb2.ScoreRequest(
        **base,
        histories=scorer_pb2.Rows(
            lengths=[len(row) for row in histories],
            data=np.concatenate([np.array(row, "<u4") for row in histories]).tobytes(),
        ),
        candidates=scorer_pb2.Array(n=BEAM, k=CANDIDATES, data=candidates.tobytes()),
    ).SerializeToString()
    with (
        Client(url, strict=True) as client,
        Client(grpc_url, strict=True) as grpc_client,
        grpc.insecure_channel(grpc_url.removeprefix("grpc://")) as channel,
    ):
        remote, local = client.model(USER), client.fetch(USER)
        assert isinstance(local, PersonalModel)
        there, here = remote.states(histories), local.states(histories)
        assert np.array_equal(remote.score(there, candidates)[0], local.score(here, candidates)[0])
        by_grpc = grpc_client.model(USER)
        there_too = by_grpc.states(histories)
        assert np.array_equal(
            by_grpc.score(there_too, candidates)[0], local.score(here, candidates)[0]
        )
        unary = channel.unary_unary(f"/{service.grpc.SERVICE}/Score")
        return {
            **latencies(
                {
                    "bare echo, raw": caller(url, "/bare", "application/msgpack", packed),
                    "echo, raw": caller(url, "/echo", "application/msgpack", packed),
                    "score, msgpack, raw": caller(url, "/v1/score", "application/msgpack", packed),
                },
                steps,
            ),
            **latencies(
                {
                    "echo, gRPC, raw": streamer(channel, "/Echo/Stream", message),
                    "score, gRPC, raw": streamer(
                        channel, f"/{service.grpc.SERVICE}/ScoreStream", message
                    ),
                },
                steps,
            ),
            "score, gRPC unary, raw": latency(lambda: unary(message), steps),
            "score, gRPC client": latency(lambda: by_grpc.score(there_too, candidates), steps),
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
        "grpcio": grpc.__version__,
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
    for what, echo in (
        ("score, msgpack, raw", "echo, raw"),
        ("score, msgpack, raw", "bare echo, raw"),
        ("score, gRPC, raw", "echo, gRPC, raw"),
    ):
        ratios = (results[what][p] / results[echo][p] for p in ("p50_us", "p99_us"))
        print(f"{what}, to its echo: p50 {next(ratios):.2f}, p99 {next(ratios):.2f}")


if __name__ == "__main__":
    main()
