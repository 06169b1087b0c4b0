from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from perslm.store import Store
from service.cache import ModelCache
from service.metrics import BUCKETS, CacheFigures, Metrics
from tests.service.support import BROKEN, MAIL, USER, Clock, blob_of, publish, settings


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


def test_what_is_not_in_a_fixed_set_is_other() -> None:
    metrics = Metrics(CacheFigures())
    watch = metrics.watch("http", "secret-route")
    watch.status, watch.reason = "secret-status", "secret-reason"
    watch.end()
    text = metrics.text()
    assert b"secret" not in text
    assert b'reason="other",route="other",status="other",transport="http"' in text
