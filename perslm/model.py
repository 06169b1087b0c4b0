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

The weights and the personal probabilities come from an *estimator*, chosen when a model is loaded:
``"backoff"`` (``perslm.backoff``, which ends in the global LM), or one that smooths the user's own
words alone, with λ by state from a table (``perslm.weights``): ``"katz"``, ``"witten_bell"``,
``"absolute"`` or ``"kneser_ney"`` (``perslm.katz`` and so on). ``perslm.interpolate`` has the
mixture; models come from bytes by ``perslm.blob``, and bytes from users by ``perslm.store``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt

from perslm import _scoring, automaton, backoff, blob, weights
from perslm._arguments import as_candidates, as_floats, as_matrix, as_states, last_ids
from perslm._scoring import OUTSIDE, Engine, Recipe, Smoothing, compile_counts
from perslm.automaton import Automaton
from perslm.counts import AnyIntegers, Counts, UInt32Array
from perslm.errors import ArgumentError, BlobError, VocabularyMismatchError
from perslm.interpolate import Float32Array, check_out, check_weight, uncertainty

if TYPE_CHECKING:
    from perslm.vocabulary import Vocabulary
    from perslm.wire import Query

Histories: TypeAlias = Sequence[Sequence[int]] | AnyIntegers
Candidates: TypeAlias = Sequence[Sequence[int]] | AnyIntegers
States: TypeAlias = npt.ArrayLike

_UINT32, _FLOAT32 = np.dtype(np.uint32), np.dtype(np.float32)


class Scorer(Protocol):
    """What a beam search may rely on, whether the model is here, remote, or missing."""

    @property
    def reason(self) -> str:
        """Return "ok", or why every weight is 0."""

    def states(self, histories: Histories) -> UInt32Array:
        """Return the states of token-id histories."""

    def weights(
        self,
        states: States,
        positions: npt.ArrayLike | None = None,
        uncertainty: npt.ArrayLike | None = None,
    ) -> Float32Array:
        """Return λ of each state, at positions and uncertainties if they are given."""

    def score(self, states: States, candidates: Candidates) -> tuple[Float32Array, UInt32Array]:
        """Return log-probabilities of candidate words and the states they lead to."""

    def mix(
        self,
        states: States,
        global_logprobs: Float32Array,
        out: Float32Array | None = None,
        *,
        positions: npt.ArrayLike | None = None,
    ) -> Float32Array:
        """Return the global LM's log-probabilities with the personal ones mixed in."""


Estimator: TypeAlias = Literal["backoff", "katz", "witten_bell", "absolute", "kneser_ney"]

DEFAULT_ESTIMATOR: Estimator = "backoff"
"""It cuts a neural LM's perplexity by far more than Katz (docs/results), in the same memory."""


