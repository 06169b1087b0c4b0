"""The scoring service over HTTP: translators around ``service.core``.

``create_app`` makes the ASGI application, which ``service.run`` runs. Handlers read bytes, call the
core and write bytes; the formats are in ``service.codec``, the documentation of the routes in
``service.openapi``, the words for what went wrong in ``service.problems``. FastAPI documents and
routes; its validation and serialization are left out of the way (:class:`_PlainRoute`), for they
would take longer than the scoring does. What a beam search asks at every step does not even wait
for the routing: :class:`App` answers it in front of that.

What blocks runs in a worker thread: anything that asks the store, large bodies, large answers;
``service.gate`` bounds how much of that there is at once. A small request for a model that is in
memory is answered on the event loop, because a change of threads would cost more than the answer.

**Deadlines.** ``Perslm-Timeout-Ms: 250`` (1 to 9 digits, not 0; anything else is as if it were not
there) says how long the caller waits, counted from here. After that the answer is 504
``deadline_exceeded``, whatever still runs.

**Too much.** What the process cannot keep up with is 503 ``overloaded``, before any of this is run
(``service.protocol``).

**Who may.** Every handler of a user's data asks ``service.auth`` before anything else. Probes and
the documentation are open to all: they say nothing of anybody. Metrics are the operator's.

**What leaves.** Errors are ``{"error": code, "message": remedy}``, both from fixed text
(``service.problems``), with an id in ``X-Request-Id`` that the log has, too. User ids are in
paths, so there is no access log.

Every request has a watch of ``service.metrics``, in its ASGI scope or beside it.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from types import coroutine
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perslm.errors import PerslmError, StoreError
from perslm.learning import Learned
from perslm.wire import plain_query
from service import openapi
from service.audit import Audit
from service.auth import CHALLENGE, Authenticator, Principal
from service.codec import Format, decode, encode, frame
from service.core import QUICK_VALUES, RequestError, ScoreRequest, ScoringService, deadline_exceeded
from service.gate import Turn
from service.logs import log_refusal
from service.metrics import CONTENT_TYPE, Metrics, Watch
from service.problems import Problem, problem_of
from service.settings import Settings

_FORMATS: Final[dict[str, Format]] = {
    "application/json": "json",
    "application/msgpack": "msgpack",
    "application/x-msgpack": "msgpack",
    "application/vnd.msgpack": "msgpack",
}
_MEDIA_TYPES: Final[dict[Format, str]] = {
    "json": "application/json",
    "msgpack": "application/msgpack",
}
_STATUS_OF_CODE: Final = {
    "malformed_body": 400,
    "disconnected": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "unknown_user": 404,
    "no_vocabulary": 409,
    "too_many_pending": 409,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "internal": 500,
    "learning_unavailable": 501,
    "deadline_exceeded": 504,
    "overloaded": 503,
    "bad_blob": 503,
    "store_unavailable": 503,
}
_REFUSED: Final = 422  # every other code
_RETRY_SECONDS: Final = 1
SMALL_BODY_BYTES: Final = 1 << 16
_QUICK_VALUES: Final[dict[Format, int]] = {"msgpack": QUICK_VALUES, "json": 1 << 11}  # in 1 ms
_WATCH: Final = "perslm.watch"

SCORE_PATH: Final = "/v1/score"
_TIMEOUT_HEADER: Final = b"perslm-timeout-ms"
_HEADERS: Final = frozenset((b"authorization", b"content-type", b"accept", _TIMEOUT_HEADER))
_PACKED: Final = b"application/msgpack"

Headers: TypeAlias = list[tuple[bytes, bytes]]
"""The headers of a response, without that for its length."""

Hot: TypeAlias = Callable[[Scope, Receive, Watch], Awaitable[tuple[Headers, bytes]]]
"""A handler that gets a request as ASGI has it, and returns headers and content of a 200."""


class App(FastAPI):
    """The documented application, in front of whose routes ``hot`` answers POST to some paths.

    The path alone decides, so that nothing is done for such a request that its handler does not
    need. Each is counted and its refusal answered and logged, as those of all other routes are.
    How many come at once is the business of ``service.protocol``, which ``turn`` is for.
    """

    def __init__(self, turn: Turn, metrics: Metrics, **about: Any) -> None:
        super().__init__(**about)
        self._turn = turn
        self.hot: dict[str, tuple[str, Hot]] = {}  # by path: the name for metrics, and the handler
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        found = self.hot.get(scope["path"]) if scope["type"] == "http" else None
        if found is None or scope["method"] != "POST":
            await super().__call__(scope, receive, send)
            return
        self._turn.answering = True
        route, handler = found
        watch = self._metrics.watch("http", route)
        if self._metrics.tracer is not None:
            watch.traceparent = _traceparent(scope)
        try:
            headers, content = await handler(scope, receive, watch)
        except Exception as error:  # noqa: BLE001 - the last line: whatever it is must not get out
            await _refusal(problem_of(error), watch)(scope, receive, send)
        else:
            headers.append((b"content-length", b"%d" % len(content)))
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": content})
        watch.end()
        log_refusal(watch)


def create_app(settings: Settings, service: ScoringService) -> App:
    """Return the application that answers with ``service``, those whom ``settings`` admit.

    Raises ArgumentError or OSError for a file of keys or secrets that cannot be used.
    """
    app = App(
        service.turns["http"],
        service.metrics,
        title="perslm",
        version="1",
        description=openapi.DESCRIPTION,
        redoc_url=None,
        docs_url="/docs",
    )
    app.add_middleware(_Boundary, metrics=service.metrics)
    app.add_exception_handler(HTTPException, _on_http_exception)
    handlers = _Handlers(service, settings)
    user = "/v1/users/{user}"
    for path, method, handler, documentation in (
        (SCORE_PATH, "POST", _score_in_front, openapi.SCORE),
        (f"{user}/model", "GET", handlers.model, openapi.MODEL),
        (user, "GET", handlers.user, openapi.USER),
        (f"{user}/messages", "POST", handlers.learn, openapi.LEARN),
        (user, "DELETE", handlers.forget, openapi.FORGET),
        ("/healthz", "GET", handlers.healthz, openapi.HEALTHZ),
        ("/readyz", "GET", handlers.readyz, openapi.READYZ),
        ("/metrics", "GET", handlers.metrics, openapi.METRICS),
    ):
        route = _PlainRoute(
            path,
            handler,
            methods=[method],
            response_model=None,
            response_class=Response,
            openapi_extra=documentation,
        )
        app.router.routes.append(route)
    app.openapi().setdefault("components", {})["securitySchemes"] = openapi.SECURITY_SCHEMES
    app.hot[SCORE_PATH] = "score", handlers.score
    return app


class _Handlers:
    """One method for every route."""

    def __init__(self, service: ScoringService, settings: Settings) -> None:
        self._service = service
        self._settings = settings
        self._authenticator = Authenticator(settings)
        self._audit = Audit(settings)

    async def score(self, scope: Scope, receive: Receive, watch: Watch) -> tuple[Headers, bytes]:
        given = _given(scope)
        milliseconds, authorization = given.get(_TIMEOUT_HEADER), given.get(b"authorization")
        deadline = math.inf if milliseconds is None else _deadline(milliseconds)
        principal = self._authenticator.authenticate(
            None if authorization is None else authorization.decode("latin-1")
        )
        media_type, accept = given.get(b"content-type", b""), given.get(b"accept", b"")
        form = _form(media_type)
        if form is None:
            raise RequestError(
                "unsupported_media_type",
                "send application/msgpack or application/json, and say so in Content-Type",
            )
        message = await (receive() if deadline == math.inf else _message(receive, deadline))
        body: bytes = message.get("body", b"")
        most_bytes = self._settings.max_body_bytes
        if message.get("more_body", True) or len(body) > most_bytes:
            body = await _whole(message, receive, most_bytes, deadline)
        watch.lap("receive")
        wanted = _accepted(accept, form) if accept else form
        service = self._service.of_tenant(principal.tenant)
        most = self._settings.max_histories
        if form == wanted == "msgpack" and len(body) <= SMALL_BODY_BYTES:
            query = plain_query(body, most)
            if query is not None:
                principal.require("score", query.user)
                scored = service.answer(query, frame, watch)
                if scored is not None:
                    return [(b"content-type", _PACKED)], scored
        if len(body) <= SMALL_BODY_BYTES:
            asked = decode(body, form, most)
        else:
            asked = await service.run(deadline, decode, body, form, most)
        watch.lap("decode")
        principal.require("score", asked.user)
        work = partial(_scored, service, asked, wanted, deadline, watch)
        is_quick = service.is_quick(asked, _QUICK_VALUES[wanted])
        content = work(wait=False) if is_quick else await service.run(deadline, work)
        return [(b"content-type", _MEDIA_TYPES[wanted].encode())], content

    async def model(self, request: Request) -> Response:
        principal = self._principal(request)
        user = _user(request)
        known = _tag(request.headers.get("if-none-match", ""))
        service = self._service.of_tenant(principal.tenant)
        with self._audit.recorded("export", principal, user) as request_id:
            _watch(request).request_id = request_id
            principal.require("model:read", user)
            blob = partial(service.blob, unless=known)
            found = await service.manage(_deadline_of(request), blob, user)
        if isinstance(found, str):
            headers = {"etag": f'"{found}"', "x-request-id": request_id}
            return Response(status_code=304, headers=headers)
        return Response(
            found.blob,
            media_type="application/octet-stream",
            headers={
                "etag": f'"{found.tag}"',
                "cache-control": "private, no-cache",
                "perslm-generation": str(found.generation),
                "perslm-vocabulary": found.vocabulary,
                "x-request-id": request_id,
            },
        )

    async def user(self, request: Request) -> Response:
        principal = self._principal(request)
        user = _user(request)
        # who scores step by step must know the order, and sees no more of the model by it
        principal.require("score" if "score" in principal.scopes else "model:read", user)
        service = self._service.of_tenant(principal.tenant)
        return _json(asdict(await service.manage(_deadline_of(request), service.model, user)))

    async def learn(self, request: Request) -> Response:
        principal = self._principal(request)
        user, deadline, watch = _user(request), _deadline_of(request), _watch(request)
        service = self._service.of_tenant(principal.tenant)
        with self._audit.recorded("learn", principal, user) as request_id:
            watch.request_id = request_id
            principal.require("write", user)
            if _form(request.headers.get("content-type", "").encode("latin-1")) != "json":
                raise RequestError(
                    "unsupported_media_type",
                    "send application/json, and say so in Content-Type",
                )
            receive = request.receive
            first = await (receive() if deadline == math.inf else _message(receive, deadline))
            body = await _whole(
                first,
                receive,
                self._settings.max_body_bytes,
                deadline,
                "the next build learns longer messages",
            )
            learned = await service.manage(deadline, partial(_learned, service, body), user)
        watch.reason = learned.status
        response = _json(asdict(learned))
        response.headers["x-request-id"] = request_id
        return response

    async def forget(self, request: Request) -> Response:
        principal = self._principal(request)
        user = _user(request)
        service = self._service.of_tenant(principal.tenant)
        with self._audit.recorded("forget", principal, user) as request_id:
            _watch(request).request_id = request_id
            principal.require("forget", user)
            await service.manage(_deadline_of(request), service.forget, user)
        return Response(status_code=204, headers={"x-request-id": request_id})

    async def healthz(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        try:
            await self._service.check()
        except StoreError as error:
            return _refusal(problem_of(error), _watch(request), status="not ready")
        return _json({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        self._principal(request).require("admin")
        text = await to_thread.run_sync(self._service.metrics.text)
        return Response(text, headers={"content-type": CONTENT_TYPE})

    def _principal(self, request: Request) -> Principal:
        return self._authenticator.authenticate(request.headers.get("authorization"))


class _PlainRoute(APIRoute):
    """A documented route whose handler gets the request and returns the response, no more."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request], Awaitable[Response]] = self.endpoint
        name = self.name

        async def handle(request: Request) -> Response:
            watch = _watch(request)
            watch.route = name
            try:
                return await endpoint(request)
            except PerslmError as error:
                return _refusal(problem_of(error), watch)

        return handle


