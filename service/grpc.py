"""The scoring service over gRPC: translators around ``service.core``, on grpc.aio.

``perslm/v1/scorer.proto`` documents the calls. Handlers get and return bytes; they parse messages
themselves, so that what cannot be parsed is refused like any other bad request. What fields mean,
and whether they fit together, is ``service.core``'s, as for HTTP.

What blocks runs in a worker thread; a small request for a model that is in memory is answered on
the event loop. On a stream each request is answered before the next is read.

**Deadlines.** That of a call is gRPC's; on a stream each request may have a ``timeout_ms`` of its
own, counted from when it was read. What has passed is not computed, wherever it waited, and nobody
waits for what takes longer: the status is DEADLINE_EXCEEDED, on a stream that of a problem.

**What leaves.** Refusals are those of ``service.problems``: a status, the code in the trailing
metadata ``perslm-code``, a fixed text. Who calls is told by the metadata ``authorization``, which
every handler asks ``service.auth`` about before anything else; health and reflection are open to
all.
"""

from __future__ import annotations

import asyncio
import math
import os
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from typing import Final, Literal, NoReturn, TypeAlias, TypeVar

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from perslm.counts import MAX_ORDER
from perslm.errors import ArgumentError, StoreError
from perslm.learning import Learned
from perslm.v1 import scorer_pb2
from perslm.wire import plain_query_of_protobuf
from service.audit import Audit
from service.auth import Authenticator, Principal
from service.core import (
    Frame,
    RequestError,
    ScoreAnswer,
    ScoreRequest,
    ScoringService,
    Status,
    deadline_exceeded,
    too_many_histories,
)
from service.gate import OverloadedError, Turn
from service.logs import log_refusal
from service.metrics import Watch
from service.problems import Problem, problem_of
from service.settings import Address, Settings, UnixAddress
from service.sockets import is_abandoned
from service.tls import grpc_credentials

SERVICE: Final = scorer_pb2.DESCRIPTOR.services_by_name["Scorer"].full_name

_STATUS_OF_CODE: Final = {
    "too_many_histories": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "answer_too_large": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "overloaded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
    "forbidden": grpc.StatusCode.PERMISSION_DENIED,
    "unknown_user": grpc.StatusCode.NOT_FOUND,
    "no_vocabulary": grpc.StatusCode.FAILED_PRECONDITION,
    "too_many_pending": grpc.StatusCode.FAILED_PRECONDITION,
    "learning_unavailable": grpc.StatusCode.UNIMPLEMENTED,
    "bad_blob": grpc.StatusCode.DATA_LOSS,
    "store_unavailable": grpc.StatusCode.UNAVAILABLE,
    "draining": grpc.StatusCode.UNAVAILABLE,
    "deadline_exceeded": grpc.StatusCode.DEADLINE_EXCEEDED,
    "internal": grpc.StatusCode.INTERNAL,
}
_REFUSED: Final = grpc.StatusCode.INVALID_ARGUMENT  # every other code
_DRAINING: Final = Problem("draining", "this process ends: open the stream again, elsewhere")
_SMALL_BODY_BYTES: Final = 1 << 16
_LONGEST_CONTEXT: Final = MAX_ORDER - 1
_IDS: Final = tuple(struct.Struct(f"<{n}I") for n in range(MAX_ORDER))  # by how many

_Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]
_HealthContext: TypeAlias = grpc.aio.ServicerContext[
    health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
]
_M = TypeVar("_M", bound=Message)


@dataclass(slots=True)
class _Call:
    """What a request has beside its message.

    ``deadline`` is of time.monotonic(). On a stream each request has a call of its own.
    """

    authorization: str | None
    deadline: float
    watch: Watch

    @classmethod
    def of(cls, context: _Context, watch: Watch) -> _Call:
        metadata = dict(context.invocation_metadata() or ())
        given = metadata.get("authorization")
        watch.traceparent = metadata.get("traceparent")
        remaining = context.time_remaining()
        deadline = math.inf if remaining is None else time.monotonic() + remaining
        return cls(given if isinstance(given, str) else None, deadline, watch)

    def allow(self, milliseconds: int) -> None:
        """Let the request take so long from now; without bound if that is negative.

        Raises RequestError if the deadline has passed.
        """
        if milliseconds >= 0:
            self.deadline = min(self.deadline, time.monotonic() + milliseconds / 1000)
        if self.deadline != math.inf:
            self.require_time()

    def require_time(self) -> None:
        """Return if the caller still waits; raises RequestError."""
        if time.monotonic() >= self.deadline:
            raise deadline_exceeded()


