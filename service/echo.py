"""The service with echoes beside it, for ``perslm bench service`` to compare with; nothing else.

An echo sends back what it got, which is about as large as an answer with scores. What it takes is
the transport's: what a score takes above it is perslm's. The server, its settings and its event
loop are those of ``service.run``.

=============  ===============================================================================
``/echo``      a route of ours: dispatch, metrics and handling of errors as those that score have.
               It goes through ASGI, which a hot user's plain step need not (``service.protocol``)
``/bare``      plain ASGI before the application: the least that this server needs for a body
``Echo.…``     ``Stream``, a gRPC stream, and ``Unary``, a call
=============  ===============================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import grpc
import grpc.aio
from starlette.types import ASGIApp, Receive, Scope, Send

import service.grpc
from service import run
from service.core import ScoringService
from service.http import create_app
from service.metrics import Watch
from service.settings import Settings

_TYPE: Final = (b"content-type", b"application/msgpack")


def serve(settings: Settings, on_ready: Callable[[list[str]], None]) -> None:
    """Serve as ``service.run.serve`` does, with echoes."""
    # for a measurement, not worth a place in the interface of the server
    run.create_app = _create_app  # type: ignore[assignment, attr-defined]
    service.grpc.Server = _Server  # type: ignore[assignment, misc]
    run.serve(settings, on_ready=on_ready)


def _create_app(settings: Settings, core: ScoringService) -> ASGIApp:
    app = create_app(settings, core)
    app.hot["/echo"] = "echo", _echo
    return _Bare(app)


async def _echo(
    scope: Scope, receive: Receive, watch: Watch
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    return [_TYPE], await _body(receive)


class _Bare:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/bare":
            await self._app(scope, receive, send)
            return
        body = await _body(receive)
        headers = [_TYPE, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _body(receive: Receive) -> bytes:
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


class _Server(service.grpc.Server):
    def __init__(self, settings: Settings, core: ScoringService) -> None:
        super().__init__(settings, core)
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Stream": grpc.stream_stream_rpc_method_handler(_stream),
            "Unary": grpc.unary_unary_rpc_method_handler(_unary),
        }
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("Echo", handlers)]
        )


async def _stream(requests: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
    while isinstance(body := await context.read(), bytes):
        await context.write(body)


async def _unary(body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return body
