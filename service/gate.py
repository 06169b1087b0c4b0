"""How much a process takes on at once: work in threads, a short queue before them, and then "no".

Everything that blocks or computes for long goes through one :class:`Gate`, whatever the transport.
When as many requests wait as may, the next is refused at once, before anything is done for it: so
those that were let in are answered about as fast as ever, and callers learn early to go elsewhere
or on without. What is answered on the event loop takes well under a millisecond each, and waits for
nobody but those before it: a :class:`Turn` bounds how many those are.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from perslm.errors import PerslmError
from service.settings import Settings

_MOST_BURSTS: Final = 4  # answered in one turn, whatever there was before
_CALM_TURNS: Final = 16  # after which twice as many may come

_P = ParamSpec("_P")
_T = TypeVar("_T")


class OverloadedError(PerslmError):
    """The process has as much to do as it may: ask again in a second, or ask another."""

    def __init__(self) -> None:
        super().__init__("as many requests wait as may: ask again in a second, or another replica")


class Gate:
    """Runs work in at most ``max_inflight`` threads; at most ``max_waiting`` more wait for one."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.max_inflight + settings.max_waiting
        self._admitted = 0
        self._mutex = threading.Lock()
        self._workers = ThreadPoolExecutor(settings.max_inflight, "perslm-work")

    async def run(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what ``work`` returns, in a thread; raises OverloadedError at once if it cannot.

        If the caller is cancelled while it waits, the work is not begun.
        """
        return await self._submit(work, *args, **kwargs)

    async def run_until(
        self, deadline: float, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Do as :meth:`run`, but raise TimeoutError at ``deadline``, of time.monotonic().

        Work that has not begun by then, or when the caller is cancelled, is not done; what has
        begun goes on, and nobody hears of it.
        """
        if deadline == math.inf:
            return await self.run(work, *args, **kwargs)
        running = self._submit(work, *args, **kwargs)
        try:
            done, _ = await asyncio.wait((running,), timeout=max(0.0, deadline - time.monotonic()))
        except asyncio.CancelledError:
            running.cancel()
            raise
        if done:
            return running.result()
        running.cancel()
        raise TimeoutError

    def _submit(
        self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> asyncio.Future[_T]:
        with self._mutex:
            if self._admitted >= self._most:
                raise OverloadedError
            self._admitted += 1
        done = self._workers.submit(work, *args, **kwargs)
        done.add_done_callback(self._leave)
        running = asyncio.wrap_future(done)
        running.add_done_callback(_retrieve)
        return running

    def _leave(self, done: Future[_T]) -> None:
        with self._mutex:
            self._admitted -= 1


def _retrieve(ended: asyncio.Future[_T]) -> None:
    """Look at an exception that nobody waits for any more: asyncio would write its text."""
    if not ended.cancelled():
        ended.exception()


class Turn:
    """Counts the requests of one turn of the event loop, and says how many to refuse.

    In a turn a process takes all that has arrived since the last, answers it, and only then looks
    again; so who arrives now waits for the rest of this turn and for the next. Bursts are answered,
    for they pass. But where two turns on end have more than the setting ``max_burst``, more arrives
    than can be answered, and the turns would grow until everybody waits for everybody. Then only an
    eighth of that is answered in a turn: turns are short, and who is let in is answered soon. Where
    for some turns no more than this arrives, it becomes twice as much, and so on. For one event
    loop.
    """

    def __init__(self, settings: Settings) -> None:
        self._burst = settings.max_burst
        self._few = max(1, settings.max_burst // 8)
        self._most = _MOST_BURSTS * self._burst
        self._allowed = self._most
        self._now = self._before = self._calm = 0
        self.answering = False
        """Set by whoever answers one of the requests: what arrives after that is the next turn."""

    def admit(self) -> bool:
        """Count a request, which has just arrived; tell whether it may be answered."""
        if self.answering:
            self.answering = False
            self._end()
        self._now += 1
        return self._now <= self._allowed

    def _end(self) -> None:
        now, self._now = self._now, 0
        recovering = self._allowed < self._most
        if now > self._burst and (recovering or self._before > self._burst):
            self._allowed, self._calm = self._few, 0
        elif now > self._allowed:
            self._calm = 0
        elif recovering:
            self._calm += 1
            if self._calm == _CALM_TURNS:
                self._allowed, self._calm = min(2 * self._allowed, self._most), 0
        self._before = now
