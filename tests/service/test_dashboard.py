"""docs/grafana-dashboard.json shows every metric that there is, and none that there is not."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.service.server import Caller, running
from tests.service.support import USER, settings
from tests.support import ROOT

DASHBOARD = ROOT / "docs" / "grafana-dashboard.json"
SUFFIX = re.compile(r"_(?:bucket|sum|count)$")


def expressions() -> list[str]:
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def shown() -> set[str]:
    found = (re.findall(r"\b(?:perslm|process)_\w+", e) for e in expressions())
    return {name for names in found for name in names}


def test_the_dashboard_shows_every_metric_and_no_other(store: Any) -> None:
    with running(settings(), store) as url:
        call = Caller(url)
        call("GET", f"/v1/users/{USER}")
        text = call("GET", "/metrics").body.decode()
        call.close()
    samples = set(re.findall(r"^(\w+?)(?:\{.*\})? ", re.sub(r"^#.*$", "", text, flags=re.M), re.M))
    histograms = {name for name, kind in types(text).items() if kind == "histogram"}
    exist = {SUFFIX.sub("", n) if SUFFIX.sub("", n) in histograms else n for n in samples}
    named = {SUFFIX.sub("", n) if SUFFIX.sub("", n) in histograms else n for n in shown()}
    # a new route and phase need samples to be seen, but their families are announced always
    assert named == exist | histograms
    assert "perslm_requests_total" in named


def types(text: str) -> dict[str, str]:
    return dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M))


def test_every_expression_can_be_limited_to_instances_and_is_well_formed() -> None:
    for expression in expressions():
        for name in re.findall(r"\b(?:perslm|process)_\w+(?:\{[^}]*\})?", expression):
            assert 'instance=~"$instance"' in name, name
        assert expression.count("(") == expression.count(")")


def test_panels_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(places)) == len(places)
    assert len({p["id"] for p in panels}) == len(panels)
    assert {(p["gridPos"]["w"], p["gridPos"]["h"]) for p in panels} == {(12, 8)}
    assert all(p["title"] for p in panels)
