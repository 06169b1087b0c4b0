"""Backing off into the global LM, against its definition in dictionaries.

That the kernel computes the same is in test_kernel_backoff.py.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perslm import automaton, backoff
from perslm._scoring import compile_counts
from perslm.backoff import FEATURES, Gates
from perslm.blob import Metadata, encode
from perslm.counts import MAX_ORDER, Counts, Specials, count
from perslm.errors import ArgumentError
from perslm.interpolate import uncertainty
from perslm.model import PersonalModel
from tests.oracle import CLOSE, OPEN, OracleBackoff, ngram_counts
from tests.support import Seq, sequence_lists, some_gates

SIZE, BOS, EOS = 7, 0, 1
NOBODY = Metadata("0" * 32)
ORDERS = st.integers(1, MAX_ORDER)


def counted(sequences: list[Seq], order: int) -> Counts:
    return count(sequences, order, Specials(SIZE, BOS, EOS))


def oracle_of(sequences: list[Seq], order: int, gates: Gates) -> OracleBackoff:
    counts = ngram_counts([(s.ids, s.opens, s.closes) for s in sequences], order)
    return OracleBackoff(counts, order, gates.table.tolist())


@given(sequence_lists(), ORDERS, st.integers(0, 99), st.lists(st.integers(2, 5), max_size=6))
def test_the_mixture_is_what_the_definition_says(
    backend: str, sequences: list[Seq], order: int, seed: int, words: list[int]
) -> None:
    gates = some_gates(order, seed)
    counts = counted(sequences, order)
    oracle = oracle_of(sequences, order, gates)
    model = PersonalModel.from_counts(counts, NOBODY, gates=gates)
    row = np.random.default_rng(seed).dirichlet(np.ones(SIZE))
    histories = [[BOS, *words], words, []]
    rows = np.log(np.tile(row, (3, 1))).astype("f4")
    mixed = np.exp(model.mix(model.states(histories), rows, positions=[len(words)] * 3))
    size = sum(oracle.used((), w) for w in oracle.successors.get((), ()))
    moves = polynomial(gates.size, math.log2(max(size, 1)) / 8)
    moves += polynomial(gates.position, math.log2(1 + len(words)) / 4)
    moves += polynomial(gates.row[:3], float(row.max()))
    moves += polynomial([0, *gates.row[3:]], -math.fsum(row * np.log(row)) / 4)
    for found, history in zip(mixed, histories, strict=True):
        named = tuple(OPEN if i == BOS else i for i in history)
        context = named[max(0, len(named) - order + 1) :]
        weight = 1 - oracle.mixed(context, None, 1.0)
        moved = weight * math.exp(moves) / (weight * math.exp(moves) + 1 - weight)
        for w in range(1, SIZE):
            own = oracle.mixed(context, CLOSE if w == EOS else w, 0.0)
            expected = (1 - moved) * float(row[w]) + (moved * own / weight if weight else 0.0)
            assert found[w] == pytest.approx(expected, rel=5e-5)


def polynomial(numbers: Iterable[float], x: float) -> float:
    return math.fsum(number * x**power for power, number in enumerate(numbers))


@given(sequence_lists(), ORDERS, st.integers(0, 99), st.booleans())
def test_every_state_sums_to_one_and_leaves_something(
    sequences: list[Seq], order: int, seed: int, pruned: bool
) -> None:
    counts = counted(sequences, order)
    if pruned:
        counts = counts.prune([1] + [2] * (order - 1))
    found = backoff.estimate(counts, some_gates(order, seed))
    automaton.build(counts, found).validate()
    if counts.tokens:
        assert all(((w > 0) & (w < 1)).all() for w in found.weight)


@given(sequence_lists(), ORDERS)
def test_what_was_seen_once_and_cut_is_still_known_to_have_been_there(
    sequences: list[Seq], order: int
) -> None:
    whole = counted([Seq(s.ids, True, s.closes) for s in sequences], order)
    pruned = whole.prune([1] + [2] * (order - 1))
    pairs = list(zip(backoff.seen(whole), backoff.seen(pruned), strict=True))
    for before, after in pairs[:2]:  # after one word or none: no such context was cut
        assert after.variety.tolist() == before.variety.tolist() == before.distinct.tolist()
        assert after.total.tolist() == before.total.tolist()
    for _, after in pairs:
        assert (after.distinct <= after.variety).all()
        assert (after.variety <= after.total).all()


def texts() -> list[Seq]:
    return [Seq([2, 3, 4], True, True), Seq([2, 3, 5], True, True), Seq([3, 4], True, False)]


def test_a_weight_of_zero_changes_nothing(backend: str) -> None:
    rows = np.log(np.full((2, SIZE), 1 / SIZE, np.float32))
    silent = PersonalModel.from_counts(counted(texts(), 3), NOBODY, weight=0.0)
    nobody = PersonalModel.from_counts(counted([], 3), NOBODY)
    for model in (silent, nobody):
        states = model.states([[BOS], [2, 3]])
        assert model.mix(states, rows, positions=[0, 2]) is rows
        assert model.weights(states, [0, 2]).tolist() == [0, 0]


@given(sequence_lists(), ORDERS, st.integers(0, 99), st.sampled_from([0.1, 1.0, 30.0]))
def test_mixed_rows_sum_to_one_however_sure_the_global_lm_is(
    backend: str, sequences: list[Seq], order: int, seed: int, flat: float
) -> None:
    model = PersonalModel.from_counts(
        counted(sequences, order), NOBODY, gates=some_gates(order, seed)
    )
    rows = np.random.default_rng(seed).dirichlet(np.full(SIZE, flat), 3)
    states = model.states([[BOS], [2, 3], [4]])
    with np.errstate(divide="ignore"):
        mixed = model.mix(states, np.log(rows).astype(np.float32), positions=[0, 2, 400])
    assert np.exp(mixed.astype(float)).sum(1) == pytest.approx(1, abs=1e-5)


def test_a_mixture_has_the_weights_of_its_rows(backend: str) -> None:
    model = PersonalModel.from_counts(counted(texts(), 3), NOBODY)
    rows = np.log(np.array([[1 / SIZE] * SIZE, [0.94, *[0.01] * (SIZE - 1)]], np.float32))
    states = model.states([[2, 3]] * 2)
    for positions in (None, [0, 40]):
        weights = model.weights(states, positions, uncertainty(rows))
        known = np.logaddexp(
            np.log(weights)[:, None] + model.distribution(states),
            np.log1p(-weights)[:, None] + rows,
        )
        assert model.mix(states, rows, positions=positions) == pytest.approx(known, abs=1e-5)
        assert weights[0] > weights[1]  # it is asked where the global LM does not know
    fixed = PersonalModel.from_counts(counted(texts(), 3), NOBODY, weight=0.25)
    assert fixed.weights([0], [3], [[-1, 2]]).tolist() == [0.25]


def test_weights_depend_on_the_state_unless_one_is_given(backend: str) -> None:
    counts = counted(texts(), 3)
    model = PersonalModel.from_counts(counts, NOBODY)
    states = model.states([[BOS], [5], [2, 3]])
    assert model.weight is None
    assert len(set(model.weights(states).tolist())) == 3
    given_one = PersonalModel.from_counts(counts, NOBODY, weight=0.25)
    assert given_one.weights(given_one.states([[BOS], [5]])).tolist() == [0.25, 0.25]
    with pytest.raises(ArgumentError):
        model.weights(np.array([10_000]))


def test_the_estimator_is_chosen_and_kept(backend: str) -> None:
    counts = counted(texts(), 3)
    data = encode(counts, NOBODY)
    history = [[2, 3]]
    for name in ("backoff", "katz"):
        model = PersonalModel.from_blob(data, estimator=name)
        again = pickle.loads(pickle.dumps(model))
        assert model.estimator == again.estimator == name
        assert model.weights(model.states(history)) == again.weights(again.states(history))
        same = model.distribution(model.states(history)) == again.distribution(
            again.states(history)
        )
        assert same.all()
        model.automaton.validate()
    with pytest.raises(ArgumentError):
        PersonalModel.from_blob(data, estimator="guess")  # type: ignore[arg-type]


def moving(position: list[float], row: list[float]) -> Gates:
    return Gates(np.zeros((1, FEATURES + 1)), np.zeros(3), np.array(position), np.array(row))


def test_positions_move_weights_but_not_those_that_are_certain(backend: str) -> None:
    gates = moving([1, -1, 0], [0] * 5)
    weights = np.array([0, 0.2, 0.2, 0.2, 1], np.float32)
    moved = backoff.shift(weights, gates, [0, 0, 15, 10**6, 0])
    assert moved[[0, 4]].tolist() == [0, 1]
    assert moved[1] == pytest.approx(0.2 * math.e / (0.2 * math.e + 0.8))
    assert moved[1] > moved[2] > moved[3]
    assert moved[2] == pytest.approx(0.2)
    assert moved[3] == backoff.shift(weights[:1] + 0.2, gates, [255])[0]
    assert weights.tolist() == pytest.approx([0, 0.2, 0.2, 0.2, 1])


def test_rows_move_weights_by_what_the_global_lm_knows(backend: str) -> None:
    gates = moving([0] * 3, [0.5, -1, 0, 1, 0])
    weights = np.full(4, 0.2, np.float32)
    rows = [[0, 0], [math.log(0.5), 2], [-80, 12], [-80, 1e9]]
    moved = backoff.shift(weights, gates, uncertainty=rows)
    for found, move in zip(moved, (0.5 - 1, 0.5 - 0.5 + 0.5, 0.5 + 3, 0.5 + 3), strict=True):
        assert found == pytest.approx(0.2 * math.exp(move) / (0.2 * math.exp(move) + 0.8))
    both = moving([0.3, 0, 0], [0.5, -1, 0, 1, 0])
    twice = backoff.shift(backoff.shift(weights, both, [3] * 4), both, None, rows)
    assert backoff.shift(weights, both, [3] * 4, rows) == pytest.approx(twice, rel=1e-6)


def test_a_place_that_cannot_be_moves_weights_to_weights(backend: str) -> None:
    gates = backoff.population(3)
    weights = np.array([0, 1e-9, 0.5, 1], np.float32)
    odd = [np.nan, np.inf, -np.inf, 3e38, -3e38]
    for top in odd:
        for entropy in odd:
            moved = backoff.shift(weights, gates, [-5, 0, 2**40, 1], [[top, entropy]] * 4)
            assert moved[[0, 3]].tolist() == [0, 1]
            assert ((moved >= 0) & (moved <= 1)).all()


def test_places_have_a_number_for_each_weight() -> None:
    gates, weights = backoff.population(3), np.full(2, 0.5, np.float32)
    for positions in ([1], [1, 2, 3], [[1, 2]], [0.5, 1], ["a", "b"]):
        with pytest.raises(ArgumentError, match="positions"):
            backoff.shift(weights, gates, positions)
    for rows in ([1, 2], [[1, 2]], [[1], [2]], [["a", "b"]] * 2, [[1], [2, 3]]):
        with pytest.raises(ArgumentError, match="uncertainty"):
            backoff.shift(weights, gates, None, rows)


def test_gates_come_with_the_package() -> None:
    for order in range(1, MAX_ORDER + 1):
        gates = backoff.population(order)
        assert gates.table.shape == (order, FEATURES + 1)
        assert (gates.size.shape, gates.position.shape, gates.row.shape) == ((3,), (3,), (5,))
        assert ((gates.table[:, FEATURES] > 0) & (gates.table[:, FEATURES] < 1)).all()


def test_there_must_be_a_gate_by_order(backend: str) -> None:
    narrow = replace(some_gates(3, 1), table=np.zeros((3, 4)))
    for gates in (some_gates(2, 1), narrow):
        with pytest.raises(ArgumentError):
            compile_counts(counted(texts(), 3), gates)
