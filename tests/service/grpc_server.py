"""A real gRPC server in a thread, and a plain way to talk to it."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import uvloop
from google.protobuf.message import Message

from perslm.store import Store
from perslm.v1 import scorer_pb2
from service.core import ScoringService
from service.grpc import SERVICE, Server
from service.settings import Settings, TcpAddress

GRACE = 5.0


class RunningServer:
    """A server and the event loop that it runs on."""

    def __init__(
        self, settings: Settings, store: Store, service: ScoringService | None = None
    ) -> None:
        self._settings = settings
        self.service = service or ScoringService(store, settings)
        self._ready: queue.SimpleQueue[str | BaseException] = queue.SimpleQueue()
        self._stop = asyncio.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> RunningServer:
        self._thread.start()
        url = self._ready.get(timeout=30)
        if isinstance(url, BaseException):
            self._thread.join(30)
            raise url
        self.url = url
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def stop(self) -> None:
        """Begin to drain, if that has not begun."""
        if not self._stopping:
            self._stopping = True
            self._loop.call_soon_threadsafe(self._stop.set)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        address = self._settings.address("grpc") or TcpAddress("127.0.0.1", 0)
        try:
            server = Server(self._settings, self.service)
            self._ready.put(await server.start(address))
        except Exception as error:  # noqa: BLE001 - for the thread that waits
            self._ready.put(error)
            return
        await self._stop.wait()
        await server.stop(GRACE)


class CallRefusedError(Exception):
    """What a refused call said."""

    def __init__(self, status: grpc.StatusCode, code: str | None, text: str, request_id: str = ""):
        super().__init__(status, code, text)
        self.status, self.code, self.text, self.request_id = status, code, text, request_id


class GrpcCaller:
    """Sends messages that are put together here, not by ``perslm.client``."""

    def __init__(self, url: str) -> None:
        self.target = url.removeprefix("grpc://").removeprefix("grpc+")
        self.channel = grpc.insecure_channel(self.target)

    def __call__(
        self,
        name: str,
        request: Message | bytes,
        *,
        service: str = SERVICE,
        timeout: float = 30,
        metadata: Any = (),
    ) -> bytes:
        body = request if isinstance(request, bytes) else request.SerializeToString()
        try:
            reply: bytes = self.channel.unary_unary(f"/{service}/{name}")(
                body, timeout=timeout, metadata=metadata
            )
        except grpc.RpcError as error:
            raise refusal(error) from None
        return reply

    def stream(self) -> GrpcStream:
        return GrpcStream(self.channel)

    def close(self) -> None:
        self.channel.close()


class GrpcStream:
    """A stream of score requests; ``send`` as many as you like, then ``receive``."""

    def __init__(self, channel: grpc.Channel, metadata: Any = (), timeout: float = 30) -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        method = channel.stream_stream(f"/{SERVICE}/ScoreStream")
        self._call = method(iter(self._requests.get, None), timeout=timeout, metadata=metadata)

    def send(self, request: Message | bytes | None) -> None:
        body = request.SerializeToString() if isinstance(request, Message) else request
        self._requests.put(body)

    def receive(self) -> scorer_pb2.StreamAnswer:
        try:
            return scorer_pb2.StreamAnswer.FromString(next(self._call))
        except grpc.RpcError as error:
            self.send(None)
            raise refusal(error) from None


def refusal(error: Any) -> CallRefusedError:
    trailing = dict(error.trailing_metadata() or ())
    code, request_id = trailing.get("perslm-code"), trailing.get("perslm-request-id", "")
    return CallRefusedError(error.code(), code, error.details(), request_id)


def score_request(fields: Mapping[str, Any]) -> scorer_pb2.ScoreRequest:
    """The message for the fields of a request as in JSON."""
    given = dict(fields)
    histories = given.pop("histories")
    request = scorer_pb2.ScoreRequest(
        histories=scorer_pb2.Rows(
            lengths=[len(row) for row in histories],
            data=np.array([i for row in histories for i in row], "<u4").tobytes(),
        )
    )
    if "candidates" in given:
        given.pop("candidates")
        n, k = len(fields["candidates"]), len((fields["candidates"] or [[]])[0])
        rows = np.array(fields["candidates"], "<u4").reshape(n, k)
        request.candidates.CopyFrom(
            scorer_pb2.Array(n=rows.shape[0], k=rows.shape[1], data=rows.tobytes())
        )
    if "positions" in given:
        request.positions = np.array(given.pop("positions"), "<u4").tobytes()
    for name, value in given.items():
        setattr(request, name, value)
    return request


def answer_arrays(answer: scorer_pb2.ScoreAnswer, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an answer with its arrays as numpy arrays."""
    found: dict[str, Any] = {
        name: getattr(answer, name) for name in ("status", "reason", "generation", "order")
    }
    found["weights"] = np.frombuffer(answer.weights, "<f4")
    shape = answer.logprobs.n, answer.logprobs.k
    found["logprobs"] = np.frombuffer(answer.logprobs.data, "<f4").reshape(shape)
    if answer.HasField("ids"):
        ids = np.frombuffer(answer.ids.data, "<u4").reshape(answer.ids.n, answer.ids.k)
        found["ids"] = ids if "top_k" in fields else ids[0]
    return found


@contextmanager
def calling(settings: Settings, store: Store) -> Iterator[GrpcCaller]:
    """A caller of a server that lives as long as the context."""
    with RunningServer(settings, store) as server:
        caller = GrpcCaller(server.url)
        yield caller
        caller.close()
