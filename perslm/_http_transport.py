"""HTTP for ``perslm.client``; see ``perslm._transport`` for what a transport does.

The only code that knows the HTTP library. Connections stay open between requests; over TCP or, for
a service on the same machine, a unix socket.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping
from typing import Any, Final, NoReturn
from urllib.parse import quote, unquote

import msgpack
import urllib3
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from perslm._transport import Credentials, no_answer, refuse
from perslm.errors import ArgumentError, ServiceError

_CONNECTIONS: Final = 16
_MSGPACK: Final = {"content-type": "application/msgpack", "accept": "application/msgpack"}


class HttpTransport:
    """A transport to the service at an ``http``, ``https``, ``unix`` or ``http+unix`` URL."""

    def __init__(self, url: str, timeout: float, credentials: Credentials | None = None) -> None:
        options: dict[str, Any] = {"timeout": timeout, "maxsize": _CONNECTIONS, "retries": False}
        shown = credentials or Credentials()
        self._base = ""
        self._headers: dict[str, str] = {}
        if shown.token is not None:
            self._headers["authorization"] = f"Bearer {shown.token}"
        if shown.tls:
            if not url.startswith("https:"):
                raise ArgumentError("certificates are for https://: the URL must be one")
            options.update(shown.tls)
        self._pool: HTTPConnectionPool
        path = _socket_path(url)
        if path is not None:
            self._pool = _UnixPool(path, **options)
            self.location = f"unix:{path}"
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
        host = parts.host if parts.port is None else f"{parts.host}:{parts.port}"
        if parts.auth:
            if shown.token is not None:
                raise ArgumentError("give a token or a URL with a password, not both")
            self._headers.update(urllib3.util.make_headers(basic_auth=unquote(parts.auth)))
        self._base = (parts.path or "").rstrip("/")
        self._pool = urllib3.connection_from_url(f"{parts.scheme}://{host}", **options)
        self.location = f"{parts.scheme}://{'***@' if parts.auth else ''}{host}{self._base}"

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def user(self, user: str) -> dict[str, Any]:
        """Return metadata of the user's model."""
        status, _, body = self._request("GET", _user_path(user))
        facts = _json(body)
        if status != 200:
            _refuse(status, facts)
        return facts

    def blob(self, user: str, unless: int | None) -> tuple[int, bytes] | None:
        """Return generation and bytes of the user's model; None if that is still ``unless``."""
        known = {} if unless is None else {"if-none-match": f'"{unless}"'}
        status, headers, body = self._request("GET", _user_path(user) + "/model", headers=known)
        if status == 304 and unless is not None:
            return None
        if status != 200:
            _refuse(status, _json(body))
        generation = headers.get("perslm-generation", "")
        if not re.fullmatch(r"[0-9]{1,18}", generation):
            raise ServiceError("the scoring service sent a model without its generation")
        return int(generation), body

    def forget(self, user: str) -> None:
        """Delete every generation of the user's model."""
        status, _, body = self._request("DELETE", _user_path(user))
        if status != 204:
            _refuse(status, _json(body))

    def check(self) -> None:
        """Return if models can be loaded."""
        status, _, body = self._request("GET", "/readyz")
        if status != 200:
            _refuse(status, _json(body))

    def session(self) -> HttpTransport:
        """Return what sends score requests: requests over HTTP have nothing in common."""
        return self

    def scores(self, fields: Mapping[str, object]) -> dict[str, Any]:
        """Send a score request and return the fields of its answer."""
        status, _, body = self._request("POST", "/v1/score", msgpack.packb(fields), _MSGPACK)
        if status != 200:
            _refuse(status, _json(body))
        try:
            answer = msgpack.unpackb(body)
        except ValueError as error:
            raise ServiceError("the scoring service sent what is no msgpack") from error
        if not isinstance(answer, dict):
            raise ServiceError("the scoring service sent an answer that is no map")
        return answer

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Return the status, headers and body that a request is answered with.

        A connection that was kept open can turn out to be dead, so a request may be sent twice: it
        must be one that allows that. Raises ServiceError if there is no answer.
        """
        try:
            return self._send(method, path, body, headers)
        except urllib3.exceptions.ProtocolError:
            pass  # the other side hung up: now on a new connection
        except urllib3.exceptions.HTTPError as error:
            self._give_up(error)
        try:
            return self._send(method, path, body, headers)
        except urllib3.exceptions.HTTPError as error:
            self._give_up(error)

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        response = self._pool.urlopen(
            method,
            self._base + path,
            body=body,
            headers={**self._headers, **(headers or {})},
            retries=False,
            redirect=False,
        )
        return response.status, response.headers, response.data

    def _give_up(self, error: urllib3.exceptions.HTTPError) -> NoReturn:
        # Not chained: the library's messages can hold the path, and with it a user id.
        raise no_answer(self.location, type(error).__name__) from None


class _UnixPool(HTTPConnectionPool):
    """Connections to one unix socket."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__("localhost", **options)
        self._path = path

    def _new_conn(self) -> HTTPConnection:
        self.num_connections += 1
        return _UnixConnection(self._path, self.timeout.connect_timeout)


class _UnixConnection(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: Any) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def _new_conn(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout)
            connection.connect(self._path)
        except OSError as error:
            connection.close()
            raise urllib3.exceptions.NewConnectionError(self, type(error).__name__) from error
        return connection


def _socket_path(url: str) -> str | None:
    """Return the path that ``unix:/path`` or ``http+unix://%2Fpath`` names; None if it is TCP."""
    if url.startswith("http+unix://"):
        return unquote(url.removeprefix("http+unix://"))
    if url.startswith("unix:"):
        return url.removeprefix("unix:").removeprefix("//")
    return None


def _refuse(status: int, facts: Mapping[str, object]) -> NoReturn:
    """Raise the error that an HTTP status other than success stands for."""
    refuse(f"HTTP status {status}", status, facts.get("error"))


def _json(body: bytes) -> dict[str, Any]:
    """Return the JSON object in ``body``, an empty one if it is something else."""
    try:
        facts = json.loads(body)
    except (ValueError, RecursionError):  # a proxy's error page, for one
        return {}
    return facts if isinstance(facts, dict) else {}


def _user_path(user: str) -> str:
    return "/v1/users/" + quote(user, safe="")