class _Boundary:
    """The outermost layer of ours: keeps paths as they came, and unforeseen exceptions inside.

    Here requests are counted, and refusals logged.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if "raw_path" in scope:
            # Routes see the path still encoded, so that an id with a slash stays one segment.
            scope["path"] = scope["raw_path"].decode("ascii", "replace")
        watch = scope[_WATCH] = self._metrics.watch("http")
        if self._metrics.tracer is not None:
            watch.traceparent = _traceparent(scope)
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:  # noqa: BLE001 - the last line: whatever it is must not get out
            refusal = _refusal(problem_of(error), watch)
            if not started:  # else too late for an answer; uvicorn sees it unfinished and hangs up
                await refusal(scope, receive, send)
        watch.end()
        log_refusal(watch)


def _watch(request: Request) -> Watch:
    watch: Watch = request.scope[_WATCH]
    return watch


async def _score_in_front(request: Request) -> Response:
    """Stand for the route in the document; ``App`` answers it."""
    raise HTTPException(404)


def _scored(
    service: ScoringService,
    asked: ScoreRequest,
    form: Format,
    deadline: float,
    watch: Watch,
    *,
    wait: bool = True,
) -> bytes:
    if time.monotonic() >= deadline:
        raise deadline_exceeded()
    encoded = encode(service.score(asked, deadline, watch, wait=wait), form)
    watch.lap("encode")
    return encoded


def _learned(service: ScoringService, body: bytes, user: str) -> Learned:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):  # not chained: it may hold what a user wrote
        fields = None
    if not isinstance(fields, dict):
        raise RequestError("malformed_body", "the body is not a JSON object: see /docs")
    return service.learn(user, fields)


async def _whole(
    first: Message,
    receive: Receive,
    limit: int,
    deadline: float,
    remedy: str = "send fewer histories at a time",
) -> bytes:
    """Return the body that ``first`` begins; raises RequestError if it is too large or late."""
    message = first
    parts: list[bytes] = [message.get("body", b"")]
    size = len(parts[0])
    while message.get("more_body", False) and size <= limit:
        message = await (receive() if deadline == math.inf else _message(receive, deadline))
        parts.append(message.get("body", b""))
        size += len(parts[-1])
    if size > limit:
        raise RequestError(
            "body_too_large",
            f"a body has at most {limit} bytes: {remedy}",
        )
    if message["type"] == "http.disconnect":  # nobody will read this
        raise RequestError("disconnected", "the caller hung up before its request was complete")
    return b"".join(parts)


async def _message(receive: Receive, deadline: float) -> Message:
    """Return the next part of a body; raises RequestError if it is late.

    Mostly it is there already, and a timer would cost more than all the rest: so it is taken up to
    where it would have to be waited for, before one is set.
    """
    steps: Generator[Any, None, Message] = receive().__await__()
    try:
        waits_for = next(steps)
    except StopIteration as there:
        message: Message = there.value
        return message
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            return await _rest(steps, waits_for)
    except TimeoutError:
        raise deadline_exceeded() from None


@coroutine
def _rest(steps: Generator[Any, None, Message], waits_for: object) -> Generator[Any, None, Message]:
    """Go on with what has been begun, and waits for something."""
    try:
        yield waits_for
    except BaseException as error:  # noqa: BLE001 - it is for what has been begun
        steps.throw(error)
    return (yield from steps)


def _traceparent(scope: Scope) -> bytes | None:
    headers: Headers = scope["headers"]
    return dict(headers).get(b"traceparent")


def _given(scope: Scope) -> dict[bytes, bytes]:
    """Return the first of each of the headers that are looked at."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _HEADERS and name not in found:
            found[name] = value
    return found


