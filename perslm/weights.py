"""λ by state, for estimators that have no λ of their own: all but ``perslm.backoff``.

λ(state) is looked up by what a model knows there: how many words of the history it matched, how
often it saw them (a logarithm), and which share of the mass it keeps for what it saw after them. A
context after which nothing is known, or nothing was left by pruning, has λ of the shorter one that
it backs off to.

The table is :func:`population`'s, fitted over many people by ``builders/weights.py`` and shipped in
``weights.json`` for every estimator and order; nothing of it is about anybody. It is for models as
builds make them by default: of n-grams that stand in two messages. Its values are 255ths, so that a
compiled state needs one byte. 255 itself, a λ of 1, does not occur: words the user never wrote
would become impossible.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from perslm.counts import Counts, Int64Array
from perslm.smoothing import Smoothed

UInt8Array = npt.NDArray[np.uint8]

COUNTS, MASSES = 16, 8
"""Buckets of a context's count, ⌊log₂ C(h)⌋, and of the mass it keeps, ⌊8·Σ p(w | h)⌋."""

SLACK = 1e-6
"""Added to 8·Σ p(w | h): a sum that is rounded just below a whole number belongs to that one."""

UNIT = 255
"""The λ of a state is its entry of the table divided by this."""


@cache
def _shipped() -> dict[str, dict[str, list[list[list[int]]]]]:
    text = files("perslm").joinpath("weights.json").read_text("utf-8")
    found: dict[str, dict[str, list[list[list[int]]]]] = json.loads(text)
    return found


@cache
def population(estimator: str, order: int) -> UInt8Array:
    """Return the table that comes with perslm, uint8[order, COUNTS, MASSES]."""
    table = np.array(_shipped()[estimator][str(order)], np.uint8)
    table.flags.writeable = False
    return table


def buckets(counts: Counts, model: Smoothed) -> tuple[Int64Array, ...]:
    """Return where in a flat table λ of each k-gram as a context is, k = 0 … order−1."""
    found: list[Int64Array] = []
    for k, (level, logprob) in enumerate(zip(counts.levels, model.logprob, strict=True)):
        total = counts.totals(k)
        kept = np.bincount(level.context, np.exp(logprob), len(total))
        size = np.minimum(np.log2(np.maximum(total, 1)).astype(np.int64), COUNTS - 1)
        mass = np.minimum((kept * MASSES + SLACK).astype(np.int64), MASSES - 1)
        place = (k * COUNTS + size) * MASSES + mass
        if k:
            knows = np.bincount(level.context, minlength=len(total)) > 0
            place = np.where(knows, place, found[-1][counts.levels[k - 1].suffix])
        found.append(place)
    return tuple(found)


def by_context(counts: Counts, model: Smoothed, table: UInt8Array) -> tuple[UInt8Array, ...]:
    """Return λ · UNIT of each k-gram as a context, k = 0 … order−1, uint8."""
    flat = table.ravel()
    return tuple(flat[place] for place in buckets(counts, model))
