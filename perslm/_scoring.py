"""Engines: what answers the calls of ``perslm.model`` underneath, native or in numpy.

An :class:`Engine` is a user's counts compiled for scoring. It knows no weight λ of its own and
makes no array: it takes numpy arrays of exactly the dtypes that it names, C-contiguous, and fills
those that it is given. :func:`compile_counts` makes one. Native engines are ``_native.Model`` of
``perslm._kernel``; here is their contract, and the twin that keeps it with nothing but numpy, on
the readable ``perslm.backoff``, ``perslm.katz`` and ``perslm.automaton``.

The kernel computes these two estimators itself. The others of :data:`SMOOTHINGS` are numpy always:
a native engine takes their finished arrays, and loads at numpy's pace.

States are numbers that mean something to the engine which gave them, and to no other: the two
implementations number them differently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from perslm import _backend, absolute, automaton, backoff, katz, kneser_ney, weights, witten_bell
from perslm.automaton import ROOT, Automaton
from perslm.backoff import FEATURES, Backoff, Gates
from perslm.counts import Counts, Int64Array, Specials, UInt32Array
from perslm.errors import ArgumentError
from perslm.interpolate import Float32Array, mix_with_numpy
from perslm.smoothing import Smoothed
from perslm.weights import COUNTS, MASSES, UNIT, UInt8Array

if TYPE_CHECKING:
    from perslm._kernel import _native

TokenIds: TypeAlias = npt.NDArray[np.integer[Any]]
"""Token ids in one of :data:`TOKEN_DTYPES`; those beyond 32 bits count as unknown."""

TOKEN_DTYPES: Final = tuple(map(np.dtype, (np.int64, np.int32, np.uint32)))

_Number = TypeVar("_Number", bound=np.generic)

OUTSIDE: Final = (1 << 32) - 1
"""Stands for every id that no model knows."""

SMOOTHINGS: Final[Mapping[str, Callable[[Counts], Smoothed]]] = {
    "katz": katz.estimate,
    "witten_bell": witten_bell.estimate,
    "absolute": absolute.estimate,
    "kneser_ney": kneser_ney.estimate,
}
"""Estimators of a user's words as if there was nobody else, by name."""


@dataclass(frozen=True, slots=True, eq=False)
class Smoothing:
    """One of :data:`SMOOTHINGS`, and the table of λ (``perslm.weights``); without one λ is 1."""

    name: str
    weights: UInt8Array | None = None


Recipe: TypeAlias = Gates | Smoothing
"""How counts become a model: with gates, it backs off into a global LM."""


