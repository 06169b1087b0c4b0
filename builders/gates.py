"""Fits the gates of ``perslm.backoff`` over many people's mail. What made ``perslm/gates.json``:

    python -m builders.gates MAIL... [--by-file] [--as-is] > perslm/gates.json

Of everybody's letters, oldest first, the newest tenth of the first four fifths is what a model of
the older ones has to predict: all of them, and the last 10, 30, 100 and 300 only, so that the gates
are right for somebody who has just begun, too. The last fifth is not looked at. Everybody counts
alike, however much they wrote. The loss is that of the mixture with a global LM, where gates are
and where λ moves to, in one; gradients are exact, and the few numbers are found by L-BFGS. Nothing
of what anybody wrote is in the result.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from builders.build import specials
from builders.evaluate.mail import Letter
from builders.evaluate.run import amounts_of, split
from builders.evaluate.study import add_global_lm, open_study, parser_of
from builders.evaluate.targets import Targets
from perslm.backoff import (
    FEATURES,
    FURTHEST,
    Gates,
    features,
    position_features,
    row_features,
    seen,
    size_features,
)
from perslm.counts import MAX_ORDER, AnyIntegers, Counts, Int64Array, count, pair_keys
from perslm.smoothing import Float64Array
from perslm.vocabulary import Vocabulary

AMOUNTS = (10, 30, 100, 300)
WHOLE = 3
"""How often a person's sample with all of their mail counts: it is what most people have."""

MOST_TOKENS = 1000
"""Tokens of one person and amount: more of them would say little more."""

RIDGE = 1e-4
ROUNDS = 250

Objective: TypeAlias = Callable[[Float64Array], tuple[float, Float64Array]]

Learn: TypeAlias = Callable[[list[Letter], Vocabulary, int], Counts]
"""Counts what a model of this order goes by, of letters."""

