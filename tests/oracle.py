"""A naive Katz model in dictionaries: slow, obvious, and sharing no code with the library.

It follows the formulas as OpenGrm NGram documents and computes them. Words may be of any hashable
type; a sequence is (words, opens, closes).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable
from functools import cache

Word = Hashable
NGram = tuple[Word, ...]

OPEN, CLOSE = "<s>", "</s>"
K = 5


def ngram_counts(
    sequences: Iterable[tuple[Iterable[Word], bool, bool]], order: int
) -> Counter[NGram]:
    """Every n-gram whose last word is an event."""
    counts: Counter[NGram] = Counter()
    for words, opens, closes in sequences:
        padded = [OPEN] * opens + list(words) + [CLOSE] * closes
        for start in range(len(padded)):
            for end in range(start + 1, min(start + order, len(padded)) + 1):
                if padded[end - 1] != OPEN:
                    counts[tuple(padded[start:end])] += 1
    return counts


class OracleKatz:
    def __init__(self, counts: Counter[NGram], order: int) -> None:
        self.counts = counts
        self.order = order
        self.events = sorted({g[0] for g in counts if len(g) == 1}, key=repr)
        self.successors: dict[NGram, list[Word]] = {}
        for gram in counts:
            self.successors.setdefault(gram[:-1], []).append(gram[-1])
        self.contexts = {()} | {g for g in counts if len(g) < order and g[-1] != CLOSE}
        self.contexts |= {g[:-1] for g in counts}
        self.discount = {o: self._discounts(o) for o in range(2, order + 1)}
        self.p = cache(self._p)
        self.alpha = cache(self._alpha)

    def _discounts(self, order: int) -> dict[int, float]:
        n = Counter(c for g, c in self.counts.items() if len(g) == order)
        present = [r for r in range(1, K + 2) if n[r] > 0]
        d = dict.fromkeys(range(1, K + 1), 0.999)
        if not present:
            return d
        a = (K + 1) * n[K + 1] / (present[0] * n[present[0]])
        for r in range(1, K + 1):
            x = r + 1.0
            if n[r + 1] > 0:
                x = x * n[r + 1]
            if n[r] > 0:
                x = x / n[r]
            value = x / r - a
            if 1 - a > 0:
                value = value / (1 - a)
            if 0 < value < 1:
                d[r] = value
        return d

    def explicit(self, context: NGram, word: Word) -> float:
        """p(word | context) of an n-gram that was seen."""
        total = sum(self.counts[(*context, w)] for w in self.successors[context])
        c = self.counts[(*context, word)]
        if not context:
            return c / total
        d = self.discount[len(context) + 1]

        def discounted(w: Word) -> float:
            k = self.counts[(*context, w)]
            return d.get(k, 0.999) * k / total

        p = d.get(c, 0.999) * c / total
        if self.complete(context):
            mass = math.fsum(discounted(w) for w in self.successors[context])
            if CLOSE not in self.events:
                p = p / mass
            elif word == CLOSE:
                p = p + 1 - mass
        return p

    def complete(self, context: NGram) -> bool:
        return len(self.successors.get(context, ())) == len(self.events)

    def _alpha(self, context: NGram) -> float:
        """ln of the backoff weight."""
        if self.complete(context):
            return -99.0
        seen = self.successors.get(context, [])
        left = 1 - math.fsum(self.explicit(context, w) for w in seen)
        below = 1 - math.fsum(self.explicit(context[1:], w) for w in seen)
        return math.log(max(left, 1e-9) / max(below, 1e-9))

    def _p(self, context: NGram, word: Word) -> float:
        """ln p(word | context), for any context of known words, however long."""
        if len(context) >= self.order:
            context = context[len(context) - self.order + 1 :]
        while context and context not in self.contexts:
            context = context[1:]
        if (*context, word) in self.counts:
            return math.log(self.explicit(context, word))
        if not context:
            return -math.inf
        return self.alpha(context) + self.p(context[1:], word)