class Server:
    """The gRPC server of one process, for one event loop: ``start``, later ``stop``.

    Raises ArgumentError or OSError for a file of keys or secrets that cannot be used.
    """

    def __init__(self, settings: Settings, service: ScoringService) -> None:
        self._settings = settings
        self._service = service
        self._authenticator = Authenticator(settings)
        self._audit = Audit(settings)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", settings.max_body_bytes),
                ("grpc.so_reuseport", int(settings.workers > 1)),  # else a port in use is shared
            ]
        )
        self._health = _Health(service)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        unary = {
            "Score": ("score", self._score),
            "GetUser": ("user", self._user),
            "GetModel": ("model", self._model),
            "AddMessage": ("learn", self._learn),
            "Forget": ("forget", self._forget),
        }
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(route, answer))
            for name, (route, answer) in unary.items()
        }
        handlers["ScoreStream"] = grpc.stream_stream_rpc_method_handler(self._score_stream)
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(SERVICE, handlers)]
        )
        self._turning = False
        self._draining = False
        self._waiting: set[asyncio.Task[object]] = set()  # streams between two requests

    async def start(self, address: Address) -> str:
        """Listen at ``address`` and return the URL for ``perslm.Client``; raises ArgumentError."""
        url = self._listen(address)
        await self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()
        return url

    async def stop(self, grace: float) -> None:
        """Refuse new requests, finish those being answered, for at most ``grace`` seconds.

        May be called again while it waits, with less grace.
        """
        self._draining = True
        await self._health.enter_graceful_shutdown()
        for stream in self._waiting:
            stream.cancel()
        await self._server.stop(grace)

    def _listen(self, address: Address) -> str:
        if isinstance(address, UnixAddress):
            path = str(address.path)
            if os.path.lexists(path) and not is_abandoned(path):  # gRPC would take it over
                raise ArgumentError(
                    "the unix socket of gRPC cannot be used: choose a path where nothing else "
                    "listens"
                )
            mask = os.umask(0o177)  # only this user can connect, from the beginning
            try:
                self._bind(f"unix:{path}")
            finally:
                os.umask(mask)
            return f"grpc+unix:{path}"
        host = f"[{address.host}]" if ":" in address.host else address.host
        scheme = "grpc" if self._settings.tls_cert is None else "grpcs"
        return f"{scheme}://{host}:{self._bind(f'{host}:{address.port}')}"

    def _bind(self, target: str) -> int:
        try:
            if self._settings.tls_cert is None or target.startswith("unix:"):
                return self._server.add_insecure_port(target)
            return self._server.add_secure_port(target, grpc_credentials(self._settings))
        except RuntimeError:
            raise ArgumentError(
                "the gRPC address cannot be used: if its port is in use, choose another with "
                "--grpc, or 0 for any"
            ) from None

    async def _score_stream(self, requests: object, context: _Context) -> None:
        """Answer the requests of a stream one by one, until its end or that of this process."""
        metrics = self._service.metrics
        stream = _Call.of(context, metrics.watch("grpc", "score_stream"))
        task = asyncio.current_task()
        assert task is not None
        try:
            while not self._draining:
                self._waiting.add(task)
                body = await context.read()
                self._waiting.discard(task)
                if not isinstance(body, bytes):  # the end
                    return
                watch = metrics.watch("grpc", "score_stream")
                watch.traceparent = stream.watch.traceparent
                call = _Call(stream.authorization, stream.deadline, watch)
                try:
                    self._admit()
                    reply = self._at_once(body, call, _stream_frame)
                    if reply is None:
                        answer = await self._score(body, call)
                        reply = scorer_pb2.StreamAnswer(answer=answer).SerializeToString()
                except Exception as error:  # noqa: BLE001 - whatever it is, the stream goes on
                    reply = _problem(problem_of(error), watch).SerializeToString()
                watch.end()
                log_refusal(watch)
                await context.write(reply)
        except asyncio.CancelledError:
            if not self._draining or task not in self._waiting:
                raise
        finally:
            self._waiting.discard(task)
        await _abort(context, _DRAINING)

    def _admit(self) -> None:
        turn = self._service.turns["grpc"]
        if not self._turning:  # what has arrived by now comes before what is called soon
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn_over, turn)
        if not turn.admit():
            raise OverloadedError

    def _turn_over(self, turn: Turn) -> None:
        turn.answering, self._turning = True, False

    def _at_once(self, body: bytes, call: _Call, frame: Frame) -> bytes | None:
        """Return the answer to a plain request whose model is in memory; None if it is not that."""
        if len(body) > _SMALL_BODY_BYTES:
            return None
        query = plain_query_of_protobuf(body, self._settings.max_histories)
        if query is None:
            return None
        principal = self._authenticator.authenticate(call.authorization)
        call.allow(query.timeout_ms)
        principal.require("score", query.user)
        return self._service.of_tenant(principal.tenant).answer(query, frame, call.watch)

    async def _score(self, body: bytes, call: _Call) -> scorer_pb2.ScoreAnswer:
        principal = self._principal(call)
        call.require_time()
        most = self._settings.max_histories
        service = self._service.of_tenant(principal.tenant)
        if len(body) <= _SMALL_BODY_BYTES:
            message = _parse(scorer_pb2.ScoreRequest, body)
        else:
            message = await service.run(call.deadline, _parse, scorer_pb2.ScoreRequest, body)
        if message.HasField("timeout_ms"):
            call.allow(message.timeout_ms)
        if len(body) <= _SMALL_BODY_BYTES:
            request = _request(message, most)
        else:
            request = await service.run(call.deadline, _request, message, most)
        call.watch.lap("decode")
        principal.require("score", request.user)
        if service.is_quick(request):
            return _scored(service, request, call, wait=False)
        return await service.run(call.deadline, _scored, service, request, call)

    async def _user(self, body: bytes, call: _Call) -> scorer_pb2.User:
        principal = self._principal(call)
        user = _parse(scorer_pb2.GetUserRequest, body).user
        # who scores step by step must know the order, and sees no more of the model by it
        principal.require("score" if "score" in principal.scopes else "model:read", user)
        service = self._service.of_tenant(principal.tenant)
        call.require_time()
        return scorer_pb2.User(**asdict(await service.manage(call.deadline, service.model, user)))

    async def _model(self, body: bytes, call: _Call) -> scorer_pb2.Model:
        principal = self._principal(call)
        asked = _parse(scorer_pb2.GetModelRequest, body)
        unless = asked.unless_tag if asked.HasField("unless_tag") else None
        if unless is None and asked.HasField("unless"):
            unless = str(asked.unless)
        service = self._service.of_tenant(principal.tenant)
        with self._audit.recorded("export", principal, asked.user) as call.watch.request_id:
            principal.require("model:read", asked.user)
            call.require_time()
            blob = partial(service.blob, unless=unless)
            found = await service.manage(call.deadline, blob, asked.user)
        if isinstance(found, str):
            generation = int(found.partition("-")[0])
            return scorer_pb2.Model(generation=generation, unchanged=True, tag=found)
        return scorer_pb2.Model(
            generation=found.generation,
            blob=found.blob,
            vocabulary=found.vocabulary,
            tag=found.tag,
        )

    async def _learn(self, body: bytes, call: _Call) -> scorer_pb2.Learned:
        principal = self._principal(call)
        asked = _parse(scorer_pb2.AddMessageRequest, body)
        service = self._service.of_tenant(principal.tenant)
        with self._audit.recorded("learn", principal, asked.user) as call.watch.request_id:
            principal.require("write", asked.user)
            call.require_time()
            learn = partial(_learned, service, asked)
            learned = await service.manage(call.deadline, learn, asked.user)
        call.watch.reason = learned.status
        return scorer_pb2.Learned(status=learned.status, reason=learned.reason)

    async def _forget(self, body: bytes, call: _Call) -> scorer_pb2.Forgotten:
        principal = self._principal(call)
        user = _parse(scorer_pb2.ForgetRequest, body).user
        service = self._service.of_tenant(principal.tenant)
        with self._audit.recorded("forget", principal, user) as call.watch.request_id:
            principal.require("forget", user)
            call.require_time()
            await service.manage(call.deadline, service.forget, user)
        return scorer_pb2.Forgotten()

    def _unary(
        self, route: str, answer: Callable[[bytes, _Call], Awaitable[Message]]
    ) -> Callable[[bytes, _Context], Awaitable[bytes]]:
        """Return a handler of ours for a method with one request and one answer."""
        metrics = self._service.metrics

        async def handle(body: bytes, context: _Context) -> bytes:
            watch = metrics.watch("grpc", route)
            call = _Call.of(context, watch)
            try:
                reply = None
                if route == "score":
                    self._admit()
                    reply = self._at_once(body, call, _frame)
                if reply is None:
                    reply = (await answer(body, call)).SerializeToString()
            except Exception as error:  # noqa: BLE001 - whatever it is must not get out
                problem = problem_of(error)
                request_id = watch.refused(problem.code, problem.request_id)
                watch.end()
                log_refusal(watch)
                return await _abort(context, problem, request_id)
            watch.end()
            if watch.request_id is not None:
                context.set_trailing_metadata((("perslm-request-id", watch.request_id),))
            return reply

        return handle

    def _principal(self, call: _Call) -> Principal:
        return self._authenticator.authenticate(call.authorization)


