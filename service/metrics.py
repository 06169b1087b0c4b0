"""Figures for operators: how many requests, how long they took, what the cache does.

A :class:`Metrics` belongs to one ``ScoringService``; there is no global registry. A transport takes
a :class:`Watch` for each request, says what became of it, and ends it. Figures are kept here in
plain lists and dictionaries, for a beam step must not feel them, and become metrics of
``prometheus_client`` when they are asked for (:meth:`Metrics.text`). docs/operations.md lists them.

Labels are from fixed sets: whatever is not in them is ``other``. So nothing that a caller sends, no
user id, token or word, can become a label.
"""

from __future__ import annotations

import threading
import time
import uuid
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Literal, TypeAlias

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

ROUTES: Final = frozenset(
    ("score", "score_stream", "user", "model", "forget", "healthz", "readyz", "metrics")
)
STATUSES: Final = frozenset(
    ("ok", "no_model", "vocabulary_mismatch", "degraded", "refused", "failed")
)
REASONS: Final = frozenset(
    (
        "ok",
        "stale",
        "unknown_user",
        "vocabulary_mismatch",
        "store_unavailable",
        "bad_blob",
        "loading",
        "invalid_request",
        "invalid_user",
        "invalid_ids",
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
        "overloaded",
        "internal",
    )
)
OTHER: Final = "other"

BUCKETS: Final = (
    *(5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 7.5e-4),
    *(1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0),
)
"""Upper bounds of the buckets of latencies, in seconds; the last bucket has no bound."""

_BOUNDS: Final = (*(str(bound) for bound in BUCKETS), "+Inf")


@dataclass(slots=True)
class CacheFigures:
    """What a cache of models did since it was made, and what is in it; the cache keeps it.

    For a miss the store is asked, which need not load a model: the latest may be the one at hand.
    """

    hits: int = 0
    misses: int = 0
    loads: int = 0
    store_failures: int = 0
    blob_failures: int = 0
    evictions: int = 0
    bytes: int = 0
    models: int = 0
    entries: int = 0


class Watch:
    """Times one request and remembers what becomes of it; of one thread at a time.

    ``status`` and ``reason`` are those of a ``ScoreAnswer``; of a refusal they are ``refused`` (or
    ``failed``, if nobody foresaw it) and the code of its problem. ``request_id`` is of the records
    and log lines about the request, or None if there are none.
    """

    __slots__ = (
        "_begin",
        "_lap",
        "_laps",
        "_metrics",
        "reason",
        "request_id",
        "route",
        "status",
        "transport",
    )

    def __init__(self, metrics: Metrics, transport: Transport, route: str) -> None:
        self._metrics = metrics
        self.transport = transport
        self.route = route
        self.status = "ok"
        self.reason = "ok"
        self.request_id: str | None = None
        self._laps: list[tuple[Phase, float]] = []
        self._begin = self._lap = time.perf_counter()

    def lap(self, phase: Phase) -> None:
        """Say that what was done since the last lap was ``phase``."""
        now = time.perf_counter()
        self._laps.append((phase, now - self._lap))
        self._lap = now

    def refused(self, code: str, request_id: str | None = None) -> str:
        """Say that the request is refused with ``code``; return the id for answer and log."""
        self.status = "failed" if code == "internal" else "refused"
        self.reason = code
        self.request_id = request_id or self.request_id or uuid.uuid4().hex
        return self.request_id

    def end(self) -> None:
        """Count the request, which has been answered."""
        self._metrics._add(self, time.perf_counter() - self._begin, self._laps)


class _Histogram:
    """Numbers of durations by bucket, not yet added up."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * len(_BOUNDS)
        self.sum = 0.0

    def buckets(self) -> list[tuple[str, float]]:
        return list(zip(_BOUNDS, map(float, accumulate(self.counts)), strict=True))


class _Route:
    """The figures of one route of one transport."""

    __slots__ = ("outcomes", "phases", "total")

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str], int] = {}  # by status and reason
        self.total = _Histogram()
        self.phases: dict[Phase, _Histogram] = {}


class Metrics(Collector):
    """The figures of one service. Thread-safe."""

    def __init__(self, cache: CacheFigures) -> None:
        self._cache = cache
        self._mutex = threading.Lock()  # over what follows
        self._routes: dict[tuple[Transport, str], _Route] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def watch(self, transport: Transport, route: str = OTHER) -> Watch:
        """Return a watch for a request that has just come; ``route`` may be set later."""
        return Watch(self, transport, route)

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
        with self._mutex:
            for route, figures in self._routes.items():
                for outcome, number in figures.outcomes.items():
                    requests.add_metric((*route, *outcome), number)
                seconds.add_metric(route, figures.total.buckets(), figures.total.sum)
                for phase, histogram in figures.phases.items():
                    phases.add_metric((*route, phase), histogram.buckets(), histogram.sum)
        yield from (requests, seconds, phases)
        yield from self._of_cache()

    def _of_cache(self) -> Iterator[Metric]:
        figures = self._cache
        for name, what, number in (
            ("hits", "Requests whose entry was fresh.", figures.hits),
            ("misses", "Requests whose entry was missing or due.", figures.misses),
            ("loads", "Models that were loaded from the store.", figures.loads),
            ("evictions", "Entries given up for the bound of bytes.", figures.evictions),
        ):
            yield CounterMetricFamily(f"perslm_cache_{name}", what, value=number)
        failures = CounterMetricFamily(
            "perslm_cache_load_failures",
            "Times that the store did not answer, or its model could not be read.",
            labels=("reason",),
        )
        failures.add_metric(("store_unavailable",), figures.store_failures)
        failures.add_metric(("bad_blob",), figures.blob_failures)
        yield failures
        for name, what, size in (
            ("bytes", "Memory of the entries in the cache.", figures.bytes),
            ("models", "Models in the cache.", figures.models),
            ("entries", "Entries in the cache: models, and users without one.", figures.entries),
        ):
            yield GaugeMetricFamily(f"perslm_cache_{name}", what, value=size)

    def _add(self, watch: Watch, elapsed: float, laps: list[tuple[Phase, float]]) -> None:
        """Count a request; on the hot path, so labels are checked when they are new only."""
        with self._mutex:
            figures = self._routes.get((watch.transport, watch.route))
            if figures is None:
                figures = self._route(watch)
            outcome = (watch.status, watch.reason)
            if outcome not in figures.outcomes:
                outcome = (
                    watch.status if watch.status in STATUSES else OTHER,
                    watch.reason if watch.reason in REASONS else OTHER,
                )
                figures.outcomes.setdefault(outcome, 0)
            figures.outcomes[outcome] += 1
            figures.total.counts[bisect_left(BUCKETS, elapsed)] += 1
            figures.total.sum += elapsed
            for phase, seconds in laps:
                histogram = figures.phases.get(phase)
                if histogram is None:
                    histogram = figures.phases[phase] = _Histogram()
                histogram.counts[bisect_left(BUCKETS, seconds)] += 1
                histogram.sum += seconds

    def _route(self, watch: Watch) -> _Route:
        route = watch.route if watch.route in ROUTES else OTHER
        return self._routes.setdefault((watch.transport, route), _Route())
