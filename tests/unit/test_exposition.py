from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from perslm.errors import ServiceError
from perslm.exposition import Samples


def test_it_reads_what_prometheus_writes() -> None:
    registry = CollectorRegistry()
    requests = Counter(
        "requests", 'With "quotes" and \\ in its help.', ["route"], registry=registry
    )
    requests.labels('a "b" \\ c\nd').inc(3)
    requests.labels("plain").inc()
    Gauge("size", "Of something.", registry=registry).set(-1.5e9)
    Gauge("nothing", "Not known.", registry=registry).set(math.nan)
    seconds = Histogram("seconds", "How long.", ["phase"], buckets=(0.1, 1), registry=registry)
    for value in (0.05, 0.5, 0.7, 5):
        seconds.labels("score").observe(value)
    samples = Samples.parse(generate_latest(registry).decode())
    assert samples.by("requests_total", "route") == {('a "b" \\ c\nd',): 3, ("plain",): 1}
    assert samples.total("requests_total") == 4
    assert samples.total("requests_total", route="plain") == 1
    assert samples.total("size") == -1.5e9
    assert math.isnan(samples.total("nothing"))
    assert samples.total("seconds_count", phase="score") == 4
    assert samples.total("seconds_bucket", phase="score", le="+Inf") == 4
    assert samples.has("size")
    assert not samples.has("absent")
    assert samples.total("absent") == 0


def utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


@given(
    strategies.dictionaries(strategies.text(max_size=20).map(utf8), strategies.floats(), max_size=5)
)
def test_any_label_and_value_come_back(given: dict[str, float]) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("g", "", ["l"], registry=registry)
    for label, value in given.items():
        gauge.labels(label).set(value)
    text = generate_latest(registry).decode()
    found = {labels[0]: value for labels, value in Samples.parse(text).by("g", "l").items()}
    assert found.keys() == given.keys()
    assert all(math.isnan(v) if math.isnan(given[k]) else v == given[k] for k, v in found.items())


@pytest.mark.parametrize("text", ["<html>", "name", 'name{a="b"', "name value", "{} 1"])
def test_what_is_something_else_is_refused(text: str) -> None:
    with pytest.raises(ServiceError, match="text format"):
        Samples.parse(text)


def test_comments_empty_lines_and_times_are_passed_over() -> None:
    samples = Samples.parse("# TYPE a counter\n\na_total 2 1700000000000\nb +Inf\n")
    assert samples.values == {("a_total", ()): 2.0, ("b", ()): math.inf}


def test_growth_counts_a_counter_that_began_anew_from_0() -> None:
    before = Samples.parse('a{x="1"} 10\na{x="2"} 10\n')
    now = Samples.parse('a{x="1"} 15\na{x="2"} 3\na{x="3"} 7\n')
    assert now.since(before).by("a", "x") == {("1",): 5, ("2",): 3, ("3",): 7}


def buckets(**counts: float) -> Samples:
    lines = [f's_bucket{{le="{le}",r="a"}} {n}' for le, n in counts.items()]
    return Samples.parse("\n".join(lines))


def test_quantiles_are_spread_evenly_in_their_bucket() -> None:
    samples = buckets(**{"1.0": 10, "3.0": 30, "+Inf": 30})
    assert samples.quantile("s", 0.5) == pytest.approx(1.5)
    assert samples.quantile("s", 1 / 3) == pytest.approx(1.0)
    assert samples.quantile("s", 0.1, r="a") == pytest.approx(0.3)
    assert samples.quantile("s", 1.0) == pytest.approx(3.0)
    assert math.isnan(samples.quantile("s", 0.5, r="b"))
    assert math.isnan(buckets(**{"1.0": 0, "+Inf": 0}).quantile("s", 0.5))


def test_beyond_the_last_bound_the_bound_is_all_that_is_known() -> None:
    assert buckets(**{"1.0": 1, "2.0": 1, "+Inf": 4}).quantile("s", 0.99) == 2.0


def test_buckets_of_several_routes_add_up() -> None:
    text = "\n".join(
        f's_bucket{{le="{le}",r="{r}"}} {n}'
        for r, counts in {"a": (4, 4, 4), "b": (0, 4, 4)}.items()
        for le, n in zip(("1.0", "2.0", "+Inf"), counts, strict=True)
    )
    samples = Samples.parse(text)
    assert samples.quantile("s", 0.5) == pytest.approx(1.0)
    assert samples.quantile("s", 0.5, r="b") == pytest.approx(1.5)
