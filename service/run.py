"""The server process: listens for HTTP, gRPC or both, says where, and ends in good order.

``service.http`` and ``service.grpc`` answer what arrives, on one event loop and from one cache of
models. How a process ends:

1. A signal comes (SIGINT or SIGTERM), or the word of a supervisor. gRPC takes nothing new. HTTP
   tells every caller with its next answer that the connection ends, and goes on to accept as long
   as any are connected, for a second: so nobody loses a request because two things crossed. Then
   nobody new gets into the queue of its socket, and those who are in it are accepted.
2. What is being answered is finished, for some seconds. A second signal does not wait.
3. What then still waits for a store that hangs is left behind.

With the setting ``workers`` several such processes share the addresses: ``service.supervisor``
starts them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, NoReturn, Protocol

import uvicorn
import uvloop

from perslm.errors import ArgumentError
from perslm.store import DEFAULT_TENANT, Store, open_store
from service import grpc, logs, protocol
from service.audit import configure
from service.core import Prepare, ScoringService
from service.http import create_app
from service.metrics import Board
from service.settings import Settings, TcpAddress
from service.sockets import listening, turn_away
from service.tls import secure
from service.tracing import open_tracer

STOP_SECONDS: Final = 5.0
"""How long what is being answered may take to be finished."""

_KEEP_ALIVE_SECONDS: Final = 75  # longer than a writer pauses between two words
_FAREWELL_SECONDS: Final = 0.7
_DOOR_SECONDS: Final = 0.05  # until who is half connected stands before the door
_CLOSE_SECONDS: Final = 1.0
_STORE_SECONDS: Final = 2.0  # for each of its answers: so long a dead connection holds up a load

Listener = tuple[socket.socket, str]
"""A bound socket for HTTP, and its URL."""


class Orders(Protocol):
    """Who tells a process to end, if not its signals: a supervisor."""

    def obey(self, stop: Callable[[], None], hurry: Callable[[], None]) -> None:
        """Call ``stop`` when told to stop, later perhaps ``hurry``, from any thread."""


def serve(
    settings: Settings,
    store: Store | None = None,
    *,
    on_ready: Callable[[list[str]], None] | None = None,
    prepare: Prepare | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; requests that are being answered are finished first.

    ``on_ready`` is called once connections are accepted, with the URLs to give to
    ``perslm.Client``, that of HTTP first (which have the ports if the settings asked for port 0);
    by default they are printed. ``prepare`` is what messages are learned by (``service.core``);
    with several workers it is pickled. Call it from the main thread for the signals to be handled.

    Raises ArgumentError for an address that cannot be used or is not safe (``Settings.address``),
    and for a ``store`` if there are several workers: each opens that of the settings.
    """
    configure(settings)
    logs.configure(settings)
    if settings.workers > 1:
        from service.supervisor import supervise  # which needs this module

        if store is not None:
            raise ArgumentError("several workers open the store themselves: name it in settings")
        supervise(settings, on_ready or announce, prepare)
        return
    http = settings.address("http")
    with contextlib.ExitStack() as stack:
        listener = None if http is None else stack.enter_context(listening(http))
        serve_here(settings, listener, on_ready or announce, store=store, prepare=prepare)


def serve_here(
    settings: Settings,
    listener: Listener | None,
    on_ready: Callable[[list[str]], None],
    *,
    store: Store | None = None,
    orders: Orders | None = None,
    row: tuple[Board, int] | None = None,
    prepare: Prepare | None = None,
) -> None:
    """Serve in this process, HTTP at ``listener``, until ``orders`` (default: signals) end it.

    Its figures are in that ``row`` of a board, if there are several processes.
    """
    settings.address("grpc")  # raises before anything is opened
    tracer = open_tracer(settings)
    opened = store if store is not None else _open_store(settings)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            service = ScoringService(opened, settings, prepare=prepare)
            service.metrics.tracer = tracer
            if row is not None:
                service.metrics.share(*row)
            with service.following():
                runner.run(_serve(settings, service, listener, on_ready, orders))
    finally:
        if store is None:
            closing = threading.Thread(target=opened.close, daemon=True)
            closing.start()
            closing.join(_CLOSE_SECONDS)  # a server that hangs is not waited for
        if tracer is not None:
            tracer.close()
        logs.flush()


