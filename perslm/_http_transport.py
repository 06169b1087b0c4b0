"""HTTP for the clients: what is asked, and the wire of those that block; see ``perslm._transport``.

The only code that knows urllib3; the wire for event loops is ``perslm._http_async``. Connections
stay open between requests; over TCP or, for a service on the same machine, a unix socket.
"""

from __future__ import annotations

import base64
import json
import math
import re
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self
from urllib.parse import quote, unquote

import msgpack
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from perslm._steps import Steps
from perslm._transport import Credentials, UnansweredError, exchange, refuse
from perslm.errors import ArgumentError, ServiceError

_CONNECTIONS: Final = 16
_JSON: Final = {"content-type": "application/json"}
_MSGPACK: Final = {"content-type": "application/msgpack", "accept": "application/msgpack"}


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request. ``fresh`` asks for a connection of its own."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    again: bool = True
    fresh: bool = False

    def afresh(self) -> Self:
        """Return the same request for a connection that was not kept open."""
        return replace(self, fresh=True)


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A reply; the names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def pause(self) -> float | None:
        """After how many seconds to come back, if the service is overloaded; else None."""
        after = self.headers.get("retry-after", "")
        if self.status != 503 or not re.fullmatch(r"[0-9]{1,9}", after):
            return None
        return float(after)


class HttpCalls:
    """What is asked of the service at an ``http``, ``https``, ``unix`` or ``http+unix`` URL.

    For the wire: ``socket_path`` or else ``host`` and ``port``, ``base``, which every path begins
    with, ``headers`` of every request, and ``context`` if TLS is spoken.
    """

    def __init__(self, url: str, credentials: Credentials) -> None:
        self.base = ""
        self.headers: dict[str, str] = {"user-agent": "perslm"}
        self.host, self.port = "localhost", 80
        self.context: ssl.SSLContext | None = None
        if credentials.token is not None:
            self.headers["authorization"] = f"Bearer {credentials.token}"
        if credentials.files and not url.startswith("https:"):
            raise ArgumentError("certificates are for https://: the URL must be one")
        self.socket_path = _socket_path(url)
        if self.socket_path is not None:
            self.location = f"unix:{self.socket_path}"
            return
        try:
            parts = urllib3.util.parse_url(url)
        except urllib3.exceptions.LocationParseError:
            parts = urllib3.util.Url()
        if parts.scheme not in ("http", "https") or not parts.host or parts.query:
            raise ArgumentError(
                "a service's URL is http://HOST:PORT, https://HOST, unix:/path, grpc://HOST:PORT "
                "or grpc+unix:/path"
            )
        if parts.auth:
            if credentials.token is not None:
                raise ArgumentError("give a token or a URL with a password, not both")
            self.headers.update(urllib3.util.make_headers(basic_auth=unquote(parts.auth)))
        self.base = (parts.path or "").rstrip("/")
        self.host = parts.host
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        if parts.scheme == "https":
            self.context = credentials.context()
        shown = self.host if parts.port is None else f"{self.host}:{self.port}"
        secret = "***@" if parts.auth else ""
        self.location = f"{parts.scheme}://{secret}{shown}{self.base}"

    def user(self, user: str) -> Steps[dict[str, Any]]:
        """Return metadata of the user's model."""
        reply = yield from exchange(HttpRequest("GET", _user_path(user)), HttpReply)
        return _json(_accepted(reply).body)

    def blob(self, user: str, unless: str | None) -> Steps[tuple[int, bytes, str] | None]:
        """Return generation, bytes and tag of the user's model; None if it is still ``unless``."""
        known = {} if unless is None else {"if-none-match": f'"{unless}"'}
        request = HttpRequest("GET", _user_path(user) + "/model", known)
        reply = yield from exchange(request, HttpReply)
        if reply.status == 304 and unless is not None:
            return None
        generation = _accepted(reply).headers.get("perslm-generation", "")
        if not re.fullmatch(r"[0-9]{1,18}", generation):
            raise ServiceError("the scoring service sent a model without its generation")
        tag = reply.headers.get("etag", "").strip('"')
        return int(generation), reply.body, tag if re.fullmatch(r"[0-9a-f-]{1,40}", tag) else ""

    def learn(self, user: str, message: Mapping[str, Any]) -> Steps[str]:
        """Have a message learned; return what became of it."""
        raw = message.get("raw")
        if isinstance(raw, bytes):  # as those of other alphabets are, too, in JSON
            message = {**message, "raw": base64.urlsafe_b64encode(raw).decode()}
        body = json.dumps(message).encode()
        request = HttpRequest("POST", _user_path(user) + "/messages", _JSON, body)
        reply = yield from exchange(request, HttpReply)
        return str(_json(_accepted(reply).body).get("status"))

    def forget(self, user: str) -> Steps[None]:
        """Delete every generation of the user's model."""
        request = HttpRequest("DELETE", _user_path(user), again=False, fresh=True)
        reply = yield from exchange(request, HttpReply)
        _accepted(reply, 204)

    def check(self) -> Steps[None]:
        """Return if models can be loaded."""
        reply = yield from exchange(HttpRequest("GET", "/readyz"), HttpReply)
        _accepted(reply)

    def scores(self, line: None, fields: Mapping[str, Any]) -> Steps[dict[str, Any]]:
        """Return the fields of the answer to a score request."""
        request = HttpRequest("POST", "/v1/score", _MSGPACK, msgpack.packb(fields))
        reply = yield from exchange(request, HttpReply)
        try:
            answer = msgpack.unpackb(_accepted(reply).body)
        except ValueError as error:
            raise ServiceError("the scoring service sent what is no msgpack") from error
        if not isinstance(answer, dict):
            raise ServiceError("the scoring service sent an answer that is no map")
        return answer

    def headers_of(self, request: HttpRequest, until: float) -> dict[str, str]:
        """Return the headers to send, with the time that is left; raises UnansweredError if none.

        So the service does not compute what nobody waits for any more.
        """
        left = until - time.monotonic()
        if left <= 0:
            raise UnansweredError(self.location, "timeout", sent=False)
        waits = {"perslm-timeout-ms": str(min(math.ceil(left * 1000), 999_999_999))}
        return {**self.headers, **waits, **request.headers}


