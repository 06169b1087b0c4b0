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


class OracleBackoff:
    """The chain that ends in the global LM, as ``perslm.backoff`` defines it.

    ``gates`` has the coefficients and the discount of every order, from 1.
    """

    def __init__(self, counts: Counter[NGram], order: int, gates: list[list[float]]) -> None:
        self.counts, self.order, self.gates = counts, order, gates
        self.successors: dict[NGram, list[Word]] = {}
        self.before: dict[NGram, set[Word]] = {}
        for gram in counts:
            self.successors.setdefault(gram[:-1], []).append(gram[-1])
            self.before.setdefault(gram[1:], set()).add(gram[0])
        self.own = cache(self._own)

    def used(self, h: NGram, w: Word) -> int:
        """How often w counts after h."""
        if len(h) + 1 == self.order or h[:1] == (OPEN,):
            return self.counts[(*h, w)]
        return max(1, len(self.before.get((*h, w), ()))) if self.counts[(*h, w)] else 0

    def _own(self, h: NGram) -> dict[Word, float]:
        """What h itself gives to the words seen after it."""
        seen = {w: self.used(h, w) for w in self.successors.get(h, ())}
        if not seen:
            return {}
        *a, discount = self.gates[len(h)]
        c, t = sum(seen.values()), len(seen)
        x, r = math.log2(c) / 8, t / c
        z = a[0] + a[1] * x + a[2] * r + a[3] * x * x + a[4] * x * r + a[5] * r * r
        z += a[6] * math.log2(t) / 8 + a[7] * (h[:1] == (OPEN,))
        speaks = 1 - 1 / (1 + math.exp(-z))
        return {w: speaks * max(n - discount, 0) / c for w, n in seen.items()}

    def mixed(self, h: NGram, w: Word, p_global: float) -> float:
        """p(w | h) where the global LM gives p_global."""
        own = self.own(h)
        lower = self.mixed(h[1:], w, p_global) if h else p_global
        return own.get(w, 0.0) + (1 - math.fsum(own.values())) * lower

    def p(self, history: NGram, word: Word) -> float:
        """ln p(word | history) under the personal model alone, whatever the history's length."""
        h = history[len(history) - self.order + 1 :] if len(history) >= self.order else history
        weight = 1 - self.mixed(h, None, 1.0)  # nobody writes None
        share = self.mixed(h, word, 0.0) / weight
        return math.log(share) if share else -math.inf


class OracleInterpolated:
    """Witten-Bell, absolute discounting and modified Kneser-Ney, as their papers define them.

    ``kept`` are the n-grams that pruning left, by default all.
    """

    def __init__(
        self, name: str, counts: Counter[NGram], order: int, kept: set[NGram] | None = None
    ) -> None:
        self.name, self.counts, self.order = name, counts, order
        self.pruned, self.kept = kept is not None, set(counts) if kept is None else kept
        self.successors: dict[NGram, list[Word]] = {}
        for gram in self.kept:
            self.successors.setdefault(gram[:-1], []).append(gram[-1])
        self.own = cache(self._own)
        self.p = cache(self._p)

    def raw(self, gram: NGram) -> bool:
        """Whether the n-gram counts as often as it was seen."""
        return self.name != "kneser_ney" or len(gram) == self.order or gram[0] == OPEN

    def used(self, gram: NGram) -> int:
        """How often the n-gram counts: by what was seen before it, if it is not counted raw."""
        if self.raw(gram):
            return self.counts[gram]
        longer = [g for g in self.kept if g[1:] == gram]
        cut = self.counts[gram] - sum(self.counts[g] for g in longer)  # of as many words
        return max(1, len(longer) + (cut if self.pruned else 0))

    def number(self, r: int, length: int) -> int:
        """How many n-grams of this length have the count r."""
        if self.name != "kneser_ney" or length == self.order:
            return sum(len(g) == length and c == r for g, c in self.counts.items())
        left = sum(len(g) == length and self.used(g) == r for g in self.kept)
        return left + (sum(self.cut(h) for h in self.contexts(length - 1)) if r == 1 else 0)

    def contexts(self, length: int) -> set[NGram]:
        """Return the contexts of so many words that are left; ``<s>`` always is."""
        return {h for h in (*self.kept, (OPEN,)) if len(h) == length} | {
            g[:length] for g in self.kept if len(g) > length
        }

    def cut(self, h: NGram) -> int:
        """Return how many events were cut after h."""
        return sum(c for g, c in self.counts.items() if g[:-1] == h and g not in self.kept)

    def discount(self, count: int, length: int) -> float:
        n1, n2, n3, n4 = (self.number(r, length) for r in (1, 2, 3, 4))
        if self.name == "absolute":
            return n1 / (n1 + 2 * n2) if n1 and n2 else 0.75
        found = {1: 0.5, 2: 1.0, 3: 1.5}
        if n1 and n2 and n3 and n4:
            y = n1 / (n1 + 2 * n2)
            fitted = {1: 1 - 2 * y * n2 / n1, 2: 2 - 3 * y * n3 / n2, 3: 3 - 4 * y * n4 / n3}
            if all(0 < d < r for r, d in fitted.items()):
                found = fitted
        return found[min(count, 3)]

    def _own(self, h: NGram) -> dict[Word, float]:
        """What h itself gives to the words seen after it."""
        seen = {w: self.used((*h, w)) for w in self.successors.get(h, ())}
        total = sum(seen.values()) + self.cut(h)
        if not h:
            return {w: c / total for w, c in seen.items()}
        if self.name == "witten_bell":
            return {w: c / (total + len(seen)) for w, c in seen.items()}
        return {w: (c - self.discount(c, len(h) + 1)) / total for w, c in seen.items()}

    def _p(self, h: NGram, word: Word) -> float:
        """p(word | h), h being known and shorter than the order."""
        own = self.own(h)
        if not h:
            return own.get(word, 0.0)
        return own.get(word, 0.0) + (1 - math.fsum(own.values())) * self.p(h[1:], word)