def _deadline(milliseconds: bytes) -> float:
    """Return until when the caller waits, of time.monotonic(), by the header that says so."""
    if not milliseconds.isdigit() or len(milliseconds) > 9 or not int(milliseconds):
        return math.inf
    return time.monotonic() + int(milliseconds) / 1000


def _deadline_of(request: Request) -> float:
    return _deadline(_given(request.scope).get(_TIMEOUT_HEADER, b""))


def _form(header: bytes) -> Format | None:
    """Return the format that a Content-Type header names."""
    if header == _PACKED:
        return "msgpack"
    return _FORMATS.get(header.decode("latin-1").partition(";")[0].strip().lower())


def _accepted(header: bytes, default: Format) -> Format:
    """Return the first format that an Accept header names, else the one of the request."""
    if not header:
        return default
    for offer in header.split(b","):
        form = _form(offer)
        if form is not None:
            return form
    return default


def refusal_parts(problem: Problem) -> tuple[bytes, bytes]:
    """Return a response for a problem that no request has told: until its headers end, and after.

    Other headers can be put between the two.
    """
    content = json.dumps({"error": problem.code, "message": problem.message})
    status = HTTPStatus(_STATUS_OF_CODE.get(problem.code, _REFUSED))
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
        f"retry-after: {_RETRY_SECONDS}\r\ncontent-length: {len(content)}\r\n"
    )
    return head.encode(), f"\r\n{content}".encode()


