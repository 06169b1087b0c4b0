"""Figures for operators: how many requests, how long they took, what the cache does.

A :class:`Metrics` belongs to one ``ScoringService``; there is no global registry. A transport takes
a :class:`Watch` for each request, says what became of it, and ends it. They become metrics of
``prometheus_client`` when they are asked for (:meth:`Metrics.text`). docs/operations.md lists them.

Labels are from fixed sets: whatever is not in them is ``other``. So nothing that a caller sends, no
user id, token or word, can become a label. And so every figure has its place in memory beforehand:
a :class:`Board` has a row of numbers for each process of a service, and can be shared by them. A
beam step does not feel that something is added there, each process answers for all, and what a
process counted stays when it dies.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import time
import uuid
import weakref
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import accumulate, product
from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

Transport: TypeAlias = Literal["http", "grpc"]
Phase: TypeAlias = Literal["receive", "decode", "model", "score", "encode"]

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

OTHER: Final = "other"
TRANSPORTS: Final[tuple[Transport, ...]] = ("http", "grpc")
PHASES: Final[tuple[Phase, ...]] = ("receive", "decode", "model", "score", "encode")
ROUTES: Final = (
    *("score", "score_stream", "user", "model", "forget", "learn"),
    *("healthz", "readyz", "metrics"),
)
STATUSES: Final = ("ok", "no_model", "vocabulary_mismatch", "degraded", "refused", "failed")
REASONS: Final = (
    "ok",
    "stale",
    "unknown_user",
    "vocabulary_mismatch",
    "store_unavailable",
    "bad_blob",
    "loading",
    "learned",
    "known",
    "nothing",
    "opted_out",
    "invalid_request",
    "invalid_user",
    "invalid_ids",
    "invalid_message",
    "learning_unavailable",
    "no_vocabulary",
    "too_many_pending",
    "too_many_histories",
    "answer_too_large",
    "malformed_body",
    "body_too_large",
    "unsupported_media_type",
    "unauthenticated",
    "forbidden",
    "not_found",
    "method_not_allowed",
    "deadline_exceeded",
    "draining",
    "disconnected",
    "overloaded",
    "internal",
)

BUCKETS: Final = (
    *(5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 7.5e-4),
    *(1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0),
)
"""Upper bounds of the buckets of latencies, in seconds; the last bucket has no bound."""

LAG_BUCKETS: Final = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0, 600.0, 3600.0)
"""Those of how late a new generation is used, in seconds."""

# A row of a board, in numbers of 8 bytes: the process, the cache, then for each transport and
# route how often each outcome came, the histogram of all, and those of the phases. A histogram is
# a number for each bucket, not yet added up, and the sum.
_HISTOGRAM: Final = len(BUCKETS) + 2
_SUM: Final = _HISTOGRAM - 1
_OUTCOMES: Final = {
    outcome: place for place, outcome in enumerate(product((*STATUSES, OTHER), (*REASONS, OTHER)))
}
_TOTAL: Final = len(_OUTCOMES)
_PHASES: Final = {phase: _TOTAL + _HISTOGRAM * place for place, phase in enumerate(PHASES, 1)}
_ROUTE: Final = _TOTAL + _HISTOGRAM * (1 + len(PHASES))

_PROCESS: Final = 2  # its id, and how many had this row
_COUNTERS: Final = ("hits", "misses", "loads", "store_failures", "blob_failures", "evictions")
_GAUGES: Final = ("bytes", "models", "entries")
_CACHE: Final = len(_COUNTERS) + len(_GAUGES)
_LAG: Final = len(LAG_BUCKETS) + 2
_FIRST_ROUTE: Final = _PROCESS + _CACHE + _LAG
_ROUTES: Final = {
    key: _FIRST_ROUTE + _ROUTE * place
    for place, key in enumerate(product(TRANSPORTS, (*ROUTES, OTHER)))
}
_ROW: Final = _FIRST_ROUTE + _ROUTE * len(_ROUTES)


class Board:
    """Memory for the figures of a service's processes, a row for each.

    Made by whoever starts them; they open it by its ``descriptor``, which they inherit (−1 where
    there is one process alone). A row goes from a process that ended to the one that takes its
    place, with all that was counted in it.
    """

    def __init__(self, rows: int, descriptor: int | None = None) -> None:
        size = 8 * _ROW * rows
        if descriptor is None and rows == 1:
            descriptor = -1  # shared with nobody: memory without a file
        elif descriptor is None:
            with tempfile.TemporaryFile() as file:
                file.truncate(size)
                descriptor = os.dup(file.fileno())
            weakref.finalize(self, os.close, descriptor)
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, size)

    def row(self, place: int) -> memoryview:
        """Return the bytes of a row."""
        return memoryview(self._memory)[8 * _ROW * place : 8 * _ROW * (place + 1)]

    def integers(self) -> npt.NDArray[np.int64]:
        """Return what the processes and their caches counted, a row each, as it is now."""
        return np.frombuffer(self._memory, np.int64).reshape(-1, _ROW)[:, : _PROCESS + _CACHE]

    def floats(self) -> list[float]:
        """Return all rows as floating-point numbers, added up: what lies behind the integers."""
        total: list[float] = np.frombuffer(self._memory).reshape(-1, _ROW).sum(0).tolist()
        return total


def _figure(place: int) -> Any:
    """Return an attribute of ``CacheFigures`` that lies at a place of its memory."""

    def read(self: CacheFigures) -> int:
        return self._integers[place]

    def write(self: CacheFigures, value: int) -> None:
        self._integers[place] = value

    return property(read, write)


class CacheFigures:
    """What a cache of models did since it was made, and what is in it; the cache keeps it.

    For a miss the store is asked, which need not load a model: the latest may be the one at hand.
    """

    hits: int = _figure(0)
    misses: int = _figure(1)
    loads: int = _figure(2)
    store_failures: int = _figure(3)
    blob_failures: int = _figure(4)
    evictions: int = _figure(5)
    bytes: int = _figure(6)
    models: int = _figure(7)
    entries: int = _figure(8)

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._use(memoryview(bytearray(8 * (_CACHE + _LAG))))

    def lagged(self, seconds: float) -> None:
        """Count a generation that takes an older one's place so long after its publication."""
        with self._mutex:
            self._lags[bisect_left(LAG_BUCKETS, seconds)] += 1.0
            self._lags[_LAG - 1] += seconds

    def move(self, memory: memoryview) -> None:
        """Go on in ``memory``, and what another process counted there; what is in the cache."""
        integers, lags = self._integers, self._lags
        self._use(memory)
        for place, number in enumerate(integers):
            counted = self._integers[place] if place < len(_COUNTERS) else 0
            self._integers[place] = counted + number
        for place, seconds in enumerate(lags):
            self._lags[place] += seconds

    def _use(self, memory: memoryview) -> None:
        self._integers = memory[: 8 * _CACHE].cast("q")
        self._lags = memory[8 * _CACHE :].cast("d")


