"""Fits the gates of ``perslm.backoff`` over many people's mail. What made ``perslm/gates.json``:

    python -m builders.gates MAIL... > perslm/gates.json

Of everybody's letters, oldest first, the newest tenth of the first four fifths is what a model of
the older ones has to predict: all of them, and the last 10, 30, 100 and 300 only, so that the gates
are right for somebody who has just begun, too. The last fifth is not looked at. Everybody counts
alike, however much they wrote. The loss is that of the mixture with a global LM; gradients are
exact, and the few numbers are found by L-BFGS. Nothing of what anybody wrote is in the result.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from builders.build import specials
from builders.evaluate.mail import Letter, letters_of
from builders.evaluate.run import split
from builders.evaluate.targets import Targets
from builders.prepare import Settings
from builders.routing import Router
from perslm.backoff import FEATURES, FURTHEST, Gates, features, positions_of, seen
from perslm.counts import MAX_ORDER, AnyIntegers, Counts, Int64Array, count, pair_keys
from perslm.global_lm import open_global_lm
from perslm.smoothing import Float64Array
from perslm.vocabulary import Vocabulary

AMOUNTS = (10, 30, 100, 300)
FEWEST_LETTERS = 20
MOST_TOKENS = 1000
"""Tokens of one person and amount: more of them would say little more."""

RIDGE = 1e-4
ROUNDS = 120

Objective = Callable[[Float64Array], tuple[float, Float64Array]]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Tokens to predict, with what one model has of each. Arrays [n], or [n, order] by context.

    ``shared`` is p_global, ``position`` how many tokens of the text came before. ``used`` is c(hw),
    ``total`` C(h), 0 where the model has no such context; the others as in ``perslm.backoff.Seen``.
    """

    shared: Float64Array
    position: Float64Array
    used: Float64Array
    kept: Float64Array
    total: Float64Array
    distinct: Float64Array
    opens: npt.NDArray[np.bool_]

    def some(self, most: int) -> Sample:
        """Return at most about ``most`` of the tokens, evenly spread."""
        step = -(-len(self.shared) // most) if len(self.shared) else 1
        return Sample(*(getattr(self, name)[::step] for name in self.__slots__))


def sample(
    counts: Counts, passages: Sequence[tuple[AnyIntegers, npt.NDArray[np.floating]]]
) -> Sample:
    """Return what a model of ``counts`` has for every token of passages but their first.

    A passage is its ids, which begin with ``<s>``, and ln p_global of those behind it.
    """
    ids = np.concatenate([ids for ids, _ in passages]).astype(np.int64)
    begins = np.cumsum([0, *(len(ids) for ids, _ in passages)])
    place = np.arange(len(ids)) - np.repeat(begins[:-1], np.diff(begins))
    logprobs = np.zeros(len(ids))
    logprobs[place > 0] = np.concatenate([row for _, row in passages])
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
        np.exp(logprobs[place > 0]),
        (place[place > 0] - 1).astype(np.float64),
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


def fit(samples: Sequence[Sample], order: int) -> Gates:
    """Return the gates that predict ``samples`` best, each of which counts alike."""
    every = Sample(
        *(np.concatenate([getattr(s, name) for s in samples]) for name in Sample.__slots__)
    )
    share = np.concatenate([np.full(len(s.shared), 1 / len(s.shared)) for s in samples])
    share /= len(samples)
    design = design_of(every)

    def loss(flat: Float64Array) -> tuple[float, Float64Array]:
        p, gradient = _chain(every, design, flat.reshape(order, -1), share)
        value = -float(share @ np.log(np.maximum(p, 1e-300))) + RIDGE * float(flat @ flat) / 2
        return value, gradient.ravel() + RIDGE * flat

    begin = np.zeros((order, FEATURES + 1))
    begin[:, FEATURES] = 1
    found = minimize(loss, begin.ravel()).reshape(order, -1)
    table = found.copy()
    table[:, FEATURES] = _logistic(found[:, FEATURES])
    return Gates(table, _fit_position(every, design, found, share))


def design_of(every: Sample) -> list[Float64Array]:
    """Return the features of the contexts of each order, float64[n, FEATURES] each."""
    variety = every.distinct + (every.total - every.kept)
    by_order = zip(every.total.T, variety.T, every.opens.T, strict=True)
    return [
        features(np.maximum(total, 1), np.maximum(different, 1), opens)
        for total, different, opens in by_order
    ]


def _fit_position(
    every: Sample, design: list[Float64Array], found: Float64Array, share: Float64Array
) -> Float64Array:
    silent = np.zeros_like(every.shared)
    mass = _chain(every, design, found, share, silent)[0]
    weight = 1 - (_chain(every, design, found, share, silent + 1)[0] - mass)
    speaks = weight > 0  # not where the model is one of nothing
    mass, weight, shared = mass[speaks], weight[speaks], every.shared[speaks]
    share = share[speaks]
    personal, odds = mass / weight, np.log(weight / (1 - weight))
    powers = positions_of(every.position[speaks])[:, None] ** np.arange(3)

    def loss(moved: Float64Array) -> tuple[float, Float64Array]:
        lam = _logistic(odds + powers @ moved)
        p = lam * personal + (1 - lam) * shared
        slope = share * (personal - shared) / p * lam * (1 - lam)
        return -float(share @ np.log(p)), -slope @ powers

    return minimize(loss, np.zeros(3))


def _chain(
    every: Sample,
    design: list[Float64Array],
    numbers: Float64Array,
    share: Float64Array,
    shared: Float64Array | None = None,
) -> tuple[Float64Array, Float64Array]:
    """Return p of each token, and the gradient of −Σ share · ln p by ``numbers``.

    A row of ``numbers`` is a gate's coefficients, and the discount before the logistic function.
    ``shared`` takes the place of p_global.
    """
    p = every.shared if shared is None else shared
    steps = []
    for k, matrix in enumerate(design):
        used, kept, distinct = every.used[:, k], every.kept[:, k], every.distinct[:, k]
        live = distinct > 0
        total = np.maximum(every.total[:, k], 1)
        discount = _logistic(numbers[k, FEATURES])
        speaks = np.where(live, _logistic(-matrix @ numbers[k, :FEATURES]), 0)
        own = np.maximum(used - discount, 0) / total
        gone = (kept - discount * distinct) / total
        steps.append((p, speaks, own, gone, used > 0, distinct / total))
        p = speaks * own + (1 - speaks * gone) * p
    slope = -share / np.maximum(p, 1e-300)
    gradient = np.zeros_like(numbers)
    for k in reversed(range(len(design))):
        lower, speaks, own, gone, known, variety = steps[k]
        by_gate = slope * (gone * lower - own) * speaks * (1 - speaks)
        gradient[k, :FEATURES] = by_gate @ design[k]
        discount = _logistic(numbers[k, FEATURES])
        freed = variety * lower - known / np.maximum(every.total[:, k], 1)
        gradient[k, FEATURES] = (slope @ (speaks * freed)) * discount * (1 - discount)
        slope = slope * (1 - speaks * gone)
    return p, gradient


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
        done = value - new_value < 1e-9
        x, value, gradient = there, new_value, new_gradient
        if done:
            break
    return x


def samples(
    letters: list[Letter], vocabulary: Vocabulary, targets: Targets, order: int
) -> Iterator[Sample]:
    """Yield the samples of one person."""
    past, _ = split(letters, 0.2)
    older, newest = split(past, 0.1)
    passages = [
        (ids, row)
        for letter in newest
        for ids, row in zip(letter.passages, targets.of(letter), strict=True)
    ]
    for amount in [*(a for a in AMOUNTS if a < len(older)), len(older)]:
        sequences = (s for letter in older[-amount:] for s in letter.sequences)
        yield sample(count(sequences, order, specials(vocabulary)), passages).some(MOST_TOKENS)


def as_json(gates: dict[int, Gates]) -> str:
    """Return the text of ``perslm/gates.json``."""
    numbers = {
        str(order): {
            "gates": np.round(found.table, 4).tolist(),
            "position": np.round(found.position, 4).tolist(),
        }
        for order, found in gates.items()
    }
    return json.dumps(numbers, separators=(",", ":")).replace("},", "},\n") + "\n"


class _Quiet:
    def stage(self, name: str, total: int) -> None:
        """As ``builders.routing.Progress``."""

    def advance(self, amount: int) -> None:
        """As ``builders.routing.Progress``."""


def main() -> None:
    """Fit the gates of all orders to the mail of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mail", nargs="+", type=Path)
    parser.add_argument("--by-file", action="store_true", help="a file is the mail of one person")
    parser.add_argument("--global-lm", default="smollm2")
    parser.add_argument("--cache", type=Path, default=Path("global-logprobs"))
    options = parser.parse_args()
    model = open_global_lm(options.global_lm)
    vocabulary = model.vocabulary
    targets = Targets(model, options.global_lm, options.cache)
    router = Router.for_sources(
        options.mail, user=None, me=(), by_file=options.by_file, progress=_Quiet()
    )
    mail = letters_of(
        options.mail,
        router=router,
        vocabulary=vocabulary,
        settings=Settings(),
        progress=_Quiet(),
    )
    people = [letters for letters in mail.values() if len(letters) >= FEWEST_LETTERS]
    found = {}
    for order in range(1, MAX_ORDER + 1):
        found[order] = fit(
            [s for letters in people for s in samples(letters, vocabulary, targets, order)], order
        )
    sys.stdout.write(as_json(found))


if __name__ == "__main__":
    main()
