"""Timing: contenders take turns in one process, so that the machine's noise falls on all alike.

A *round* gives every contender one slot; the figures are the median and the 99th percentile of all
samples, and the quartiles of the rounds' medians, which tell how far to trust the former. Ratios
are made round by round: a machine that slows down slows all. The garbage collector is off.

A sample is one call; of calls faster than :data:`BATCHED_BELOW`, the mean of one pass over the
contender's arguments, for reading the clock takes a tenth of that. Calls slower than
:data:`INTERRUPTED_ABOVE` are timed by their thread's CPU clock: the others see a neighbour on the
machine in their 99th percentile only, these would in each sample. Successive calls get successive
arguments: nothing is as fast as the same lookup again.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

BATCHED_BELOW = 1e-6
"""Seconds a call; faster ones are timed by the batch."""

INTERRUPTED_ABOVE = 1e-4
"""Seconds a call; the processor may well be taken away in the midst of a longer one."""

SLOW = 10
"""Whoever needs longer than so many slots for a call makes one, and has no more turns."""

_MOST_SAMPLES = 20_000  # of one slot


class Contender(NamedTuple):
    """Something to time: ``call(*arguments[i])`` for one i after the other.

    ``before`` is called, untimed, before every call. ``answer`` turns what a call returns into an
    array that is compared with the other contenders'; None: there is nothing to compare.
    """

    name: str
    call: Callable[..., Any]
    arguments: Sequence[tuple[Any, ...]]
    answer: Callable[[Any], npt.ArrayLike] | None = None
    before: Callable[[], object] | None = None


class Pace(NamedTuple):
    """How long to measure: ``rounds`` rounds, each with a slot of so many seconds per contender."""

    slot: float
    rounds: int


FULL, QUICK = Pace(0.05, 9), Pace(0.001, 2)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds a call: all samples, and the median of each round."""

    samples: npt.NDArray[np.float64]
    rounds: npt.NDArray[np.float64]


@dataclass(slots=True)
class _Lane:
    contender: Contender
    estimate: float = 0.0
    samples: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)


def race(contenders: Sequence[Contender], pace: Pace) -> list[Timing]:
    """Time the contenders and return what each needed, in their order."""
    lanes = [_Lane(contender) for contender in contenders]
    with _no_garbage_collection():
        for lane in lanes:
            lane.estimate = _warm_up(lane.contender, pace.slot)
            if lane.estimate > SLOW * pace.slot:
                lane.samples, lane.rounds = [lane.estimate], [lane.estimate]
        running = [lane for lane in lanes if not lane.rounds]
        cycles = [itertools.cycle(lane.contender.arguments) for lane in running]
        for _ in range(pace.rounds):
            for lane, cycle in zip(running, cycles, strict=True):
                samples = _slot(lane, cycle, pace.slot)
                lane.rounds.append(float(np.median(samples)))
                lane.samples += samples
    return [Timing(np.array(lane.samples), np.array(lane.rounds)) for lane in lanes]


def race_threads(contenders: Sequence[Contender], pace: Pace) -> list[float]:
    """Return how many times faster the contenders run at once than after one another, each round.

    Each contender has a thread of its own, or its turn in one thread; the calls are the same.
    """
    ratios = []
    with _no_garbage_collection(), ThreadPoolExecutor(len(contenders)) as threads:
        seconds = max(_warm_up(contender, pace.slot) for contender in contenders)
        calls = max(1, int(pace.slot / seconds))
        list(threads.map(lambda c: _run(c, 1), contenders))  # now the threads are there
        for _ in range(pace.rounds):
            began = time.perf_counter()
            for contender in contenders:
                threads.submit(_run, contender, calls).result()
            alone = time.perf_counter() - began
            began = time.perf_counter()
            for running in [threads.submit(_run, c, calls) for c in contenders]:
                running.result()
            ratios.append(alone / (time.perf_counter() - began))
    return ratios


def _run(contender: Contender, calls: int) -> None:
    arguments = itertools.islice(itertools.cycle(contender.arguments), calls)
    deque(itertools.starmap(contender.call, arguments), maxlen=0)


def _warm_up(contender: Contender, seconds: float) -> float:
    """Call until ``seconds`` are over or every argument had its turn; return the time of a call."""
    began = time.perf_counter()
    wall = cpu = float("inf")
    for arguments in contender.arguments:
        if contender.before is not None:
            contender.before()
        cpu_before, before = time.thread_time(), time.perf_counter()
        contender.call(*arguments)
        after, cpu_after = time.perf_counter(), time.thread_time()
        wall, cpu = min(wall, after - before), min(cpu, cpu_after - cpu_before)
        if after - began > seconds:
            break
    return cpu if cpu > INTERRUPTED_ABOVE else wall


def _slot(lane: _Lane, cycle: Iterator[tuple[Any, ...]], seconds: float) -> list[float]:
    """Return the samples of one slot, in seconds a call."""
    call, before = lane.contender.call, lane.contender.before
    interrupted = lane.estimate > INTERRUPTED_ABOVE
    clock = time.thread_time_ns if interrupted else time.perf_counter_ns
    samples: list[float] = []
    if lane.estimate < BATCHED_BELOW and before is None:
        arguments = lane.contender.arguments
        batches = max(1, int(seconds / (lane.estimate * len(arguments))))
        for _ in range(min(batches, _MOST_SAMPLES)):
            began = clock()
            deque(itertools.starmap(call, arguments), maxlen=0)
            samples.append((clock() - began) * 1e-9 / len(arguments))
        return samples
    calls = max(1, int(seconds / lane.estimate))
    for arguments_of_call in itertools.islice(cycle, min(calls, _MOST_SAMPLES)):
        if before is not None:
            before()
        began = clock()
        call(*arguments_of_call)
        samples.append((clock() - began) * 1e-9)
    return samples


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
