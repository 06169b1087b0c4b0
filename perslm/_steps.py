"""Conversations with a service, told step by step, for callers that block and callers that await.

What a client does (``perslm._asking``, ``perslm.remote``, ``perslm._http_transport``,
``perslm._grpc_transport``) is written once, as generators: they yield the next step and are sent
its outcome. :func:`run` and :func:`run_async` take the steps, the only two places where one waits;
both hold the whole conversation to one deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from perslm.errors import PerslmError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request, get the reply; both are of the transport's own types."""

    request: Any


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait, get True; get False at once if the deadline would have passed by then."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """Compute what takes long, get the result."""

    do: Callable[[], Any]


Step: TypeAlias = Send | Pause | Work
Steps: TypeAlias = Generator[Step, Any, T]


class Wire(Protocol):
    """Connections to a service, for callers that block; thread-safe."""

    def send(self, request: Any, until: float) -> Any:
        """Send a request and return the reply.

        ``until`` is the deadline, of time.monotonic(). Raises UnansweredError if there is no reply
        by then, or ever.
        """
        ...

    def line(self) -> Any:
        """Return what the score requests of one model go by; those of another have another."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class AsyncWire(Protocol):
    """Connections to a service, for one event loop.

    A ``send`` that is cancelled leaves nothing behind that another could stumble over.
    """

    async def send(self, request: Any, until: float) -> Any:
        """Do as :meth:`Wire.send` does."""
        ...

    def line(self) -> Any:
        """Do as :meth:`Wire.line` does."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


def run(steps: Steps[T], wire: Wire, seconds: float) -> T:
    """Take all steps, with a deadline ``seconds`` from now; return what they come to."""
    until = time.monotonic() + seconds
    outcome: Any = None
    error: PerslmError | None = None
    try:
        while True:
            step = steps.send(outcome) if error is None else steps.throw(error)
            outcome, error = None, None
            try:
                if isinstance(step, Send):
                    outcome = wire.send(step.request, until)
                elif isinstance(step, Work):
                    outcome = step.do()
                else:
                    outcome = time.monotonic() + step.seconds < until
                    if outcome:
                        time.sleep(step.seconds)
            except PerslmError as caught:
                error = caught
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()  # whoever was interrupted hears of it now


async def run_async(steps: Steps[T], wire: AsyncWire, seconds: float) -> T:
    """Take all steps, with a deadline ``seconds`` from now; return what they come to."""
    until = time.monotonic() + seconds
    outcome: Any = None
    error: PerslmError | None = None
    try:
        while True:
            step = steps.send(outcome) if error is None else steps.throw(error)
            outcome, error = None, None
            try:
                if isinstance(step, Send):
                    outcome = await wire.send(step.request, until)
                elif isinstance(step, Work):
                    outcome = await asyncio.to_thread(step.do)
                else:
                    outcome = time.monotonic() + step.seconds < until
                    if outcome:
                        await asyncio.sleep(step.seconds)
            except PerslmError as caught:
                error = caught
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()  # whoever was interrupted hears of it now
