"""Fitting gates: the loss is that of the models that use them, and its gradient is exact."""

from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest

from builders import gates as fitting
from perslm import backoff
from perslm.blob import Metadata
from perslm.counts import Counts, Specials, count
from perslm.model import PersonalModel
from tests.support import Seq

SIZE, BOS, EOS, ORDER = 9, 0, 1, 3
SPECIALS = Specials(SIZE, BOS, EOS)


def text(random: Random) -> list[int]:
    """Habits, so that there is something to learn: 2 3 4 often, the rest at random."""
    words = []
    for _ in range(random.randint(1, 6)):
        words += [2, 3, 4] if random.random() < 0.5 else [random.randint(2, SIZE - 1)]
    return words


def mail(seed: int, n: int) -> list[list[int]]:
    random = Random(seed)
    return [text(random) for _ in range(n)]


def counts_of(texts: list[list[int]]) -> Counts:
    return count([Seq(words, True, True) for words in texts], ORDER, SPECIALS)


def passages(texts: list[list[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (np.array([BOS, *words], np.uint32), np.full(len(words), -np.log(SIZE), np.float32))
        for words in texts
    ]


def sample(seed: int) -> fitting.Sample:
    return fitting.sample(counts_of(mail(seed, 30)), passages(mail(seed + 100, 20)))


def test_samples_hold_what_models_have() -> None:
    counts, test = counts_of(mail(1, 30)), passages(mail(2, 20))
    found = fitting.sample(counts, test)
    gates = backoff.population(ORDER)
    model = PersonalModel.from_counts(counts, Metadata("0" * 32))
    expected = []
    for ids, row in test:
        states = model.states([ids[:t].tolist() for t in range(1, len(ids))])
        weight = model.weights(states).astype(float)
        personal = np.exp(model.score(states, ids[1:, None])[0][:, 0].astype(float))
        expected += (weight * personal + (1 - weight) * np.exp(row.astype(float))).tolist()
    numbers = gates.table.copy()
    discount = numbers[:, -1]
    numbers[:, -1] = np.log(discount / (1 - discount))
    share = np.ones(len(found.shared))
    p, _ = fitting._chain(found, fitting.design_of(found), numbers, share)
    assert p == pytest.approx(expected, rel=1e-4)
    assert found.position.tolist() == [t for ids, _ in test for t in range(len(ids) - 1)]


def test_the_gradient_is_that_of_the_loss() -> None:
    found = sample(3)
    design, share = fitting.design_of(found), np.full(len(found.shared), 1 / len(found.shared))
    numbers = np.random.default_rng(0).normal(size=(ORDER, backoff.FEATURES + 1)) / 3
    _, gradient = fitting._chain(found, design, numbers, share)
    for at in np.ndindex(numbers.shape):
        moved = np.zeros_like(numbers)
        moved[at] = 1e-5
        up, down = (
            -share @ np.log(fitting._chain(found, design, x, share)[0])
            for x in (numbers + moved, numbers - moved)
        )
        assert gradient[at] == pytest.approx((up - down) / 2e-5, abs=1e-7)


def test_fitted_gates_predict_better_than_those_of_others() -> None:
    samples = [sample(seed) for seed in (5, 6, 7)]
    fitted = fitting.fit(samples, ORDER)
    again = json.loads(fitting.as_json({ORDER: fitted}))[str(ORDER)]
    assert np.array(again["gates"]) == pytest.approx(fitted.table, abs=1e-4)
    assert ((fitted.table[:, -1] > 0) & (fitted.table[:, -1] < 1)).all()
    counts, test = counts_of(mail(8, 30)), passages(mail(9, 40))
    found = fitting.sample(counts, test)
    share = np.full(len(found.shared), 1 / len(found.shared))
    losses = []
    for gates in (fitted, backoff.population(ORDER)):
        numbers = gates.table.copy()
        numbers[:, -1] = np.log(numbers[:, -1] / (1 - numbers[:, -1]))
        p, _ = fitting._chain(found, fitting.design_of(found), numbers, share)
        losses.append(-float(share @ np.log(p)))
    assert losses[0] < losses[1]


def test_the_least_of_a_parabola_is_found() -> None:
    centre = np.array([3.0, -2.0, 0.5])
    found = fitting.minimize(
        lambda x: (
            float(((x - centre) ** 2 * [1, 10, 100]).sum()),
            2 * (x - centre) * [1, 10, 100],
        ),
        np.zeros(3),
    )
    assert found == pytest.approx(centre, abs=1e-3)
