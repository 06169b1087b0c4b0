"""The server process: listens, says where, and ends in good order.

``service.http`` answers what arrives.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

import uvicorn

from perslm.errors import ArgumentError
from perslm.store import DEFAULT_TENANT, Store, open_store
from service.audit import configure
from service.core import ScoringService
from service.http import create_app
from service.settings import Settings, TcpAddress, UnixAddress
from service.tls import secure

_KEEP_ALIVE_SECONDS: Final = 75  # longer than a writer pauses between two words
_SHUTDOWN_SECONDS: Final = 5


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
    configure(settings)
    opened = store if store is not None else open_store(settings.store, tenant=DEFAULT_TENANT)
    try:
        with _listening(address) as (listener, url):
            config = uvicorn.Config(
                create_app(settings, ScoringService(opened, settings)),
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
            if settings.tls_cert is not None and isinstance(address, TcpAddress):
                secure(config, settings)
                url = url.replace("http:", "https:", 1)
            _Server(config, lambda: (on_ready or _announce)(url)).run(sockets=[listener])
    finally:
        if store is None:
            opened.close()


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
