"""The server process: listens for HTTP, gRPC or both, says where, and ends in good order.

``service.http`` and ``service.grpc`` answer what arrives, on one event loop and from one cache of
models. After SIGINT or SIGTERM nothing new is accepted and what is being answered is finished, for
some seconds; a second signal does not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn
import uvloop

from perslm.store import DEFAULT_TENANT, Store, open_store
from service import grpc
from service.audit import configure
from service.core import ScoringService
from service.http import create_app
from service.logs import configure as configure_logs
from service.settings import Address, Settings, TcpAddress
from service.sockets import listening
from service.tls import secure

_KEEP_ALIVE_SECONDS: Final = 75  # longer than a writer pauses between two words
_SHUTDOWN_SECONDS: Final = 5


def serve(
    settings: Settings,
    store: Store | None = None,
    *,
    on_ready: Callable[[list[str]], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; requests that are being answered are finished first.

    ``on_ready`` is called once connections are accepted, with the URLs to give to
    ``perslm.Client``, that of HTTP first (which have the ports if the settings asked for port 0);
    by default they are printed. Call it from the main thread for the signals to be handled.

    Raises ArgumentError for an address that cannot be used or is not safe (``Settings.address``).
    """
    http, grpc_address = settings.address("http"), settings.address("grpc")
    configure(settings)
    configure_logs(settings)
    opened = store if store is not None else open_store(settings.store, tenant=DEFAULT_TENANT)
    try:
        with contextlib.ExitStack() as stack:
            listener = None if http is None else stack.enter_context(listening(http))
            runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
            service = ScoringService(opened, settings)
            runner.run(_serve(settings, service, listener, grpc_address, on_ready or _announce))
    finally:
        if store is None:
            opened.close()


async def _serve(
    settings: Settings,
    service: ScoringService,
    listener: tuple[socket.socket, str] | None,
    grpc_address: Address | None,
    on_ready: Callable[[list[str]], None],
) -> None:
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, on_signal)
    servers: list[grpc.Server | _HttpServer] = []
    urls: list[str] = []
    if grpc_address is not None:
        grpc_server = grpc.Server(settings, service)
        urls.append(await grpc_server.start(grpc_address))
        servers.append(grpc_server)
    if listener is not None:
        http_server = _HttpServer(settings, service)
        await http_server.start(listener[0])
        secured = http_server.config.ssl is not None
        urls.insert(0, listener[1].replace("http:", "https:", 1) if secured else listener[1])
        servers.append(http_server)
    on_ready(urls)
    await stop.wait()
    draining = asyncio.gather(*(server.stop(_SHUTDOWN_SECONDS) for server in servers))
    hurried = asyncio.create_task(_hurry(hurry, servers))
    await draining
    hurried.cancel()


async def _hurry(told: asyncio.Event, servers: list[grpc.Server | _HttpServer]) -> None:
    await told.wait()
    await asyncio.gather(*(server.stop(0) for server in servers))


class _HttpServer(uvicorn.Server):
    """Uvicorn as a part of a process: it starts and stops when told to, whatever the signals."""

    def __init__(self, settings: Settings, service: ScoringService) -> None:
        config = uvicorn.Config(
            create_app(settings, service),
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,  # service.logs does that
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        if settings.tls_cert is not None and isinstance(settings.address("http"), TcpAddress):
            secure(config, settings)
        super().__init__(config)
        self._ready = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def start(self, listener: socket.socket) -> None:
        """Accept connections."""
        self._running = asyncio.create_task(self.serve([listener]))
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait({self._running, ready}, return_when=asyncio.FIRST_COMPLETED)

    async def stop(self, grace: float) -> None:
        """Finish what is being answered; do not wait for it without ``grace``."""
        assert self._running is not None
        self.should_exit = True
        self.force_exit = not grace
        await self._running

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield


def _announce(urls: list[str]) -> None:
    for url in urls:
        sys.stdout.write(f"listening on {url}\n")
    sys.stdout.flush()
