"""What a beam search holds: a user's model, ready to score.

:class:`PersonalModel` answers for batches of *states*, plain integers that a beam copies and
reorders freely. :class:`NullModel` has the same interface, gives every state the weight 0, and
changes nothing; it stands in wherever a model cannot be had and says why in ``reason``::

    states = model.states([[12, 7], [12, 9]])       # uint32[2], from token-id histories
    lam = model.weights(states)                     # float32[2]
    logp, nxt = model.score(states, [[5, 8]] * 2)   # float32[2, 2], uint32[2, 2]
    mixed = model.mix(states, global_logprobs)      # float32[2, width]

``<s>`` and ``</s>``: a history restarts at the last of either that it holds. ``</s>`` can be
scored like a word, and leads to the start state; ``<s>`` is never predicted (−inf). Words the user
never wrote, and ids beyond the vocabulary, have personal log-probability −inf and lead to the root.

The weights come from ``perslm.interpolate``, models from bytes by ``perslm.blob``, and bytes from
users by ``perslm.store``.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from perslm import automaton, blob, katz
from perslm.automaton import ROOT, Automaton
from perslm.counts import AnyIntegers, Int64Array, UInt32Array
from perslm.errors import ArgumentError
from perslm.interpolate import DEFAULT_WEIGHT, Float32Array, check_weight, mix_columns

Histories: TypeAlias = Sequence[Sequence[int]] | AnyIntegers
Candidates: TypeAlias = Sequence[Sequence[int]] | AnyIntegers
States: TypeAlias = npt.ArrayLike

_OUTSIDE = (1 << 32) - 1  # stands for every id that no model knows


class Scorer(Protocol):
    """What a beam search may rely on, whether the model is here, remote, or missing."""

    @property
    def reason(self) -> str:
        """Return "ok", or why every weight is 0."""

    def states(self, histories: Histories) -> UInt32Array:
        """Return the states of token-id histories."""

    def weights(self, states: States) -> Float32Array:
        """Return λ of each state."""

    def score(self, states: States, candidates: Candidates) -> tuple[Float32Array, UInt32Array]:
        """Return log-probabilities of candidate words and the states they lead to."""

    def mix(self, states: States, global_logprobs: Float32Array) -> Float32Array:
        """Return the global LM's log-probabilities with the personal ones mixed in."""


