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
from perslm.interpolate import uncertainty
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


def passages(texts: list[list[int]], seed: int = 0) -> list[fitting.Passage]:
    """Texts as a global LM sees them that knows their words a little, here more and there less."""
    random = np.random.default_rng(seed)
    found = []
    for words in texts:
        rows = random.dirichlet(np.ones(SIZE), len(words))
        rows[np.arange(len(words)), words] += random.random(len(words))
        logprobs = np.log(rows / rows.sum(1, keepdims=True)).astype(np.float32)
        said = [logprobs[np.arange(len(words)), words], *uncertainty(logprobs).T]
        found.append((np.array([BOS, *words], np.uint32), np.stack(said, 1)))
    return found


def sample(seed: int) -> fitting.Sample:
    return fitting.sample(counts_of(mail(seed, 30)), passages(mail(seed + 100, 20), seed))


def test_samples_hold_what_models_have() -> None:
    counts, test = counts_of(mail(1, 30)), passages(mail(2, 20))
    found = fitting.sample(counts, test)
    gates = backoff.population(ORDER)
    model = PersonalModel.from_counts(counts, Metadata("0" * 32))
    expected = []
    for ids, row in test:
        states = model.states([ids[:t].tolist() for t in range(1, len(ids))])
        weight = model.weights(states, np.arange(len(row)), row[:, 1:]).astype(float)
        personal = np.exp(model.score(states, ids[1:, None])[0][:, 0].astype(float))
        expected += (weight * personal + (1 - weight) * np.exp(row[:, 0].astype(float))).tolist()
    assert fitting.probabilities(found, gates) == pytest.approx(expected, rel=1e-4)
    assert found.position.tolist() == [t for ids, _ in test for t in range(len(ids) - 1)]


def test_the_gradient_is_that_of_the_loss() -> None:
    found = sample(3)
    place, share = fitting.place_of(found), np.full(len(found.shared), 1 / len(found.shared))
    objective = fitting.objective_of(found, place, share)
    numbers = np.random.default_rng(0).normal(size=ORDER * (backoff.FEATURES + 1) + 8) / 3
    _, gradient = objective(numbers)
    for step, slope in zip(np.eye(len(numbers)) * 1e-5, gradient, strict=True):
        up, down = objective(numbers + step)[0], objective(numbers - step)[0]
        assert slope == pytest.approx((up - down) / 2e-5, abs=1e-7)


def test_what_the_caller_does_not_know_moves_nothing_in_the_mean() -> None:
    found = sample(5)
    gates = fitting.fit([[found]], ORDER)
    assert np.abs(gates.row[1:]).max() > 0.1  # there is something to know
    for features, numbers in (
        (backoff.position_features(found.position), gates.position),
        (backoff.row_features(found.uncertainty), gates.row),
    ):
        assert (features @ numbers).mean() == pytest.approx(0, abs=1e-9)


def test_fitted_gates_predict_better_than_those_of_others() -> None:
    fitted = fitting.fit([[sample(5)], [sample(6), sample(7)]], ORDER)
    again = json.loads(fitting.as_json({ORDER: fitted}))[str(ORDER)]
    assert np.array(again["gates"]) == pytest.approx(fitted.table, abs=1e-4)
    for name in ("size", "position", "row"):
        assert np.array(again[name]) == pytest.approx(getattr(fitted, name), abs=1e-4)
    assert ((fitted.table[:, -1] > 0) & (fitted.table[:, -1] < 1)).all()
    found = fitting.sample(counts_of(mail(8, 30)), passages(mail(9, 40), 9))
    losses = [
        -np.log(fitting.probabilities(found, gates)).mean()
        for gates in (fitted, backoff.population(ORDER))
    ]
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
