from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, strategies
from hypothesis import settings as hypothesis_settings
from prometheus_client.parser import text_string_to_metric_families

from perslm.store import Store
from service import keyfile
from service.cache import ModelCache
from service.logs import JsonFormatter
from service.metrics import BUCKETS, CONTENT_TYPE, Board, CacheFigures, Metrics
from tests.service.grpc_server import CallRefusedError, GrpcCaller, RunningServer, score_request
from tests.service.server import Caller, running
from tests.service.support import (
    BROKEN,
    FINGERPRINT,
    HISTORIES,
    MAIL,
    USER,
    Clock,
    blob_of,
    publish,
    settings,
)

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana-dashboard.json"
SCORE: dict[str, Any] = {"vocabulary": FINGERPRINT, "histories": HISTORIES, "top_k": 3}


def requests(now: dict[str, float]) -> dict[tuple[str, str, str], float]:
    """Numbers of requests by route, status and reason; without those for the figures."""
    pattern = 'perslm_requests_total{reason="(.*)",route="(.*)",status="(.*)",transport="(.*)"}'
    found = {}
    for name, value in now.items():
        match = re.fullmatch(pattern, name)
        if match and match[2] != "metrics":
            found[match[2], match[3], match[1]] = value
    return found


def figures(text: bytes) -> dict[str, float]:
    """Samples by ``name{label="value",…}``."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_the_cache_counts_what_it_does(store: Store) -> None:
    clock = Clock()
    cache = ModelCache(store, settings(fresh_seconds=1.0), clock=clock)
    for user in (USER, USER, "nobody", BROKEN):
        cache.get(user)
    was = cache.figures
    assert (was.hits, was.misses, was.loads, was.blob_failures) == (1, 3, 1, 1)
    assert (was.entries, was.models, was.evictions) == (3, 1, 0)
    clock.now += 2
    cache.get(USER)  # confirmed, not loaded
    assert (was.misses, was.loads) == (4, 1)
    cache.drop(USER)
    assert (was.entries, was.models) == (2, 0)
    cache.drop("nobody")
    cache.drop(BROKEN)
    assert was.bytes == was.entries == 0


def test_evictions_and_an_absent_store_are_counted(store: Store) -> None:
    publish(store, "second", blob_of(MAIL))
    cache = ModelCache(store, settings(cache_bytes=1))
    cache.get(USER)
    cache.get("second")
    assert (cache.figures.evictions, cache.figures.models) == (1, 1)
    store.close()
    assert cache.get("third").model.reason == "store_unavailable"
    assert cache.figures.store_failures == 1


def test_a_watch_becomes_counts_and_cumulative_buckets() -> None:
    metrics = Metrics(CacheFigures())
    for _ in range(3):
        watch = metrics.watch("grpc", "score_stream")
        watch.lap("decode")
        watch.status, watch.reason = "degraded", "bad_blob"
        watch.end()
    now = figures(metrics.text())
    assert (
        now[
            'perslm_requests_total{reason="bad_blob",route="score_stream",status="degraded",'
            'transport="grpc"}'
        ]
        == 3
    )
    assert now['perslm_request_seconds_count{route="score_stream",transport="grpc"}'] == 3
    assert (
        now[
            'perslm_request_phase_seconds_count{phase="decode",route="score_stream",transport="grpc"}'
        ]
        == 3
    )
    buckets = [
        value for name, value in now.items() if name.startswith("perslm_request_seconds_bucket")
    ]
    assert len(buckets) == len(BUCKETS) + 1
    assert buckets == sorted(buckets)


def test_processes_share_a_board_and_one_takes_the_place_of_another() -> None:
    board = Board(2)
    caches = [CacheFigures() for _ in range(3)]
    services = [Metrics(cache) for cache in caches]
    caches[0].lagged(0.3)  # before it is shared
    for cache in caches:
        cache.loads += 1
        cache.models += 1
    for metrics, place in zip(services, (0, 1, 1), strict=True):  # the third for the second
        metrics.share(board, place)
        metrics.watch("http", "score").end()
    caches[0].lagged(700.0)
    texts = [figures(metrics.text()) for metrics in services]
    for now in texts:
        assert requests(now) == {("score", "ok", "ok"): 3}
        assert now['perslm_request_seconds_count{route="score",transport="http"}'] == 3
        assert now["perslm_cache_loads_total"] == 3
        assert now["perslm_cache_models"] == 2  # those of the second went with it
        assert now["perslm_worker_restarts_total"] == 1
        assert now['perslm_generation_lag_seconds_bucket{le="0.5"}'] == 1
        assert now["perslm_generation_lag_seconds_sum"] == 700.3


def test_what_is_not_in_a_fixed_set_is_other() -> None:
    metrics = Metrics(CacheFigures())
    watch = metrics.watch("http", "secret-route")
    watch.status, watch.reason = "secret-status", "secret-reason"
    watch.end()
    text = metrics.text()
    assert b"secret" not in text
    assert b'reason="other",route="other",status="other",transport="http"' in text


def test_requests_over_http_are_counted_as_they_end(store: Store) -> None:
    with running(settings(fresh_seconds=60.0), store) as url:
        call = Caller(url)
        reply = call("GET", "/metrics")
        assert (reply.status, reply.headers["content-type"]) == (200, CONTENT_TYPE)
        assert not requests(figures(reply.body))
        for user in (USER, USER, "nobody", BROKEN, ""):
            call.score({**SCORE, "user": user}, "msgpack")
        call.score({**SCORE, "user": USER, "vocabulary": "other"}, "json")
        call.score("nonsense", "json")
        call("GET", f"/v1/users/{USER}")
        call("GET", f"/v1/users/{USER}/model")
        call("DELETE", "/v1/users/nobody")
        call("GET", "/nowhere")
        call("GET", "/healthz")
        call("GET", "/readyz")
        now = figures(call("GET", "/metrics").body)
        call.close()
    assert requests(now) == {
        ("score", "ok", "ok"): 2,
        ("score", "no_model", "unknown_user"): 1,
        ("score", "degraded", "bad_blob"): 1,
        ("score", "vocabulary_mismatch", "vocabulary_mismatch"): 1,
        ("score", "refused", "invalid_user"): 1,
        ("score", "refused", "invalid_request"): 1,
        ("user", "ok", "ok"): 1,
        ("model", "ok", "ok"): 1,
        ("forget", "refused", "unknown_user"): 1,
        ("other", "refused", "not_found"): 1,
        ("healthz", "ok", "ok"): 1,
        ("readyz", "ok", "ok"): 1,
    }
    for phase, number in {"receive": 7, "decode": 6, "model": 5, "score": 5, "encode": 5}.items():
        name = f'{{phase="{phase}",route="score",transport="http"}}'
        assert now[f"perslm_request_phase_seconds_count{name}"] == number
    assert now['perslm_request_seconds_count{route="score",transport="http"}'] == 7
    assert (now["perslm_cache_models"], now["perslm_cache_entries"]) == (1, 2)
    assert (now["perslm_cache_loads_total"], now["perslm_cache_hits_total"]) == (1, 3)
    assert now['perslm_cache_load_failures_total{reason="bad_blob"}'] == 1
    assert now["perslm_cache_bytes"] > 0


def test_a_store_that_is_away_is_seen_in_the_figures_and_by_the_probe(store: Store) -> None:
    with running(settings(), store) as url:
        call = Caller(url)
        call.score({**SCORE, "user": USER}, "json")
        store.close()
        call.score({**SCORE, "user": USER}, "json")
        call.score({**SCORE, "user": "nobody"}, "json")
        ready = call("GET", "/readyz")
        now = requests(figures(call("GET", "/metrics").body))
        call.close()
    assert ready.status == 503
    assert (ready.json["status"], ready.json["reason"]) == ("not ready", "store_unavailable")
    assert now == {
        ("score", "ok", "ok"): 1,
        ("score", "ok", "stale"): 1,
        ("score", "degraded", "store_unavailable"): 1,
        ("readyz", "refused", "store_unavailable"): 1,
    }


def test_requests_over_grpc_are_counted(store: Store) -> None:
    with RunningServer(settings(), store) as server:
        call = GrpcCaller(server.url)
        call("Score", score_request({**SCORE, "user": USER}))
        with pytest.raises(CallRefusedError) as refused:
            call("Score", score_request({**SCORE, "user": ""}))
        stream = call.stream()
        for user in (USER, ""):
            stream.send(score_request({**SCORE, "user": user}))
            stream.receive()
        stream.send(None)
        now = figures(server.service.metrics.text())
        call.close()
    assert refused.value.request_id
    assert requests(now) == {
        ("score", "ok", "ok"): 1,
        ("score", "refused", "invalid_user"): 1,
        ("score_stream", "ok", "ok"): 1,
        ("score_stream", "refused", "invalid_user"): 1,
    }


def test_with_keys_the_figures_are_for_the_scope_admin(store: Store, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    admin, _ = keyfile.create(keys, "operator", ["admin"])
    scorer, _ = keyfile.create(keys, "frontend", ["score"])
    with running(settings(keys=str(keys)), store) as url:
        call = Caller(url)
        statuses = [
            call("GET", "/metrics", **({"authorization": f"Bearer {key}"} if key else {})).status
            for key in (None, scorer, admin)
        ]
        call.close()
    assert statuses == [401, 403, 200]


class Lines(logging.Handler):
    """The lines that were written; hypothesis empties caplog."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, logger = Lines(), logging.getLogger("service")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)


