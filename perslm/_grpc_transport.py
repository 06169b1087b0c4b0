"""gRPC for the clients: what is asked, and the wire of those that block; see ``perslm._transport``.

``perslm/v1/scorer.proto`` documents the calls; the wire for event loops is ``perslm._grpc_async``.
All models of a client share one connection. Each keeps one stream open for its score requests,
which is opened at the first of them and again after a failure; two threads read and write it.
Requests of one model go one after the other.
"""

from __future__ import annotations

import math
import queue
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn, Self, TypeAlias, TypeVar

import urllib3

from perslm._steps import Steps
from perslm._transport import Credentials, UnansweredError, exchange, refuse
from perslm.errors import ArgumentError, MissingExtraError, ServiceError

try:
    import grpc
    from google.protobuf.message import DecodeError, Message
    from grpc_health.v1 import health_pb2

    from perslm.v1 import scorer_pb2
except ModuleNotFoundError as missing:
    raise MissingExtraError("a service over gRPC", "grpc") from missing

_SERVICE: Final = scorer_pb2.DESCRIPTOR.services_by_name["Scorer"].full_name
STREAM: Final = f"/{_SERVICE}/ScoreStream"
OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),  # models may be large
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # clients share nothing
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # a service that is back is found soon
)
_HTTP_STATUS: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: 422,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 413,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNIMPLEMENTED: 404,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_SILENT: Final = (  # what gRPC itself says, if there is no word of the service
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
)
_NAMES: Final = {status.value[0]: status for status in grpc.StatusCode}
_OVERLOADED_SECONDS: Final = 1.0  # what scorer.proto says
_LONGEST_MS: Final = (1 << 31) - 1

_M = TypeVar("_M", bound=Message)
_Metadata: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class GrpcRequest:
    """A message: for the stream of ``line`` if there is one, else for the call at ``path``."""

    path: str
    body: bytes
    line: Any = None
    again: bool = True
    fresh: bool = False

    def afresh(self) -> Self:
        """Return the same request for a stream that was not kept open."""
        return replace(self, fresh=True)


@dataclass(frozen=True, slots=True)
class GrpcReply:
    """The message of a reply; or the status of a refusal, and the service's word for it."""

    body: bytes
    status: grpc.StatusCode = grpc.StatusCode.OK
    code: str | None = None

    @property
    def pause(self) -> float | None:
        """After how many seconds to come back, if the service is overloaded; else None."""
        return _OVERLOADED_SECONDS if self.code == "overloaded" else None


@dataclass(frozen=True, slots=True)
class StreamReply:
    """A reply of a stream."""

    answer: scorer_pb2.StreamAnswer

    @classmethod
    def of(cls, body: bytes) -> Self:
        """Return the reply that a message is."""
        return cls(_parsed(scorer_pb2.StreamAnswer, body))

    @property
    def pause(self) -> float | None:
        """After how many seconds to come back, if the service is overloaded; else None."""
        return _OVERLOADED_SECONDS if self.answer.problem.code == "overloaded" else None