class PersonalModel:
    """A user's Katz model as automaton, with its interpolation weight.

    Make one with :meth:`from_blob`, or get it from ``perslm.Store.load``. All methods are pure and
    may be called from many threads.
    """

    reason = "ok"

    def __init__(
        self,
        automaton: Automaton,
        metadata: blob.Metadata,
        *,
        generation: int = 0,
        weight: float = DEFAULT_WEIGHT,
        fell_back: tuple[int, ...] = (),
    ) -> None:
        self.automaton = automaton
        self.metadata = metadata
        self.generation = generation
        self.fell_back = fell_back
        # a model of nothing has no distribution to mix in
        self.weight = check_weight(weight) if automaton.total[ROOT] else 0.0
        self._events, self._event_of_arc, self._eos_event = _events(automaton)

    @classmethod
    def from_blob(
        cls, data: bytes, *, generation: int = 0, weight: float = DEFAULT_WEIGHT
    ) -> PersonalModel:
        """Decode and compile a blob. Raises BlobError, or ArgumentError for a bad ``weight``."""
        decoded = blob.decode(data)
        estimated = katz.estimate(decoded.counts)
        return cls(
            automaton.build(decoded.counts, estimated),
            decoded.metadata,
            generation=generation,
            weight=weight,
            fell_back=estimated.fell_back,
        )

    @property
    def order(self) -> int:
        """Return the order N: contexts have at most N−1 words."""
        return self.automaton.order

    @property
    def vocabulary_fingerprint(self) -> str:
        """Return the fingerprint of the vocabulary whose ids this model speaks."""
        return self.metadata.fingerprint

    @property
    def vocabulary_size(self) -> int:
        """Return how many ids the vocabulary has: the columns of a distribution."""
        return self.automaton.specials.size

    def states(self, histories: Histories) -> UInt32Array:
        """Return the state of each history, uint32[n].

        ``histories`` holds token ids, oldest first; any length works, and the last order−1 decide.
        An empty history is the middle of nowhere (the root): begin with ``<s>`` to open a sequence.
        Raises ArgumentError if an id is negative or no integer.
        """
        rows = [self._recent(history) for history in histories]
        width = max((len(row) for row in rows), default=0)
        state = np.full(len(rows), ROOT, np.int64)
        padded = np.full((len(rows), width), -1, np.int64)
        for i, row in enumerate(rows):
            padded[i, width - len(row) :] = row
        for column in padded.T:
            live = column >= 0
            state[live] = self._next(state[live], column[live])
        return state.astype(np.uint32)

    def weights(self, states: States) -> Float32Array:
        """Return λ of each state, float32[n]."""
        return np.full(len(self._checked(states)), self.weight, np.float32)

    def score(self, states: States, candidates: Candidates) -> tuple[Float32Array, UInt32Array]:
        """Return ln p(candidate | state), float32[n, k], and the states behind, uint32[n, k].

        ``candidates`` is int[n, k]: k token ids for each of the n states. −inf marks a word the
        user never wrote. Raises ArgumentError on other shapes, negative ids or unknown states.
        """
        state = self._checked(states)
        ids = as_matrix(candidates, len(state))
        flat_states = np.repeat(state, ids.shape[1])
        flat = np.minimum(ids.ravel(), _OUTSIDE)
        path = self.automaton.walk(flat_states, flat)
        logp = -path.weight
        closes = flat == self.automaton.specials.eos
        if closes.any():
            logp[closes] = -self.automaton.closing(flat_states[closes])
        nxt = self._behind(path.arc, flat)
        return logp.astype(np.float32).reshape(ids.shape), nxt.astype(np.uint32).reshape(ids.shape)

    @property
    def events(self) -> UInt32Array:
        """Return the ids that the user ever wrote, and ``</s>`` if a sequence closed; ascending."""
        return self._events.astype(np.uint32)

    def event_logprobs(self, states: States) -> Float32Array:
        """Return ln p(event | state), float32[n, len(events)]: a distribution without its zeros."""
        return self._event_logprobs(self._checked(states))

    def distribution(self, states: States) -> Float32Array:
        """Return ln p(w | state) for every id w, float32[n, vocabulary_size].

        Each row's probabilities sum to 1, unless the user wrote nothing: then all are −inf.
        """
        state = self._checked(states)
        dense = np.full((len(state), self.vocabulary_size), -np.inf, np.float32)
        dense[:, self._events] = self._event_logprobs(state)
        return dense

    def continuations(self, states: States, k: int = 8) -> tuple[UInt32Array, Float32Array]:
        """Return the k likeliest next ids of each state and their ln p, best first.

        uint32[n, m] and float32[n, m], where m is k or, if smaller, the number of distinct words
        (and ``</s>``) that the user ever wrote. Equal log-probabilities are ordered by id.
        """
        if k < 1:
            raise ArgumentError(f"k must be at least 1, not {k}")
        logp = self._event_logprobs(self._checked(states))
        best = np.argsort(-logp, axis=1, kind="stable")[:, :k]
        return self._events[best].astype(np.uint32), np.take_along_axis(logp, best, axis=1)

    def mix(self, states: States, global_logprobs: Float32Array) -> Float32Array:
        """Return ln(λ·p_personal + (1−λ)·p_global), float32[n, width], natural log.

        ``global_logprobs`` is float32[n, width], natural log, width ≥ ``vocabulary_size`` (columns
        beyond it are padding of the global LM). Rows of weight 0 come back bit for bit; if every
        weight is 0, the array itself is returned. Each row sums to 1 if the given one does. Forbid
        words after mixing: one that the global LM gives −inf can come back from the user's model.
        """
        state = self._checked(states)
        weights = self.weights(state)
        if not weights.any():
            return global_logprobs
        rows = np.asarray(global_logprobs, np.float32)
        if rows.ndim != 2 or len(rows) != len(state) or rows.shape[1] < self.vocabulary_size:
            raise ArgumentError(
                f"global log-probabilities need the shape ({len(state)}, {self.vocabulary_size} or "
                f"more), not {rows.shape}: is this the vocabulary the model was built with?"
            )
        return mix_columns(rows, weights, self._events, self._event_logprobs(state))

    def __repr__(self) -> str:
        return (
            f"PersonalModel(order={self.order}, states={self.automaton.states}, "
            f"arcs={self.automaton.arcs}, generation={self.generation})"
        )

    def _recent(self, history: Sequence[int] | AnyIntegers) -> list[int]:
        return [min(i, _OUTSIDE) for i in last_ids(history, self.order - 1)]

    def _next(self, state: Int64Array, label: Int64Array) -> Int64Array:
        return self._behind(self.automaton.walk(state, label).arc, label)

    def _behind(self, arc: Int64Array, label: Int64Array) -> Int64Array:
        """Return the state behind each arc; −1 stands for a word without one."""
        model = self.automaton
        target = np.full(len(arc), ROOT, np.int64)
        target[arc >= 0] = model.next_state[arc[arc >= 0]]
        restart = (label == model.specials.bos) | (label == model.specials.eos)
        target[restart] = model.start
        return target

    def _checked(self, states: States) -> Int64Array:
        array = np.asarray(states)
        if array.size == 0:
            array = array.astype(np.int64)
        if array.ndim != 1 or array.dtype.kind not in "ui":
            raise ArgumentError("states must be a one-dimensional array of integers")
        checked = array.astype(np.int64)
        if len(checked) and not 0 <= checked.min() <= checked.max() < self.automaton.states:
            raise ArgumentError("a state is not one of this model: states do not carry over")
        return checked

    def _event_logprobs(self, states: Int64Array) -> Float32Array:
        """Return ln p(event | state) over ``self._events``, float32[n, events]."""
        model = self.automaton
        out = np.empty((len(states), len(self._events)), np.float64)
        for row, state in zip(out, states.tolist(), strict=True):
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
        return out.astype(np.float32)


