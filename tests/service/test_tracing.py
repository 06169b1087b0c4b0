"""Traces, sent to a receiver that decodes them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from perslm.errors import MissingExtraError
from perslm.store import Store
from service import tracing
from service.metrics import CacheFigures, Metrics
from service.tracing import open_tracer
from tests.service.grpc_server import GrpcCaller, RunningServer, score_request
from tests.service.server import Caller, running
from tests.service.support import FINGERPRINT, HISTORIES, USER, settings

trace_service_pb2 = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2",
    reason="traces need the extra otel",
)

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
UNSAMPLED = f"00-{TRACE}-{PARENT}-00"
REQUEST: dict[str, Any] = {"vocabulary": FINGERPRINT, "histories": HISTORIES, "top_k": 3}


class Receiver:
    """An OTLP receiver over HTTP."""

    def __init__(self) -> None:
        self.bodies: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                bodies.put((self.path, body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def spans(self) -> tuple[str, list[Any]]:
        """The service's name and the spans of all that has come; the text of it, too."""
        names, spans = set(), []
        while not self.bodies.empty():
            path, body = self.bodies.get()
            assert path == "/v1/traces"
            assert b"hunter2" not in body
            assert USER.encode() not in body
            for group in trace_service_pb2.ExportTraceServiceRequest.FromString(
                body
            ).resource_spans:
                names |= {
                    attribute.value.string_value
                    for attribute in group.resource.attributes
                    if attribute.key == "service.name"
                }
                spans += [span for scope in group.scope_spans for span in scope.spans]
        assert len(names) <= 1
        return "".join(names), spans


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "TRACES_ENDPOINT"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
    for name in ("TRACES_EXPORTER", "TRACES_SAMPLER", "SERVICE_NAME", "RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@contextmanager
def traced(metrics: Metrics, **given: Any) -> Iterator[None]:
    """All that is counted leaves spans, which have been sent at the end."""
    tracer = open_tracer(settings(**given))
    assert tracer is not None
    metrics.tracer = tracer
    yield
    metrics.tracer = None
    tracer.close()


def attributes(span: Any) -> dict[str, str]:
    return {attribute.key: attribute.value.string_value for attribute in span.attributes}


def test_a_span_has_the_phases_and_belongs_to_the_callers_trace(receiver: Receiver) -> None:
    metrics = Metrics(CacheFigures())
    with traced(metrics, traces=receiver.url):
        watch = metrics.watch("http", "score")
        watch.traceparent = TRACEPARENT.encode()
        watch.lap("decode")
        watch.lap("score")
        watch.end()
    service, spans = receiver.spans()
    assert service == "perslm"
    whole = next(span for span in spans if span.name == "score" and span.kind == 2)
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(whole) == {
        "perslm.transport": "http", "perslm.status": "ok", "perslm.reason": "ok",
    }  # fmt: skip
    parts = sorted(
        (span for span in spans if span is not whole), key=lambda span: span.start_time_unix_nano
    )
    assert [part.name for part in parts] == ["decode", "score"]
    assert {part.parent_span_id for part in parts} == {whole.span_id}
    assert {part.trace_id for part in parts} == {whole.trace_id}
    assert whole.start_time_unix_nano == parts[0].start_time_unix_nano
    assert parts[0].end_time_unix_nano == parts[1].start_time_unix_nano
    assert parts[1].end_time_unix_nano <= whole.end_time_unix_nano


def test_callers_of_both_transports_are_traced_and_nothing_of_users_is(
    store: Store, receiver: Receiver
) -> None:
    with (
        RunningServer(settings(), store) as server,
        traced(server.service.metrics, traces=receiver.url),
    ):
        remote = GrpcCaller(server.url)
        remote(
            "Score",
            score_request({**REQUEST, "user": USER}),
            metadata=(("traceparent", TRACEPARENT), ("authorization", "Bearer hunter2")),
        )
        remote.close()
        metrics = server.service.metrics
        watch = metrics.watch("http", "secret hunter2")
        watch.refused("hunter2")
        watch.end()
        metrics.watch("http", "healthz").end()
    _, spans = receiver.spans()
    whole = {span.name: span for span in spans if span.kind == 2}
    assert set(whole) == {"score", "other"}
    assert whole["score"].trace_id.hex() == TRACE
    assert attributes(whole["other"])["perslm.reason"] == "other"
    assert len(attributes(whole["other"])["perslm.request_id"]) == 32


def test_what_the_caller_does_not_sample_is_not_sent(receiver: Receiver) -> None:
    metrics = Metrics(CacheFigures())
    with traced(metrics, traces=f"{receiver.url}/v1/traces"):
        for traceparent in (UNSAMPLED, "nonsense", b"\xff"):
            watch = metrics.watch("grpc", "score")
            watch.traceparent = traceparent
            watch.end()
    _, spans = receiver.spans()
    assert len(spans) == 2  # what is no traceparent is none
    assert TRACE not in {span.trace_id.hex() for span in spans}


def test_the_standard_variables_count(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_tracer(settings()) is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "keyboards")
    metrics = Metrics(CacheFigures())
    with traced(metrics):
        metrics.watch("http", "score").end()
    service, spans = receiver.spans()
    assert (service, len(spans)) == ("keyboards", 1)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert open_tracer(settings()) is None


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> None:
    monkeypatch.setattr(tracing, "_INSTALLED", False)
    with pytest.raises(MissingExtraError, match="otel"):
        open_tracer(settings(traces=receiver.url))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    assert open_tracer(settings()) is None


def test_over_http_the_header_is_read(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracer = open_tracer(settings(traces=receiver.url))
    assert tracer is not None
    made = Metrics.__init__

    def with_tracer(self: Metrics, *args: Any, **more: Any) -> None:
        made(self, *args, **more)
        self.tracer = tracer

    monkeypatch.setattr(Metrics, "__init__", with_tracer)
    with running(settings(), store) as url:
        call = Caller(url)
        call.score({**REQUEST, "user": USER}, "msgpack", traceparent=TRACEPARENT)
        call("GET", f"/v1/users/{USER}", traceparent=TRACEPARENT)
        call.close()
    tracer.close()
    _, spans = receiver.spans()
    assert {span.name for span in spans if span.kind == 2} == {"score", "user"}
    assert {span.trace_id.hex() for span in spans} == {TRACE}