class GrpcCalls:
    """What is asked of the service at a ``grpc``, ``grpcs`` or ``grpc+unix`` URL.

    For the wire: ``target``, the ``metadata`` of every call, and ``credentials`` if TLS is spoken.
    """

    def __init__(self, url: str, credentials: Credentials) -> None:
        self.metadata: _Metadata = ()
        if credentials.token is not None:
            self.metadata = (("authorization", f"Bearer {credentials.token}"),)
        scheme, self.target = _target(url)
        self.location = (
            f"grpc+{self.target}" if scheme == "grpc+unix" else f"{scheme}://{self.target}"
        )
        self.credentials: grpc.ChannelCredentials | None = None
        if scheme == "grpcs":
            self.credentials = _trust(credentials)
        elif credentials.files:
            raise ArgumentError("certificates are for grpcs://: the URL must be one")

    def user(self, user: str) -> Steps[dict[str, Any]]:
        """Return metadata of the user's model."""
        asked = scorer_pb2.GetUserRequest(user=user)
        reply = yield from _call("GetUser", asked, scorer_pb2.User)
        facts = {field.name: getattr(reply, field.name) for field in reply.DESCRIPTOR.fields}
        return {**facts, "ngrams": list(reply.ngrams)}

    def blob(self, user: str, unless: str | None) -> Steps[tuple[int, bytes, str] | None]:
        """Return generation, bytes and tag of the user's model; None if it is still ``unless``."""
        asked = scorer_pb2.GetModelRequest(user=user, unless_tag=unless)
        if unless is not None and unless.isdigit():  # all that an older service understands
            asked.unless = int(unless)
        reply = yield from _call("GetModel", asked, scorer_pb2.Model)
        if reply.unchanged and unless is not None:
            return None
        return reply.generation, reply.blob, reply.tag

    def learn(self, user: str, message: Mapping[str, Any]) -> Steps[str]:
        """Have a message learned; return what became of it."""
        asked = scorer_pb2.AddMessageRequest(
            user=user,
            message_id=message.get("message_id"),
            date=message.get("date"),
            author=_addresses(message, "from"),
            to=_addresses(message, "to"),
            cc=_addresses(message, "cc"),
            subject=message.get("subject"),
            body=message.get("body"),
            raw=_bytes(message.get("raw")),
        )
        reply = yield from _call("AddMessage", asked, scorer_pb2.Learned)
        return reply.status

    def forget(self, user: str) -> Steps[None]:
        """Delete every generation of the user's model."""
        asked = scorer_pb2.ForgetRequest(user=user)
        yield from _call("Forget", asked, scorer_pb2.Forgotten, again=False)

    def check(self) -> Steps[None]:
        """Return if models can be loaded."""
        asked = health_pb2.HealthCheckRequest(service=_SERVICE)
        kind = health_pb2.HealthCheckResponse
        reply = yield from _call("Check", asked, kind, service="grpc.health.v1.Health")
        if reply.status != kind.SERVING:
            refuse("it does not serve", 503, "store_unavailable")

    def scores(self, line: Any, fields: Mapping[str, Any]) -> Steps[dict[str, Any]]:
        """Return the fields of the answer to a score request."""
        body = _request(fields).SerializeToString()
        reply = yield from exchange(GrpcRequest(STREAM, body, line), StreamReply)
        answer = reply.answer
        if answer.HasField("problem"):
            problem = answer.problem
            _refuse(_NAMES.get(problem.status, grpc.StatusCode.UNKNOWN), problem.code)
        return _fields(answer.answer, flat_ids="top_k" not in fields)

    def stream_body(self, request: GrpcRequest, until: float) -> bytes:
        """Return a score request's message with the time that is left, for streams have no other.

        Fields of protobuf may be appended. Raises UnansweredError if the deadline has passed.
        """
        waits = min(math.ceil(self.time_left(until) * 1000), _LONGEST_MS)
        return request.body + scorer_pb2.ScoreRequest(timeout_ms=waits).SerializeToString()

    def time_left(self, until: float) -> float:
        """Return the seconds to the deadline; raises UnansweredError if it has passed."""
        left = until - time.monotonic()
        if left <= 0:
            raise UnansweredError(self.location, "timeout", sent=False)
        return left

    def refusal(self, status: grpc.StatusCode, metadata: Any, *, kept: bool = True) -> GrpcReply:
        """Return what the service said at the end of a call; raises UnansweredError if nothing.

        ``kept`` tells whether the connection or stream had been kept open, or may have been.
        """
        code = dict(metadata or ()).get("perslm-code")  # nobody else says that
        code = code if isinstance(code, str) else None
        hung_up = status is grpc.StatusCode.UNAVAILABLE and code in (None, "draining")
        if hung_up or (code is None and status in _SILENT):
            kind = status.name if code is None else code
            raise UnansweredError(self.location, kind, sent=code is None, stale=kept and hung_up)
        return GrpcReply(b"", status, code)

    def end_of_stream(self, status: grpc.StatusCode, metadata: Any, *, kept: bool) -> NoReturn:
        """Raise what the end of a stream stands for, other than a regular one."""
        reply = self.refusal(status, metadata, kept=kept)
        _refuse(reply.status, reply.code)


