"""Beam search over a global LM, with a user's model mixed in at every step.

This is the plain reference of what an assisted-writing product runs: the README, the demo and
``perslm complete`` use it, and it shows where the calls of ``perslm.model`` belong in a beam search
of one's own. The global LM stands behind the small protocol :class:`GlobalModel`; so a neural LM,
an n-gram model (:class:`PooledModel`) or the user's model alone (:class:`PersonalOnly`) fit alike.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from perslm.blob import Metadata
from perslm.counts import Counts
from perslm.errors import ArgumentError
from perslm.interpolate import Float32Array
from perslm.model import PersonalModel, Scorer


class GlobalModel(Protocol):
    """A language model that everybody shares."""

    def logprobs(self, histories: Sequence[Sequence[int]]) -> Float32Array:
        """Return ln p(w | history) for every id w, float32[n, width]; each row sums to 1."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One continuation: its token ids and its total natural log-probability."""

    ids: tuple[int, ...]
    logprob: float

    @property
    def per_token(self) -> float:
        """Return the log-probability divided by the length, the paper's confidence score."""
        return self.logprob / max(1, len(self.ids))


def search(
    global_model: GlobalModel,
    history: Sequence[int],
    *,
    personal: Scorer | None = None,
    width: int = 8,
    steps: int = 8,
    best: int = 3,
    stop: Collection[int] = (),
    banned: Collection[int] = (),
) -> list[Hypothesis]:
    """Return up to ``best`` continuations of ``history``, best log-probability per token first.

    ``width`` hypotheses live at each of at most ``steps`` steps. A hypothesis is complete at an id
    of ``stop`` (which it keeps) or after ``steps`` ids; ids in ``banned`` are never taken, nor are
    ids of probability 0. With ``personal`` each step's rows are mixed first; without, or with a
    null model, the global LM's own scores decide. Raises ArgumentError for numbers below 1.
    """
    if min(width, steps, best) < 1:
        raise ArgumentError("width, steps and best must be at least 1")
    opening = [int(i) for i in history]
    live = [Hypothesis((), 0.0)]
    complete: list[Hypothesis] = []
    for step in range(steps):
        histories = [[*opening, *h.ids] for h in live]
        rows = global_model.logprobs(histories)
        if personal is not None:
            rows = personal.mix(personal.states(histories), rows)
        totals = np.array(rows, np.float64) + np.array([[h.logprob] for h in live])
        totals[:, [i for i in banned if i < totals.shape[1]]] = -np.inf  # virtual ids have none
        flat = totals.ravel()
        top = np.argsort(-flat, kind="stable")[:width]
        longer = [
            Hypothesis((*live[i // totals.shape[1]].ids, int(i % totals.shape[1])), float(flat[i]))
            for i in top.tolist()
            if np.isfinite(flat[i])
        ]
        ended = [h for h in longer if h.ids[-1] in stop or step + 1 == steps]
        complete += ended
        live = [h for h in longer if h.ids[-1] not in stop]
        if not live:
            break
    return sorted(complete, key=lambda h: (-h.per_token, h.ids))[:best]


class PooledModel:
    """A global LM made of many people's counts: Katz, with some mass for words nobody wrote.

    It stands in where no neural LM is at hand. Probabilities are (1 − ε)·Katz + ε/size, so that no
    word is impossible. A product has a neural LM in its place.
    """

    def __init__(self, pooled: Counts, epsilon: float = 0.05) -> None:
        if not 0 < epsilon < 1:
            raise ArgumentError("epsilon must lie between 0 and 1")
        self._model = PersonalModel.from_counts(pooled, Metadata("0" * 32))
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
