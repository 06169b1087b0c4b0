"""Beam search over a global LM, with a user's model mixed in at every step.

This is the plain reference of what an assisted-writing product runs: the README, the demo and
``perslm complete`` use it, and it shows where the calls of ``perslm.model`` belong in a beam search
of one's own. The global LM stands behind the small protocol :class:`GlobalModel`; so a neural LM,
an n-gram model (:class:`PooledModel`) or the user's model alone (:class:`PersonalOnly`) fit alike.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from perslm.blob import Metadata
from perslm.counts import Counts
from perslm.errors import ArgumentError
from perslm.interpolate import Float32Array
from perslm.model import PersonalModel, Scorer


class GlobalModel(Protocol):
    """A language model that everybody shares."""

    def logprobs(self, histories: Sequence[Sequence[int]]) -> Float32Array:
        """Return ln p(w | history) for every id w, float32[n, width]; each row sums to 1."""


class Filter(Protocol):
    """What a beam may not write, besides single ids: see ``perslm.suggest``."""

    def allowed(self, ids: tuple[int, ...]) -> npt.NDArray[np.intp] | None:
        """Return the ids that may follow ``ids``, intp[n]; None if all may."""

    def keeps(self, ids: tuple[int, ...], ended: bool) -> bool:
        """Tell whether ``ids`` may stand; ``ended``: nothing will follow them."""

    def whole(self, ids: tuple[int, ...]) -> int:
        """Return how many of ``ids``, which a length limit cut off, end with a whole word."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One continuation: its token ids and its total natural log-probability."""

    ids: tuple[int, ...] = field(repr=False)
    logprob: float

    @property
    def per_token(self) -> float:
        """Return the log-probability divided by the length, the paper's confidence score."""
        return self.logprob / max(1, len(self.ids))


Asking = Generator[list[list[int]], Float32Array, list[Hypothesis]]
"""A search that asks for rows of the global LM."""


def search(
    global_model: GlobalModel,
    history: Sequence[int],
    *,
    personal: Scorer | None = None,
    position: int | None = None,
    width: int = 8,
    steps: int = 8,
    best: int = 3,
    stop: Collection[int] = (),
    banned: Collection[int] = (),
    only: Filter | None = None,
) -> list[Hypothesis]:
    """Return up to ``best`` continuations of ``history``, best log-probability per token first.

    ``width`` hypotheses live at each of at most ``steps`` steps. A hypothesis is complete at an id
    of ``stop`` (which it keeps) or after ``steps`` ids; ids in ``banned`` are never taken, nor are
    ids of probability 0. What ``only`` refuses is left out, and the next likely takes its place.
    With ``personal`` each step's rows are mixed first; without, or with a null model, the global
    LM's own scores decide. ``position`` is how many tokens of the text ``history`` holds, if that
    is known: a personal model is worth more early in a text. Raises ArgumentError for numbers below
    1.
    """
    asking = steps_of(
        history,
        personal=personal,
        position=position,
        width=width,
        steps=steps,
        best=best,
        stop=stop,
        banned=banned,
        only=only,
    )
    return search_together(global_model, [asking])[0]


def search_together(
    global_model: GlobalModel, searches: Sequence[Asking]
) -> list[list[Hypothesis]]:
    """Return what each of ``searches`` (:func:`steps_of`) finds, as if each was alone.

    They go step by step together: one call of the global LM answers all of them, which a neural LM
    does in a fraction of the time of as many calls.
    """
    found: list[list[Hypothesis]] = [[] for _ in searches]
    open_ones = [(i, asking, next(asking)) for i, asking in enumerate(searches)]
    while open_ones:
        rows = global_model.logprobs([h for _, _, histories in open_ones for h in histories])
        begin, still = 0, []
        for i, asking, histories in open_ones:
            own = rows[begin : begin + len(histories)]
            begin += len(histories)
            try:
                still.append((i, asking, asking.send(own)))
            except StopIteration as done:
                found[i] = done.value
        open_ones = still
    return found