class GrpcWire:
    """Carries requests by a channel of grpc."""

    def __init__(self, calls: GrpcCalls) -> None:
        self._calls = calls
        if calls.credentials is None:
            self._channel = grpc.insecure_channel(calls.target, OPTIONS)
        else:
            self._channel = grpc.secure_channel(calls.target, calls.credentials, OPTIONS)

    def send(self, request: GrpcRequest, until: float) -> GrpcReply | StreamReply:
        """Send a request and return the reply."""
        try:
            return self._send(request, until)
        except ValueError:  # gRPC's word for a channel that is closed
            raise UnansweredError(self._calls.location, "closed", sent=False) from None

    def _send(self, request: GrpcRequest, until: float) -> GrpcReply | StreamReply:
        if request.line is not None:
            assert isinstance(request.line, _Line)
            return StreamReply.of(request.line.exchange(request, until))
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(request.path)
        left = self._calls.time_left(until)
        try:
            return GrpcReply(method(request.body, timeout=left, metadata=self._calls.metadata))
        except grpc.RpcError as error:
            return self._calls.refusal(*_end(error))

    def line(self) -> _Line:
        """Return a line with a stream of its own."""
        return _Line(self._calls, self._channel)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


class _Line:
    """The stream of one model."""

    def __init__(self, calls: GrpcCalls, channel: grpc.Channel) -> None:
        self._calls = calls
        self._channel = channel
        self._stream: _Stream | None = None
        self._mutex = threading.Lock()

    def exchange(self, request: GrpcRequest, until: float) -> bytes:
        if not self._mutex.acquire(timeout=self._calls.time_left(until)):
            raise UnansweredError(self._calls.location, "timeout", sent=False)
        try:
            return self._exchange(request, until)
        finally:
            self._mutex.release()

    def _exchange(self, request: GrpcRequest, until: float) -> bytes:
        body = self._calls.stream_body(request, until)
        stream, self._stream = self._stream, None  # kept again if it answers
        kept = stream is not None and not request.fresh
        left = self._calls.time_left(until)
        location = self._calls.location
        if stream is None or not kept:
            stream = _Stream(self._channel, self._calls.metadata)
        try:
            reply = stream.exchange(body, left)
        except EOFError:
            raise UnansweredError(location, "end of stream", stale=kept) from None
        except TimeoutError:
            raise UnansweredError(location, "timeout") from None
        except grpc.RpcError as error:
            self._calls.end_of_stream(*_end(error), kept=kept)
        self._stream = stream
        return reply


class _Stream:
    """An open call: each message that is put in brings one out, until a failure ends it.

    It ends, too, when nobody has it any more; its threads hold only its queues.
    """

    def __init__(self, channel: grpc.Channel, metadata: _Metadata) -> None:
        method: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(STREAM)
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[bytes | grpc.RpcError | None] = queue.SimpleQueue()
        self._call = method(iter(self._requests.get, None), metadata=metadata)
        threading.Thread(
            target=_receive, args=(self._call, self._requests, self._replies), daemon=True
        ).start()
        weakref.finalize(self, self._call.cancel)

    def exchange(self, body: bytes, seconds: float) -> bytes:
        """Send a message and return the one that answers it.

        Raises grpc.RpcError if the call failed, EOFError if it ended, TimeoutError; the stream is
        of no use then.
        """
        self._requests.put(body)
        try:
            reply = self._replies.get(timeout=seconds)
        except queue.Empty:
            self._call.cancel()
            raise TimeoutError from None
        if reply is None:
            raise EOFError
        if isinstance(reply, grpc.RpcError):
            raise reply
        return reply


def _receive(
    call: Iterator[bytes],
    requests: queue.SimpleQueue[bytes | None],
    replies: queue.SimpleQueue[bytes | grpc.RpcError | None],
) -> None:
    """Take what a call brings until its end, and let the thread that writes it end, too."""
    end: grpc.RpcError | None = None
    try:
        for reply in call:
            replies.put(reply)
    except grpc.RpcError as error:
        end = error
    replies.put(end)
    requests.put(None)