class NullModel:
    """The model of nobody: every weight is 0, and mixing returns what it was given.

    ``reason`` says why there is no model: ``unknown_user``, ``store_unavailable``, ``bad_blob``,
    ``vocabulary_mismatch``, or ``degraded`` (a remote scorer that did not answer in time).
    """

    generation = 0
    order = 1
    weight = 0.0
    vocabulary_fingerprint = ""
    vocabulary_size = 0

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def states(self, histories: Histories) -> UInt32Array:
        """Return state 0 for each history."""
        return np.zeros(len(histories), np.uint32)

    def weights(self, states: States) -> Float32Array:
        """Return 0 for each state, float32[n]."""
        return np.zeros(np.shape(states), np.float32)

    def score(self, states: States, candidates: Candidates) -> tuple[Float32Array, UInt32Array]:
        """Return −inf and state 0 for each candidate, float32[n, k] and uint32[n, k]."""
        shape = as_matrix(candidates, len(np.asarray(states))).shape
        return np.full(shape, -np.inf, np.float32), np.zeros(shape, np.uint32)

    def distribution(self, states: States) -> Float32Array:
        """Return a row of no columns for each state, float32[n, 0]: there is no vocabulary."""
        return np.zeros((len(np.asarray(states)), 0), np.float32)

    def continuations(self, states: States, k: int = 8) -> tuple[UInt32Array, Float32Array]:
        """Return no continuation: uint32[n, 0] and float32[n, 0]."""
        n = len(np.asarray(states))
        return np.zeros((n, 0), np.uint32), np.zeros((n, 0), np.float32)

    def mix(self, states: States, global_logprobs: Float32Array) -> Float32Array:
        """Return ``global_logprobs`` itself."""
        return global_logprobs

    def __repr__(self) -> str:
        return f"NullModel({self.reason!r})"


def last_ids(history: Sequence[int] | AnyIntegers, depth: int) -> list[int]:
    """Return the last ``depth`` ids of a history, which alone can matter.

    Raises ArgumentError, without what was given, if one is negative or no integer.
    """
    try:
        recent = [index(i) for i in history[len(history) - min(depth, len(history)) :]]
    except TypeError:  # not chained: what was given may be somebody's text
        raise ArgumentError("a history is a sequence of token ids, which are integers") from None
    if any(i < 0 for i in recent):
        raise ArgumentError("a history holds a negative token id")
    return recent


def as_matrix(candidates: Candidates, n: int) -> npt.NDArray[Any]:
    """Return ``candidates`` as int64[n, k]; raises ArgumentError if they are not that."""
    try:
        ids = np.asarray(candidates)
    except ValueError as error:  # rows of different lengths
        raise ArgumentError("candidates need as many ids for every state") from error
    if ids.size == 0:
        ids = ids.reshape(n, -1).astype(np.int64) if n else np.zeros((0, 0), np.int64)
    if ids.ndim != 2 or len(ids) != n or ids.dtype.kind not in "ui":
        raise ArgumentError(f"candidates need the shape ({n}, k) of integers, one row per state")
    ids = ids.astype(np.int64)
    if ids.size and ids.min() < 0:
        raise ArgumentError("a candidate is a negative token id")
    return ids


def _events(model: Automaton) -> tuple[Int64Array, Int64Array, int]:
    """Return the ids of all events, ascending; for each arc, and for ``</s>``, which one it is."""
    words = model.label[model.arc_begin[ROOT] : model.arc_begin[ROOT + 1]].astype(np.int64)
    if np.isfinite(model.final_weight[ROOT]):
        words = np.sort(np.append(words, model.specials.eos))
    eos_event = int(np.searchsorted(words, model.specials.eos))
    return words, np.searchsorted(words, model.label), eos_event