def _user(request: Request) -> str:
    try:
        return unquote(request.path_params["user"], errors="strict")
    except UnicodeDecodeError as error:
        raise RequestError("invalid_user", "a user id must be valid Unicode text") from error


def _tag(if_none_match: str) -> str | None:
    """Return the tag that an If-None-Match header holds; None if it is no ETag of ours."""
    tag = if_none_match.strip().removeprefix("W/").strip('"')
    return tag if re.fullmatch(r"[0-9]{1,18}(-[0-9a-f]{16})?", tag) else None


def _json(content: object, status: int = 200) -> Response:
    return Response(json.dumps(content).encode(), status, media_type="application/json")


def _refusal(problem: Problem, watch: Watch, *, status: str | None = None) -> Response:
    """Return the answer that a problem becomes, and tell the watch.

    ``status`` is that of a probe, whose answer then has a reason, too.
    """
    content = {"error": problem.code, "message": problem.message}
    if status is not None:
        content |= {"status": status, "reason": problem.code}
    if problem.request_id is not None:
        content["request_id"] = problem.request_id
    response = _json(content, _STATUS_OF_CODE.get(problem.code, _REFUSED))
    response.headers["x-request-id"] = watch.refused(problem.code, problem.request_id)
    if problem.code == "unauthenticated":
        response.headers["www-authenticate"] = CHALLENGE
    if problem.code == "overloaded":
        response.headers["retry-after"] = str(_RETRY_SECONDS)
    return response


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Answer for a path or method that does not exist, and other refusals of the framework."""
    assert isinstance(error, HTTPException)
    code, message = {
        404: ("not_found", "there is no such path: see /docs"),
        405: ("method_not_allowed", "this path does not take this method: see /docs"),
    }.get(error.status_code, ("refused", "the request was refused"))
    response = _json({"error": code, "message": message}, error.status_code)
    response.headers["x-request-id"] = _watch(request).refused(code)
    response.headers.update(error.headers or {})
    return response