def steps_of(
    history: Sequence[int],
    *,
    personal: Scorer | None = None,
    position: int | None = None,
    width: int = 8,
    steps: int = 8,
    best: int = 3,
    stop: Collection[int] = (),
    banned: Collection[int] = (),
    only: Filter | None = None,
) -> Asking:
    """Return one search as its steps, for :func:`search_together`; arguments as :func:`search`.

    It yields the histories whose rows ln p_global it needs next, and is sent these rows.
    """
    if min(width, steps, best) < 1:
        raise ArgumentError("width, steps and best must be at least 1")
    opening = [int(i) for i in history]
    live = [Hypothesis((), 0.0)]
    complete: dict[tuple[int, ...], Hypothesis] = {}
    logprobs: dict[tuple[int, ...], float] = {}  # of all that lived
    for step in range(steps):
        histories = [[*opening, *h.ids] for h in live]
        rows = yield histories
        if personal is not None:
            at = None if position is None else np.full(len(live), position + step)
            rows = personal.mix(personal.states(histories), rows, positions=at)
        totals = np.array(rows, np.float64) + np.array([[h.logprob] for h in live])
        totals[:, [i for i in banned if i < totals.shape[1]]] = -np.inf  # virtual ids have none
        if only is not None:
            _restrict(totals, live, only)
        last = step + 1 == steps
        longer = []
        for hypothesis in _likeliest(totals, live):
            ends = last or hypothesis.ids[-1] in stop
            if only is None or only.keeps(hypothesis.ids, ends):
                logprobs[hypothesis.ids] = hypothesis.logprob
                longer.append(hypothesis)
                if len(longer) == width:
                    break
        live = [h for h in longer if h.ids[-1] not in stop]
        for hypothesis in longer:
            ids = hypothesis.ids
            if ids[-1] not in stop:
                if not last:
                    continue
                ids = ids if only is None else ids[: only.whole(ids)]
            if ids:
                complete[ids] = Hypothesis(ids, logprobs[ids])
        if not live:
            break
    return sorted(complete.values(), key=lambda h: (-h.per_token, h.ids))[:best]


def _restrict(totals: npt.NDArray[np.float64], live: list[Hypothesis], only: Filter) -> None:
    for row, hypothesis in zip(totals, live, strict=True):
        allowed = only.allowed(hypothesis.ids)
        if allowed is not None:
            kept = allowed[allowed < len(row)]
            values = row[kept]
            row[:] = -np.inf
            row[kept] = values


def _likeliest(totals: npt.NDArray[np.float64], live: list[Hypothesis]) -> Iterator[Hypothesis]:
    """Yield the hypotheses one id longer, best first; of equals that of the lower ids first."""
    flat = totals.ravel()
    done, most = 0, 64
    while done < len(flat):
        most = min(most, len(flat))
        top = np.flatnonzero(flat >= np.partition(flat, -most)[-most])
        top = top[np.argsort(-flat[top], kind="stable")]
        for i in top[done:].tolist():
            if not np.isfinite(flat[i]):
                return
            row, id = divmod(i, totals.shape[1])
            yield Hypothesis((*live[row].ids, id), float(flat[i]))
        done, most = len(top), len(top) * 16


class PooledModel:
    """A global LM made of many people's counts: Katz, with some mass for words nobody wrote.

    It stands in where no neural LM is at hand. Probabilities are (1 − ε)·Katz + ε/size, so that no
    word is impossible. A product has a neural LM in its place.
    """

    def __init__(self, pooled: Counts, epsilon: float = 0.05) -> None:
        if not 0 < epsilon < 1:
            raise ArgumentError("epsilon must lie between 0 and 1")
        self._model = PersonalModel.from_counts(pooled, Metadata("0" * 32), estimator="katz")
        self._epsilon = epsilon if pooled.tokens else 1.0  # of nothing: every word is as likely

    def logprobs(self, histories: Sequence[Sequence[int]]) -> Float32Array:
        """Return ln p(w | history) for every id w, float32[n, size]."""
        katz_part = self._model.distribution(self._model.states(histories))
        floor = np.log(self._epsilon / self._model.vocabulary_size)
        with np.errstate(divide="ignore"):
            mixed = np.logaddexp(katz_part + np.log1p(-self._epsilon), floor)
        return np.asarray(mixed, np.float32)


class PersonalOnly:
    """A user's model in the place of the global LM, to see what it would say by itself."""

    def __init__(self, model: PersonalModel) -> None:
        self._model = model

    def logprobs(self, histories: Sequence[Sequence[int]]) -> Float32Array:
        """Return ln p(w | history) for every id w, float32[n, size]."""
        return self._model.distribution(self._model.states(histories))