def test_nothing_of_a_request_reaches_the_figures_or_the_log(store: Store, lines: Lines) -> None:
    with running(settings(), store) as url:
        call = Caller(url)
        told: set[str] = set()

        @hypothesis_settings(max_examples=40, deadline=None, database=None)
        @given(strategies.text(min_size=1, max_size=40))
        def ask(text: str) -> None:
            secret = f"{text}hunter2"
            path = quote(secret, safe="", errors="replace")
            ascii_secret = f"hunter2{len(text)}"
            call("GET", f"/v1/users/{path}")
            call("DELETE", f"/v1/users/{path}")
            call("GET", f"/v1/{path}", authorization=f"Bearer {ascii_secret}")
            body = json.dumps({**SCORE, "user": secret, "vocabulary": secret})
            call("POST", "/v1/score", body.encode(), content_type="application/json")
            body = json.dumps({secret: secret})
            refused = call("POST", "/v1/score", body.encode(), content_type="application/json")
            told.add(refused.headers["x-request-id"])
            call("POST", "/v1/score", secret.encode("utf-8", "replace"), content_type=ascii_secret)

        ask()
        text = call("GET", "/metrics").body.decode()
        call.close()
    assert told
    assert told <= {json.loads(line)["request_id"] for line in lines.found}
    assert not any("hunter2" in line for line in [text, *lines.found])
    # each series of requests is one of those few that the fixed labels make
    assert len(requests(figures(text.encode()))) < 10


def test_the_dashboard_names_metrics_that_exist() -> None:
    metrics = Metrics(CacheFigures())
    watch = metrics.watch("http", "score")
    watch.lap("decode")
    watch.end()
    existing = {name.partition("{")[0] for name in figures(metrics.text())}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(expressions) >= 8
    named = {name for e in expressions for name in re.findall(r"\b(?:perslm|process)_\w+", e)}
    assert named
    assert named <= existing