class Engine(Protocol):
    """A compiled model. Stateless: any number of threads may ask at once.

    ``states`` are uint32[n] of this engine's own; all calls raise ArgumentError for others, and for
    negative token ids. Log-probabilities are natural. That of ``<s>`` and of an id the user never
    wrote is −inf; ``<s>`` and ``</s>`` lead to ``start``, unknown ids to the root, state 0.
    """

    @property
    def order(self) -> int:
        """Return the order N: contexts have at most N−1 words."""

    @property
    def start(self) -> int:
        """Return the state of a history ``<s>``."""

    @property
    def tokens(self) -> int:
        """Return the number of events counted, ``</s>`` included."""

    @property
    def vocabulary_size(self) -> int:
        """Return how many ids the vocabulary has."""

    @property
    def ngrams(self) -> tuple[int, ...]:
        """Return the number of n-grams of each order."""

    @property
    def fell_back(self) -> tuple[int, ...]:
        """Return the orders with too few counts for the discounts of ``perslm.smoothing``."""

    @property
    def nbytes(self) -> int:
        """Return the memory that the engine takes, in bytes."""

    @property
    def event_count(self) -> int:
        """Return how many different ids the user ever wrote, ``</s>`` included."""

    def events(self, out: UInt32Array) -> None:
        """Fill uint32[event_count] with those ids, ascending."""

    def check(self, states: UInt32Array) -> None:
        """Raise ArgumentError if one of the states is not of this engine."""

    def context_length(self, state: int) -> int:
        """Return how many words of history the state stands for."""

    def states(self, ids: TokenIds, begins: Int64Array, out: UInt32Array) -> None:
        """Fill uint32[n] with the states after the histories ``ids[begins[i] : begins[i + 1]]``."""

    def weights(self, states: UInt32Array, out: Float32Array) -> None:
        """Fill float32[n] with λ as the recipe has it; 1 for a smoothing without a table."""

    def step(self, state: int, token: int) -> tuple[float, int]:
        """Return ln p(token | state) and the state behind it; TypeError if one is no integer."""

    def score(
        self, states: UInt32Array, candidates: TokenIds, logprobs: Float32Array, next: UInt32Array
    ) -> None:
        """Fill float32[n, k] with ln p(candidate | state), uint32[n, k] with the states behind.

        ``candidates`` are token ids [n, k], k for each state.
        """

    def event_logprobs(self, states: UInt32Array, out: Float32Array) -> None:
        """Fill float32[n, event_count] with ln p of each event."""

    def distribution(self, states: UInt32Array, out: Float32Array) -> None:
        """Fill float32[n, vocabulary_size] with ln p of each id."""

    def continuations(self, states: UInt32Array, ids: UInt32Array, logprobs: Float32Array) -> None:
        """Fill uint32[n, k] and float32[n, k], k ≤ event_count, with the likeliest ids, best first.

        Equal log-probabilities are ordered by id.
        """

    def mix(
        self,
        states: UInt32Array,
        weights: Float32Array,
        global_logprobs: Float32Array,
        out: Float32Array,
    ) -> None:
        """Fill float32[n, width] with ln(λ·p_personal + (1−λ)·p_global), λ given by state.

        ``out`` is ``global_logprobs`` itself or does not overlap it. The result is to the bit what
        ``perslm.interpolate.mix_columns`` makes of :meth:`event_logprobs`.
        """


def estimate(counts: Counts, recipe: Recipe) -> Smoothed | Backoff:
    """Return what ``recipe`` makes of ``counts``, in numpy."""
    if isinstance(recipe, Smoothing):
        return SMOOTHINGS[recipe.name](counts)
    return backoff.estimate(counts, recipe)


def compile_counts(counts: Counts | _native.Counts, recipe: Recipe) -> Engine:
    """Return an engine for ``counts``.

    Raises ArgumentError if the counts break a rule of counts, or the recipe is for another order.
    """
    _check(recipe, counts.order)
    native = _backend.native
    if native is None:
        assert isinstance(counts, Counts)
        return NumpyEngine(counts, recipe)
    engine: Engine
    if isinstance(recipe, Smoothing) and recipe.name != "katz":
        if not isinstance(counts, Counts):
            counts = Counts.from_native(counts, Specials(*counts.specials))
        engine = _from_arrays(counts, SMOOTHINGS[recipe.name](counts), recipe.weights)
        return engine
    own = counts.to_native() if isinstance(counts, Counts) else counts
    if not isinstance(recipe, Smoothing):
        engine = native.Model(own, recipe.table, recipe.size)
    elif recipe.weights is None:
        engine = native.Model(own)
    else:
        engine = native.Model.weighted(own, recipe.weights)
    return engine


def _check(recipe: Recipe, order: int) -> None:
    if isinstance(recipe, Gates):
        if recipe.table.shape != (order, FEATURES + 1):
            raise ArgumentError("gates need a row for each order: these are of another model")
    elif recipe.weights is not None and recipe.weights.shape != (order, COUNTS, MASSES):
        raise ArgumentError("a table of weights needs a page for each order")


