"""A user's model behind a scoring service: what ``perslm.Client.model`` returns.

How to use one is told in ``perslm.client``. Here are its states, what is asked at a beam step, and
the checks that an answer must pass before anything of it reaches a beam search; all of which it
shares with the model of an async client (``perslm.async_client``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from perslm import backoff, wire
from perslm._arguments import as_matrix, last_ids
from perslm._asking import Asking, reason_of
from perslm._steps import Steps, T, Wire, run
from perslm._transport import UNABLE, UnableError
from perslm.counts import MAX_ORDER, AnyIntegers, UInt32Array
from perslm.errors import (
    ArgumentError,
    NoModelError,
    PerslmError,
    ServiceError,
    VocabularyMismatchError,
)
from perslm.interpolate import Float32Array, mix_columns, uncertainty
from perslm.model import (
    Candidates,
    Histories,
    States,
    check_vocabulary,
    unmixed,
)

if TYPE_CHECKING:
    from perslm.vocabulary import Vocabulary

_SLACK: Final = 1e-3  # how far above 0 a log-probability may be for rounding


class RemoteBase:
    """What the models of both clients have in common: all but the waiting.

    The methods that return steps are conversations with the service.
    """

    def __init__(
        self, asking: Asking, line: Any, user: str, vocabulary: str | Vocabulary | None
    ) -> None:
        self.reason = "degraded"
        self.order = 0
        self.generation = 0
        self._asking = asking
        self._line = line
        self._user = user
        self._fingerprint = ""
        self._size: int | None = None
        self._by_state: bool | None = None  # whether λ depends on the state; None: not told yet
        self._restarts: tuple[int, ...] = ()  # <s> and </s>, if known
        if isinstance(vocabulary, str):
            self._fingerprint = vocabulary
        elif vocabulary is not None:
            self._fingerprint = vocabulary.fingerprint
            self._size = vocabulary.size
            self._restarts = (vocabulary.bos, vocabulary.eos)
        self._state_of = _Numbering()
        self._contexts = self._state_of.met  # by state
        self._weight_of: dict[int, float] = {}  # λ by state, of one generation
        self._silent_until = 0.0
        self._mutex = threading.Lock()  # over the three tables

    @property
    def vocabulary_fingerprint(self) -> str:
        """Return the fingerprint that is sent along; empty if it could not be learnt yet."""
        return self._fingerprint

    @property
    def vocabulary_size(self) -> int:
        """Return how many ids the vocabulary has; 0 if that could not be learnt yet."""
        return self._size or 0

    def states(self, histories: Histories) -> UInt32Array:
        """Return a state for each history, uint32[n]; nothing is sent."""
        return self._intern([self._context(history) for history in histories])

    def ask_weights(
        self,
        states: States,
        positions: npt.ArrayLike | None,
        uncertainty: npt.ArrayLike | None,
    ) -> Steps[Float32Array]:
        """Return λ of each state, at its place."""
        wanted = self._checked(states)
        with self._mutex:
            known = [self._weight_of.get(state) for state in wanted.tolist()]
            order = self.order
        if None not in known and not self._is_silent():
            return self._placed(np.array(known, np.float32), order, positions, uncertainty)
        nothing = np.zeros((len(wanted), 0), np.uint32)
        what: dict[str, object] = {"candidates": wire.pack_array(nothing, "<u4")}
        answer = yield from self._ask(wanted, what, columns=0)
        return self._placed(answer.weights, answer.order, positions, uncertainty)

    def ask_score(
        self, states: States, candidates: Candidates
    ) -> Steps[tuple[Float32Array, UInt32Array]]:
        """Return ln p(candidate | state), and the states behind."""
        start = self._checked(states)
        ids = np.minimum(as_matrix(candidates, len(start)), wire.LARGEST_ID)
        what: dict[str, object] = {"candidates": wire.pack_array(ids, "<u4")}
        answer = yield from self._ask(start, what, columns=ids.shape[1])
        behind: list[tuple[int, ...]] = []
        for state, row in zip(start.tolist(), ids.tolist(), strict=True):
            behind += self._longer(self._contexts[state], row)
        return answer.logprobs, self._intern(behind).reshape(ids.shape)

    def ask_continuations(self, states: States, k: int) -> Steps[tuple[UInt32Array, Float32Array]]:
        """Return the k likeliest next ids of each state and their ln p."""
        if k < 1:
            raise ArgumentError(f"k must be at least 1, not {k}")
        answer = yield from self._ask(self._checked(states), {"top_k": k})
        return answer.ids, answer.logprobs

    def ask_distribution(self, states: States) -> Steps[Float32Array]:
        """Return ln p(w | state) for every id w."""
        wanted = self._checked(states)
        answer = yield from self._ask(wanted, {"dense": True, "compact": True})
        dense = np.full((len(wanted), self.vocabulary_size), -np.inf, np.float32)
        dense[:, answer.ids] = answer.logprobs
        return dense

    def ask_mix(
        self,
        states: States,
        global_logprobs: Float32Array,
        out: Float32Array | None,
        positions: npt.ArrayLike | None,
    ) -> Steps[Float32Array]:
        """Return ln(λ·p_personal + (1−λ)·p_global)."""
        wanted = self._checked(states)
        answer = yield from self._ask(wanted, {"dense": True, "compact": True})
        if not answer.weights.any():
            return unmixed(global_logprobs, out)
        rows = np.asarray(global_logprobs, np.float32)
        if rows.ndim != 2 or len(rows) != len(wanted) or rows.shape[1] < self.vocabulary_size:
            raise ArgumentError(
                f"global log-probabilities need the shape ({len(wanted)}, {self.vocabulary_size} "
                f"or more), not {rows.shape}: is this the vocabulary the model was built with?"
            )
        sure = uncertainty(rows) if self._by_state else None
        weights = self._placed(answer.weights, answer.order, positions, sure)
        return mix_columns(rows, weights, answer.ids, answer.logprobs, out)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self._asking.calls.location!r}, order={self.order}, "
            f"generation={self.generation}, reason={self.reason!r})"
        )

    def introduce(self) -> Steps[bool]:
        """Learn order and vocabulary; tell whether that worked."""
        try:
            facts = yield from self._asking.info(self._user)
            check_vocabulary(
                self._fingerprint or None, facts["vocabulary"], facts["vocabulary_size"]
            )
        except (ServiceError, NoModelError, VocabularyMismatchError) as error:
            self._abstain(error)
            return False
        self._fingerprint = facts["vocabulary"]
        self._size = facts["vocabulary_size"]
        self._by_state = facts.get("weight_by_state", False)  # services of old do not tell
        self.order, self.generation = facts["order"], facts["generation"]
        self.reason = "ok"
        return True

    def _ask(
        self, states: UInt32Array, what: Mapping[str, object], columns: int | None = None
    ) -> Steps[_Scores]:
        """Send one score request; ``columns`` is how many the answer must have, if that is known.

        The answer that changes nothing takes the place of one that cannot be had.
        """
        may_ask = not self._is_silent()
        if may_ask and self._by_state is None:
            may_ask = yield from self.introduce()
        if not may_ask:
            return self._nothing(states, columns)
        request = {
            "user": self._user,
            "vocabulary": self._fingerprint,
            "histories": wire.pack_rows(self._contexts[state] for state in states.tolist()),
            **what,
        }
        try:
            fields = yield from self._asking.calls.scores(self._line, request)
            _require_model(fields, self._fingerprint)
            answer = _read_scores(fields, len(states), columns, what, self._size or 0)
        except (ServiceError, NoModelError, VocabularyMismatchError) as error:
            self._abstain(error)
            return self._nothing(states, columns)
        self._remember(states, answer)
        return answer

    def _placed(
        self,
        weights: Float32Array,
        order: int,
        positions: npt.ArrayLike | None,
        uncertainty: npt.ArrayLike | None,
    ) -> Float32Array:
        """Return λ at places, from λ of the states: what a local model makes of it.

        Only who has the rows can do so; and λ of a state may be kept for another place.
        """
        unknown = positions is None and uncertainty is None
        if unknown or not self._by_state or not order:  # no order: no model
            return weights
        return backoff.shift(weights, backoff.population(order), positions, uncertainty)

    def _nothing(self, states: UInt32Array, columns: int | None) -> _Scores:
        """Return the answer that changes nothing.

        The weights of the same states are then 0 until there are scores again: λ beside scores that
        could not be had would take probability from every word.
        """
        if columns != 0:
            with self._mutex:
                self._weight_of.update(dict.fromkeys(states.tolist(), 0.0))
        return _nothing(len(states), columns or 0)

    def _remember(self, states: UInt32Array, answer: _Scores) -> None:
        with self._mutex:
            if answer.generation != self.generation or self.reason != "ok":
                self._weight_of.clear()
            self._weight_of.update(zip(states.tolist(), answer.weights.tolist(), strict=True))
            self.order, self.generation, self.reason = answer.order, answer.generation, "ok"

    def _abstain(self, error: PerslmError) -> None:
        """Be silent for a while, unless the model will be there; raise if the client is strict."""
        with self._mutex:
            self.reason = reason_of(error)
            self._weight_of.clear()
            if self.reason != "loading":
                self._silent_until = time.monotonic() + self._asking.pause
        if self._asking.strict:
            raise error

    def _is_silent(self) -> bool:
        return not self._asking.strict and time.monotonic() < self._silent_until

    @property
    def _depth(self) -> int:
        """Return how many ids of a history can matter to the model."""
        return (self.order or MAX_ORDER) - 1

    def _context(self, history: Sequence[int] | AnyIntegers) -> tuple[int, ...]:
        """Return the part of a history that can matter to the model."""
        recent = last_ids(history, self._depth)
        for at in range(len(recent) - 1, -1, -1):
            if recent[at] in self._restarts:
                return (self._restarts[0], *recent[at + 1 :])
        return tuple(min(i, wire.LARGEST_ID) for i in recent)

    def _longer(self, context: tuple[int, ...], ids: list[int]) -> list[tuple[int, ...]]:
        """Return the contexts after ``context`` and each id: what ``_context`` would, but fast."""
        depth = self._depth
        if not depth:
            return [()] * len(ids)
        tail = context[max(0, len(context) - depth + 1) :]
        longer = [(*tail, i) for i in ids]
        for special in self._restarts:
            if special in ids:
                start = (self._restarts[0],)
                longer = [start if i == special else c for i, c in zip(ids, longer, strict=True)]
        return longer

    def _intern(self, contexts: list[tuple[int, ...]]) -> UInt32Array:
        """Return the state of each context, numbering those not met before."""
        with self._mutex:
            return np.fromiter(map(self._state_of.__getitem__, contexts), np.uint32, len(contexts))

    def _checked(self, states: States) -> UInt32Array:
        array = np.asarray(states)
        if array.size == 0:
            array = array.astype(np.uint32)
        if array.ndim != 1 or array.dtype.kind not in "ui":
            raise ArgumentError("states must be a one-dimensional array of integers")
        if len(array) and not 0 <= array.min() <= array.max() < len(self._contexts):
            raise ArgumentError("a state is not one of this model: states do not carry over")
        return array.astype(np.uint32)


class RemoteModel(RemoteBase):
    """A user's model behind a service; made by :meth:`Client.model`, used like a PersonalModel.

    ``reason`` is "ok" or why the last request brought nothing: ``unknown_user``,
    ``vocabulary_mismatch``, ``store_unavailable``, ``bad_blob``, ``loading`` (not in the service's
    memory yet: the next request is sent all the same), ``degraded`` (no answer, or not a proper
    one) or ``refused`` (over a limit of the service). ``order`` and ``generation`` are those
    of the last answer, 0 before the first. May be called from many threads.
    """

    def __init__(
        self, asking: Asking, wire: Wire, user: str, vocabulary: str | Vocabulary | None
    ) -> None:
        super().__init__(asking, wire.line(), user, vocabulary)
        self._wire = wire
        self._run(self.introduce())

    def weights(
        self,
        states: States,
        positions: npt.ArrayLike | None = None,
        uncertainty: npt.ArrayLike | None = None,
    ) -> Float32Array:
        """Return λ of each state, float32[n]; a request if the last answers did not tell.

        ``positions`` and ``uncertainty`` as ``PersonalModel.weights`` takes them. They are not
        sent, and change nothing where the service has one λ for all states.
        """
        return self._run(self.ask_weights(states, positions, uncertainty))

    def score(self, states: States, candidates: Candidates) -> tuple[Float32Array, UInt32Array]:
        """Return ln p(candidate | state), float32[n, k], and the states behind, uint32[n, k].

        One request. Raises ArgumentError as ``PersonalModel.score`` does.
        """
        return self._run(self.ask_score(states, candidates))

    def continuations(self, states: States, k: int = 8) -> tuple[UInt32Array, Float32Array]:
        """Return the k likeliest next ids of each state and their ln p, best first.

        uint32[n, m] and float32[n, m], m ≤ k, as ``PersonalModel.continuations``; one request.
        """
        return self._run(self.ask_continuations(states, k))

    def distribution(self, states: States) -> Float32Array:
        """Return ln p(w | state) for every id w, float32[n, vocabulary_size]; one request.

        All −inf if the model cannot be had.
        """
        return self._run(self.ask_distribution(states))

    def mix(
        self,
        states: States,
        global_logprobs: Float32Array,
        out: Float32Array | None = None,
        *,
        positions: npt.ArrayLike | None = None,
    ) -> Float32Array:
        """Return ln(λ·p_personal + (1−λ)·p_global), float32[n, width], natural log; one request.

        As ``PersonalModel.mix``, with the same bits where both ends have the same version and
        ``perslm.backend``. If every weight is 0: the given array, or ``out`` filled with it.
        """
        return self._run(self.ask_mix(states, global_logprobs, out, positions))

    def _run(self, steps: Steps[T]) -> T:
        return run(steps, self._wire, self._asking.timeout)


class _Numbering(dict[tuple[int, ...], int]):
    """Numbers contexts in the order in which they are first asked for; ``met`` is by number."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[tuple[int, ...]] = []

    def __missing__(self, context: tuple[int, ...]) -> int:
        self[context] = number = len(self.met)
        self.met.append(context)
        return number


