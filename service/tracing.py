"""Traces of requests for OpenTelemetry: a span for each, with its phases inside.

Off unless the setting ``traces`` names an OTLP receiver, or the standard variables do
(``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``), which also say what else
can be set, as ``OTEL_TRACES_SAMPLER``. It needs the extra ``otel``.

Spans are made of the watches of ``service.metrics`` when a request has ended, so a request that is
answered does not wait for them; a caller's ``traceparent`` (W3C) makes them part of its trace. They
are sent by a thread. Their attributes are those of the metrics and the request id: from fixed sets,
or random. Nothing of users is in them. Probes have no spans.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Final

from perslm.errors import MissingExtraError
from service.metrics import OTHER, REASONS, ROUTES, Watch
from service.settings import Settings

try:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    _INSTALLED = True
except ModuleNotFoundError:
    _INSTALLED = False

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PATH: Final = "/v1/traces"
_PROBES: Final = ("healthz", "readyz", "metrics")
_CLOSE_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


class OtlpTracer:
    """Sends spans to an OTLP receiver over HTTP: to ``endpoint``, or as the variables say."""

    def __init__(self, endpoint: str | None = None) -> None:
        if endpoint is not None and not endpoint.endswith(_PATH):
            endpoint = endpoint.rstrip("/") + _PATH
        named = "service.name" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        named = named or "OTEL_SERVICE_NAME" in os.environ
        self._provider = TracerProvider(
            resource=Resource.create(None if named else {"service.name": "perslm"}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
        self._tracer = self._provider.get_tracer("perslm.service")
        self._propagator = TraceContextTextMapPropagator()

    def record(self, watch: Watch, ended: float) -> None:
        """Make the spans of a request that has ``ended``, by the clock of its watch."""
        if watch.route in _PROBES:
            return
        offset = time.time() - time.perf_counter()

        def nanoseconds(moment: float) -> int:
            return int((moment + offset) * 1e9)

        span = self._tracer.start_span(
            watch.route if watch.route in ROUTES else OTHER,
            self._parent(watch.traceparent),
            SpanKind.SERVER,
            _attributes(watch),
            start_time=nanoseconds(watch.begun),
        )
        if span.is_recording():
            inside = set_span_in_context(span, Context())
            before = watch.begun
            for phase, now in watch.laps:
                part = self._tracer.start_span(phase, inside, start_time=nanoseconds(before))
                part.end(nanoseconds(now))
                before = now
            if watch.status == "failed":
                span.set_status(StatusCode.ERROR)
        span.end(nanoseconds(ended))

    def close(self) -> None:
        """Send what is left, if the receiver takes it within a second."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)

    def _parent(self, traceparent: str | bytes | None) -> Context:
        if traceparent is None:
            return Context()
        if isinstance(traceparent, bytes):
            traceparent = traceparent.decode("ascii", "replace")
        return self._propagator.extract({"traceparent": traceparent}, Context())


def open_tracer(settings: Settings) -> OtlpTracer | None:
    """Return what makes traces, or None if nobody asks for any.

    Raises MissingExtraError if the setting ``traces`` asks and the extra is not installed. The
    variables may be meant for others: then they only leave a line in the log.
    """
    if settings.traces is not None:
        if not _INSTALLED:
            raise MissingExtraError("sending traces", "otel")
        return OtlpTracer(settings.traces)
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return None
    if "none" in os.environ.get("OTEL_TRACES_EXPORTER", ""):
        return None
    if not _INSTALLED:
        _log.warning("no traces, though OTEL_… asks for them: pip install 'perslm[otel]'")
        return None
    return OtlpTracer()


def _attributes(watch: Watch) -> dict[str, str]:
    attributes = {
        "perslm.transport": watch.transport,
        "perslm.status": watch.status,
        "perslm.reason": watch.reason if watch.reason in REASONS else OTHER,
    }
    if watch.request_id is not None:
        attributes["perslm.request_id"] = watch.request_id
    return attributes
