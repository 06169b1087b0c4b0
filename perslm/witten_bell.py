"""Witten-Bell smoothing: from counts to probabilities. The readable reference.

Witten and Bell (1991), "The zero-frequency problem: estimating the probabilities of novel events in
adaptive text compression", method C, interpolated as by Chen and Goodman (1999): how often
something new came after a context says how often it will come again. With T(h) different events
after a context h, seen C(h) times,

    own(hw) = c(hw) / (C(h) + T(h))

and ``perslm.smoothing`` does the rest. It needs no counts-of-counts, so no mailbox is too small. Of
pruned counts C(h) is that from before, and T(h) what is left: to count in what was cut predicts
worse.
"""

from __future__ import annotations

import numpy as np

from perslm.counts import Counts
from perslm.smoothing import Smoothed, interpolated


def estimate(counts: Counts) -> Smoothed:
    """Return the Witten-Bell model of ``counts``; one linear pass over each order."""
    own = []
    for k, level in enumerate(counts.levels[1:], start=1):
        total = counts.totals(k)
        distinct = np.bincount(level.context, minlength=len(total))
        own.append(level.count / (total + distinct)[level.context])
    return interpolated(counts, counts.levels[0].count, own)