def end_process(status: int = 0) -> NoReturn:
    """End this process now: threads that still wait for the store would hold it up."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # whoever read it has gone
            stream.flush()
    os._exit(status)


def announce(urls: list[str]) -> None:
    """Print where it listens."""
    for url in urls:
        sys.stdout.write(f"listening on {url}\n")
    sys.stdout.flush()


def _open_store(settings: Settings) -> Store:
    return open_store(
        settings.store,
        tenant=DEFAULT_TENANT,
        timeout=_STORE_SECONDS,
        master_keys=settings.master_keys,
    )


async def _serve(
    settings: Settings,
    service: ScoringService,
    listener: Listener | None,
    on_ready: Callable[[list[str]], None],
    orders: Orders | None,
) -> None:
    stop, hurry, everybody = asyncio.Event(), asyncio.Event(), asyncio.Event()
    _listen_to(orders, stop, hurry, everybody)
    servers: list[grpc.Server | _HttpServer] = []
    urls: list[str] = []
    grpc_address = settings.address("grpc")
    if grpc_address is not None:
        grpc_server = grpc.Server(settings, service)
        urls.append(await grpc_server.start(grpc_address))
        servers.append(grpc_server)
    if listener is not None:
        http_server = _HttpServer(settings, service, everybody)
        await http_server.start(listener[0])
        secured = http_server.config.ssl is not None
        urls.insert(0, listener[1].replace("http:", "https:", 1) if secured else listener[1])
        servers.append(http_server)
    _spare_the_collector()
    on_ready(urls)
    await stop.wait()
    draining = asyncio.gather(*(server.stop(STOP_SECONDS) for server in servers))
    hurried = asyncio.create_task(_hurry(hurry, servers))
    await draining
    hurried.cancel()
    # the loop waits for the threads of its executor when it is closed, and those for the store
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))


def _spare_the_collector() -> None:
    """Have all that is there by now never looked at by the garbage collector again.

    That is modules, mostly: to look at all of them takes 50 ms and more, in which nobody is
    answered, and it is done whenever some ten thousand models have come and gone.
    """
    gc.collect()
    gc.freeze()


def _listen_to(
    orders: Orders | None, stop: asyncio.Event, hurry: asyncio.Event, everybody: asyncio.Event
) -> None:
    """Have ``stop`` and ``hurry`` set when the process shall end, ``everybody`` if all do."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        # a supervisor says itself when to hurry: a signal may come from it and to its whole group
        (hurry if stop.is_set() and orders is None else stop).set()
        if orders is None:
            everybody.set()

    def told(event: asyncio.Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(everybody.set)
            loop.call_soon_threadsafe(event.set)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)
    if orders is not None:
        orders.obey(lambda: told(stop), lambda: told(hurry))


async def _hurry(told: asyncio.Event, servers: list[grpc.Server | _HttpServer]) -> None:
    await told.wait()
    await asyncio.gather(*(server.stop(0) for server in servers))


class _HttpServer(uvicorn.Server):
    """Uvicorn as a part of a process: it starts and stops when told to, whatever the signals."""

    def __init__(
        self, settings: Settings, service: ScoringService, everybody: asyncio.Event
    ) -> None:
        config = uvicorn.Config(
            create_app(settings, service),
            loop="none",
            http=protocol.protocol(service, settings),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,  # service.logs does that
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(STOP_SECONDS),
        )
        if settings.tls_cert is not None and isinstance(settings.address("http"), TcpAddress):
            secure(config, settings)
        super().__init__(config)
        self._everybody = everybody  # set: no other process goes on to accept at this address
        self._ready = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._listener: socket.socket | None = None
        self._leaving = False

    async def start(self, listener: socket.socket) -> None:
        """Accept connections; raises ArgumentError if another process does so there by now."""
        try:
            listener.listen(self.config.backlog)  # uvloop would say nothing if it could not
        except OSError as error:
            reason = f"the HTTP address cannot be used ({error.strerror})"
            raise ArgumentError(f"{reason}: choose another with --http") from error
        self._listener = listener
        self._running = asyncio.create_task(self.serve([listener]))
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait({self._running, ready}, return_when=asyncio.FIRST_COMPLETED)

    async def stop(self, grace: float) -> None:
        """Finish what is being answered; do not wait for it without ``grace``."""
        assert self._running is not None
        self.force_exit = not grace
        if grace and not self._leaving:
            self._leaving = True
            await self._take_leave()
        self.should_exit = True
        await self._running

    async def _take_leave(self) -> None:
        """Answer those who are connected once more, and tell them that it was the last time."""
        last = (b"connection", b"close")
        self.config.encoded_headers.append(last)  # those of each second are made of them
        self.server_state.default_headers = [*self.server_state.default_headers, last]
        await self._until_alone(_FAREWELL_SECONDS)
        await self._close_door()
        await self._until_alone(_FAREWELL_SECONDS)

    async def _until_alone(self, seconds: float) -> None:
        """Wait until nobody is connected, or for ``seconds``."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self.server_state.connections and loop.time() < until and not self.force_exit:
            await asyncio.sleep(0.01)

    async def _close_door(self) -> None:
        """Accept nobody any more, but those who stand before the door already."""
        assert self._listener is not None
        loop = asyncio.get_running_loop()
        with self._listener.dup() as queue:
            for server in self.servers:
                server.close()
            self._listener.close()
            for _ in range(2):  # then the loop has closed it as well: nothing is left but the queue
                await asyncio.sleep(0)
            if self._everybody.is_set():  # whoever came now would be cut off with the queue
                turn_away(queue)
                await asyncio.sleep(_DOOR_SECONDS)
            for _ in range(self.config.backlog):
                try:
                    connection, _ = queue.accept()
                except BlockingIOError:
                    break
                await loop.connect_accepted_socket(
                    self._new_protocol, connection, ssl=self.config.ssl
                )

    def _new_protocol(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(self.config, self.server_state, {})
        return protocol

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield
