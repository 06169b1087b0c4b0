"""``perslm bench service``: what the scoring service adds to its transport, and what it stands.

Real parts throughout: an embedded store, the service in a process of its own with the settings that
it ships with, and one process that asks. What is compared is measured in turns, so that the
machine's noise falls on both alike.

==========  ===============================================================================
population  who is served: users' models, and the steps that are asked of them
http        prepared requests: one at a time, on many connections, or at given times
streams     the same for gRPC
work        the measurements, as the load process makes them
report      rows with what is to be reached, JSON, Markdown
==========  ===============================================================================

The service itself is started by the caller (``perslm.cli``): this package does not know it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import ParamSpec, Protocol, TypeVar

import numpy as np

from perslm.bench import Progress
from perslm.bench.corpus import SIZE, Corpus, count_tokens
from perslm.bench.serving import work
from perslm.bench.serving.http import Outcome
from perslm.bench.serving.population import (
    DISTRIBUTION,
    ORDER,
    Cut,
    Subject,
    drawn,
    even,
    publish,
)
from perslm.bench.serving.report import Report, Row, alone, compare
from perslm.store import Store, open_store

_P = ParamSpec("_P")
_T = TypeVar("_T")

_MIB = 1 << 20
_HOT, _COLD, _CROWD = 0, 1, 10_000_000  # the first number of each kind of user
_CONNECTIONS = 16
_POOLED, _MANY = 64, 256  # connections of random arrivals: of few callers, of many
_UNLOADED = 0.05  # of what 16 connections get through
_TRIED = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
_SUSTAINED_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: rounds of steps, seconds of each load, users and their cache."""

    rounds: int
    steps: int
    seconds: float
    cold_users: int
    users: int
    cache_bytes: int
    tokens: int = 31_000  # of the hot user and the cold ones: some 50,000 n-grams
    corpus_tokens: int = 120_000


FULL = Scale(20, 500, 8.0, 300, 10_000, 1024 * _MIB)
QUICK = Scale(2, 20, 0.2, 10, 150, 4 * _MIB, 8_000, 20_000)


class Start(Protocol):
    """Starts the service, with the echoes that are measured beside it."""

    def __call__(self, store: str, cache_bytes: int) -> AbstractContextManager[tuple[str, str]]:
        """Serve a store's models in another process; yields the URLs for HTTP and gRPC."""
        ...


def run(corpus: Corpus, scale: Scale, start: Start, progress: Progress) -> Report:
    """Measure everything; raises PerslmError if an answer is not what the model says in process."""
    tokens = min(scale.tokens, sum(map(count_tokens, corpus.users)))
    subject = Subject(corpus, Cut(_HOT, tokens, 0.5))
    report = Report(
        {
            "source": corpus.source,
            "order": ORDER,
            "hot_ngrams": subject.ngrams,
            "users": scale.users,
            "distribution": DISTRIBUTION,
            "blob_bytes": 0,
            "cache_bytes": scale.cache_bytes,
        }
    )
    cold = even(scale.cold_users, tokens, first=_COLD)
    with (
        tempfile.TemporaryDirectory(prefix="perslm-bench-") as folder,
        open_store(f"embedded:{folder}/store") as store,
        ProcessPoolExecutor(1, get_context("spawn"), work.begin) as load,
    ):
        bench = _Bench(f"embedded:{folder}/store", store, corpus, subject, scale, start, load)
        bench.publish([Cut(_HOT, tokens, 0.5), *cold], "cold users", progress)
        progress.stage("latency", 3)
        with bench.service(scale.cache_bytes) as urls:
            for part in (bench.http, bench.grpc, bench.clients):
                report.rows += part(*urls)
                progress.advance(1)
            progress.stage("load", 2 + len(_TRIED))
            report.rows += bench.throughput(urls[0])
            progress.advance(1)
            report.rows += bench.cold(urls[0], len(cold))
            progress.advance(1)
            report.rows += bench.overload(urls[0], progress)
        crowd = drawn(scale.users, first=_CROWD)
        report.population["blob_bytes"] = bench.publish(crowd, "users", progress)
        progress.stage("crowd", 3)
        with bench.service(scale.cache_bytes) as urls:
            report.rows += bench.crowd(urls[0], progress)
    return report


