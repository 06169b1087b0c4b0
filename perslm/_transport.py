"""HTTP for ``perslm.client``: one request, one answer, and ServiceError for whatever goes wrong.

The only code that knows the HTTP library. Connections stay open between requests; over TCP or, for
a service on the same machine, a unix socket. What requests and answers mean is the client's.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn
from urllib.parse import unquote

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from perslm.errors import ArgumentError, ServiceError

_CONNECTIONS: Final = 16


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who the client is, and whom it trusts; see ``perslm.Client``."""

    token: str | None = field(default=None, repr=False)
    ca: str | None = None
    cert: str | tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.token is not None and not re.fullmatch(r"[!-~]+", self.token):
            raise ArgumentError("a token is ASCII text without spaces: is a line end in it?")
        for path in self.tls.values():
            if not os.path.isfile(path):
                raise ArgumentError(
                    f"there is no file {path}, where a certificate or key should be"
                )

    @property
    def tls(self) -> dict[str, str]:
        """Return the files by what urllib3 calls them."""
        options = {} if self.ca is None else {"ca_certs": self.ca}
        if isinstance(self.cert, str):
            options["cert_file"] = self.cert
        elif self.cert is not None:
            options["cert_file"], options["key_file"] = self.cert
        return options


class Transport:
    """Connections to the service at a URL; thread-safe; nothing is connected before the first use.

    ``location`` is the URL without credentials, fit to be shown.
    """

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
            raise ArgumentError("a service's URL is http://HOST:PORT, https://HOST or unix:/path")
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

    def send(
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
        raise ServiceError(
            f"no answer from the scoring service at {self.location} ({type(error).__name__}): is "
            "perslm serve running there, and is the timeout long enough?"
        ) from None


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