class Tracer(Protocol):
    """Makes traces of watches; ``service.tracing`` has one."""

    def record(self, watch: Watch, ended: float) -> None:
        """Take a request that has ``ended``, by the clock of its watch."""


_now: Final = time.perf_counter


class Watch:
    """Times one request and remembers what becomes of it; of one thread at a time.

    ``status`` and ``reason`` are those of a ``ScoreAnswer``; of a message that was to be learned
    ``reason`` is the status of ``Learned``; of a refusal they are ``refused`` (or
    ``failed``, if nobody foresaw it) and the code of its problem. ``request_id`` is of the records
    and log lines about the request, or None if there are none. ``traceparent`` is the header of
    that name, for traces (``Metrics.tracer``). ``begun`` is when it came, ``laps`` has the phases
    and when each ended, by the clock of time.perf_counter().
    """

    __slots__ = (
        "_metrics",
        "begun",
        "laps",
        "reason",
        "request_id",
        "route",
        "status",
        "traceparent",
        "transport",
    )

    def __init__(self, metrics: Metrics, transport: Transport, route: str) -> None:
        self._metrics = metrics
        self.transport = transport
        self.route = route
        self.status = "ok"
        self.reason = "ok"
        self.request_id: str | None = None
        self.traceparent: str | bytes | None = None
        self.laps: list[tuple[Phase, float]] = []
        self.begun = _now()

    def lap(self, phase: Phase) -> None:
        """Say that what was done since the last lap was ``phase``."""
        self.laps.append((phase, _now()))

    def refused(self, code: str, request_id: str | None = None) -> str:
        """Say that the request is refused with ``code``; return the id for answer and log."""
        self.status = "failed" if code == "internal" else "refused"
        self.reason = code
        self.request_id = request_id or self.request_id or uuid.uuid4().hex
        return self.request_id

    def end(self) -> None:
        """Count the request, which has been answered."""
        self._metrics._add(self, _now())


