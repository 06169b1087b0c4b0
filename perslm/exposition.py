"""Prometheus's text format, read: what ``perslm top`` and the benchmark know of a running service.

The service writes it (``service.metrics``) with Prometheus's own library, which only those who run
a service have; to read what it writes takes no more than this. Samples of several label sets add up
(:meth:`Samples.total`), those of two readings subtract (:meth:`Samples.since`), and buckets become
quantiles (:meth:`Samples.quantile`) as Prometheus's ``histogram_quantile`` makes them.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

from perslm.errors import ServiceError

Labels: TypeAlias = tuple[tuple[str, str], ...]
"""Names and values, ascending by name."""

_LINE: Final = re.compile(
    r"([A-Za-z_:][\w:]*)(?:\{(.*)\})?[ \t]+(\S+)(?:[ \t]+-?\d+)?\s*", re.ASCII | re.DOTALL
)
_LABEL: Final = re.compile(r'\s*(\w+)="((?:[^"\\]|\\.)*)"\s*,?', re.ASCII)
_ESCAPE: Final = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Samples:
    """Values by name and labels."""

    values: Mapping[tuple[str, Labels], float]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the samples of a page; raises ServiceError if it is none."""
        found: dict[tuple[str, Labels], float] = {}
        for line in text.split("\n"):  # a label may hold any other line end
            if not line or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line)
            try:
                if match is None:
                    raise ValueError
                labels = sorted((m[1], _plain(m[2])) for m in _LABEL.finditer(match[2] or ""))
                found[match[1], tuple(labels)] = float(match[3])
            except ValueError:
                raise ServiceError("what /metrics sent is not Prometheus's text format") from None
        return cls(found)

    def since(self, before: Samples) -> Samples:
        """Return how much each counter grew; one that shrank began anew, at 0."""
        grown = {}
        for key, value in self.values.items():
            old = before.values.get(key, 0.0)
            grown[key] = value - old if value >= old else value
        return Samples(grown)

    def has(self, name: str) -> bool:
        """Tell whether there is any sample of that name."""
        return any(key[0] == name for key in self.values)

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a name that have these labels; 0 without any."""
        wanted = set(labels.items())
        return sum(v for (n, own), v in self.values.items() if n == name and wanted <= set(own))

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Return the sums of a name's samples for each combination of these labels' values."""
        found: dict[tuple[str, ...], float] = defaultdict(float)
        for (n, own), value in self.values.items():
            if n == name:
                named = dict(own)
                found[tuple(named.get(label, "") for label in labels)] += value
        return dict(found)

    def quantile(self, name: str, share: float, **labels: str) -> float:
        """Return the value below which a share (0 to 1) of a histogram's observations are.

        Within a bucket they are taken to be spread evenly; beyond the last bound, the bound is all
        that is known. NaN without observations.
        """
        buckets: dict[float, float] = defaultdict(float)
        wanted = set(labels.items())
        for (n, own), value in self.values.items():
            if n == f"{name}_bucket" and wanted <= set(own):
                buckets[float(dict(own)["le"])] += value
        bounds = sorted(buckets)
        if not bounds or not buckets[bounds[-1]] > 0:
            return math.nan
        rank = share * buckets[bounds[-1]]
        low = below = 0.0
        for bound in bounds:
            if buckets[bound] >= rank:
                inside = buckets[bound] - below
                if math.isinf(bound) or not inside:
                    return low
                return low + (bound - low) * (rank - below) / inside
            low, below = bound, buckets[bound]
        return low


def _plain(value: str) -> str:
    return _ESCAPE.sub(lambda m: "\n" if m[1] == "n" else m[1], value)
