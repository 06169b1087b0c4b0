"""A running service seen from outside: readings of ``/metrics`` and ``/readyz``, and what they say.

:class:`Monitor` takes a reading, :func:`summary` says what happened between two, as numbers for
programs; ``perslm top`` shows them. Nothing here needs the extras that a service needs.
"""

from __future__ import annotations

import http.client
import json
import math
import re
import socket
import ssl
import time
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from perslm.errors import ArgumentError, ServiceError
from perslm.exposition import Samples

_SECONDS: Final = "perslm_request_seconds"
_LAG: Final = "perslm_generation_lag_seconds"
_PHASE_SECONDS: Final = "perslm_request_phase_seconds"
_FORMS: Final = "a service's URL is http://HOST:PORT, https://HOST:PORT or unix:/path"


class RefusedError(ServiceError):
    """The service does not tell its figures to this caller; asking again does not help."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a service said at ``at``, of time.monotonic().

    ``reason`` is None for a service that is ready, else why models cannot be loaded.
    """

    at: float
    samples: Samples
    reason: str | None


@dataclass(slots=True)
class Monitor:
    """Where a service is, and who asks: arguments as of ``perslm.Client``.

    ``timeout`` is in seconds, for each connection and each piece of an answer. Raises ArgumentError
    for what is no URL of HTTP, and OSError for files that cannot be read.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    ca: str | None = None
    cert: str | None = None
    timeout: float = 2.0
    location: str = field(init=False)
    _context: ssl.SSLContext | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        self.location = self.url
        if self.token is not None and not re.fullmatch(r"[!-~]+", self.token):
            raise ArgumentError("a token is ASCII text without spaces: is a line end in it?")
        is_tls = False
        if _socket_path(self.url) is None:
            try:
                parts = urlsplit(self.url)
                is_url = bool(parts.hostname) and parts.port != 0 and not parts.query
            except ValueError:  # of a port, or an address, that is none
                raise ArgumentError(_FORMS) from None
            if parts.scheme not in ("http", "https") or not is_url:
                raise ArgumentError(_FORMS)
            if parts.username is not None:
                raise ArgumentError("give a token with --token, no password in the URL")
            is_tls = parts.scheme == "https"
        if is_tls:
            self._context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                self._context.load_cert_chain(self.cert)
        elif self.ca is not None or self.cert is not None:
            raise ArgumentError("certificates are for https://: the URL must be one")

    def read(self) -> Reading:
        """Return a reading; raises RefusedError, or ServiceError without a proper answer."""
        connection = self._connection()
        try:
            status, body = self._get(connection, "/metrics")
            if status in (401, 403):
                raise RefusedError(
                    "the service tells its figures to those only who show a key or token with the "
                    "scope admin: give it with --token or PERSLM_TOKEN",
                    status,
                )
            if status != 200:
                raise ServiceError(f"no figures at {self.location}: HTTP status {status}", status)
            samples = Samples.parse(body.decode("utf-8", "replace"))
            at = time.monotonic()
            status, body = self._get(connection, "/readyz")
            return Reading(at, samples, None if status == 200 else _reason(body))
        except (OSError, http.client.HTTPException) as error:
            # not chained: the class says enough, and nothing else is known to be fit to be shown
            raise ServiceError(
                f"no answer from the service at {self.location} ({type(error).__name__})"
            ) from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        path = _socket_path(self.url)
        if path is not None:
            return _UnixConnection(path, self.timeout)
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        if self._context is None:
            return http.client.HTTPConnection(parts.hostname, parts.port, timeout=self.timeout)
        return http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=self.timeout, context=self._context
        )

    def _get(self, connection: http.client.HTTPConnection, path: str) -> tuple[int, bytes]:
        base = "" if _socket_path(self.url) is not None else urlsplit(self.url).path.rstrip("/")
        headers = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        connection.request("GET", base + path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def summary(before: Reading, now: Reading) -> dict[str, Any]:
    """Return what happened between two readings, for ``json.dumps``.

    Seconds, bytes, numbers a second; None for what the service does not tell, or what cannot be
    said of nothing. ``requests`` are by outcome, ``latency`` by route, ``phases`` of scoring;
    ``without`` is why answers were without the user's model, ``refused`` why there was none.
    ``in_flight`` is how many requests were worked on at a time, on average, and ``waiting`` how
    many of them for a model. ``lag`` is how long after its publication a generation was used.
    """
    seconds = max(1e-9, now.at - before.at)
    samples, grown = now.samples, now.samples.since(before.samples)
    outcomes = grown.by("perslm_requests_total", "transport", "route", "status", "reason")
    requests = [
        {
            **dict(zip(("transport", "route", "status", "reason"), labels, strict=True)),
            "per_second": n / seconds,
        }
        for labels, n in sorted(outcomes.items())
        if n
    ]
    return {
        "ready": now.reason is None,
        "reason": now.reason or "ok",
        "seconds": seconds,
        "per_second": sum(r["per_second"] for r in requests),
        "requests": requests,
        "latency": _latency(grown, seconds),
        "phases": _phases(grown),
        "without": _reasons(requests, ("degraded", "no_model", "vocabulary_mismatch")),
        "refused": _reasons(requests, ("refused", "failed")),
        "stale_per_second": sum(r["per_second"] for r in requests if r["reason"] == "stale"),
        "sheds_per_second": sum(r["per_second"] for r in requests if r["reason"] == "overloaded"),
        "in_flight": grown.total(f"{_SECONDS}_sum") / seconds,
        "waiting": grown.total(f"{_PHASE_SECONDS}_sum", phase="model") / seconds,
        "lag": {"new": grown.total(f"{_LAG}_count"), **_quantiles(grown, _LAG)},
        "workers": _told(samples, "perslm_workers"),
        "restarts": _told(samples, "perslm_worker_restarts_total"),
        "cache": _cache(samples, grown, seconds),
        "process": {
            "memory_bytes": _told(samples, "process_resident_memory_bytes"),
            "cores": _rate(grown, "process_cpu_seconds_total", seconds),
        },
    }


def _latency(grown: Samples, seconds: float) -> list[dict[str, Any]]:
    counts = grown.by(f"{_SECONDS}_count", "transport", "route")
    return [
        {
            "transport": transport,
            "route": route,
            "per_second": n / seconds,
            **_quantiles(grown, _SECONDS, transport=transport, route=route),
        }
        for (transport, route), n in sorted(counts.items())
        if n
    ]


def _phases(grown: Samples) -> list[dict[str, Any]]:
    phases = grown.by(f"{_PHASE_SECONDS}_count", "phase")
    return [
        {"phase": phase, **_quantiles(grown, _PHASE_SECONDS, phase=phase)}
        for (phase,), n in phases.items()
        if n
    ]


def _quantiles(grown: Samples, name: str, **labels: str) -> dict[str, float | None]:
    found = {f"p{share}": grown.quantile(name, share / 100, **labels) for share in (50, 90, 99)}
    return {key: None if math.isnan(value) else value for key, value in found.items()}


def _reasons(requests: list[dict[str, Any]], statuses: tuple[str, ...]) -> dict[str, float]:
    found: dict[str, float] = {}
    for request in requests:
        if request["status"] in statuses:
            found[request["reason"]] = found.get(request["reason"], 0) + request["per_second"]
    return found


def _cache(samples: Samples, grown: Samples, seconds: float) -> dict[str, Any]:
    hits, misses = (grown.total(f"perslm_cache_{name}_total") for name in ("hits", "misses"))
    failures = grown.by("perslm_cache_load_failures_total", "reason")
    return {
        "models": _told(samples, "perslm_cache_models"),
        "entries": _told(samples, "perslm_cache_entries"),
        "bytes": _told(samples, "perslm_cache_bytes"),
        "hit_rate": hits / (hits + misses) if hits + misses else None,
        "loads_per_second": _rate(grown, "perslm_cache_loads_total", seconds),
        "evictions_per_second": _rate(grown, "perslm_cache_evictions_total", seconds),
        "failures_per_second": {reason: n / seconds for (reason,), n in failures.items() if n},
    }


def _told(samples: Samples, name: str) -> float | None:
    return samples.total(name) if samples.has(name) else None


def _rate(grown: Samples, name: str, seconds: float) -> float | None:
    return grown.total(name) / seconds if grown.has(name) else None


def _reason(body: bytes) -> str:
    """Return the word of a probe that says no; whatever is not one is no answer of ours."""
    try:
        reason = json.loads(body)["reason"]
    except (ValueError, KeyError, TypeError):
        return "unknown"
    known = isinstance(reason, str) and re.fullmatch(r"[a-z_]{1,40}", reason)
    return reason if known else "unknown"


def _socket_path(url: str) -> str | None:
    """Return the path that ``unix:/path`` or ``http+unix://%2Fpath`` names; None if it is TCP."""
    if url.startswith("http+unix://"):
        return unquote(url.removeprefix("http+unix://"))
    if url.startswith("unix:"):
        return url.removeprefix("unix:").removeprefix("//")
    return None
