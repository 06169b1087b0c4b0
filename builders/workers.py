"""Run a function over many chunks of work in other processes, in order and with bounded memory.

A thin layer over ``concurrent.futures``: results come back in the order of the chunks, at most a
few chunks per process are in flight. Ctrl-C reaches the parent alone, which stops cleanly, and
processes whose parent was killed end themselves.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

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
    process dies, and whatever ``function`` raises.
    """
    if jobs == 1:
        setup(*setup_arguments)
        yield from map(function, chunks)
        return
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(setup, setup_arguments),
    )
    try:
        waiting: deque[Future[Result]] = deque()
        for chunk in chunks:
            with _without_interrupts():  # a process that is started here inherits the mask
                waiting.append(pool.submit(function, chunk))
            if len(waiting) >= _IN_FLIGHT * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise PerslmError(
            "a worker process was killed, most likely for want of memory: run again with fewer "
            "--jobs; what is published stays"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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


def _start(setup: Callable[..., None], arguments: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    setup(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # nobody is left to read a result