class _Health(health.aio.HealthServicer):
    """The standard health service; whether models can be loaded is asked of the store."""

    def __init__(self, service: ScoringService) -> None:
        super().__init__()
        self._service = service

    async def Check(  # noqa: N802 - the name that gRPC calls
        self, request: health_pb2.HealthCheckRequest, context: _HealthContext
    ) -> health_pb2.HealthCheckResponse:
        if request.service == SERVICE:
            try:
                await self._service.check()
            except StoreError:
                return health_pb2.HealthCheckResponse(
                    status=health_pb2.HealthCheckResponse.NOT_SERVING
                )
        return await super().Check(request, context)


async def _abort(context: _Context, problem: Problem, request_id: str | None = None) -> NoReturn:
    """End a call with a problem."""
    metadata = [("perslm-code", problem.code)]
    if request_id is not None:
        metadata.append(("perslm-request-id", request_id))
    await context.abort(_status(problem), _text(problem), tuple(metadata))


def _status(problem: Problem) -> grpc.StatusCode:
    return _STATUS_OF_CODE.get(problem.code, _REFUSED)


def _text(problem: Problem) -> str:
    if problem.request_id is None:
        return problem.message
    return f"{problem.message}: {problem.request_id}"


def _scored(
    service: ScoringService, request: ScoreRequest, call: _Call, *, wait: bool = True
) -> scorer_pb2.ScoreAnswer:
    """Return the answer to a request, unless it waited in vain."""
    call.require_time()
    answer = _answer(service.score(request, call.deadline, call.watch, wait=wait))
    call.watch.lap("encode")
    return answer