Passage: TypeAlias = tuple[AnyIntegers, npt.NDArray[np.floating]]
"""Ids, which begin with ``<s>``, and what ``Targets.of`` says of those behind it."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Tokens to predict, with what one model has of each. Arrays [n], or [n, order] by context.

    ``shared`` is p_global, ``position`` how many tokens of the text came before, ``uncertainty``
    [n, 2] that of the global LM. ``used`` is c(hw), ``total`` C(h), 0 where the model has no such
    context; the others as in ``perslm.backoff.Seen``.
    """

    shared: Float64Array
    position: Float64Array
    uncertainty: Float64Array
    used: Float64Array
    kept: Float64Array
    total: Float64Array
    distinct: Float64Array
    opens: npt.NDArray[np.bool_]

    def some(self, most: int) -> Sample:
        """Return at most about ``most`` of the tokens, evenly spread."""
        step = -(-len(self.shared) // most) if len(self.shared) else 1
        return self.at(np.arange(0, len(self.shared), step))

    def at(self, tokens: Int64Array) -> Sample:
        """Return the tokens of these indices, in this order."""
        return Sample(*(getattr(self, name)[tokens] for name in self.__slots__))


def sample(counts: Counts, passages: Sequence[Passage]) -> Sample:
    """Return what a model of ``counts`` has for every token of passages but their first."""
    ids = np.concatenate([ids for ids, _ in passages]).astype(np.int64)
    begins = np.cumsum([0, *(len(ids) for ids, _ in passages)])
    place = np.arange(len(ids)) - np.repeat(begins[:-1], np.diff(begins))
    said = np.concatenate([row for _, row in passages]).astype(np.float64)
    context = np.zeros(len(ids), np.int64)  # of each token, k words long; −1: not known
    rows = []
    for level, facts in zip(counts.levels, seen(counts), strict=True):
        entry = _find(level.keys(), context, ids)
        known = context >= 0
        by_context = (facts.kept, facts.total, facts.distinct, facts.opens)
        used = np.where(entry >= 0, facts.used[entry] if len(level) else 0, 0)
        rows.append(
            [used, *(np.where(known, np.append(values, 0)[context], 0) for values in by_context)]
        )
        context = np.where(place > 0, np.roll(entry, 1), -1)
        context[context >= 0] = np.where(
            level.word[context[context >= 0]] == counts.specials.eos, -1, context[context >= 0]
        )
    used, kept, total, distinct, opens = (
        np.stack(c, 1)[place > 0] for c in zip(*rows, strict=True)
    )
    return Sample(
        np.exp(said[:, 0]),
        (place[place > 0] - 1).astype(np.float64),
        said[:, 1:],
        used.astype(np.float64),
        kept,
        total,
        distinct,
        opens.astype(bool),
    )


def _find(keys: npt.NDArray[np.uint64], context: Int64Array, word: Int64Array) -> Int64Array:
    if not len(keys):
        return np.full(len(word), -1, np.int64)
    wanted = pair_keys(np.maximum(context, 0), word)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where((keys[at] == wanted) & (context >= 0), at, -1)


def fit(people: Sequence[Sequence[Sample]], order: int) -> Gates:
    """Return the gates that predict best, all numbers at once.

    Everybody's samples are theirs with some of their mail, and last with all of it.
    """
    drawn = [sample for own in people for sample in own]
    weights = [WHOLE if sample is own[-1] else 1 for own in people for sample in own]
    share = np.concatenate(
        [np.full(len(s.shared), w / len(s.shared)) for s, w in zip(drawn, weights, strict=True)]
    )
    share /= share.sum()
    every = Sample(
        *(np.concatenate([getattr(s, name) for s in drawn]) for name in Sample.__slots__)
    )
    deepest_first = np.argsort(-(every.distinct > 0).sum(1), kind="stable")
    every, share = every.at(deepest_first), share[deepest_first]
    place = place_of(every)
    means = share @ place
    gates, moves = order * (FEATURES + 1), place.shape[1]
    begin = np.zeros((order, FEATURES + 1))
    begin[:, FEATURES] = 1
    objective = objective_of(every, place - means, share)
    found = minimize(objective, np.append(begin, np.zeros(moves)))
    table, by = found[:gates].reshape(order, -1), found[gates:]
    table[:, FEATURES] = _logistic(table[:, FEATURES])
    parts = [np.append(-means[at] @ by[at], by[at]) for at in (slice(2), slice(2, 4), slice(4, 8))]
    return Gates(table, *parts)


def design_of(every: Sample) -> list[Float64Array]:
    """Return the features of the contexts of each order, float64[m, FEATURES] each.

    Only of the first m tokens, as far as there is one that has such a context: fitting sorts them.
    """
    variety = every.distinct + (every.total - every.kept)
    found = []
    for total, different, opens in zip(every.total.T, variety.T, every.opens.T, strict=True):
        m = int(np.flatnonzero(total)[-1]) + 1 if total.any() else 0
        found.append(features(np.maximum(total[:m], 1), np.maximum(different[:m], 1), opens[:m]))
    return found


def place_of(every: Sample) -> Float64Array:
    """Return what λ moves by: size of the model, position, uncertainty; float64[n, 8]."""
    known = (
        size_features(every.total[:, 0]),
        position_features(every.position),
        row_features(every.uncertainty),
    )
    return np.concatenate([part[:, 1:] for part in known], axis=1)  # what is constant is centred


def probabilities(every: Sample, gates: Gates) -> Float64Array:
    """Return p of each token as a model with ``gates`` mixes it, float64[n]."""
    mass, left, _ = _chain(every, design_of(every), gates.table)
    odds = np.exp(move_of(every, gates))
    return (mass * odds + left * every.shared) / ((1 - left) * odds + left)


def move_of(every: Sample, gates: Gates) -> Float64Array:
    """Return by how much ln(λ / (1 − λ)) moves at each token, float64[n]."""
    return (
        size_features(every.total[:, 0]) @ gates.size
        + position_features(every.position) @ gates.position
        + row_features(every.uncertainty) @ gates.row
    )


def objective_of(every: Sample, place: Float64Array, share: Float64Array) -> Objective:
    """Return −Σ share · ln p, and its gradient, by all numbers: gates row by row, then moves.

    A gate's row ends with the discount before the logistic function. With m the mass that the
    chain gives to a token, t what it leaves to the global LM and e the factor on λ / (1 − λ),
    p = (m·e + t·p_global) / ((1 − t)·e + t).
    """
    design = design_of(every)
    order = len(design)
    gates = order * (FEATURES + 1)

    def objective(flat: Float64Array) -> tuple[float, Float64Array]:
        table, by = flat[:gates].reshape(order, -1).copy(), flat[gates:]
        table[:, FEATURES] = discount = _logistic(table[:, FEATURES])
        mass, left, steps = _chain(every, design, table)
        odds = np.exp(place @ by)
        whole = (1 - left) * odds + left
        p = np.maximum((mass * odds + left * every.shared) / whole, 1e-300)
        slope = -share / p / whole
        by_mass, by_left = slope * odds, slope * (every.shared - p * (1 - odds))
        gradient = np.zeros_like(table)
        for k in reversed(range(order)):
            step, known = steps[k], slice(len(design[k]))
            mass_slope, left_slope = by_mass[known], by_left[known]
            by_gate = mass_slope * (step.gone * step.mass - step.own)
            by_gate += left_slope * step.gone * step.left
            gradient[k, :FEATURES] = (by_gate * step.speaks * (1 - step.speaks)) @ design[k]
            freed = mass_slope * (step.variety * step.mass - step.known)
            freed += left_slope * step.variety * step.left
            gradient[k, FEATURES] = (freed @ step.speaks) * discount[k] * (1 - discount[k])
            mass_slope *= step.leaves
            left_slope *= step.leaves
        moves = (slope * odds * (mass - p * (1 - left))) @ place
        value = -float(share @ np.log(p)) + RIDGE * float(flat[:gates] @ flat[:gates]) / 2
        return value, np.append(gradient.ravel() + RIDGE * flat[:gates], moves)

    return objective


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """What one order of the chain did to the tokens of its design, float64[m] each.

    ``mass`` and ``left`` are those of the shorter context. ``speaks`` is 1 − γ, ``own`` and
    ``gone`` what it gives to the token, and to all, if it speaks; ``known`` and ``variety`` how
    much less that is for each unit of the discount.
    """

    mass: Float64Array
    left: Float64Array
    speaks: Float64Array
    own: Float64Array
    gone: Float64Array
    known: Float64Array
    variety: Float64Array

    @property
    def leaves(self) -> Float64Array:
        """Return what is left to the shorter context."""
        return 1 - self.speaks * self.gone


def _chain(
    every: Sample, design: list[Float64Array], table: Float64Array
) -> tuple[Float64Array, Float64Array, list[_Step]]:
    """Return the mass of each token, what is left to the global LM, and how that came about.

    A row of ``table`` is a gate's coefficients, and the discount.
    """
    mass, left = np.zeros_like(every.shared), np.ones_like(every.shared)
    steps = []
    for k, matrix in enumerate(design):
        m = len(matrix)
        used, kept, distinct = every.used[:m, k], every.kept[:m, k], every.distinct[:m, k]
        total = np.maximum(every.total[:m, k], 1)
        discount = table[k, FEATURES]
        step = _Step(
            mass[:m].copy(),
            left[:m].copy(),
            np.where(distinct > 0, _logistic(-matrix @ table[k, :FEATURES]), 0),
            np.maximum(used - discount, 0) / total,
            (kept - discount * distinct) / total,
            (used > 0) / total,
            distinct / total,
        )
        mass[:m] = step.speaks * step.own + step.leaves * step.mass
        left[:m] = step.leaves * step.left
        steps.append(step)
    return mass, left, steps


def _logistic(x: Float64Array) -> Float64Array:
    return 1 / (1 + np.exp(-np.clip(x, -FURTHEST, FURTHEST)))


def minimize(objective: Objective, begin: Float64Array, memory: int = 12) -> Float64Array:
    """Return where ``objective``, which gives a value and its gradient, is least: L-BFGS."""
    x, (value, gradient) = begin, objective(begin)
    moves: list[tuple[Float64Array, Float64Array]] = []
    for _ in range(ROUNDS):
        direction, shares = -gradient, []
        for s, y in reversed(moves):
            a = (s @ direction) / (s @ y)
            shares.append(a)
            direction = direction - a * y
        if moves:
            s, y = moves[-1]
            direction = direction * ((s @ y) / (y @ y))
        for (s, y), a in zip(moves, reversed(shares), strict=True):
            direction = direction + s * (a - (y @ direction) / (s @ y))
        step, slope = 1.0, float(gradient @ direction)
        while True:
            there = x + step * direction
            new_value, new_gradient = objective(there)
            if new_value <= value + 1e-4 * step * slope or step < 1e-10:
                break
            step /= 2
        s, y = there - x, new_gradient - gradient
        if s @ y > 1e-12:
            moves = [*moves, (s, y)][-memory:]
        done = value - new_value < 1e-8
        x, value, gradient = there, new_value, new_gradient
        if done:
            break
    return x


def counts_of(letters: list[Letter], vocabulary: Vocabulary, order: int) -> Counts:
    """Return all n-grams of letters."""
    sequences = (s for letter in letters for s in letter.sequences)
    return count(sequences, order, specials(vocabulary))


def samples(
    letters: list[Letter],
    vocabulary: Vocabulary,
    targets: Targets,
    order: int,
    learn: Learn = counts_of,
) -> Iterator[Sample]:
    """Yield the samples of one person, that of all their mail last."""
    past, _ = split(letters, 0.2)
    older, newest = split(past, 0.1)
    yield from samples_of(older, newest, vocabulary, targets, order, learn)


def samples_of(
    older: list[Letter],
    newest: list[Letter],
    vocabulary: Vocabulary,
    targets: Targets,
    order: int,
    learn: Learn = counts_of,
) -> Iterator[Sample]:
    """Yield what models of the last ``older`` letters, and of all, have of the ``newest``."""
    passages = passages_of(newest, targets)
    for amount in amounts_of(older, AMOUNTS):
        yield sample(learn(older[-amount:], vocabulary, order), passages).some(MOST_TOKENS)


def passages_of(letters: list[Letter], targets: Targets) -> list[Passage]:
    """Return the passages of letters for :func:`sample`."""
    return [
        (ids, row)
        for letter in letters
        for ids, row in zip(letter.passages, targets.of(letter), strict=True)
    ]


def as_json(gates: dict[int, Gates]) -> str:
    """Return the text of ``perslm/gates.json``."""
    numbers = {
        str(order): {
            "gates": np.round(found.table, 4).tolist(),
            "size": np.round(found.size, 4).tolist(),
            "position": np.round(found.position, 4).tolist(),
            "row": np.round(found.row, 4).tolist(),
        }
        for order, found in gates.items()
    }
    return json.dumps(numbers, separators=(",", ":")).replace("},", "},\n") + "\n"


def main() -> None:
    """Fit the gates of all orders to the mail of the command line."""
    parser = parser_of(__doc__)
    add_global_lm(parser)
    study = open_study(parser.parse_args())
    found = {}
    for order in range(1, MAX_ORDER + 1):
        people = [
            list(samples(letters, study.vocabulary, study.targets, order))
            for letters in study.people
        ]
        found[order] = fit(people, order)
    sys.stdout.write(as_json(found))


if __name__ == "__main__":
    main()
