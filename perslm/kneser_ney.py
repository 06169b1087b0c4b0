"""Modified Kneser-Ney smoothing: from counts to probabilities. The readable reference.

Chen and Goodman (1999), "An empirical study of smoothing techniques for language modeling",
interpolated: at the highest order an n-gram counts as often as it was seen; below, where a word is
asked for because a longer context did not know it, as often as different words were seen before it
(Kneser and Ney 1995). N-grams that begin with ``<s>`` have nothing before them and keep their
counts. What a count gives depends on whether it is 1, 2 or more:

    own(hw) = (c(hw) − D(c(hw))) / C(h)
    D(1) = 1 − 2·Y·n_2/n_1    D(2) = 2 − 3·Y·n_3/n_2    D(3+) = 3 − 4·Y·n_4/n_3
    Y    = n_1 / (n_1 + 2·n_2)

and ``perslm.smoothing`` does the rest. c is the count as above (``perslm.backoff.Seen.used``, at
least 1), C(h) its sum over w, and n_r how many n-grams of the order have the count r. A word's own
probability is its share of the continuations.

Of pruned counts, each event that was cut is taken for an n-gram of its own that was seen once, in
continuations, in C(h) and in n_1; n_r of the highest order are those from before.

Where one of n_1 … n_4 is 0 or a D(r) is not within 0 and r, as in a small mailbox, FALLBACK takes
the place of all three, and ``fell_back`` names the order.
"""

from __future__ import annotations

import numpy as np

from perslm.backoff import seen
from perslm.counts import Counts, Int64Array
from perslm.smoothing import Float64Array, Smoothed, interpolated

FALLBACK = (0.5, 1.0, 1.5)
"""D(1), D(2) and D(3+) for want of better ones: those of KenLM's ``--discount_fallback``."""


def discounts(n: Int64Array) -> Float64Array | None:
    """Return D(1), D(2) and D(3+) from n_1 … n_4, float64[3]; None where they are unusable."""
    if not n.all():
        return None
    y = n[0] / (n[0] + 2 * n[1])
    r = np.arange(1, 4)
    found: Float64Array = r - (r + 1) * y * n[1:] / n[:-1]
    return found if ((found > 0) & (found < r)).all() else None


def estimate(counts: Counts) -> Smoothed:
    """Return the modified Kneser-Ney model of ``counts``; one linear pass over each order."""
    words, *facts = seen(counts)
    own, fell_back = [], []
    for order, (level, fact) in enumerate(zip(counts.levels[1:], facts, strict=True), start=2):
        if order == counts.order:
            n = counts.count_of_counts()[-1, :4]
        else:
            n = np.bincount(np.minimum(fact.used, 5), minlength=6)[1:5]
            n[0] += int((fact.total - fact.kept).sum())  # what was cut, as if seen once
        found = discounts(n)
        if found is None and len(level):
            fell_back.append(order)
        discount = np.array(FALLBACK) if found is None else found
        given = discount[np.clip(fact.used, 1, 3) - 1]
        own.append((fact.used - given) / fact.total[level.context])
    return interpolated(counts, words.used, own, fell_back)
