"""gRPC for event loops: a wire of grpc.aio; what is asked is in ``perslm._grpc_transport``."""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import TypeAlias

import grpc
import grpc.aio

from perslm._grpc_transport import (
    OPTIONS,
    STREAM,
    GrpcCalls,
    GrpcReply,
    GrpcRequest,
    StreamReply,
)
from perslm._transport import UnansweredError

_Stream: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"


class AsyncGrpcWire:
    """Carries requests by a channel of grpc.aio; opens nothing before the first."""

    def __init__(self, calls: GrpcCalls) -> None:
        self._calls = calls
        self._channel: grpc.aio.Channel | None = None
        self.loop: asyncio.AbstractEventLoop | None = None  # that of the channel

    async def send(self, request: GrpcRequest, until: float) -> GrpcReply | StreamReply:
        """Send a request and return the reply."""
        try:
            if request.line is not None:
                assert isinstance(request.line, _Line)
                return StreamReply.of(await request.line.exchange(request, until))
            return await self._call(request, until)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            # gRPC's word for a call that ended because the channel was closed
            raise UnansweredError(self._calls.location, "CANCELLED") from None

    def line(self) -> _Line:
        """Return a line with a stream of its own."""
        return _Line(self)

    async def close(self) -> None:
        """Close the connection."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    @property
    def calls(self) -> GrpcCalls:
        """Return what is asked by this wire."""
        return self._calls

    def channel(self) -> grpc.aio.Channel:
        """Return the channel, opened by now."""
        calls = self._calls
        if self._channel is None:
            self.loop = asyncio.get_running_loop()
        if self._channel is None and calls.credentials is None:
            self._channel = grpc.aio.insecure_channel(calls.target, OPTIONS)
        elif self._channel is None:
            assert calls.credentials is not None
            self._channel = grpc.aio.secure_channel(calls.target, calls.credentials, OPTIONS)
        return self._channel

    async def _call(self, request: GrpcRequest, until: float) -> GrpcReply:
        left = self._calls.time_left(until)
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel().unary_unary(
            request.path
        )
        try:
            return GrpcReply(
                await method(request.body, timeout=left, metadata=self._calls.metadata)
            )
        except grpc.aio.AioRpcError as error:
            return self._calls.refusal(error.code(), error.trailing_metadata())


class _Line:
    """The stream of one model."""

    def __init__(self, wire: AsyncGrpcWire) -> None:
        self._wire = wire
        self._stream: _Stream | None = None
        self._mutex = asyncio.Lock()
        self._opened: list[_Stream] = []  # the one stream that is open, if any
        weakref.finalize(self, _end, wire, self._opened)

    async def exchange(self, request: GrpcRequest, until: float) -> bytes:
        calls = self._wire.calls
        calls.time_left(until)
        try:
            async with asyncio.timeout(until - time.monotonic()), self._mutex:
                return await self._exchange(request, until)
        except TimeoutError:
            raise UnansweredError(calls.location, "timeout") from None

    async def _exchange(self, request: GrpcRequest, until: float) -> bytes:
        calls = self._wire.calls
        body = calls.stream_body(request, until)
        stream, self._stream = self._stream, None  # kept again if it answers
        kept = stream is not None and not request.fresh
        if stream is None or not kept:
            stream = self._wire.channel().stream_stream(STREAM)(metadata=calls.metadata)
            self._opened[:] = [stream]
        try:
            await stream.write(body)
            reply = await stream.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            calls.end_of_stream(await stream.code(), await stream.trailing_metadata(), kept=kept)
        except BaseException:
            stream.cancel()  # or the next would read the answer to this request
            raise
        if not isinstance(reply, bytes):
            raise UnansweredError(calls.location, "end of stream", stale=kept)
        self._stream = stream
        return reply


def _end(wire: AsyncGrpcWire, opened: list[_Stream]) -> None:
    """End the stream of a model that nobody has any more; called in whatever thread."""
    if opened and wire.loop is not None and not wire.loop.is_closed():
        wire.loop.call_soon_threadsafe(opened[0].cancel)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
