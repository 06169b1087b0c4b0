"""The model as a weighted finite automaton in flat arrays.

A state is a context that the model keeps: state 0, the *root*, is the empty context; every k-gram
with k < order that does not end in ``</s>`` has a state of its own, numbered by order and then
lexicographically. Out of a state lead

* arcs, sorted by label: the word, −ln p(word | context), and the state of the longest kept context
  that ends the new history;
* a final weight, −ln p(</s> | context), infinite if ``</s>`` was never seen there;
* one backoff arc to the state of the context without its oldest word, with −ln α
  (the root has none).

A word without an arc is looked up at the backoff state, and −ln α is added. All weights are natural
logarithms. Three names, ``thanks`` ``for`` ``you``, and the two sentences "thanks for" and "thanks
you" make this automaton of order 2 (weights left out)::

    root ──thanks──▶ [thanks]      [<s>] ──thanks──▶ [thanks]     every [..] ──backoff──▶ root
         ──for─────▶ [for]         [thanks] ──for──▶ [for]
         ──you─────▶ [you]         [thanks] ──you──▶ [you]
         final                     [for], [you]: final

:meth:`Automaton.validate` holds any automaton, built or imported, against the invariants.
Counts live in ``perslm.counts``, the weights' formulas in ``perslm.smoothing`` and what it names,
and what a beam search calls in ``perslm.model``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from perslm.backoff import Backoff
from perslm.counts import AnyIntegers, Counts, Int64Array, Specials, UInt32Array, pair_keys
from perslm.errors import AutomatonError
from perslm.smoothing import Float64Array, Smoothed

ROOT = 0
"""The state of the empty context."""


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """Where a lookup ended: the weight along the way and the arc taken (−1: none on any level)."""

    weight: Float64Array
    arc: Int64Array


@dataclass(frozen=True, eq=False)
class Automaton:
    """A backoff automaton. All arrays are indexed by state or by arc.

    By state: ``arc_begin`` int64[states + 1], ``backoff_state`` uint32 (the root's is the root),
    ``backoff_weight`` float64 (−ln α; the root's is infinite), ``final_weight`` float64,
    ``state_order`` uint8 (words in the context), ``total`` int64 (events seen after the context).
    By arc: ``label`` uint32, ``weight`` float64, ``next_state`` uint32. ``start`` is the state of
    ``<s>``, or the root if the model has none.
    """

    specials: Specials
    order: int
    start: int
    arc_begin: Int64Array
    label: UInt32Array
    weight: Float64Array
    next_state: UInt32Array
    backoff_state: UInt32Array
    backoff_weight: Float64Array
    final_weight: Float64Array
    state_order: npt.NDArray[np.uint8]
    total: Int64Array

    def __repr__(self) -> str:  # the arrays are what a user wrote
        return f"Automaton(order={self.order}, states={self.states}, arcs={self.arcs})"

    @property
    def states(self) -> int:
        """Return the number of states."""
        return len(self.arc_begin) - 1

    @property
    def arcs(self) -> int:
        """Return the number of arcs, backoff arcs and final weights not counted."""
        return len(self.label)

    @property
    def ngrams(self) -> tuple[int, ...]:
        """Return the number of n-grams of each order, 1 to ``order``; ``</s>`` is a word here."""
        by_arc = np.bincount(self.state_order[self.arc_state], minlength=self.order)
        closing = self.state_order[np.isfinite(self.final_weight)]
        return tuple((by_arc + np.bincount(closing, minlength=self.order)).tolist())

    @cached_property
    def arc_state(self) -> UInt32Array:
        """Return the state that each arc leaves, uint32[arcs]."""
        return np.repeat(np.arange(self.states, dtype=np.uint32), np.diff(self.arc_begin))

    @cached_property
    def _keys(self) -> npt.NDArray[np.uint64]:
        return pair_keys(self.arc_state, self.label)

    def find(self, states: AnyIntegers, labels: AnyIntegers) -> Int64Array:
        """Return the index of the arc that leaves each state with each label, or −1; int64[n]."""
        if not self.arcs:
            return np.full(len(states), -1, np.int64)
        wanted = pair_keys(states, labels)
        at = np.minimum(np.searchsorted(self._keys, wanted), self.arcs - 1)
        return np.where(self._keys[at] == wanted, at, -1)

    def walk(self, states: AnyIntegers, labels: AnyIntegers) -> Path:
        """Look each label up at its state, then down the backoff arcs; arrays of n.

        ``weight`` is infinite and ``arc`` −1 where not even the root has the label. ``</s>`` has no
        arcs: see :meth:`closing`. Cost: one binary search per level.
        """
        here = states.astype(np.int64)
        arc = np.full(len(here), -1, np.int64)
        weight = np.zeros(len(here))
        pending = np.arange(len(here))
        while len(pending):
            found = self.find(here[pending], labels[pending])
            hit = pending[found >= 0]
            arc[hit] = found[found >= 0]
            weight[hit] += self.weight[arc[hit]]
            missed = pending[found < 0]
            weight[missed] += self.backoff_weight[here[missed]]
            pending = missed[here[missed] != ROOT]
            here[pending] = self.backoff_state[here[pending]]
        return Path(weight, arc)

    def closing(self, states: AnyIntegers) -> Float64Array:
        """Return −ln p(</s> | state) with backoff, float64[n]; infinite if never seen."""
        here = states.astype(np.int64)
        weight = np.zeros(len(here))
        pending = np.arange(len(here))
        while len(pending):
            final = self.final_weight[here[pending]]
            stop = np.isfinite(final) | (here[pending] == ROOT)
            weight[pending[stop]] += final[stop]
            pending = pending[~stop]
            weight[pending] += self.backoff_weight[here[pending]]
            here[pending] = self.backoff_state[here[pending]]
        return weight

    def validate(self, tolerance: float = 1e-6) -> None:
        """Check every invariant of this module, and that p(· | state) sums to 1 at every state.

        Raises AutomatonError with the first offending state. Works on any automaton, wherever it
        came from. One without arcs and final weight (nobody wrote anything) is valid.
        """
        self._validate_shapes()
        self._validate_topology()
        self._validate_sums(tolerance)

    def _validate_shapes(self) -> None:
        states, arcs = self.states, self.arcs
        by_state = (self.backoff_state, self.backoff_weight, self.final_weight)
        if any(len(a) != states for a in (*by_state, self.state_order, self.total)):
            raise AutomatonError("an array by state has the wrong length")
        if len(self.weight) != arcs or len(self.next_state) != arcs:
            raise AutomatonError("an array by arc has the wrong length")
        if (
            self.arc_begin[0] != 0
            or self.arc_begin[-1] != arcs
            or (np.diff(self.arc_begin) < 0).any()
        ):
            raise AutomatonError("the arc offsets do not cover the arcs in order")
        if (arcs and (self.next_state >= states).any()) or (self.backoff_state >= states).any():
            raise AutomatonError("an arc leads to a state that does not exist")
        if not 0 <= self.start < states:
            raise AutomatonError("the start state does not exist")
        if np.isnan(self.weight).any() or np.isnan(self.final_weight).any():
            raise AutomatonError("a weight is not a number")

    def _validate_topology(self) -> None:
        leaves, below = self.arc_state, self.backoff_state
        ascending = np.diff(self.label.astype(np.int64)) > 0
        self._require(
            ascending | (np.diff(leaves.astype(np.int64)) > 0), leaves[1:], "labels do not ascend"
        )
        special = (self.label == self.specials.bos) | (self.label == self.specials.eos)
        self._require(~special, leaves, "an arc is labelled <s> or </s>")
        self._require(self.label < self.specials.size, leaves, "a label is not in the vocabulary")
        everyone = np.arange(self.states)
        one_lower = (
            self.state_order[below].astype(np.int64) == self.state_order.astype(np.int64) - 1
        )
        one_lower[ROOT] = self.state_order[ROOT] == 0 and below[ROOT] == ROOT
        self._require(one_lower, everyone, "the backoff state is not one order lower")
        self._require(self.state_order < self.order, everyone, "a context is longer than order - 1")
        inner = leaves != ROOT
        at_backoff = self.find(below[leaves[inner]], self.label[inner])
        self._require(at_backoff >= 0, leaves[inner], "an arc is missing at the backoff state")
        closes = np.isfinite(self.final_weight)
        self._require(
            ~closes | closes[below], everyone, "a final weight is missing at the backoff state"
        )
        self._validate_next_states()

    def _validate_next_states(self) -> None:
        """An arc must lead to the longest context that ends the history behind it.

        From a context of k words that is either a state of k+1 words whose backoff state is where
        the same label leads from the backoff state, or, if the model keeps no such state, the
        target of the backoff state itself.
        """
        order = self.state_order.astype(np.int64)
        leaves, target = self.arc_state, self.next_state
        via = self.find(self.backoff_state[leaves], self.label)
        from_root = leaves == ROOT
        lower_target = np.where(from_root, ROOT, target[np.maximum(via, 0)])
        longer = order[target] == order[leaves] + 1
        ok = np.where(longer, self.backoff_state[target] == lower_target, (target == lower_target))
        self._require(ok, leaves, "an arc does not lead to the longest kept context")
        entered = np.zeros(self.states, np.int64)
        np.add.at(entered, target[longer], 1)
        expected = np.ones(self.states, np.int64)
        expected[[ROOT, self.start]] = 0
        self._require(entered == expected, np.arange(self.states), "a context cannot be reached")

    def _validate_sums(self, tolerance: float) -> None:
        if not self.arcs and not np.isfinite(self.final_weight).any():
            return
        leaves, below = self.arc_state, self.backoff_state
        p, p_close = np.exp(-self.weight), np.exp(-self.final_weight)
        kept = np.bincount(leaves, p, self.states) + p_close
        lower_arc = self.find(below[leaves], self.label)
        # bincount of nothing is integer, so the closing term comes first
        lower = np.where(np.isfinite(self.final_weight), p_close[below], 0.0)
        lower += np.bincount(leaves, p[np.maximum(lower_arc, 0)], self.states)
        with np.errstate(over="ignore"):
            total = kept + np.exp(-self.backoff_weight) * (1 - lower)
        total[ROOT] = kept[ROOT]
        good = np.abs(total - 1) <= tolerance
        self._require(good, np.arange(self.states), "the distribution does not sum to 1")

    def _require(self, ok: npt.NDArray[np.bool_], states: AnyIntegers, problem: str) -> None:
        if not ok.all():
            raise AutomatonError(problem, int(states[np.argmin(ok)]))


def state_ids(counts: Counts) -> list[Int64Array]:
    """Return the state of each k-gram, k = 0 … order−1; −1 for one that ends in ``</s>``."""
    ids: list[Int64Array] = [np.zeros(1, np.int64)]
    states = 1
    for level in counts.levels[:-1]:
        is_state = level.word != counts.specials.eos
        ids.append(np.where(is_state, states + np.cumsum(is_state) - 1, -1))
        states += int(np.count_nonzero(is_state))
    return ids


def build(counts: Counts, model: Smoothed | Backoff) -> Automaton:
    """Return the automaton of a model, whatever estimated it; linear in the number of n-grams."""
    eos, bos = counts.specials.eos, counts.specials.bos
    ids = state_ids(counts)
    states = 1 + sum(int(np.count_nonzero(at >= 0)) for at in ids[1:])
    backoff_state = np.zeros(states, np.uint32)
    backoff_weight = np.full(states, np.inf)
    final_weight = np.full(states, np.inf)
    state_order = np.zeros(states, np.uint8)
    total = np.zeros(states, np.int64)
    per_state = np.zeros(states, np.int64)
    label, weight, next_state = [], [], []
    for k, level in enumerate(counts.levels):  # the arcs that leave the contexts of k words
        if k:
            own = ids[k] >= 0
            at = ids[k][own]
            backoff_state[at] = ids[k - 1][counts.levels[k - 1].suffix[own]]
            backoff_weight[at] = -model.log_backoff[k][own]
            state_order[at] = k
            total[at] = counts.totals(k)[own]
        else:
            total[ROOT] = counts.totals(0)[0]
        leaves = ids[k][level.context]
        closes = level.word == eos
        final_weight[leaves[closes]] = -model.logprob[k][closes]
        arcs = ~closes & ~((level.word == bos) & (k == 0))
        label.append(level.word[arcs])
        weight.append(-model.logprob[k][arcs])
        is_context = k + 1 < counts.order
        target = ids[k + 1] if is_context else ids[k][level.suffix] if k else ids[0][level.context]
        next_state.append(target[arcs])
        per_state += np.bincount(leaves[arcs], minlength=states)
    start = ROOT
    if counts.order > 1:
        at_bos = np.flatnonzero(counts.levels[0].word == bos)
        start = int(ids[1][at_bos[0]]) if len(at_bos) else ROOT
    return Automaton(
        specials=counts.specials,
        order=counts.order,
        start=start,
        arc_begin=np.concatenate([[0], np.cumsum(per_state)]).astype(np.int64),
        label=np.concatenate(label),
        weight=np.concatenate(weight),
        next_state=np.concatenate(next_state).astype(np.uint32),
        backoff_state=backoff_state,
        backoff_weight=backoff_weight,
        final_weight=final_weight,
        state_order=state_order,
        total=total,
    )
