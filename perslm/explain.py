"""What a model knows, and what made a score: contexts and counts, for whoever may read them.

A personal model is counts; every probability comes from a chain of contexts, each shorter than the
one before. :func:`explain` shows the chain behind each word of a text, :func:`frequent` what was
seen most. What they return is what somebody wrote: show it to nobody but them and those who answer
for the store (``perslm inspect``, ``perslm explain``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from perslm.counts import Counts, pair_keys
from perslm.model import PersonalModel
from perslm.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Context:
    """What was seen after a context, and what the model makes of it for one word.

    ``total`` events followed, ``distinct`` different ones are kept, ``cut`` events were left out;
    ``count`` of the kept are the word. ``logprob`` is ln p of the word if the model goes by this
    context, ``weight`` is λ then.
    """

    ids: tuple[int, ...] = field(repr=False)
    total: int
    distinct: int
    cut: int
    count: int
    logprob: float
    weight: float


@dataclass(frozen=True, slots=True)
class Step:
    """One word of a text, and the contexts that the model has for it: the longest decides.

    ``backoff`` is by how many nats the longest is less than the context it had to go back to,
    0 if the word was seen after the longest.
    """

    id: int = field(repr=False)
    contexts: tuple[Context, ...]

    @property
    def logprob(self) -> float:
        """Return ln p of the word."""
        return self.contexts[0].logprob

    @property
    def weight(self) -> float:
        """Return λ, the share of the personal model at this place."""
        return self.contexts[0].weight

    @property
    def backoff(self) -> float:
        """Return ln of what it costs that the word was not seen after the longest context."""
        seen = next((c for c in self.contexts if c.count), None)
        return 0.0 if seen is None else self.logprob - seen.logprob


def explain(
    model: PersonalModel, counts: Counts, history: Sequence[int], ids: Sequence[int]
) -> list[Step]:
    """Return a step for each of ``ids``, which follow ``history``; ``counts`` are the model's.

    Begin ``history`` with ``<s>`` if a sequence opens there; ``</s>`` may be the last of ``ids``.
    """
    before, steps = list(history), []
    for id in ids:
        (state,) = model.states([before])
        length = model.context_length(int(state))
        contexts = [before[len(before) - n :] for n in range(length, -1, -1)]
        states = model.states(contexts)
        logprobs = model.score(states, [[id]] * len(contexts))[0][:, 0].tolist()
        weights = model.weights(states).tolist()
        steps.append(
            Step(
                id,
                tuple(
                    Context(tuple(context), *_seen(counts, context, id), logprob, weight)
                    for context, logprob, weight in zip(contexts, logprobs, weights, strict=True)
                ),
            )
        )
        before.append(id)
    return steps


def _seen(counts: Counts, context: Sequence[int], id: int) -> tuple[int, int, int, int]:
    """Return how many events followed a context, how many kinds, how many cut; and of one word."""
    at = _place(counts, context)
    if at is None:
        return 0, 0, 0, 0
    level = counts.levels[len(context)]
    start, end = np.searchsorted(level.context, [at, at + 1]).tolist()
    row = level.word[start:end]
    if not context:
        row = row[row != counts.specials.bos]
    found = _place(counts, (*context, id))
    cut = 0 if counts.cut is None else int(counts.cut[len(context)][at])
    total = int(level.count[start:end].sum()) + cut
    return total, len(row), cut, 0 if found is None else int(level.count[found])


def _place(counts: Counts, ids: Sequence[int]) -> int | None:
    """Return the index of an n-gram in its level, 0 for the empty one; None if it is not there."""
    at = 0
    for level, id in zip(counts.levels, ids, strict=False):
        key = pair_keys(np.array([at]), np.array([id]))[0]
        keys = level.keys()
        at = int(np.searchsorted(keys, key))
        if at == len(keys) or keys[at] != key:
            return None
    return at


def frequent(counts: Counts, most: int) -> list[list[tuple[tuple[int, ...], int]]]:
    """Return, for each order, up to ``most`` n-grams that were seen most, with their counts."""
    found = []
    for k, level in enumerate(counts.levels):
        best = np.argsort(-level.count, kind="stable")[:most].tolist()
        found.append(
            [(_spelled(counts, k, i), int(level.count[i])) for i in best if level.count[i]]
        )
    return found


def _spelled(counts: Counts, k: int, at: int) -> tuple[int, ...]:
    ids: list[int] = []
    for level in reversed(counts.levels[: k + 1]):
        ids.append(int(level.word[at]))
        at = int(level.context[at])
    return tuple(reversed(ids))


def readable(ids: Sequence[int], vocabulary: Vocabulary) -> str:
    """Return ids as text, with ``<s>`` and ``</s>`` where a sequence opens and closes."""
    ends = [vocabulary.token(i) if i in (vocabulary.bos, vocabulary.eos) else "" for i in ids]
    text = vocabulary.decode(ids)
    return " ".join(part for part in ("".join(ends[:1]), text, "".join(ends[1:])) if part)