class _Bench:
    """The measurements, each of which returns rows; all of it is of one run."""

    def __init__(
        self,
        url: str,
        store: Store,
        corpus: Corpus,
        subject: Subject,
        scale: Scale,
        start: Start,
        load: ProcessPoolExecutor,
    ) -> None:
        self._url = url
        self._store = store
        self._corpus = corpus
        self._subject = subject
        self._asked = subject.asked
        self._scale = scale
        self._start = start
        self._load = load
        self._rate = 0.0  # what 16 connections get through

    def service(self, cache_bytes: int) -> AbstractContextManager[tuple[str, str]]:
        return self._start(self._url, cache_bytes)

    def publish(self, cuts: list[Cut], name: str, progress: Progress) -> int:
        """Publish users' models; return the bytes of all."""
        progress.stage(name, len(cuts))
        total = 0
        for number, size in publish(self._store, self._corpus, cuts, _cores()):
            total += size
            progress.advance(number)
        return total

    def http(self, http: str, grpc: str) -> list[Row]:
        scale = self._scale
        score, route, bare = self._do(work.http_steps, http, self._asked, scale.rounds, scale.steps)
        title = "HTTP step"
        return [
            *compare("http", title, score, route, "echo route", 1.3),
            *compare("http_bare", f"{title}, bare echo", score, bare, "bare echo"),
        ]

    def grpc(self, http: str, grpc: str) -> list[Row]:
        scale = self._scale
        stream, echo, unary, unary_echo = self._do(
            work.grpc_steps, grpc, self._asked, scale.rounds, scale.steps
        )
        return [
            *compare("grpc_stream", "gRPC stream step", stream, echo, "echo stream", 1.3),
            *compare("grpc_unary", "gRPC unary step", unary, unary_echo, "echo"),
        ]

    def clients(self, http: str, grpc: str) -> list[Row]:
        scale = self._scale
        scores, mixes = self._do(
            work.client_steps,
            (http, grpc),
            self._subject.user,
            self._asked,
            SIZE,
            scale.rounds,
            max(1, scale.steps // 5),
        )
        rows = []
        for name, score, mix in zip(("HTTP", "gRPC"), scores, mixes, strict=True):
            key = f"client_{name.lower()}"
            rows += alone(f"{key}_score", f"Client.score, {name}", score)
            rows += alone(f"{key}_mix", f"Client.mix, {name}", mix)
        return rows

    def throughput(self, http: str) -> list[Row]:
        scale = self._scale
        found = self._do(work.throughput, http, self._asked, _CONNECTIONS, 5, scale.seconds / 8)
        score, route, bare = (float(np.median(rates)) for rates in found.rates)
        self._rate = score
        low, high = np.percentile(found.rates[0] / found.rates[1], [25, 75])
        ratio = score / route
        title = f"{_CONNECTIONS} connections"
        return [
            Row(
                "throughput",
                title,
                "steps/s",
                score,
                route,
                "echo route",
                ratio,
                (float(low), float(high)),
                "≥ 0.8 ×",
                ratio >= 0.8,
            ),
            Row(
                "throughput_bare",
                f"{title}, bare echo",
                "steps/s",
                score,
                bare,
                "bare echo",
                score / bare,
            ),
            Row("throughput_busy", "share of a core that the load took", "%", found.busy * 100),
        ]

    def cold(self, http: str, users: int) -> list[Row]:
        numbers = range(_COLD, _COLD + users)
        found = self._do(work.cold, http, self._asked, self._subject.user, list(numbers))
        later = np.median(found.later, axis=1)
        added = float(np.median(found.first - later))
        low, high = np.percentile(found.first - later, [25, 75])
        return [
            Row(
                "cold_added",
                "cold user, added p50",
                "ms",
                added * 1e3,
                float(np.median(later)) * 1e3,
                "hot",
                quartiles=(float(low) * 1e3, float(high) * 1e3),
                target="≤ 3 ms",
                reached=added <= 3e-3,
            ),
            Row("cold_p99", "cold user, p99", "ms", float(np.percentile(found.first, 99)) * 1e3),
            Row(
                "cold_without",
                "cold users answered without model",
                "%",
                100 * (1 - found.kinds["ok"] / users),
            ),
        ]

    def overload(self, http: str, progress: Progress) -> list[Row]:
        unloaded = self._arrivals(http, self._rate * _UNLOADED)
        rate = 0.0
        for i, share in enumerate(_TRIED):
            rate = self._rate * share
            if _sustained(self._arrivals(http, rate, 4)):
                progress.advance(len(_TRIED) - i)
                name = "sustained"
                break
            progress.advance(1)
        else:
            name = "not sustained, but the least tried"
        loaded = self._arrivals(http, 2 * rate)
        many = self._arrivals(http, 2 * rate, connections=_MANY)
        # What waits for a connection was not accepted yet; and it mostly waits for the load itself,
        # which has as little of the machine as the service.
        before, after = (one.percentile(99, since_sent=True) for one in (unloaded, loaded))
        offered = sum(loaded.kinds.values())
        errors = ", ".join(f"{n} {kind}" for kind, n in sorted(loaded.errors.items()))
        return [
            Row("sustained", name, "steps/s", rate),
            Row(
                "overload_p99",
                "at twice that, accepted, p99",
                "ms",
                after * 1e3,
                before * 1e3,
                "unloaded",
                after / before,
                target="≤ 5 ×",
                reached=after <= 5 * before,
            ),
            Row(
                "overload_p99_wanted",
                "at twice that, with the wait for a connection, p99",
                "ms",
                loaded.percentile(99) * 1e3,
                unloaded.percentile(99) * 1e3,
                "unloaded",
            ),
            Row(
                "overload_late",
                "at twice that, what the load was late by, p99",
                "ms",
                float(np.percentile(loaded.late, 99)) * 1e3,
            ),
            Row(
                "overload_busy",
                "at twice that, share of a core that the load took",
                "%",
                loaded.busy * 100,
            ),
            Row(
                "overload_errors",
                "at twice that, errors" + (f" ({errors})" if errors else ""),
                "%",
                100 * sum(loaded.errors.values()) / offered,
                target="0",
                reached=not loaded.errors,
            ),
            Row(
                "overload_shed",
                "at twice that, sheds",
                "%",
                100 * loaded.kinds["shed"] / offered,
            ),
            Row(
                "overload_rate",
                "at twice that, accepted",
                "steps/s",
                loaded.rate,
                2 * rate,
                "asked",
            ),
            Row(
                "overload_many_p99",
                f"the same on {_MANY} connections, p99",
                "ms",
                many.percentile(99, since_sent=True) * 1e3,
            ),
            Row(
                "overload_many_rate",
                f"the same on {_MANY} connections, accepted",
                "steps/s",
                many.rate,
                2 * rate,
                "asked",
            ),
        ]

    def crowd(self, http: str, progress: Progress) -> list[Row]:
        scale = self._scale
        users = work.Crowd(_CROWD, scale.users)

        def ask(seed: int, seconds: float, rate: float | None = None) -> tuple[Outcome, float]:
            outcome, grown = self._do(
                work.crowd,
                http,
                self._asked,
                self._subject.user,
                users,
                seed=seed,
                seconds=seconds,
                connections=_CONNECTIONS if rate is None else _POOLED,
                rate=rate,
            )
            progress.advance(1)
            return outcome, grown.total("perslm_cache_loads_total")

        ask(1, 3 * scale.seconds)  # the cache fills
        busy, _ = ask(2, scale.seconds / 2)
        half, loads = ask(3, 2 * scale.seconds, busy.rate / 2)
        now = work.figures(http)
        answers = half.kinds["ok"] + half.kinds["without"]
        others = ", ".join(f"{n} {kind}" for kind, n in sorted(half.errors.items()))
        cached = now.total("perslm_cache_bytes") / _MIB
        return [
            Row("crowd_hits", "crowd, hit rate", "%", 100 * (1 - loads / max(1, answers))),
            Row(
                "crowd_p50",
                f"crowd, {half.rate:,.0f} steps/s, p50",
                "ms",
                half.percentile(50) * 1e3,
            ),
            Row(
                "crowd_p99",
                f"crowd, {half.rate:,.0f} steps/s, p99",
                "ms",
                half.percentile(99) * 1e3,
            ),
            Row("crowd_rate", f"crowd, {_CONNECTIONS} connections", "steps/s", busy.rate),
            Row(
                "crowd_without",
                "crowd, answered without model",
                "%",
                100 * half.kinds["without"] / max(1, answers),
            ),
            Row(
                "crowd_errors",
                "crowd, errors" + (f" ({others})" if others else ""),
                "%",
                100 * sum(half.errors.values()) / sum(half.kinds.values()),
            ),
            Row(
                "crowd_models",
                "crowd, models in the cache",
                "",
                now.total("perslm_cache_models"),
            ),
            Row(
                "crowd_memory",
                "crowd, resident memory",
                "MiB",
                now.total("process_resident_memory_bytes") / _MIB,
                cached,
                "cache",
            ),
        ]

    def _arrivals(
        self, http: str, rate: float, shorter: int = 1, connections: int = _POOLED
    ) -> Outcome:
        seconds = self._scale.seconds / shorter
        return self._do(work.arrivals, http, self._asked, rate, seconds, connections)

    def _do(self, measure: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self._load.submit(measure, *args, **kwargs).result()


def _sustained(outcome: Outcome) -> bool:
    return outcome.kinds.keys() == {"ok"} and outcome.percentile(95) <= _SUSTAINED_SECONDS


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