class Metrics(Collector):
    """The figures of one service. Thread-safe.

    ``tracer``, if there is one, is shown each request that has ended.
    """

    def __init__(self, cache: CacheFigures) -> None:
        self.tracer: Tracer | None = None
        self._cache = cache
        self._mutex = threading.Lock()  # over the row
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self.share(Board(1), 0)

    def share(self, board: Board, place: int) -> None:
        """Keep the figures in a row of ``board`` from now on, and answer for all of its rows.

        For a service that has not begun: requests that were counted before are forgotten.
        """
        self._board = board
        row = board.row(place)
        process = row[: 8 * _PROCESS].cast("q")
        process[0] = os.getpid()
        process[1] += 1
        self._cache.move(row[8 * _PROCESS : 8 * _FIRST_ROUTE])
        self._row = row.cast("d")

    def watch(self, transport: Transport, route: str = OTHER) -> Watch:
        """Return a watch for a request that has just come; ``route`` may be set later."""
        return Watch(self, transport, route)

    def refused(self, transport: Transport, route: str, code: str, number: int) -> None:
        """Count so many requests that were refused at once, for which a watch would be too dear."""
        begin = _ROUTES[transport, route]
        with self._mutex:
            self._row[begin + _OUTCOMES["refused", code]] += number
            self._row[begin + _TOTAL] += number  # the first bucket

    def text(self) -> bytes:
        """Return all figures in the text format of Prometheus (``CONTENT_TYPE``)."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the figures as ``prometheus_client`` has them."""
        requests = CounterMetricFamily(
            "perslm_requests",
            "Requests that were answered or refused.",
            labels=("transport", "route", "status", "reason"),
        )
        seconds = HistogramMetricFamily(
            "perslm_request_seconds",
            "From the arrival of a request to its answer.",
            labels=("transport", "route"),
        )
        phases = HistogramMetricFamily(
            "perslm_request_phase_seconds",
            "Parts of a request for scores.",
            labels=("transport", "route", "phase"),
        )
        floats = self._board.floats()
        for key, begin in _ROUTES.items():
            route = floats[begin : begin + _ROUTE]
            for outcome, place in _OUTCOMES.items():
                if route[place]:
                    requests.add_metric((*key, *outcome), route[place])
            _add_histogram(seconds, key, BUCKETS, route[_TOTAL : _TOTAL + _HISTOGRAM])
            for phase, place in _PHASES.items():
                _add_histogram(phases, (*key, phase), BUCKETS, route[place : place + _HISTOGRAM])
        yield from (requests, seconds, phases)
        lag = HistogramMetricFamily(
            "perslm_generation_lag_seconds",
            "From the publication of a generation to its first use in an older one's place.",
            labels=(),
        )
        _add_histogram(lag, (), LAG_BUCKETS, floats[_FIRST_ROUTE - _LAG : _FIRST_ROUTE])
        yield lag
        integers = self._board.integers()
        yield from _of_caches(integers[:, _PROCESS:].sum(0))
        yield from _of_processes(integers[:, :_PROCESS])

    def _add(self, watch: Watch, ended: float) -> None:
        """Count a request; on the hot path."""
        row = self._row
        begin = _ROUTES.get((watch.transport, watch.route))
        if begin is None:
            begin = _ROUTES[watch.transport, OTHER]
        outcome = _OUTCOMES.get((watch.status, watch.reason))
        if outcome is None:
            outcome = _outcome(watch)
        total = begin + _TOTAL
        before = watch.begun
        elapsed = ended - before
        with self._mutex:
            row[begin + outcome] += 1.0
            row[total + bisect_left(BUCKETS, elapsed)] += 1.0
            row[total + _SUM] += elapsed
            for phase, now in watch.laps:
                histogram = begin + _PHASES[phase]
                seconds = now - before
                before = now
                row[histogram + bisect_left(BUCKETS, seconds)] += 1.0
                row[histogram + _SUM] += seconds
        if self.tracer is not None:
            self.tracer.record(watch, ended)


