"""The scoring service over HTTP: translators around ``service.core``, and the server process.

``create_app`` makes the ASGI application, ``serve`` runs it. Handlers read bytes, call the core and
write bytes; the formats are in ``service.codec``, the documentation of the routes in
``service.openapi``. FastAPI documents and routes; its validation and serialization are left out of
the way (:class:`_PlainRoute`), for they would take longer than the scoring does.

What blocks runs in a worker thread: anything that asks the store, large bodies, large answers. A
small request for a model that is in memory is answered on the event loop, because a change of
threads would cost more than the answer.

**What leaves.** Errors are ``{"error": code, "message": remedy}``, both from fixed text. An
exception that nobody foresaw becomes a fixed string and a request id; the log has the id, the type
and the place of the exception, not its text, which could hold what a user wrote. User ids are in
paths, so there is no access log.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import stat
import sys
import traceback
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import asdict
from types import FrameType
from typing import Any, Final, TypeVar
from urllib.parse import unquote

import uvicorn
from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perslm.errors import (
    ArgumentError,
    BlobError,
    NoModelError,
    PerslmError,
    StoreError,
)
from perslm.store import Store, open_store
from service import openapi
from service.codec import Format, decode, encode
from service.core import RequestError, ScoringService
from service.settings import Settings, TcpAddress, UnixAddress

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
    "body_too_large": 413,
    "unsupported_media_type": 415,
}
_SMALL_BODY_BYTES: Final = 1 << 16
_KEEP_ALIVE_SECONDS: Final = 75  # longer than a writer pauses between two words
_SHUTDOWN_SECONDS: Final = 5

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def create_app(settings: Settings, store: Store | None = None) -> FastAPI:
    """Return the application; ``store`` (default: the one that ``settings`` name) is not closed."""
    opened = store if store is not None else open_store(settings.store)
    app = FastAPI(
        title="perslm",
        version="1",
        description=openapi.DESCRIPTION,
        redoc_url=None,
        docs_url="/docs",
    )
    app.add_middleware(_Boundary)
    app.add_exception_handler(HTTPException, _on_http_exception)
    handlers = _Handlers(ScoringService(opened, settings), settings)
    user = "/v1/users/{user}"
    for path, method, handler, documentation in (
        ("/v1/score", "POST", handlers.score, openapi.SCORE),
        (f"{user}/model", "GET", handlers.model, openapi.MODEL),
        (user, "GET", handlers.user, openapi.USER),
        (user, "DELETE", handlers.forget, openapi.FORGET),
        ("/healthz", "GET", handlers.healthz, openapi.HEALTHZ),
        ("/readyz", "GET", handlers.readyz, openapi.READYZ),
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
    return app


def serve(
    settings: Settings,
    store: Store | None = None,
    *,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; requests that are being answered are finished first.

    ``on_ready`` is called once connections are accepted, with the URL to give to ``perslm.Client``
    (which has the port if the settings asked for port 0); by default it is printed. Call it from
    the main thread for the signals to be handled.

    Raises ArgumentError for an address that cannot be used or is not safe (``Settings.address``).
    """
    address = settings.address()
    opened = store if store is not None else open_store(settings.store)
    try:
        with _listening(address) as (listener, url):
            config = uvicorn.Config(
                create_app(settings, opened),
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="off",
                access_log=False,
                log_level="warning",
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            )
            _Server(config, lambda: (on_ready or _announce)(url)).run(sockets=[listener])
    finally:
        if store is None:
            opened.close()


