"""How much a process takes on at once: work in threads, a short queue before them, and then "no".

Everything that blocks or computes for long goes through one :class:`Gate`, whatever the transport.
When as many requests wait as may, the next is refused at once, before anything is done for it: so
those that were let in are answered about as fast as ever, and callers learn early to go elsewhere
or on without. What is answered on the event loop takes well under a millisecond each; of that, a
:class:`Turn` bounds how much comes at once.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from perslm.errors import PerslmError
from service.settings import Settings

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
        return await asyncio.wrap_future(self._submit(work, *args, **kwargs))

    async def run_until(
        self, deadline: float, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Do as :meth:`run`, but raise TimeoutError at ``deadline``, of time.monotonic().

        Work that has not begun by then is not done; what has begun goes on, and nobody hears of it.
        """
        if deadline == math.inf:
            return await self.run(work, *args, **kwargs)
        running = asyncio.wrap_future(self._submit(work, *args, **kwargs))
        done, _ = await asyncio.wait((running,), timeout=max(0.0, deadline - time.monotonic()))
        if done:
            return running.result()
        running.cancel()
        raise TimeoutError

    def _submit(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        with self._mutex:
            if self._admitted >= self._most:
                raise OverloadedError
            self._admitted += 1
        done = self._workers.submit(work, *args, **kwargs)
        done.add_done_callback(self._leave)
        return done

    def _leave(self, done: Future[_T]) -> None:
        with self._mutex:
            self._admitted -= 1
