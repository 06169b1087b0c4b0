"""gRPC for ``perslm.client``; see ``perslm._transport`` for what a transport does.

The only code that knows the gRPC library; ``perslm/v1/scorer.proto`` documents the calls. All
models of a client share one connection. Each keeps one stream open for its score requests, which is
opened at the first of them and again after a failure; two threads read and write it. Requests of
one model go one after the other.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

import urllib3

from perslm._transport import Credentials, Session, no_answer, refuse
from perslm.errors import ArgumentError, MissingExtraError, ServiceError

try:
    import grpc
    from google.protobuf.message import DecodeError, Message
    from grpc_health.v1 import health_pb2

    from perslm.v1 import scorer_pb2
except ModuleNotFoundError as missing:
    raise MissingExtraError("a service over gRPC", "grpc") from missing

_SERVICE: Final = scorer_pb2.DESCRIPTOR.services_by_name["Scorer"].full_name
_OPTIONS: Final = (
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

_M = TypeVar("_M", bound=Message)
_Metadata: TypeAlias = tuple[tuple[str, str], ...]


class GrpcTransport:
    """A transport to the service at a ``grpc``, ``grpcs`` or ``grpc+unix`` URL."""

    def __init__(self, url: str, timeout: float, credentials: Credentials) -> None:
        self._timeout = timeout
        self._metadata: _Metadata = ()
        if credentials.token is not None:
            self._metadata = (("authorization", f"Bearer {credentials.token}"),)
        scheme, target = _target(url)
        self.location = f"grpc+{target}" if scheme == "grpc+unix" else f"{scheme}://{target}"
        if scheme == "grpcs":
            self._channel = grpc.secure_channel(target, _trust(credentials), _OPTIONS)
        elif credentials.tls:
            raise ArgumentError("certificates are for grpcs://: the URL must be one")
        else:
            self._channel = grpc.insecure_channel(target, _OPTIONS)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def user(self, user: str) -> dict[str, Any]:
        """Return metadata of the user's model."""
        reply = self._call("GetUser", scorer_pb2.GetUserRequest(user=user), scorer_pb2.User)
        facts = {field.name: getattr(reply, field.name) for field in reply.DESCRIPTOR.fields}
        return {**facts, "ngrams": list(reply.ngrams)}

    def blob(self, user: str, unless: int | None) -> tuple[int, bytes] | None:
        """Return generation and bytes of the user's model; None if that is still ``unless``."""
        asked = scorer_pb2.GetModelRequest(user=user, unless=unless)
        reply = self._call("GetModel", asked, scorer_pb2.Model)
        if reply.unchanged and unless is not None:
            return None
        return reply.generation, reply.blob

    def forget(self, user: str) -> None:
        """Delete every generation of the user's model."""
        self._call("Forget", scorer_pb2.ForgetRequest(user=user), scorer_pb2.Forgotten)

    def check(self) -> None:
        """Return if models can be loaded."""
        asked = health_pb2.HealthCheckRequest(service=_SERVICE)
        reply = self._call("Check", asked, health_pb2.HealthCheckResponse, "grpc.health.v1.Health")
        if reply.status != health_pb2.HealthCheckResponse.SERVING:
            refuse("it does not serve", 503, "store_unavailable")

    def session(self) -> Session:
        """Return a session, with a stream of its own."""
        return _Session(self)

    def open_stream(self) -> _Stream:
        """Return a new stream of score requests."""
        method: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(
            f"/{_SERVICE}/ScoreStream"
        )
        return _Stream(method, self._metadata, self._timeout)

    def fail(self, error: grpc.RpcError) -> NoReturn:
        """Raise what the end of a call stands for."""
        assert isinstance(error, grpc.Call)
        status, code = error.code(), _code(error)
        if code is None and status in _SILENT:
            raise no_answer(self.location, status.name) from None
        _refuse(status, code)

    def _call(self, name: str, request: Message, kind: type[_M], service: str = _SERVICE) -> _M:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            f"/{service}/{name}"
        )
        body = request.SerializeToString()
        for last in (False, True):
            try:
                reply = method(body, timeout=self._timeout, metadata=self._metadata)
                break
            except grpc.RpcError as error:
                if last or not _is_hung_up(error):
                    self.fail(error)
        return _parsed(kind, reply)


class _Session:
    """The stream of one model."""

    def __init__(self, transport: GrpcTransport) -> None:
        self._transport = transport
        self._stream: _Stream | None = None
        self._mutex = threading.Lock()

    def scores(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Send a score request and return the fields of its answer."""
        body = _request(fields).SerializeToString()
        with self._mutex:
            reply = self._exchange(body)
        answer = _parsed(scorer_pb2.StreamAnswer, reply)
        if answer.HasField("problem"):
            problem = answer.problem
            _refuse(_NAMES.get(problem.status, grpc.StatusCode.UNKNOWN), problem.code)
        return _fields(answer.answer, flat_ids="top_k" not in fields)

    def _exchange(self, body: bytes) -> bytes:
        stream, self._stream = self._stream, None  # kept again if it answers
        while True:
            kept = stream is not None
            stream = stream or self._transport.open_stream()
            try:
                reply = stream.exchange(body)
            except EOFError:
                if not kept:
                    raise no_answer(self._transport.location, "end of stream") from None
            except TimeoutError:
                raise no_answer(self._transport.location, "timeout") from None
            except grpc.RpcError as error:
                if not kept or not _is_hung_up(error):
                    self._transport.fail(error)
            else:
                self._stream = stream
                return reply
            stream = None  # the other side hung up: now on a new one


class _Stream:
    """An open call: each message that is put in brings one out, until a failure ends it.

    It ends, too, when nobody has it any more; its threads hold only its queues.
    """

    def __init__(
        self,
        method: grpc.StreamStreamMultiCallable[bytes, bytes],
        metadata: _Metadata,
        timeout: float,
    ) -> None:
        self._timeout = timeout
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[bytes | grpc.RpcError | None] = queue.SimpleQueue()
        self._call = method(iter(self._requests.get, None), metadata=metadata)
        threading.Thread(
            target=_receive, args=(self._call, self._requests, self._replies), daemon=True
        ).start()
        weakref.finalize(self, self._call.cancel)

    def exchange(self, body: bytes) -> bytes:
        """Send a message and return the one that answers it.

        Raises grpc.RpcError if the call failed, EOFError if it ended, TimeoutError; the stream is
        of no use then.
        """
        self._requests.put(body)
        try:
            reply = self._replies.get(timeout=self._timeout)
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


def _code(error: grpc.Call) -> str | None:
    """Return the service's word for what went wrong; None if it is not the service that says so."""
    code = dict(error.trailing_metadata() or ()).get("perslm-code")
    return code if isinstance(code, str) else None


def _is_hung_up(error: grpc.RpcError) -> bool:
    """Tell whether a connection that was kept open turned out to be dead, or is about to be."""
    assert isinstance(error, grpc.Call)
    return error.code() is grpc.StatusCode.UNAVAILABLE and _code(error) in (None, "draining")


def _trust(credentials: Credentials) -> grpc.ChannelCredentials:
    files = {name: Path(path).read_bytes() for name, path in credentials.tls.items()}
    certificate = files.get("cert_file")
    return grpc.ssl_channel_credentials(
        files.get("ca_certs"), files.get("key_file", certificate), certificate
    )


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
