"""HTTP for event loops: a wire of aiohttp; what is asked is in ``perslm._http_transport``.

The only code that knows aiohttp.
"""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Final

from perslm._http_transport import HttpCalls, HttpReply, HttpRequest
from perslm._transport import UnansweredError
from perslm.errors import MissingExtraError

try:
    import aiohttp
    from yarl import URL
except ModuleNotFoundError as missing:
    raise MissingExtraError("an async client over HTTP", "async") from missing

_KEEP_SECONDS: Final = 60  # less than the service keeps an idle connection


class AsyncHttpWire:
    """Carries requests by aiohttp; opens nothing before the first."""

    def __init__(self, calls: HttpCalls) -> None:
        self._calls = calls
        self._session: aiohttp.ClientSession | None = None
        scheme = "http" if calls.context is None else "https"
        self._origin = f"{scheme}://{calls.host}:{calls.port}{calls.base}"

    async def send(self, request: HttpRequest, until: float) -> HttpReply:
        """Send a request and return the reply."""
        if request.fresh:
            async with self._open() as session:
                return await self._send(session, request, until)
        if self._session is None:
            self._session = self._open()
        return await self._send(self._session, request, until)

    def line(self) -> None:
        """Return nothing: requests over HTTP have nothing in common."""

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        calls = self._calls
        connector: aiohttp.BaseConnector
        if calls.socket_path is not None:
            connector = aiohttp.UnixConnector(calls.socket_path, keepalive_timeout=_KEEP_SECONDS)
        else:
            connector = aiohttp.TCPConnector(
                ssl=calls.context or True, keepalive_timeout=_KEEP_SECONDS
            )
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(_note_kept)
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("accept-encoding",),
            timeout=aiohttp.ClientTimeout(),  # none: the deadline is ours
            middlewares=(_once,),
            trace_configs=[tracing],
        )

    async def _send(
        self, session: aiohttp.ClientSession, request: HttpRequest, until: float
    ) -> HttpReply:
        headers = self._calls.headers_of(request, until)
        url = URL(self._origin + request.path, encoded=True)
        kept: list[bool] = []
        kind, sent, stale = "timeout", True, False
        try:
            async with (
                asyncio.timeout(until - time.monotonic()),
                session.request(
                    request.method,
                    url,
                    data=request.body,
                    headers=headers,
                    allow_redirects=False,
                    trace_request_ctx=kept,
                ) as response,
            ):
                body = await response.read()
                found = {name.lower(): value for name, value in response.headers.items()}
                return HttpReply(response.status, found, body)
        except TimeoutError:
            pass
        except _BrokenError as error:
            kind, stale = str(error), bool(kept) and not session.closed
        except aiohttp.ClientConnectionError as error:
            kind, sent = type(error).__name__, not isinstance(error, aiohttp.ClientConnectorError)
        except aiohttp.ClientError as error:
            kind = type(error).__name__
        # Not chained: the library's messages can hold the path, and with it a user id.
        raise UnansweredError(self._calls.location, kind, sent=sent, stale=stale)


class _BrokenError(Exception):
    """The other side hung up before its answer began."""


async def _once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending a request again of its own accord."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        raise _BrokenError(type(error).__name__) from None


async def _note_kept(
    session: aiohttp.ClientSession,
    context: SimpleNamespace,
    facts: aiohttp.TraceConnectionReuseconnParams,
) -> None:
    context.trace_request_ctx.append(True)
