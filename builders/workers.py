"""Run a function over many chunks of work in other processes, in order and with bounded memory.

Chunk n goes to process n mod ``jobs``, so results come back in order by asking the processes in
turn. Each process has a pipe of its own and no lock is shared; that is why this is not
``concurrent.futures``, whose pool may wait for ever if one of its processes is killed while it
writes a result. Here a dead process is the end of its pipe: an error, at once.

Ctrl-C reaches the parent alone, which ends the processes; when the parent is killed they see the
end of the pipe and end themselves.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from perslm.errors import PerslmError

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")

_IN_FLIGHT = 3  # chunks per process: one at work, one ready, one being made


def ordered_map(
    function: Callable[[Chunk], Result],
    chunks: Iterable[Chunk],
    *,
    jobs: int,
    setup: Callable[..., None],
    setup_arguments: tuple[object, ...] = (),
) -> Generator[Result, None, None]:
    """Yield ``function(chunk)`` for each chunk, in order, computed by ``jobs`` processes.

    ``setup(*setup_arguments)`` runs once in each process first. With one job everything runs here.
    Close the generator if you leave it early: that ends the processes. Raises PerslmError if a
    process dies, and whatever ``setup`` or ``function`` raises.
    """
    if jobs == 1:
        setup(*setup_arguments)
        yield from map(function, chunks)
        return
    workers: list[_Worker[Chunk, Result]] = []
    waiting: deque[_Worker[Chunk, Result]] = deque()
    try:
        for number, chunk in enumerate(chunks):
            if number < jobs:
                workers.append(_Worker(function, setup, setup_arguments))
            worker = workers[number % jobs]
            worker.send(chunk)
            waiting.append(worker)
            if len(waiting) >= _IN_FLIGHT * jobs:
                yield waiting.popleft().receive()
        while waiting:
            yield waiting.popleft().receive()
    finally:
        for worker in workers:
            worker.end()


class _Worker(Generic[Chunk, Result]):
    """The parent's side of one process."""

    def __init__(
        self,
        function: Callable[[Chunk], Result],
        setup: Callable[..., None],
        arguments: tuple[object, ...],
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, function, setup, arguments), daemon=True
        )
        with _death_explained(), _without_interrupts():  # the process inherits the signal mask
            self._process.start()
        theirs.close()

    def send(self, chunk: Chunk) -> None:
        """Give work; this blocks only until the process has read it."""
        with _death_explained():
            self._pipe.send(chunk)

    def receive(self) -> Result:
        """Return the next result, or raise what the function raised."""
        with _death_explained():
            result, error = self._pipe.recv()
        if error is not None:
            raise _rebuilt(*error)
        answer: Result = result
        return answer

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._pipe.close()
        self._process.terminate()
        self._process.join()


@contextmanager
def _death_explained() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:  # the pipe ended, before or within a message
        raise PerslmError(
            "a worker process was killed, most likely for want of memory: run again with fewer "
            "--jobs; what is published stays"
        ) from error


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold SIGINT back; one that comes meanwhile is delivered at the end."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(
    pipe: Connection,
    function: Callable[[Any], object],
    setup: Callable[..., None],
    arguments: tuple[object, ...],
) -> None:
    """Answer every chunk with a pair: the result, or what is needed to raise the error again."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    chunks: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_read_ahead, args=(pipe, chunks), daemon=True).start()
    ready = False
    while True:
        chunk = chunks.get()
        try:
            if not ready:
                setup(*arguments)
                ready = True
            answer: tuple[object, object] = (function(chunk), None)
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent raises it
            error.add_note(traceback.format_exc())
            answer = (None, (type(error), error.args, vars(error)))
        with suppress(BrokenPipeError):  # the parent left; the other thread ends us
            pipe.send(answer)


def _read_ahead(pipe: Connection, chunks: SimpleQueue[Any]) -> None:
    """Take chunks as they come, so that the parent never waits for this process to send."""
    while True:
        try:
            chunks.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(0)  # the parent is done, or dead: nobody is left to read a result


def _rebuilt(kind: type[Exception], arguments: tuple[Any, ...], state: dict[str, Any]) -> Exception:
    """Make an exception again without its ``__init__``, which may want other arguments."""
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error
