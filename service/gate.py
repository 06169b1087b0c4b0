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

_PATIENCE: Final = 0.02  # seconds of turns on end that are too long, until some are refused
_LONGEST: Final = _PATIENCE / 4  # what one turn counts for at most: it need not have been requests
_CALM_TURNS: Final = 16  # after which all are answered again
_FEW: Final = 8  # requests of one turn: never too many, however long each takes
_KEPT: Final = 0.9  # of what was measured before, with each turn
_OF_REFUSAL: Final = 0.4  # what a refusal takes of what an answer does
_FLOODED: Final = 1 / 4  # of ``turn_seconds``, what turns take while some are refused

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
    for they pass. But where turns on end, of more than a few requests each, take longer than the
    setting ``turn_seconds``, more arrives than can be answered, and they would grow until everybody
    waits for everybody. Then only as many are answered in a turn as, with the refusals, take a
    quarter of that: turns are short, and who is let in is answered soon. So it stays until all that
    comes is answered so for some turns.

    A few requests are answered however long they take: a handful of callers, who each wait for an
    answer before they ask again, keep a process without the kernel in turns of any length.

    What turns take is measured, as time of the thread's processor: while it must wait for other
    programs, nothing is refused for that. For one event loop.
    """

    def __init__(
        self, settings: Settings, *, clock: Callable[[], float] = time.thread_time
    ) -> None:
        self._clock = clock
        self._long = settings.turn_seconds
        self._allowed: float = math.inf
        self._now = self._calm = 0
        self._begun = self._behind = 0.0
        self._spent = self._done = 0.0  # of late: seconds, and what was done in them, in answers
        self._refused = 0.0  # of late, in a turn
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
        now, arrived = self._clock(), self._now
        spent, self._begun, self._now = min(now - self._begun, _LONGEST), now, 0
        refused = max(0.0, arrived - self._allowed)
        self._spent = _KEPT * self._spent + spent
        self._done = _KEPT * self._done + arrived - refused + _OF_REFUSAL * refused
        if self._allowed == math.inf:
            self._behind = self._behind + spent if spent > self._long and arrived > _FEW else 0.0
            if self._behind <= _PATIENCE:
                return
            self._behind, self._calm, self._refused = 0.0, 0, 0.0
        elif refused:
            self._calm = 0
        else:
            self._calm += 1
            if self._calm == _CALM_TURNS:
                self._allowed = math.inf
                return
        self._refused += (1 - _KEPT) * (refused - self._refused)
        refusals = _OF_REFUSAL * self._refused  # which take their time, too, but not all of it
        worth = self._long * _FLOODED * self._done / self._spent
        self._allowed = max(_FEW, int(worth - refusals), int(refusals / 2))