class HttpWire:
    """Carries requests by urllib3."""

    def __init__(self, calls: HttpCalls) -> None:
        self._calls = calls
        if calls.context is not None:
            calls.context.sslsocket_class = _TimedTlsSocket
        self._pool = self._open_pool()

    def send(self, request: HttpRequest, until: float) -> HttpReply:
        """Send a request and return the reply."""
        if not request.fresh:
            return self._send(self._pool, request, until)
        with closing(self._open_pool()) as pool:
            return self._send(pool, request, until)

    def line(self) -> None:
        """Return nothing: requests over HTTP have nothing in common."""

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def _open_pool(self) -> HTTPConnectionPool:
        calls = self._calls
        if calls.socket_path is not None:
            return _UnixPool("localhost", socket_path=calls.socket_path, maxsize=_CONNECTIONS)
        host = calls.host.removeprefix("[").removesuffix("]")
        if calls.context is None:
            return _TcpPool(host, calls.port, maxsize=_CONNECTIONS)
        return _TlsPool(host, calls.port, ssl_context=calls.context, maxsize=_CONNECTIONS)

    def _send(self, pool: HTTPConnectionPool, request: HttpRequest, until: float) -> HttpReply:
        headers = self._calls.headers_of(request, until)
        try:
            response = pool.urlopen(
                request.method,
                self._calls.base + request.path,
                body=request.body,
                headers=headers,
                timeout=urllib3.Timeout(total=max(until - time.monotonic(), 1e-6)),
                retries=False,
                redirect=False,
            )
        except urllib3.exceptions.HTTPError as error:
            # Not chained: the library's messages can hold the path, and with it a user id.
            raise _unanswered(self._calls.location, error) from None
        found = {name.lower(): value for name, value in response.headers.items()}
        return HttpReply(response.status, found, response.data)


