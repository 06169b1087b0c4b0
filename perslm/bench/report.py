"""What a run of the benchmark found, and how it is shown: JSON, a Markdown table.

A figure is one row: perslm's measurement, the peers' of the same run, and what was published of
others that cannot be installed from PyPI (``perslm.bench.published``).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from perslm import _backend
from perslm.bench import peers
from perslm.bench.published import PUBLISHED
from perslm.errors import ArgumentError

OURS = "perslm"

MARK = "perslm bench"
"""Names the lines of a Markdown file between which the table stands."""

COLUMNS = (
    "figure",
    "perslm",
    "99th percentile",
    "quartiles",
    "others in the same run (perslm is n × better)",
    "published of others",
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one contender needed, in the unit of its figure.

    ``median`` and ``p99`` (the worse end) are of all samples; ``low`` and ``high`` the quartiles of
    the medians of each round, or of all users where the figure is over users. ``ratio`` says how
    many times better perslm did, and ``difference`` how far the answers, natural logarithms, were
    apart at most.
    """

    name: str
    median: float
    p99: float
    low: float
    high: float
    samples: int
    ratio: float | None = None
    difference: float | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: ``key`` and ``order`` name it for scripts, ``title`` for people."""

    key: str
    title: str
    order: int | None
    unit: str
    measured: tuple[Measurement, ...]

    @property
    def row(self) -> str:
        """Return the name of the row."""
        order = "" if self.order is None else f", order {self.order}"
        return f"{self.title}{order}, {self.unit}"

    @property
    def ours(self) -> Measurement:
        """Return perslm's measurement."""
        return self.measured[0]

    def cells(self) -> tuple[str, ...]:
        """Return the row's cells, one for each of :data:`COLUMNS`."""
        ours = self.ours
        others = (
            f"{m.name} {number(m.median)}" + (f" ({number(m.ratio, 2)} ×)" if m.ratio else "")
            for m in self.measured[1:]
        )
        published = PUBLISHED.get((self.key, self.order), {})
        return (
            self.row,
            number(ours.median),
            number(ours.p99),
            f"{number(ours.low)} – {number(ours.high)}",
            " · ".join(others),
            " · ".join(f"{name} {value:g}" for name, value in published.items()),
        )


@dataclass(slots=True)
class Report:
    """All figures of one run. ``corpus`` says what was measured on, in numbers only."""

    corpus: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)
    load: float = field(default_factory=lambda: os.getloadavg()[0])  # others', before the run

    def as_json(self) -> dict[str, Any]:
        """Return everything, for ``json.dumps``."""
        return {
            "machine": {**machine(), "load": round(self.load, 2)},
            "versions": versions(),
            "backend": backend(),
            "corpus": self.corpus,
            "absent": peers.absent(),
            "figures": [
                {
                    **asdict(figure),
                    "row": figure.row,
                    "published": PUBLISHED.get((figure.key, figure.order), {}),
                }
                for figure in self.figures
            ],
        }

    def caption(self) -> str:
        """Return one paragraph that says what was measured where."""
        where = machine()
        named = ", ".join(f"{name} {number}" for name, number in versions().items())
        missing = "".join(f" {name}: {reason}." for name, reason in peers.absent().items())
        return (
            f"{where['processor']}, {where['cores']} cores, {where['system']}, load "
            f"{self.load:.1f} before the run; {named}; backend {backend()}. One user of "
            f"{self.corpus['tokens']:,} tokens and a vocabulary of {self.corpus['vocabulary']:,}; "
            f"sizes and loading: medians over {self.corpus['large_users']} of "
            f"{self.corpus['source']}.{missing}"
        )

    def markdown(self) -> str:
        """Return the table and its caption as Markdown."""
        lines = [
            line(COLUMNS),
            "|---|" + "--:|" * 3 + "---|" * 2,
            *(line(figure.cells()) for figure in self.figures),
        ]
        return "\n".join([*lines, "", self.caption()])


def measurement(
    name: str,
    samples: npt.NDArray[np.float64],
    groups: npt.NDArray[np.float64],
    *,
    rising: bool = False,
    ratio: float | None = None,
    difference: float | None = None,
) -> Measurement:
    """Summarize samples, and the medians of groups of them; ``rising``: more is better."""
    low, high = np.percentile(groups, [25, 75])
    median, worst = np.percentile(samples, [50, 1 if rising else 99])
    return Measurement(
        name, float(median), float(worst), float(low), float(high), len(samples), ratio, difference
    )


def replace_table(path: Path, table: str, mark: str = MARK) -> bytes:
    """Return the content of a Markdown file with ``table`` between its two markers of that name.

    Raises ArgumentError if the file does not have both, once each.
    """
    begin, end = markers(mark)
    text = path.read_text("utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ArgumentError(f"{path} needs the lines {begin} and {end}, once, for the table")
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    return f"{before}{begin}\n{table}\n{end}{after}".encode()


def markers(mark: str) -> tuple[str, str]:
    """Return the two lines between which a Markdown file has the table of that name."""
    return f"<!-- {mark} -->", f"<!-- {mark}: end -->"


def machine() -> dict[str, Any]:
    """Return the processor, how many cores this process may use, and the system."""
    processor = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # not Linux: platform's answer stands
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": processor,
        "cores": cores,
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Return the versions of everything that was measured."""
    return {
        "perslm": version("perslm"),
        "Python": platform.python_version(),
        "numpy": np.__version__,
        **peers.versions(),
    }


def backend() -> str:
    """Return what perslm computes with here: "kernel" or "numpy"."""
    return "numpy" if _backend.native is None else "kernel"


def number(value: float, significant: int = 3) -> str:
    """Return ``value`` with so many significant digits."""
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    digits = significant - 1 - int(np.floor(np.log(abs(value)) / np.log(10)))
    return f"{round(value, digits):,.{max(0, digits)}f}"


def line(cells: Sequence[str]) -> str:
    """Return a line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"