def _from_arrays(counts: Counts, model: Smoothed, table: UInt8Array | None) -> _native.Model:
    """Return a native engine for a model that numpy estimated."""
    assert _backend.native is not None
    logprob = np.concatenate(model.logprob).astype(np.float32)
    values, value = np.unique(logprob, return_inverse=True)
    log_backoff = np.concatenate([np.zeros(0), *model.log_backoff[1:]]).astype(np.float32)
    by_state = () if table is None else weights.by_context(counts, model, table)
    made: _native.Model = _backend.native.Model.smoothed(
        counts.to_native(),
        values,
        value.astype(np.uint32),
        log_backoff,
        np.concatenate([np.zeros(0, np.uint8), *by_state]),
        model.fell_back,
    )
    return made


class NumpyEngine:
    """The twin of the native engine: the automaton, walked by numpy."""

    def __init__(self, counts: Counts, recipe: Recipe) -> None:
        estimated = estimate(counts, recipe)
        self.fell_back: tuple[int, ...] = ()
        self._weight: npt.NDArray[np.floating] | None = None
        if isinstance(estimated, Backoff):
            self._weight = _by_state(counts, estimated.weight)
        else:
            assert isinstance(recipe, Smoothing)
            self.fell_back = estimated.fell_back
            if recipe.weights is not None:
                table = weights.by_context(counts, estimated, recipe.weights)
                self._weight = _by_state(counts, table) / np.float32(UNIT)
        self._model = automaton.build(counts, estimated)
        self._events, self._event_of_arc, self._eos_event = _events(self._model)
        self.order = counts.order
        self.start = self._model.start
        self.tokens = int(self._model.total[ROOT])
        self.vocabulary_size = counts.specials.size
        self.ngrams = counts.ngrams
        self.event_count = len(self._events)

    @property
    def nbytes(self) -> int:
        """As :class:`Engine`; what lookups cache in the automaton is counted from the start."""
        model = self._model
        arrays = [v for v in [*vars(model).values(), self._weight] if isinstance(v, np.ndarray)]
        cached = model.arcs * (4 + 8) if "_keys" not in vars(model) else 0
        return cached + sum(a.nbytes for a in [*arrays, self._events, self._event_of_arc])

    def events(self, out: UInt32Array) -> None:
        """As :class:`Engine`."""
        out[:] = self._events

    def check(self, states: UInt32Array) -> None:
        """As :class:`Engine`."""
        if len(states) and states.max() >= self._model.states:
            raise ArgumentError("a state is not one of this model: states do not carry over")

    def context_length(self, state: int) -> int:
        """As :class:`Engine`."""
        self.check(np.array([state], np.uint32))
        return int(self._model.state_order[state])

    def weights(self, states: UInt32Array, out: Float32Array) -> None:
        """As :class:`Engine`."""
        self.check(states)
        out[:] = 1 if self._weight is None else self._weight[states]

    def states(self, ids: TokenIds, begins: Int64Array, out: UInt32Array) -> None:
        """As :class:`Engine`."""
        depth = self.order - 1
        state = np.full(len(out), ROOT, np.int64)
        padded = np.full((len(out), depth), -1, np.int64)
        for i, row in enumerate(np.split(ids, begins[1:-1]) if len(out) else []):
            recent = row[max(0, len(row) - depth) :]
            padded[i, depth - len(recent) :] = _known(recent)
        for column in padded.T:
            live = column >= 0
            arcs = self._model.walk(state[live], column[live]).arc
            state[live] = self._behind(arcs, column[live])
        out[:] = state

    def step(self, state: int, token: int) -> tuple[float, int]:
        """As :class:`Engine`."""
        logprob, behind = np.empty((1, 1), np.float32), np.empty((1, 1), np.uint32)
        try:
            states, ids = np.array([index(state)], np.uint32), np.array([[index(token)]], np.int64)
        except OverflowError as error:
            raise TypeError("a state has 32 bits, a token id 64") from error
        self.score(states, ids, logprob, behind)
        return float(logprob[0, 0]), int(behind[0, 0])

    def score(
        self, states: UInt32Array, candidates: TokenIds, logprobs: Float32Array, next: UInt32Array
    ) -> None:
        """As :class:`Engine`."""
        self.check(states)
        flat_states = np.repeat(states, candidates.shape[1])
        flat = _known(candidates.ravel())
        path = self._model.walk(flat_states, flat)
        logp = -path.weight
        closes = flat == self._model.specials.eos
        if closes.any():
            logp[closes] = -self._model.closing(flat_states[closes])
        logprobs[:] = logp.reshape(candidates.shape)
        next[:] = self._behind(path.arc, flat).reshape(candidates.shape)

    def event_logprobs(self, states: UInt32Array, out: Float32Array) -> None:
        """As :class:`Engine`."""
        self.check(states)
        model = self._model
        row = np.empty(self.event_count)
        for i, state in enumerate(states.tolist()):
            chain = [state]
            while chain[-1] != ROOT:
                chain.append(int(model.backoff_state[chain[-1]]))
            row[:] = -np.inf
            for s in reversed(chain):
                if s != ROOT:
                    row -= model.backoff_weight[s]
                arcs = slice(model.arc_begin[s], model.arc_begin[s + 1])
                row[self._event_of_arc[arcs]] = -model.weight[arcs]
                if np.isfinite(model.final_weight[s]):
                    row[self._eos_event] = -model.final_weight[s]
            out[i] = row

    def distribution(self, states: UInt32Array, out: Float32Array) -> None:
        """As :class:`Engine`."""
        known = self._known_logprobs(states)
        out[:] = -np.inf
        out[:, self._events] = known

    def continuations(self, states: UInt32Array, ids: UInt32Array, logprobs: Float32Array) -> None:
        """As :class:`Engine`."""
        known = self._known_logprobs(states)
        best = np.argsort(-known, axis=1, kind="stable")[:, : ids.shape[1]]
        ids[:] = self._events[best]
        logprobs[:] = np.take_along_axis(known, best, axis=1)

    def mix(
        self,
        states: UInt32Array,
        weights: Float32Array,
        global_logprobs: Float32Array,
        out: Float32Array,
    ) -> None:
        """As :class:`Engine`."""
        known = self._known_logprobs(states)
        mix_with_numpy(global_logprobs, weights, self._events, known, out)

    def _known_logprobs(self, states: UInt32Array) -> Float32Array:
        known = np.empty((len(states), self.event_count), np.float32)
        self.event_logprobs(states, known)
        return known

    def _behind(self, arc: Int64Array, label: Int64Array) -> Int64Array:
        """Return the state behind each arc; −1 stands for a word without one."""
        model = self._model
        target = np.full(len(arc), ROOT, np.int64)
        target[arc >= 0] = model.next_state[arc[arc >= 0]]
        restart = (label == model.specials.bos) | (label == model.specials.eos)
        target[restart] = model.start
        return target


def _known(ids: TokenIds) -> Int64Array:
    wide = ids.astype(np.int64)
    if wide.size and wide.min() < 0:
        raise ArgumentError("a token id is negative")
    return np.minimum(wide, OUTSIDE)


def _by_state(counts: Counts, values: tuple[npt.NDArray[_Number], ...]) -> npt.NDArray[_Number]:
    """Return the values of contexts, given by level, in the order of the automaton's states."""
    return np.concatenate(
        [value[ids >= 0] for value, ids in zip(values, automaton.state_ids(counts), strict=True)]
    )


def _events(model: Automaton) -> tuple[Int64Array, Int64Array, int]:
    """Return the ids of all events, ascending; for each arc, and for ``</s>``, which one it is."""
    words = model.label[model.arc_begin[ROOT] : model.arc_begin[ROOT + 1]].astype(np.int64)
    if np.isfinite(model.final_weight[ROOT]):
        words = np.sort(np.append(words, model.specials.eos))
    eos_event = int(np.searchsorted(words, model.specials.eos))
    return words, np.searchsorted(words, model.label), eos_event
