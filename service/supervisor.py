"""Several server processes at the same addresses, and one that looks after them.

The supervisor binds the addresses, answers nothing itself, and knows of no user. Its workers run
``service.run``: each accepts from the one HTTP socket, listens at the gRPC port beside the others,
and has models of its own in memory. So a worker that hangs or dies takes along what it was
answering, and nothing else: over HTTP whoever has not been accepted yet goes to another, while
each has a queue of its own for gRPC.

===========================  =====================================================================
what happens                 what is done
===========================  =====================================================================
a worker ends                another is started in its place, after a pause that grows if they end
                             soon again
and so do all others         when none is left that answers, and the last ones ended soon, the
                             supervisor gives up
SIGTERM or SIGINT            all workers drain; those that do not end in time are killed
a second signal              they do not wait for what they are answering
the supervisor is killed     its pipes to the workers close: they drain, and end
===========================  =====================================================================

Figures for operators are in memory that all share (``service.metrics``), so any worker has them.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe, wait
from typing import Final, Literal, NoReturn, TypeAlias

from perslm.errors import PerslmError
from service import audit, logs
from service.core import Prepare
from service.metrics import Board
from service.run import STOP_SECONDS, Listener, end_process, serve_here
from service.settings import Settings
from service.sockets import listening, shared_port

_LIVED_SECONDS: Final = 10.0  # a worker that ends sooner has not really worked
_MOST_DEATHS: Final = 5
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0
_PATIENCE_SECONDS: Final = STOP_SECONDS + 3.0
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

# Not forked: gRPC and others that have threads need not live through that. Modules are looked for
# where this process finds them, not where it happens to run.
_PROGRAM: Final = (
    "import sys; sys.path[:] = {path}; from service.supervisor import work; work({fd})"
)

_log = logging.getLogger(__name__)

_Order: TypeAlias = Literal["stop", "hurry"]
_Report: TypeAlias = list[str] | PerslmError | OSError  # where it listens, or why it cannot


class WorkersError(PerslmError):
    """Workers end as soon as they are started."""


def supervise(
    settings: Settings,
    on_ready: Callable[[list[str]], None],
    prepare: Prepare | None = None,
) -> None:
    """Serve with ``settings.workers`` processes until SIGINT or SIGTERM; see ``service.run.serve``.

    Raises what a worker raised when the service started, and WorkersError if none is left and new
    ones end again and again. Call it from the main thread.
    """
    with contextlib.ExitStack() as stack:
        http, grpc = settings.address("http"), settings.address("grpc")
        listener = None if http is None else stack.enter_context(listening(http))
        if grpc is not None:
            settings = replace(settings, grpc=stack.enter_context(shared_port(grpc)))
        settings = replace(settings, cache_bytes=settings.cache_bytes // settings.workers)
        _Supervisor(settings, listener, on_ready, prepare).run()


def pause_seconds(deaths: int) -> float:
    """Return how long after so many deaths in a row, at least one, another worker starts."""
    seconds = _FIRST_PAUSE_SECONDS
    for _ in range(deaths - 1):
        seconds *= 2
        if seconds >= _LONGEST_PAUSE_SECONDS:
            return _LONGEST_PAUSE_SECONDS
    return seconds


@dataclass(frozen=True, slots=True)
class _Task:
    """What a worker is told when it starts; numbers of files are of those that it inherits."""

    settings: Settings
    listener: int | None
    url: str
    board: int
    place: int
    prepare: Prepare | None


@dataclass(slots=True, eq=False)
class _Worker:
    """A process, the pipe to it, and since when it lives; ``ready`` once it answers."""

    process: subprocess.Popen[bytes]
    pipe: Connection[_Task | _Order, _Report]
    begun: float
    ready: bool = False

    def tell(self, order: _Task | _Order) -> None:
        with contextlib.suppress(OSError):  # it has ended, which the supervisor will see
            self.pipe.send(order)


class _Signals:
    """Counts signals; ``socket`` can be read from when the first has come."""

    def __init__(self) -> None:
        self.count = 0
        self.socket, self._wake = socket.socketpair()

    def __enter__(self) -> _Signals:
        self._before = [signal.signal(number, self._on_signal) for number in _SIGNALS]
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in zip(_SIGNALS, self._before, strict=True):
            signal.signal(number, handler)
        self.socket.close()
        self._wake.close()

    def _on_signal(self, number: int, frame: object) -> None:
        self.count += 1
        self._wake.send(b".")

    def taken(self) -> int:
        """Return how many have come, after waiting for one more, which has."""
        self.socket.recv(1)
        return self.count


class _Supervisor:
    def __init__(
        self,
        settings: Settings,
        listener: Listener | None,
        on_ready: Callable[[list[str]], None],
        prepare: Prepare | None,
    ) -> None:
        self._settings = settings
        self._prepare = prepare
        self._listener = listener
        self._on_ready: Callable[[list[str]], None] | None = on_ready  # None: it was called
        self._board = Board(settings.workers)
        self._workers: dict[int, _Worker] = {}
        self._due = dict.fromkeys(range(settings.workers), 0.0)  # by place: when to start another
        self._deaths = 0  # in a row, of workers that had not lived long
        self._ending = False

    def run(self) -> None:
        with _Signals() as signals:
            try:
                while not self._ending:
                    self._start_those_due()
                    if self._look(signals, min(self._due.values(), default=None)):
                        self._ending = True
                self._end(signals)
            finally:
                for worker in self._workers.values():
                    worker.process.kill()
                    worker.process.wait()

    def _start_those_due(self) -> None:
        for place, due in list(self._due.items()):
            if due <= time.monotonic():
                del self._due[place]
                self._workers[place] = self._start(place)

    def _start(self, place: int) -> _Worker:
        here, there = Pipe()
        inherited = [there.fileno(), self._board.descriptor]
        listener, url = None, ""
        if self._listener is not None:
            listener, url = self._listener[0].fileno(), self._listener[1]
            inherited.append(listener)
        program = _PROGRAM.format(path=sys.path, fd=there.fileno())
        # until the worker can end quietly, it shall not end by the Ctrl-C of a terminal
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", program, f"perslm worker {place + 1}"],
                pass_fds=inherited,
                stdin=subprocess.DEVNULL,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
            there.close()
        worker = _Worker(process, here, time.monotonic())
        board = self._board.descriptor
        worker.tell(_Task(self._settings, listener, url, board, place, self._prepare))
        return worker

    def _look(self, signals: _Signals, until: float | None) -> bool:
        """Wait for anything to happen, ``until`` then at most; return whether a signal came."""
        seconds = None if until is None else max(0.0, until - time.monotonic())
        pipes = [worker.pipe for worker in self._workers.values()]
        happened = wait([signals.socket, *pipes], seconds)
        for place, worker in list(self._workers.items()):
            if worker.pipe not in happened:
                continue
            try:
                message = worker.pipe.recv()
            except (EOFError, ConnectionError):
                del self._workers[place]
                self._ended(place, worker)
            else:
                self._heard(worker, message)
        return signals.socket in happened

    def _heard(self, worker: _Worker, message: _Report) -> None:
        if isinstance(message, PerslmError | OSError):
            if self._on_ready is not None:
                raise message
            _log.error("a worker cannot start: %s", message)
            return
        worker.ready = True
        all_ready = not self._due and all(other.ready for other in self._workers.values())
        if self._on_ready is not None and all_ready and not self._ending:
            self._on_ready(message)
            self._on_ready = None

    def _ended(self, place: int, worker: _Worker) -> None:
        worker.pipe.close()
        status = worker.process.wait()
        if self._ending:
            return
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
        if self._on_ready is not None:
            raise WorkersError(f"a worker ended {how} while it started: the log says more")
        now = time.monotonic()
        self._deaths = self._deaths + 1 if now - worker.begun < _LIVED_SECONDS else 1
        if self._deaths >= _MOST_DEATHS and not any(w.ready for w in self._workers.values()):
            raise WorkersError(
                f"no worker is left, and the last {self._deaths} ended soon after their start, "
                f"the last one {how}: the log says more"
            )
        pause = pause_seconds(self._deaths)
        _log.warning("a worker ended %s: another starts in %.1f s", how, pause)
        self._due[place] = now + pause

    def _end(self, signals: _Signals) -> None:
        """Have all workers end, and return when they have, or when they had the time to."""
        if self._listener is not None:
            self._listener[0].close()  # or callers would go on to wait in its queue
        self._tell("stop")
        until = time.monotonic() + _PATIENCE_SECONDS
        signals.taken()
        while self._workers and time.monotonic() < until:
            if self._look(signals, until) and signals.taken() > 1:
                self._tell("hurry")
        if self._workers:
            _log.error("%d workers did not end in time and are killed", len(self._workers))

    def _tell(self, order: _Order) -> None:
        for worker in self._workers.values():
            worker.tell(order)


def work(descriptor: int) -> NoReturn:
    """Be a worker: the program that a supervisor starts, with a pipe to it."""
    for number in _SIGNALS:  # until it serves, there is nothing to finish
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    pipe: Connection[_Report, _Task | _Order] = Connection(descriptor)
    task = pipe.recv()
    assert isinstance(task, _Task)
    audit.configure(task.settings)
    logs.configure(task.settings)
    listener = None
    if task.listener is not None:
        listener = socket.socket(fileno=task.listener), task.url
    try:
        serve_here(
            task.settings,
            listener,
            pipe.send,
            orders=_Orders(pipe),
            row=(Board(task.settings.workers, task.board), task.place),
            prepare=task.prepare,
        )
    except (PerslmError, OSError) as error:
        with contextlib.suppress(OSError):  # nobody is there to be told
            pipe.send(error)
        end_process(1)
    end_process()


class _Orders:
    """What the supervisor says, and that it is gone."""

    def __init__(self, pipe: Connection[_Report, _Task | _Order]) -> None:
        self._pipe = pipe

    def obey(self, stop: Callable[[], None], hurry: Callable[[], None]) -> None:
        """Call ``stop`` and ``hurry`` from a thread, when told to."""
        threading.Thread(target=self._obey, args=(stop, hurry), daemon=True).start()

    def _obey(self, stop: Callable[[], None], hurry: Callable[[], None]) -> None:
        for order in self._orders():
            (hurry if order == "hurry" else stop)()
        stop()
        time.sleep(_PATIENCE_SECONDS)  # there is nobody any more who would kill this process
        end_process(1)

    def _orders(self) -> Iterable[_Task | _Order]:
        with contextlib.suppress(EOFError, OSError):
            while True:
                yield self._pipe.recv()
