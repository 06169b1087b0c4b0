"""Absolute discounting: from counts to probabilities. The readable reference.

Ney, Essen and Kneser (1994), "On structuring probabilistic dependences in stochastic language
modelling": every n-gram gives the same, whatever its count. With one discount for each order,

    own(hw) = (c(hw) − D) / C(h)        D = n_1 / (n_1 + 2·n_2)

and ``perslm.smoothing`` does the rest. n_r is how many n-grams of the order were seen r times; of
pruned counts n_r and C(h) are those from before.

Where n_1 or n_2 is 0, as in a small mailbox, D would be 0 or 1: nothing given away, or all that
singletons have. FALLBACK takes its place, and ``fell_back`` names the order.
"""

from __future__ import annotations

from perslm.counts import Counts
from perslm.smoothing import Smoothed, interpolated

FALLBACK = 0.75
"""A discount as larger mailboxes have it."""


def estimate(counts: Counts) -> Smoothed:
    """Return the model of ``counts``; one linear pass over the n-grams of each order."""
    count_of_counts = counts.count_of_counts()
    own, fell_back = [], []
    for k, level in enumerate(counts.levels[1:], start=1):
        once, twice = count_of_counts[k, :2].tolist()
        discount = once / (once + 2 * twice) if once and twice else FALLBACK
        if len(level) and not (once and twice):
            fell_back.append(k + 1)
        own.append((level.count - discount) / counts.totals(k)[level.context])
    return interpolated(counts, counts.levels[0].count, own, fell_back)