class _Handlers:
    """One method for every route."""

    def __init__(self, service: ScoringService, settings: Settings) -> None:
        self._service = service
        self._settings = settings

    async def score(self, request: Request) -> Response:
        form = _FORMATS.get(_media_type(request.headers.get("content-type", "")))
        if form is None:
            raise RequestError(
                "unsupported_media_type",
                "send application/msgpack or application/json, and say so in Content-Type",
            )
        body = await _read_body(request, self._settings.max_body_bytes)
        wanted = _accepted(request.headers.get("accept", ""), form)
        most = self._settings.max_histories
        asked = await _call(len(body) <= _SMALL_BODY_BYTES, lambda: decode(body, form, most))
        answer = await _call(
            self._service.is_quick(asked), lambda: encode(self._service.score(asked), wanted)
        )
        return Response(answer, media_type=_MEDIA_TYPES[wanted])

    async def model(self, request: Request) -> Response:
        user = _user(request)
        known = _generation(request.headers.get("if-none-match", ""))
        found = await to_thread.run_sync(lambda: self._service.blob(user, unless=known))
        if isinstance(found, int):
            return Response(status_code=304, headers={"etag": f'"{found}"'})
        return Response(
            found.blob,
            media_type="application/octet-stream",
            headers={
                "etag": f'"{found.generation}"',
                "cache-control": "private, no-cache",
                "perslm-generation": str(found.generation),
                "perslm-vocabulary": found.vocabulary,
            },
        )

    async def user(self, request: Request) -> Response:
        user = _user(request)
        return _json(asdict(await to_thread.run_sync(lambda: self._service.model(user))))

    async def forget(self, request: Request) -> Response:
        user = _user(request)
        await to_thread.run_sync(lambda: self._service.forget(user))
        return Response(status_code=204)

    async def healthz(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        await to_thread.run_sync(self._service.check)
        return _json({"status": "ok"})


class _PlainRoute(APIRoute):
    """A documented route whose handler gets the request and returns the response, no more."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request], Awaitable[Response]] = self.endpoint

        async def handle(request: Request) -> Response:
            try:
                return await endpoint(request)
            except PerslmError as error:
                return _problem(error)

        return handle


class _Boundary:
    """The outermost layer of ours: keeps paths as they came, and unforeseen exceptions inside."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if "raw_path" in scope:
            # Routes see the path still encoded, so that an id with a slash stays one segment.
            scope["path"] = scope["raw_path"].decode("ascii", "replace")
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:  # noqa: BLE001 - the last line: whatever it is must not get out
            request_id = uuid.uuid4().hex
            place = traceback.extract_tb(error.__traceback__)[-1]
            _log.error(
                "request %s failed: %s in %s, line %s",
                request_id,
                type(error).__name__,
                place.filename,
                place.lineno,
            )
            if started:  # too late for an answer; uvicorn sees it unfinished and hangs up
                return
            message = "an internal error: report the request id to who runs this service"
            body = {"error": "internal", "message": message, "request_id": request_id}
            await _json(body, 500)(scope, receive, send)


class _Server(uvicorn.Server):
    """Tells when it is ready, and returns after a signal instead of dying of it."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn's own would raise the signal again at the end, and with it skip our cleaning up
        self.force_exit = self.should_exit  # the second signal does not wait for requests
        self.should_exit = True


async def _call(quick: bool, work: Callable[[], _T]) -> _T:
    """Do ``work`` here and now if it is quick, else in a thread."""
    return work() if quick else await to_thread.run_sync(work)


async def _read_body(request: Request, limit: int) -> bytes:
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise RequestError(
                "body_too_large",
                f"a body has at most {limit} bytes: send fewer histories at a time",
            )
        parts.append(part)
    return b"".join(parts)


def _media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()


def _accepted(header: str, default: Format) -> Format:
    """Return the first format that an Accept header names, else the one of the request."""
    for offer in header.split(","):
        form = _FORMATS.get(_media_type(offer))
        if form is not None:
            return form
    return default


def _user(request: Request) -> str:
    try:
        return unquote(request.path_params["user"], errors="strict")
    except UnicodeDecodeError as error:
        raise RequestError("invalid_user", "a user id must be valid Unicode text") from error


def _generation(if_none_match: str) -> int | None:
    """Return the generation that an If-None-Match header holds; None if it is no ETag of ours."""
    tag = if_none_match.strip().removeprefix("W/").strip('"')
    return int(tag) if tag.isascii() and tag.isdigit() and len(tag) < 19 else None


def _json(content: object, status: int = 200) -> Response:
    return Response(json.dumps(content).encode(), status, media_type="application/json")


def _problem(error: PerslmError) -> Response:
    """Return the answer that an exception of the core becomes."""
    if isinstance(error, RequestError):
        status = _STATUS_OF_CODE.get(error.code, 422)
        return _json({"error": error.code, "message": str(error)}, status)
    if isinstance(error, NoModelError):
        return _json({"error": "unknown_user", "message": "the user has no published model"}, 404)
    if isinstance(error, BlobError):
        message = "the published model cannot be read: build the user again, or roll back"
        return _json({"error": "bad_blob", "message": message}, 503)
    if isinstance(error, StoreError):
        message = (
            "the store of models does not answer or refuses: scoring goes on with the models in "
            "memory; whoever runs this service finds the cause with perslm users --store URL"
        )
        return _json({"error": "store_unavailable", "message": message}, 503)
    raise error


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Answer for a path or method that does not exist, and other refusals of the framework."""
    assert isinstance(error, HTTPException)
    code, message = {
        404: ("not_found", "there is no such path: see /docs"),
        405: ("method_not_allowed", "this path does not take this method: see /docs"),
    }.get(error.status_code, ("refused", "the request was refused"))
    response = _json({"error": code, "message": message}, error.status_code)
    response.headers.update(error.headers or {})
    return response


@contextlib.contextmanager
def _listening(address: TcpAddress | UnixAddress) -> Iterator[tuple[socket.socket, str]]:
    """Yield a bound socket and its URL; a unix socket's file is removed at the end."""
    if isinstance(address, TcpAddress):
        with _tcp_socket(address) as listener:
            host, port = listener.getsockname()[:2]
            yield listener, f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return
    with _unix_socket(address) as listener:
        try:
            yield listener, f"unix:{address.path}"
        finally:
            address.path.unlink(missing_ok=True)


def _tcp_socket(address: TcpAddress) -> socket.socket:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ArgumentError(f"the HTTP address cannot be used ({error.strerror})") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ArgumentError(
                f"port {address.port} is in use: choose another with --http, or 0 for any"
            ) from error
        raise ArgumentError(f"the HTTP address cannot be used ({error.strerror})") from error
    return listener


def _unix_socket(address: UnixAddress) -> socket.socket:
    """Bind a socket that only this user can open, over a file that a dead server left."""
    path = str(address.path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_abandoned(path):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o600)  # nobody can connect before listen()
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise ArgumentError(
            f"the unix socket cannot be used ({reason}): choose a short path in a directory of "
            "yours where nothing else listens"
        ) from error
    return listener


def _is_abandoned(path: str) -> bool:
    """Tell whether ``path`` is a unix socket that nobody listens at."""
    if not os.path.exists(path) or not stat.S_ISSOCK(os.stat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
    return False


def _announce(url: str) -> None:
    sys.stdout.write(f"listening on {url}\n")
    sys.stdout.flush()
