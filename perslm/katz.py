"""Katz backoff: from counts to probabilities and backoff weights. The readable reference.

Katz (1987), "Estimation of probabilities from sparse data for the language model component of a
speech recognizer", with the choices of OpenGrm NGram's ``ngrammake --method=katz`` where the paper
leaves one open (K = 5 bins). For a context h, h' = h without its oldest word, and an event w:

    p(w | h) = d_c · c(hw) / C(h)            if hw was seen, c = c(hw)       (explicit arc)
             = α(h) · p(w | h')              otherwise                       (backoff)

    C(h) = Σ_w c(hw)
    α(h) = (1 − Σ_{w seen after h} p(w|h)) / (1 − Σ_{w seen after h} p(w|h'))

Unigrams are relative frequencies, undiscounted: words the user never wrote get probability 0, and
the mixture leaves them to the global LM. The discounts d_1 … d_K of each order follow Good-Turing
(:func:`discounts`); counts above K keep 0.999 of their mass.

A small mailbox has degenerate counts-of-counts as a rule. Then the formula gives discounts outside
(0, 1), and 0.999 takes their place; ``fell_back`` names the orders where that happened.

Where every event of the model was seen after h, nothing can be backed off to: the mass that the
discounts freed goes to ``</s>`` (scaled back over all events if the model has no ``</s>``), and
ln α(h) is −99, the value that ARPA files use for zero.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from perslm.counts import BINS, Counts, Int64Array
from perslm.smoothing import Float64Array, Smoothed

TRUSTED = 0.999
"""Discount of counts above K, and of every count whose own discount is unusable."""

LEFT_OVER_FLOOR = 1e-9
"""Least mass that a context leaves, so that a quotient of two of them is finite.

Sums stay exact unless all that is left are words rarer than this: one in 10⁹ tokens of one user.
"""

LOG_ZERO = -99.0
"""ln α of a context after which every event was seen."""


def discounts(count_of_counts: Int64Array) -> tuple[Float64Array, bool]:
    """Return d_1 … d_K and the discount above K, float64[BINS + 1], from n_1 … n_{K+1}.

    The second value tells whether a count that occurs had to fall back to TRUSTED. Good-Turing with
    Katz's correction (1987, eq. 14): with A = (K+1)·n_{K+1} / (r0·n_{r0}) for the smallest count r0
    that occurs, d_r = ((r+1)·n_{r+1} / (r·n_r) − A) / (1 − A). Where a count-of-counts is zero,
    OpenGrm leaves the factor out instead of using the zero; so do we.
    """
    n = count_of_counts
    result = np.full(BINS + 1, TRUSTED)
    occurring = np.flatnonzero(n)
    if not len(occurring):
        return result, False
    r0 = int(occurring[0]) + 1
    correction = (BINS + 1) * n[BINS] / (r0 * n[r0 - 1])
    fell_back = False
    for r in range(1, BINS + 1):
        x = float(r + 1)
        if n[r] > 0:
            x *= n[r]
        if n[r - 1] > 0:
            x /= n[r - 1]
        d = x / r - correction
        if correction < 1:
            d /= 1 - correction
        if 0 < d < 1:
            result[r - 1] = d
        elif n[r - 1] > 0:
            fell_back = True
    return result, fell_back


def estimate(counts: Counts) -> Smoothed:
    """Return the Katz model of ``counts``; one linear pass over the n-grams of each order."""
    n_r = counts.count_of_counts()
    eos = counts.specials.eos
    fell_back: list[int] = []
    probability: list[Float64Array] = []
    log_backoff: list[Float64Array] = [np.zeros(1)]
    for order, level in enumerate(counts.levels, start=1):
        discount = np.ones(BINS + 1)
        if order > 1:
            discount, unusable = discounts(n_r[order - 1])
            if unusable:
                fell_back.append(order)
        d = discount[np.clip(level.count, 1, BINS + 1) - 1]
        totals = counts.totals(order - 1)
        p = d * level.count / np.maximum(totals[level.context], 1)
        if order > 1:
            contexts = len(totals)
            lower = probability[-1][level.suffix]
            kept = np.bincount(level.context, p, contexts).astype(np.float64)
            seen = np.bincount(level.context, minlength=contexts)
            complete = seen == counts.ngrams[0]
            _give_freed_mass(p, level.word == eos, level.context, kept, complete)
            left = np.maximum(1 - kept, LEFT_OVER_FLOOR)
            below = np.maximum(1 - np.bincount(level.context, lower, contexts), LEFT_OVER_FLOOR)
            log_backoff.append(np.where(complete, LOG_ZERO, np.log(left / below)))
        probability.append(p)
    with np.errstate(divide="ignore"):
        logprob = tuple(np.log(p) for p in probability)
    return Smoothed(logprob, tuple(log_backoff), tuple(fell_back))


def _give_freed_mass(
    p: Float64Array,
    is_eos: npt.NDArray[np.bool_],
    context: npt.NDArray[np.uint32],
    kept: Float64Array,
    complete: npt.NDArray[np.bool_],
) -> None:
    """Let the contexts that have seen every event sum to 1 by themselves (in place)."""
    if is_eos.any():
        closing = np.flatnonzero(is_eos & complete[context])
        p[closing] += 1 - kept[context[closing]]
    else:
        inside = complete[context]
        p[inside] /= kept[context[inside]]