def _call(
    name: str, request: Message, kind: type[_M], *, service: str = _SERVICE, again: bool = True
) -> Steps[_M]:
    asked = GrpcRequest(f"/{service}/{name}", request.SerializeToString(), again=again)
    reply = yield from exchange(asked, GrpcReply)
    if reply.status is not grpc.StatusCode.OK:
        _refuse(reply.status, reply.code)
    return _parsed(kind, reply.body)


def _request(fields: Mapping[str, Any]) -> scorer_pb2.ScoreRequest:
    """Return the message of a score request's fields."""
    histories, candidates = fields["histories"], fields.get("candidates")
    return scorer_pb2.ScoreRequest(
        user=fields["user"],
        vocabulary=fields["vocabulary"],
        histories=scorer_pb2.Rows(lengths=histories["lengths"], data=histories["data"]),
        candidates=None if candidates is None else _array(candidates),
        top_k=fields.get("top_k"),
        dense=fields.get("dense"),
        compact=fields.get("compact"),
    )


def _addresses(message: Mapping[str, Any], name: str) -> list[str]:
    found = message.get(name) or []
    return [found] if isinstance(found, str) else list(found)


def _bytes(raw: str | bytes | None) -> bytes | None:
    return raw.encode() if isinstance(raw, str) else raw


def _array(packed: Mapping[str, Any]) -> scorer_pb2.Array:
    n, k = packed["shape"]
    return scorer_pb2.Array(n=n, k=k, data=packed["data"])


def _fields(answer: scorer_pb2.ScoreAnswer, *, flat_ids: bool) -> dict[str, Any]:
    """Return the fields of an answer; ``flat_ids`` if its ids are those of all rows."""
    weights, logprobs, ids = answer.weights, answer.logprobs, answer.ids
    fields = {
        "status": answer.status,
        "reason": answer.reason,
        "generation": answer.generation,
        "order": answer.order,
        "weights": {"dtype": "<f4", "shape": [len(weights) // 4], "data": weights},
        "logprobs": {"dtype": "<f4", "shape": [logprobs.n, logprobs.k], "data": logprobs.data},
    }
    if answer.HasField("ids"):
        shape = [ids.k] if flat_ids and ids.n == 1 else [ids.n, ids.k]
        fields["ids"] = {"dtype": "<u4", "shape": shape, "data": ids.data}
    return fields


def _parsed(kind: type[_M], body: bytes) -> _M:
    try:
        return kind.FromString(body)
    except DecodeError:
        raise ServiceError("the scoring service sent what is not its protobuf") from None


def _refuse(status: grpc.StatusCode, code: str | None) -> NoReturn:
    refuse(f"gRPC status {status.name}", _HTTP_STATUS.get(status, 500), code)


def _end(error: grpc.RpcError) -> tuple[grpc.StatusCode, Any]:
    """Return the status and the trailing metadata that a call ended with."""
    assert isinstance(error, grpc.Call)
    return error.code(), error.trailing_metadata()


def _trust(credentials: Credentials) -> grpc.ChannelCredentials:
    credentials.context()  # raises what is wrong with the files, which gRPC would only log
    files = {name: Path(path).read_bytes() for name, path in credentials.files.items()}
    certificate = files.get("cert")
    return grpc.ssl_channel_credentials(files.get("ca"), files.get("key", certificate), certificate)


def _target(url: str) -> tuple[str, str]:
    """Return the scheme of a URL, and what gRPC calls its address."""
    if url.startswith("grpc+unix:"):
        path = url.removeprefix("grpc+unix:").removeprefix("//")
        return "grpc+unix", f"unix:{path}"
    try:
        parts = urllib3.util.parse_url(url)
    except urllib3.exceptions.LocationParseError:
        parts = urllib3.util.Url()
    sound = parts.scheme in ("grpc", "grpcs") and parts.host and parts.port is not None
    if not sound or parts.auth or parts.query or (parts.path or "/") != "/":
        raise ArgumentError("a gRPC service's URL is grpc://HOST:PORT, grpcs:// or grpc+unix:/path")
    return str(parts.scheme), f"{parts.host}:{parts.port}"
