"""A model that fits into so many bytes: which n-grams of a user are worth theirs.

What an n-gram is worth is how many nats it takes off 10,000 tokens of the user's mail to come,
expected of it by four numbers: how often it was seen, and its last word, and its context, and
whether it was seen once only. What it costs is about what ``perslm.blob`` writes for it, in bits.
One that is worth more than its bits at the going price leaves half of what is over to its prefix
and half to its suffix, which must stay if it does (closure). The price is the lowest at which the
blob fits.

The coefficients were fitted (quasi-Poisson regression, models of order 5 of the older mail of 49
people, everybody's n-grams alike) to what n-grams did take off the mail after it, as mixed into
SmolLM2-135M by the backoff estimator. What that keeps of the gain: ``tests/benchmarks/budget.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from perslm import blob
from perslm.counts import Counts
from perslm.errors import ArgumentError
from perslm.smoothing import Float64Array

WORTH = (
    (6.85, 0.58, 0.0, -0.95, -1.05),
    (-0.07, 1.88, -0.80, -0.33, -1.46),
    (-1.81, 1.55, -0.47, -0.11, -2.72),
    (-3.23, 1.41, -0.21, -0.03, -3.73),
    (-1.81, 1.15, -0.54, 0.49, -28.0),
)
"""By order, what the logarithm of an n-gram's worth is made of: a constant, ln of its count, of its
last word's and of its context's (of all tokens for order 1), and what it has if seen only once."""

PRICES = (-30.0, 20.0)
"""Logarithms of nats per bit between which the price is looked for: all stays, nothing does."""

ROUNDS = 26
NEAR = 0.995
"""A blob that fills so much of its budget is full enough."""

TIE = 0.01
"""Of n-grams alike in all else a higher id is worth less by up to this, lest they all go at once:
the ids of most vocabularies begin with the commonest words."""

Mask = npt.NDArray[np.bool_]


def shrink(
    counts: Counts,
    metadata: blob.Metadata,
    max_bytes: int | None,
    allowed: Sequence[Mask] | None = None,
) -> tuple[Counts, bytes]:
    """Return ``counts``, pruned if they must be, and their blob of at most ``max_bytes``.

    ``allowed``, bool[n] by level and closed, are the n-grams that may stay (None: all). Counts that
    fit are returned as they are. None as ``max_bytes`` allows any size. The same input gives the
    same blob. Time is that of some 20 times encoding, unless the first fits. Raises ArgumentError
    if the counts are pruned already, or if not even a model of nothing fits.
    """
    if counts.cut is not None:
        raise ArgumentError("counts are pruned once only: start from those of the whole mail")
    if allowed is None or all(mask.all() for mask in allowed):
        found = counts
    else:
        found = counts.select(allowed)
    encoded = blob.encode(found, metadata)
    if max_bytes is None or len(encoded) <= max_bytes:
        return found, encoded
    found = counts.select([np.zeros(len(level), bool) for level in counts.levels])
    fits = blob.encode(found, metadata)
    if len(fits) > max_bytes:
        raise ArgumentError(
            f"a model needs {len(fits)} bytes even if it holds nothing, not {max_bytes}: allow more"
        )
    worth, bits = values(counts), costs(counts)
    if allowed is not None:
        worth = [np.where(mask, value, 0) for mask, value in zip(allowed, worth, strict=True)]
    low, high = PRICES
    for _ in range(ROUNDS):
        price = (low + high) / 2
        pruned = counts.select(affordable(counts, worth, bits, math.exp(price)))
        encoded = blob.encode(pruned, metadata)
        if len(encoded) > max_bytes:
            low = price
            continue
        high = price
        if len(encoded) > len(fits):
            found, fits = pruned, encoded
        if len(fits) > NEAR * max_bytes:
            break
    return found, fits


def values(counts: Counts) -> list[Float64Array]:
    """Return what each n-gram is worth: nats per 10,000 tokens, float64[n] by level."""
    words = counts.levels[0]
    result = []
    contexts = np.array([counts.tokens])
    for level, coefficients in zip(counts.levels, WORTH, strict=False):
        last = words.count[np.searchsorted(words.word, level.word)]
        seen = [np.log(np.maximum(c, 1)) for c in (level.count, last, contexts[level.context])]
        terms = [np.ones(len(level)), *seen, level.count == 1]
        logarithm = np.stack(terms, axis=1) @ np.array(coefficients)
        ties = 1 - TIE * np.arange(len(level)) / max(len(level), 1)
        result.append(np.exp(np.clip(logarithm, -20, 10)) * ties)
        contexts = level.count
    return result


def costs(counts: Counts) -> list[Float64Array]:
    """Return about how many bits a blob spends on each n-gram, float64[n] by level.

    A word is one of the vocabulary; a longer n-gram is drawn from what followed its suffix's
    context.
    """
    result = []
    for k, level in enumerate(counts.levels):
        bits = 1 + np.log2(np.maximum(level.count, 1))
        if k == 0:
            bits += 2 + np.log2(max(counts.specials.size / max(len(level), 1), 1))
        else:
            shorter = counts.levels[k - 1]
            followed = counts.totals(k - 1)[shorter.context[level.suffix]]
            drawn = np.maximum(shorter.count[level.suffix], 1)
            bits += np.log2(np.maximum(followed / drawn, 1))
        result.append(bits)
    return result


def affordable(
    counts: Counts, worth: list[Float64Array], bits: list[Float64Array], price: float
) -> list[Mask]:
    """Return which n-grams to keep at ``price`` nats per bit, bool[n] by level; they are closed."""
    over = [value - price * cost for value, cost in zip(worth, bits, strict=True)]
    for k in range(counts.order - 1, 0, -1):
        level, half = counts.levels[k], np.maximum(over[k], 0) / 2
        for entry in (level.context, level.suffix):
            over[k - 1] += np.bincount(entry, half, len(over[k - 1]))
    keep = [left > 0 for left in over]
    is_bos = counts.levels[0].word == counts.specials.bos
    keep[0] = (keep[0] | is_bos) & (keep[0] & ~is_bos).any()  # no words, no contexts
    for k in range(1, counts.order):
        level = counts.levels[k]
        keep[k] &= keep[k - 1][level.context] & keep[k - 1][level.suffix]
    return keep