def _outcome(watch: Watch) -> int:
    return _OUTCOMES[
        watch.status if watch.status in STATUSES else OTHER,
        watch.reason if watch.reason in REASONS else OTHER,
    ]


def _add_histogram(
    family: HistogramMetricFamily,
    labels: tuple[str, ...],
    bounds: tuple[float, ...],
    figures: list[float],
) -> None:
    """Add a histogram that is not empty; one without labels is always there."""
    counts = list(accumulate(figures[:-1]))
    if labels and not counts[-1]:
        return
    names = (*map(str, bounds), "+Inf")
    family.add_metric(labels, list(zip(names, counts, strict=True)), figures[-1])


def _of_caches(figures: npt.NDArray[np.int64]) -> Iterator[Metric]:
    now = dict(zip((*_COUNTERS, *_GAUGES), figures.tolist(), strict=True))
    for name, what in (
        ("hits", "Requests whose entry was fresh."),
        ("misses", "Requests whose entry was missing or due."),
        ("loads", "Models that were loaded from the store."),
        ("evictions", "Entries given up for the bound of bytes."),
    ):
        yield CounterMetricFamily(f"perslm_cache_{name}", what, value=now[name])
    failures = CounterMetricFamily(
        "perslm_cache_load_failures",
        "Times that the store did not answer, or its model could not be read.",
        labels=("reason",),
    )
    failures.add_metric(("store_unavailable",), now["store_failures"])
    failures.add_metric(("bad_blob",), now["blob_failures"])
    yield failures
    for name, what in (
        ("bytes", "Memory of the entries in the cache."),
        ("models", "Models in the cache."),
        ("entries", "Entries in the cache: models, and users without one."),
    ):
        yield GaugeMetricFamily(f"perslm_cache_{name}", what, value=now[name])


def _of_processes(rows: npt.NDArray[np.int64]) -> Iterator[Metric]:
    """Yield what the processes that live take together."""
    starts = int((rows[:, 1] - 1).clip(0).sum())
    living = [process for process in rows[:, 0].tolist() if process and _lives(process)]
    yield GaugeMetricFamily("perslm_workers", "Processes of the service.", value=len(living))
    yield CounterMetricFamily(
        "perslm_worker_restarts", "Processes started in the place of one that ended.", value=starts
    )
    values: defaultdict[str, list[float]] = defaultdict(list)
    families: dict[str, Metric] = {}
    for process in living:
        for family in ProcessCollector(pid=_constant(process), registry=None).collect():
            families.setdefault(family.name, family)
            values[family.name] += (sample.value for sample in family.samples)
    for name, family in families.items():
        together = min if name in _NOT_ADDED else sum
        kind = CounterMetricFamily if family.type == "counter" else GaugeMetricFamily
        yield kind(name, family.documentation, value=together(values[name]))


_NOT_ADDED: Final = ("process_start_time_seconds", "process_max_fds")


def _constant(value: int) -> Callable[[], int]:
    return lambda: value


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, PermissionError):  # or it is another by now, of another user
        return False
    return True