@dataclass(frozen=True, slots=True, eq=False)
class _Scores:
    """An answer that was found to be sound. ``ids`` are of the columns, where they were asked."""

    weights: Float32Array
    logprobs: Float32Array
    ids: UInt32Array
    order: int = 0
    generation: int = 0


def _nothing(n: int, columns: int) -> _Scores:
    """Return the answer that changes nothing; it fits whatever was asked."""
    logprobs = np.full((n, columns), -np.inf, np.float32)
    return _Scores(np.zeros(n, np.float32), logprobs, np.zeros((n, 0), np.uint32))


def _read_scores(
    fields: dict[str, Any], n: int, columns: int | None, what: Mapping[str, object], size: int
) -> _Scores:
    """Return the scores of an answer with status "ok"; raises ServiceError if they cannot be."""
    try:
        weights = wire.unpack_array(fields.get("weights"), "<f4", 1)
        logprobs = wire.unpack_array(fields.get("logprobs"), "<f4", 2)
        ids = np.zeros((n, 0), np.uint32)
        if columns is None:
            ids = wire.unpack_array(fields.get("ids"), "<u4", 2 if "top_k" in what else 1)
    except ArgumentError as error:
        raise ServiceError("the scoring service sent an array that cannot be read") from error
    order, generation = fields.get("order"), fields.get("generation")
    expected = ids.shape[-1] if columns is None else columns
    sound = (
        weights.shape == (n,)
        and logprobs.shape == (n, expected)
        and (ids.ndim == 1 or len(ids) == n)
        and bool(((weights >= 0) & (weights <= 1)).all())
        and bool((logprobs <= _SLACK).all())  # which no NaN is
        and bool((ids < size).all())
        and type(generation) is int
        and type(order) is int
        and 1 <= order <= MAX_ORDER
    )
    if not sound:
        raise ServiceError("the scoring service sent scores that cannot be")
    return _Scores(  # copies, for an array in a message cannot be written to
        weights.astype(np.float32),
        logprobs.astype(np.float32),
        ids.astype(np.uint32),
        fields["order"],
        fields["generation"],
    )


def _require_model(fields: Mapping[str, object], fingerprint: str) -> None:
    """Raise the error that a status other than "ok" stands for."""
    status, reason = fields.get("status"), fields.get("reason")
    if status == "no_model":
        raise NoModelError("the user has no published model")
    if status == "vocabulary_mismatch":
        raise VocabularyMismatchError("that of the published model", fingerprint)
    if status == "degraded" and reason in UNABLE:
        raise UnableError(str(reason))
    if status != "ok":
        raise ServiceError("the scoring service sent a status that this client does not know")