def _parse(kind: type[_M], body: bytes) -> _M:
    try:
        return kind.FromString(body)
    except DecodeError:
        # Not chained: the parser's messages may repeat content.
        raise RequestError(
            "malformed_body", "the message is not the protobuf that perslm/v1/scorer.proto says"
        ) from None


def _learned(service: ScoringService, asked: scorer_pb2.AddMessageRequest, user: str) -> Learned:
    fields: dict[str, object] = {
        "message_id": asked.message_id,
        "date": asked.date,
        "from": list(asked.author),
        "to": list(asked.to),
        "cc": list(asked.cc),
        "subject": asked.subject,
        "body": asked.body,
        "raw": asked.raw,
    }
    return service.learn(user, {name: value for name, value in fields.items() if value})


def _problem(problem: Problem, watch: Watch) -> scorer_pb2.StreamAnswer:
    """Return the answer on a stream that a problem becomes, and tell the watch."""
    status: int = _status(problem).value[0]
    request_id = watch.refused(problem.code, problem.request_id)
    return scorer_pb2.StreamAnswer(
        problem=scorer_pb2.Problem(
            status=status, code=problem.code, message=_text(problem), request_id=request_id
        )
    )


def _request(message: scorer_pb2.ScoreRequest, max_histories: int) -> ScoreRequest:
    """Return the request in a message."""
    if not message.HasField("histories"):
        raise RequestError("invalid_request", "the field histories is missing")
    return ScoreRequest(
        user=message.user,
        vocabulary=message.vocabulary,
        histories=_rows(message.histories, max_histories),
        candidates=_matrix(message.candidates) if message.HasField("candidates") else None,
        top_k=message.top_k if message.HasField("top_k") else None,
        dense=message.dense,
        compact=message.compact,
        positions=_positions(message.positions) if message.HasField("positions") else None,
    )


