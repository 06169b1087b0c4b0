"""The plans for many users: docs/scale.md says what the command says."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from tests.benchmarks.scale import SIZES, Figures, figures, number, plan, size, size_at, table
from tests.support import ROOT

PAGE = (ROOT / "docs" / "scale.md").read_text("utf-8")


@pytest.mark.parametrize(("part", "wanted"), [("figures", figures()), ("plan", table())])
def test_the_page_has_the_tables_of_the_command(part: str, wanted: str) -> None:
    found = re.search(rf"<!-- {part} -->\n(.*?)\n<!-- {part}: end -->", PAGE, re.S)
    assert found is not None
    assert found[1] == wanted


def test_the_page_explains_every_figure_that_a_row_rests_on() -> None:
    explained = set(re.findall(r"`([a-z_]+)`", PAGE.partition("Row by row")[2]))
    assert {"blob_bytes", "beyond_bytes", "kept_days", "copies", "headroom"} <= explained
    assert explained & set(Figures.__dataclass_fields__) >= {"changed", "busy", "peak", "active"}


def test_what_keeping_a_day_saves_is_as_the_page_says() -> None:
    (told,) = re.findall(r"`--assume kept_days=1` brings.*?from (\d+) to (\d+) GiB", PAGE, re.S)
    found = [plan(10**6, replace(Figures(), kept_days=days)) for days in (7, 1)]
    assert [f["memory, all copies"] for f in found] == [f"{gib} GiB" for gib in told]


def test_a_plan_grows_with_its_users() -> None:
    small, large = plan(10**6), plan(10**9)
    assert small["models in use"] == size(10**6 * Figures().blob_bytes)
    assert large["models in use"] == size(10**9 * Figures().blob_bytes)
    assert small["a user and year, on Kvrocks"] == large["a user and year, on Kvrocks"]


def test_the_mean_is_that_of_the_sizes() -> None:
    assert Figures().blob_bytes == pytest.approx(
        np.mean([size_at(s / 1000) for s in range(1001)]), rel=0.01
    )
    assert (size_at(0), size_at(0.5), size_at(1)) == (SIZES[0], SIZES[5], SIZES[-1])


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.0032, "0.0032"), (9.4, "9.4"), (63, "63"), (184, "180"), (1234567, "1,200,000")],
)
def test_numbers_have_two_digits(value: float, told: str) -> None:
    assert number(value) == told