class PersonalModel:
    """A user's model, compiled for scoring, with its interpolation weights.

    Make one with :meth:`from_blob` or :meth:`from_counts`, or get it from ``perslm.Store.load``.
    All methods are pure and may be called from many threads. Arrays that are already of the dtypes
    named here are taken as they are, C-contiguous ones without a copy; others are converted.
    """

    reason = "ok"

    def __init__(
        self,
        engine: Engine,
        metadata: blob.Metadata,
        source: Counts | bytes,
        *,
        generation: int = 0,
        weight: float | None = None,
        estimator: Estimator = DEFAULT_ESTIMATOR,
        gates: backoff.Gates | None = None,
    ) -> None:
        """Wrap an engine; ``source`` is what it was compiled from, counts or their blob."""
        self._engine = engine
        self._source = source
        self.metadata = metadata
        self.generation = generation
        self.estimator = estimator
        self._given_weight, self._given_gates = weight, gates
        # a model of nothing has no distribution to mix in
        self.weight = (None if weight is None else check_weight(weight)) if engine.tokens else 0.0
        """λ of every state; None if it is the estimator's, which depends on the state."""

    @classmethod
    def from_blob(
        cls,
        data: bytes | bytearray | memoryview,
        *,
        generation: int = 0,
        weight: float | None = None,
        estimator: Estimator = DEFAULT_ESTIMATOR,
    ) -> PersonalModel:
        """Decode and compile a blob. ``weight``, if given, is λ of every state.

        Raises BlobError, or ArgumentError for a bad ``weight`` or an unknown ``estimator``.
        """
        data = bytes(data)  # no copy of what is bytes already
        loaded = blob.load(data)
        recipe = _recipe(estimator, loaded.order, weight)
        try:
            engine = compile_counts(loaded.counts, recipe)
        except (ValueError, MemoryError) as error:  # larger than an automaton, or than memory
            raise BlobError("the model cannot be compiled: it is too large") from error
        return cls(
            engine,
            loaded.metadata,
            data,
            generation=generation,
            weight=weight,
            estimator=estimator,
        )

    @classmethod
    def from_counts(
        cls,
        counts: Counts,
        metadata: blob.Metadata,
        *,
        generation: int = 0,
        weight: float | None = None,
        estimator: Estimator = DEFAULT_ESTIMATOR,
        gates: backoff.Gates | None = None,
    ) -> PersonalModel:
        """Compile counts. ``weight``, if given, is λ of every state.

        ``gates``, if given, take the place of those that come with perslm. Raises ArgumentError if
        the counts cannot be compiled, for a bad ``weight`` or an unknown ``estimator``.
        """
        return cls(
            compile_counts(counts, gates or _recipe(estimator, counts.order, weight)),
            metadata,
            counts,
            generation=generation,
            weight=weight,
            estimator=estimator,
            gates=gates,
        )

    @property
    def order(self) -> int:
        """Return the order N: contexts have at most N−1 words."""
        return self._engine.order

    @property
    def ngrams(self) -> tuple[int, ...]:
        """Return the number of n-grams of each order, 1 to ``order``; ``</s>`` is a word here."""
        return self._engine.ngrams

    @property
    def tokens(self) -> int:
        """Return the number of words and ``</s>`` that were counted."""
        return self._engine.tokens

    @property
    def fell_back(self) -> tuple[int, ...]:
        """Return the orders with too few counts for the estimator's discounts."""
        return self._engine.fell_back

    @property
    def vocabulary_fingerprint(self) -> str:
        """Return the fingerprint of the vocabulary whose ids this model speaks."""
        return self.metadata.fingerprint

    @property
    def vocabulary_size(self) -> int:
        """Return how many ids the vocabulary has: the columns of a distribution."""
        return self._engine.vocabulary_size

    @property
    def nbytes(self) -> int:
        """Return the memory that the model takes, in bytes: compiled, and what it came from.

        The arrays are counted exactly; ``automaton``, once asked for, is not.
        """
        if isinstance(self._source, bytes):
            return self._engine.nbytes + len(self._source)
        counts = self._source
        arrays = [a for v in counts.levels for a in (v.context, v.word, v.suffix, v.count)]
        if counts.cut is not None and counts.whole is not None:
            arrays += [*counts.cut, counts.whole]
        return self._engine.nbytes + sum(a.nbytes for a in arrays)

    @cached_property
    def automaton(self) -> Automaton:
        """The model as a weighted automaton, for export and inspection; made when asked for.

        Its states are numbered in their own way: those of :meth:`states` mean nothing to it.
        """
        source = self._source
        counts = blob.decode(source).counts if isinstance(source, bytes) else source
        recipe = self._given_gates or _recipe(self.estimator, counts.order, None)
        return automaton.build(counts, _scoring.estimate(counts, recipe))

    def states(self, histories: Histories) -> UInt32Array:
        """Return the state of each history, uint32[n].

        ``histories`` holds token ids, oldest first; any length works, and the last order−1 decide.
        An empty history is the middle of nowhere (the root): begin with ``<s>`` to open a sequence.
        Raises ArgumentError if an id is negative or no integer.
        """
        depth = self.order - 1
        if (
            isinstance(histories, np.ndarray)
            and histories.ndim == 2
            and histories.dtype.kind in "ui"
        ):
            histories = histories[:, max(0, histories.shape[1] - depth) :].tolist()
        recent = [last_ids(history, depth) for history in histories]
        begins = np.array([*accumulate(map(len, recent), initial=0)], np.int64)
        flat = [*chain.from_iterable(recent)]
        if flat and max(flat) > OUTSIDE:
            flat = [min(i, OUTSIDE) for i in flat]
        ids = np.array(flat, np.int64)
        states = np.empty(len(recent), np.uint32)
        self._engine.states(ids, begins, states)
        return states

    def weights(
        self,
        states: States,
        positions: npt.ArrayLike | None = None,
        uncertainty: npt.ArrayLike | None = None,
    ) -> Float32Array:
        """Return λ of each state, float32[n].

        ``positions``, int[n], are how many tokens the text had before each: a global LM knows less
        of a text the younger it is, so λ is larger there. ``uncertainty``, float32[n, 2], is what
        ``perslm.interpolate.uncertainty`` says of the global LM's rows: λ is larger where it does
        not know. Without either λ is right on average. They change nothing where λ is one for all
        states. Raises ArgumentError for unknown states.
        """
        state = as_states(states)
        weights = np.empty(len(state), _FLOAT32)
        if self.weight is None:
            self._engine.weights(state, weights)
            weights = self._moved(weights, positions, uncertainty)
        else:
            self._engine.check(state)
            weights.fill(self.weight)
        return weights

    def _moved(
        self,
        weights: Float32Array,
        positions: npt.ArrayLike | None,
        uncertainty: npt.ArrayLike | None,
    ) -> Float32Array:
        """Return λ of states moved by what is known of the places."""
        if positions is None and uncertainty is None:
            return weights
        return backoff.shift(weights, self._gates, positions, uncertainty)

    @property
    def _gates(self) -> backoff.Gates:
        """Return the gates whose numbers move λ."""
        return self._given_gates or backoff.population(self.order)

    def context_length(self, state: int) -> int:
        """Return how many words of the history the state stands for, 0 to order−1.

        Raises ArgumentError for an unknown state.
        """
        return self._engine.context_length(int(as_states([state])[0]))

    def step(self, state: int, word: int) -> tuple[float, int]:
        """Return ln p(word | state) and the state behind: :meth:`score` for one word, in less time.

        Raises ArgumentError for an unknown state or a negative id.
        """
        try:
            return self._engine.step(state, word)
        except TypeError:  # the engine takes ids of 64 bits
            if isinstance(word, int) and word > OUTSIDE:
                return self.step(state, OUTSIDE)
            raise ArgumentError("a state and a token id are integers, none negative") from None

    def score(self, states: States, candidates: Candidates) -> tuple[Float32Array, UInt32Array]:
        """Return ln p(candidate | state), float32[n, k], and the states behind, uint32[n, k].

        ``candidates`` is int[n, k]: k token ids for each of the n states. −inf marks a word the
        user never wrote. Raises ArgumentError on other shapes, negative ids or unknown states.
        """
        state = as_states(states)
        ids = as_candidates(candidates, len(state))
        logprobs, behind = np.empty(ids.shape, _FLOAT32), np.empty(ids.shape, _UINT32)
        self._engine.score(state, ids, logprobs, behind)
        return logprobs, behind

    def answer(self, query: Query, before: bytes, between: bytes) -> bytes:
        """Return ``before``, λ of each history, ``between`` and ln p of each candidate, as bytes.

        λ is float32[n] and ln p float32[n, k], little-endian: what :meth:`states`,
        :meth:`weights` (at the query's positions, if it has any) and :meth:`score` would say, in
        one call and for one who sends it on.
        """
        engine: Any = self._engine  # native, for so are queries
        factors = backoff.factors(self._gates) if self.weight is None else None
        return query.answer(engine, self.weight, factors, before, between)

    @property
    def events(self) -> UInt32Array:
        """Return the ids that the user ever wrote, and ``</s>`` if a sequence closed; ascending."""
        ids = np.empty(self._engine.event_count, np.uint32)
        self._engine.events(ids)
        return ids

    def event_logprobs(self, states: States) -> Float32Array:
        """Return ln p(event | state), float32[n, len(events)]: a distribution without its zeros."""
        state = as_states(states)
        known = np.empty((len(state), self._engine.event_count), _FLOAT32)
        self._engine.event_logprobs(state, known)
        return known

    def distribution(self, states: States) -> Float32Array:
        """Return ln p(w | state) for every id w, float32[n, vocabulary_size].

        Each row's probabilities sum to 1, unless the user wrote nothing: then all are −inf.
        """
        state = as_states(states)
        dense = np.empty((len(state), self.vocabulary_size), _FLOAT32)
        self._engine.distribution(state, dense)
        return dense

    def continuations(self, states: States, k: int = 8) -> tuple[UInt32Array, Float32Array]:
        """Return the k likeliest next ids of each state and their ln p, best first.

        uint32[n, m] and float32[n, m], where m is k or, if smaller, the number of distinct words
        (and ``</s>``) that the user ever wrote. Equal log-probabilities are ordered by id.
        """
        if k < 1:
            raise ArgumentError(f"k must be at least 1, not {k}")
        state = as_states(states)
        shape = (len(state), min(k, self._engine.event_count))
        ids, logprobs = np.empty(shape, _UINT32), np.empty(shape, _FLOAT32)
        self._engine.continuations(state, ids, logprobs)
        return ids, logprobs

    def mix(
        self,
        states: States,
        global_logprobs: Float32Array,
        out: Float32Array | None = None,
        *,
        positions: npt.ArrayLike | None = None,
    ) -> Float32Array:
        """Return ln(λ·p_personal + (1−λ)·p_global), float32[n, width], natural log.

        ``global_logprobs`` is float32[n, width], natural log, width ≥ ``vocabulary_size`` (columns
        beyond it are padding of the global LM). Rows of weight 0 come back bit for bit. Each row
        sums to 1 if the given one does. Forbid words after mixing: one that the global LM gives
        −inf can come back from the user's model.

        λ is that of :meth:`weights`, with the uncertainty of these very rows; ``positions`` as it
        takes them.

        The result is written to ``out`` and ``out`` returned, if it is given: a C-contiguous array
        of float32 and of that shape, which may be ``global_logprobs`` itself. Without it, the
        result is a new array; if every weight is 0, ``global_logprobs`` itself is returned.
        """
        state = as_states(states)
        weights = self.weights(state)
        if not any(weights.tolist()):  # in half the time of weights.any(), for they are few
            return unmixed(global_logprobs, out)
        rows = as_floats(global_logprobs)
        if rows.ndim != 2 or len(rows) != len(state) or rows.shape[1] < self.vocabulary_size:
            raise ArgumentError(
                f"global log-probabilities need the shape ({len(state)}, {self.vocabulary_size} or "
                f"more), not {rows.shape}: is this the vocabulary the model was built with?"
            )
        out = np.empty_like(rows) if out is None else check_out(out, rows)
        if self.weight is None:
            weights = self._moved(weights, positions, uncertainty(rows))
        self._engine.mix(state, weights, rows, out)
        return out

    def __reduce__(self) -> tuple[object, ...]:
        """Go to another process as the blob or the counts, to be compiled there."""
        made_of = (self._source, self.metadata, self.generation, self._given_weight, self.estimator)
        return _made_again, (*made_of, self._given_gates)

    def __repr__(self) -> str:
        return (
            f"PersonalModel(order={self.order}, ngrams={sum(self.ngrams)}, "
            f"generation={self.generation})"
        )