class _Timed:
    """Sockets whose timeout is for all that follows together, not for each wait anew."""

    _until = math.inf

    def settimeout(self, seconds: float | None) -> None:
        self._until = math.inf if seconds is None else time.monotonic() + seconds
        super().settimeout(seconds)  # type: ignore[misc]

    def recv_into(self, *arguments: Any) -> int:
        self._hurry()
        received: int = super().recv_into(*arguments)  # type: ignore[misc]
        return received

    def send(self, *arguments: Any) -> int:
        self._hurry()
        sent: int = super().send(*arguments)  # type: ignore[misc]
        return sent

    def sendall(self, *arguments: Any) -> None:
        self._hurry()
        super().sendall(*arguments)  # type: ignore[misc]

    def _hurry(self) -> None:
        if self._until < math.inf:
            left = self._until - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            super().settimeout(left)  # type: ignore[misc]


class _TimedSocket(_Timed, socket.socket):
    pass


class _TimedTlsSocket(_Timed, ssl.SSLSocket):
    pass


class _StaleError(ConnectionError):
    """A connection that was kept open turned out to be closed."""


class _Connection(HTTPConnection):
    """A connection that knows whether it was kept open."""

    _answered = False

    def connect(self) -> None:
        self._answered = False
        super().connect()

    def getresponse(self) -> Any:
        try:
            response = super().getresponse()
        except ConnectionError as error:  # which that of http.client is, too
            if self._answered:
                raise _StaleError from error
            raise
        self._answered = True
        return response


class _TcpConnection(_Connection):
    def _new_conn(self) -> socket.socket:
        """Connect within the timeout, however many addresses the host has."""
        opened: socket.socket | None = None
        until = time.monotonic() + float(self.timeout or math.inf)
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            for number, (family, kind, protocol, _, address) in enumerate(found, 1):
                opened = _TimedSocket(family, kind, protocol)
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                opened.settimeout(max(until - time.monotonic(), 1e-6))
                try:
                    opened.connect(address)
                    return opened
                except OSError:
                    opened.close()
                    if number == len(found):
                        raise
        except OSError as error:
            raise urllib3.exceptions.NewConnectionError(self, type(error).__name__) from error
        raise urllib3.exceptions.NewConnectionError(self, "no address")


class _TlsConnection(_TcpConnection, HTTPSConnection):
    pass


class _UnixConnection(_Connection):
    """HTTP over a unix socket."""

    def __init__(self, *arguments: Any, socket_path: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._path = socket_path

    def _new_conn(self) -> socket.socket:
        opened = _TimedSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            opened.settimeout(self.timeout)
            opened.connect(self._path)
        except OSError as error:
            opened.close()
            raise urllib3.exceptions.NewConnectionError(self, type(error).__name__) from error
        return opened


class _TcpPool(HTTPConnectionPool):
    ConnectionCls = _TcpConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _UnixPool(HTTPConnectionPool):
    ConnectionCls = _UnixConnection


def _unanswered(location: str, error: urllib3.exceptions.HTTPError) -> UnansweredError:
    cause = error.args[1] if len(error.args) > 1 else None
    stale = isinstance(error, urllib3.exceptions.ProtocolError) and isinstance(cause, _StaleError)
    sent = not isinstance(error, urllib3.exceptions.NewConnectionError)
    return UnansweredError(location, type(error).__name__, sent=sent, stale=stale)


def _socket_path(url: str) -> str | None:
    """Return the path that ``unix:/path`` or ``http+unix://%2Fpath`` names; None if it is TCP."""
    if url.startswith("http+unix://"):
        return unquote(url.removeprefix("http+unix://"))
    if url.startswith("unix:"):
        return url.removeprefix("unix:").removeprefix("//")
    return None


def _accepted(reply: HttpReply, wanted: int = 200) -> HttpReply:
    """Return a reply with the status of success; raise the error that another stands for."""
    if reply.status != wanted:
        refuse(f"HTTP status {reply.status}", reply.status, _json(reply.body).get("error"))
    return reply


def _json(body: bytes) -> dict[str, Any]:
    """Return the JSON object in ``body``, an empty one if it is something else."""
    try:
        facts = json.loads(body)
    except (ValueError, RecursionError):  # a proxy's error page, for one
        return {}
    return facts if isinstance(facts, dict) else {}


def _user_path(user: str) -> str:
    return "/v1/users/" + quote(user, safe="")
