"""What every smoothing of a user's own counts yields, and the interpolation that three share.

Interpolated smoothing takes a little from whatever was seen after a context h, and gives it to the
context without its oldest word, h', for all words alike:

    p(w | h) = own(hw) + γ(h) · p(w | h')        γ(h) = 1 − Σ_w own(hw)

own(hw) is 0 for a word that was not seen after h, so γ(h) is the backoff weight of an automaton
whose explicit arcs hold the sum. It sums to 1 whatever own is, pruned counts included: what was cut
after h is in γ(h). Estimators differ in own alone: ``perslm.witten_bell``, ``perslm.absolute``,
``perslm.kneser_ney``. Below single words is nothing: they keep all their mass, so words the user
never wrote have probability 0, and the mixture leaves them to the global LM.

``perslm.katz`` backs off instead and is a ``Smoothed``, too. λ of all of these is looked up by
``perslm.weights``; ``perslm.backoff`` ends in the global LM, and has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perslm.counts import Counts, Int64Array

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Smoothed:
    """The parameters of a model, aligned with the levels of the counts it came from.

    ``logprob[k-1]`` is ln p(last word | the words before) of each k-gram, float64; the
    context-only ``<s>`` has −inf. ``log_backoff[k]`` is ln of the backoff weight of each k-gram as
    a context, k = 0 … order−1, float64; entries of n-grams that end in ``</s>`` mean nothing, as
    does that of the empty context. ``fell_back`` lists the orders with too few counts for their
    discounts, where others took their place.
    """

    logprob: tuple[Float64Array, ...]
    log_backoff: tuple[Float64Array, ...]
    fell_back: tuple[int, ...]

    def __repr__(self) -> str:  # the arrays are what a user wrote
        sizes = tuple(map(len, self.logprob))
        return f"Smoothed(ngrams={sizes}, fell_back={self.fell_back})"


def interpolated(
    counts: Counts,
    words: Int64Array,
    own: Sequence[Float64Array],
    fell_back: Sequence[int] = (),
) -> Smoothed:
    """Return the model whose single words are as likely as ``words``, int64, says.

    ``own[k]`` is own(hw) of each n-gram of k + 2 words, float64.
    """
    probability = [words / max(1, words.sum())]
    log_backoff = [np.zeros(1)]
    for level, share in zip(counts.levels[1:], own, strict=True):
        left = 1 - np.bincount(level.context, share, len(probability[-1]))
        probability.append(share + left[level.context] * probability[-1][level.suffix])
        log_backoff.append(np.log(left))
    with np.errstate(divide="ignore"):
        logprob = tuple(np.log(p) for p in probability)
    return Smoothed(logprob, tuple(log_backoff), tuple(fell_back))