def _made_again(
    source: Counts | bytes,
    metadata: blob.Metadata,
    generation: int,
    weight: float | None,
    estimator: Estimator,
    gates: backoff.Gates | None,
) -> PersonalModel:
    if isinstance(source, bytes):
        return PersonalModel.from_blob(
            source, generation=generation, weight=weight, estimator=estimator
        )
    return PersonalModel.from_counts(
        source, metadata, generation=generation, weight=weight, estimator=estimator, gates=gates
    )


def check_estimator(name: str) -> Estimator:
    """Return ``name`` if an estimator is called that; raises ArgumentError if none is."""
    for known in get_args(Estimator):
        if name == known:
            return cast(Estimator, known)
    raise ArgumentError(f"an estimator is one of {', '.join(get_args(Estimator))}")


def _recipe(estimator: str, order: int, weight: float | None) -> Recipe:
    """Return how ``estimator`` makes a model; the table of λ is left out where one is given."""
    name = check_estimator(estimator)
    if name == "backoff":
        return backoff.population(order)
    return Smoothing(name, weights.population(name, order) if weight is None else None)


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

    def weights(
        self,
        states: States,
        positions: npt.ArrayLike | None = None,
        uncertainty: npt.ArrayLike | None = None,
    ) -> Float32Array:
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

    def mix(
        self,
        states: States,
        global_logprobs: Float32Array,
        out: Float32Array | None = None,
        *,
        positions: npt.ArrayLike | None = None,
    ) -> Float32Array:
        """Return ``global_logprobs`` itself, or ``out`` filled with it."""
        return unmixed(global_logprobs, out)

    def __repr__(self) -> str:
        return f"NullModel({self.reason!r})"


def check_vocabulary(given: str | Vocabulary | None, fingerprint: str, size: int) -> None:
    """Raise VocabularyMismatchError if a vocabulary was given that is not the model's.

    Of one given by its fingerprint alone the size is not known; of another it is compared, too,
    for a blob may claim any.
    """
    if given is None:
        return
    name, length = (given, size) if isinstance(given, str) else (given.fingerprint, given.size)
    if (name, length) != (fingerprint, size):
        raise VocabularyMismatchError(fingerprint, name)


def unmixed(global_logprobs: Float32Array, out: Float32Array | None) -> Float32Array:
    """Return what mixing with weight 0 gives: the array itself, or ``out`` filled with it."""
    if out is None or out is global_logprobs:
        return global_logprobs
    np.copyto(check_out(out, np.asarray(global_logprobs)), global_logprobs)
    return out