def _rows(rows: scorer_pb2.Rows, most: int) -> list[list[int]]:
    """Return the end of each row, which alone can matter."""
    lengths, data = rows.lengths, rows.data
    if len(lengths) > most:
        raise too_many_histories(most)
    if sum(lengths) * 4 != len(data):
        raise RequestError(
            "invalid_request",
            "histories: the data of rows does not have the length that their lengths ask for",
        )
    ends = []
    end = 0
    for length in lengths:
        end += length
        kept = min(length, _LONGEST_CONTEXT)
        ends.append(list(_IDS[kept].unpack_from(data, (end - kept) * 4)))
    return ends


def _matrix(array: scorer_pb2.Array) -> npt.NDArray[np.uint32]:
    n, k, data = array.n, array.k, array.data
    if n * k * 4 != len(data):
        raise RequestError(
            "invalid_request",
            "candidates: an array's data does not have the length that its n and k ask for",
        )
    return np.frombuffer(data, "<u4").reshape(n, k)


def _positions(data: bytes) -> npt.NDArray[np.uint32]:
    if len(data) % 4:
        raise RequestError("invalid_request", "positions: each has 4 bytes")
    return np.frombuffer(data, "<u4")


def _answer(answer: ScoreAnswer) -> scorer_pb2.ScoreAnswer:
    return scorer_pb2.ScoreAnswer(
        status=answer.status,
        reason=answer.reason,
        generation=answer.generation,
        order=answer.order,
        weights=np.ascontiguousarray(answer.weights, "<f4").tobytes(),
        logprobs=_array(answer.logprobs, "<f4"),
        ids=None if answer.ids is None else _array(np.atleast_2d(answer.ids), "<u4"),
    )


@lru_cache(maxsize=4096)
def _frame(
    status: Status, reason: str, generation: int, order: int, n: int, k: int
) -> tuple[bytes, bytes]:
    """Return what protobuf has around the arrays of a ScoreAnswer for candidates."""
    whole = _blank(status, reason, generation, order, n, k).SerializeToString()
    return _around(whole, n, k)


@lru_cache(maxsize=4096)
def _stream_frame(
    status: Status, reason: str, generation: int, order: int, n: int, k: int
) -> tuple[bytes, bytes]:
    """Return what protobuf has around the arrays of such an answer on a stream."""
    blank = _blank(status, reason, generation, order, n, k)
    return _around(scorer_pb2.StreamAnswer(answer=blank).SerializeToString(), n, k)


def _blank(
    status: Status, reason: str, generation: int, order: int, n: int, k: int
) -> scorer_pb2.ScoreAnswer:
    weights, logprobs = np.zeros(n, np.float32), np.zeros((n, k), np.float32)
    return _answer(ScoreAnswer(status, reason, generation, order, weights, logprobs))


def _around(whole: bytes, n: int, k: int) -> tuple[bytes, bytes]:
    """Return what is before and between the weights and log-probabilities of a message.

    Fields are written in the order of their numbers: nothing comes after the log-probabilities.
    """
    logprobs = scorer_pb2.Array(n=n, k=k, data=bytes(4 * n * k))
    last = scorer_pb2.ScoreAnswer(logprobs=logprobs).SerializeToString()
    return whole[: -len(last) - 4 * n], last[: -4 * n * k]


def _array(rows: npt.NDArray[np.generic], dtype: Literal["<f4", "<u4"]) -> scorer_pb2.Array:
    n, k = rows.shape
    return scorer_pb2.Array(n=n, k=k, data=np.ascontiguousarray(rows, dtype).tobytes())
