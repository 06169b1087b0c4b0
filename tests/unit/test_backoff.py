"""Backing off into the global LM, against its definition in dictionaries.

That the kernel computes the same is in test_kernel_backoff.py.
"""

from __future__ import annotations

import math
import pickle

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
    engine = compile_counts(counts, gates)
    model = PersonalModel(engine, NOBODY, counts)
    row = np.random.default_rng(seed).dirichlet(np.ones(SIZE))
    histories = [[BOS, *words], words, []]
    mixed = np.exp(model.mix(model.states(histories), np.log(np.tile(row, (3, 1))).astype("f4")))
    for found, history in zip(mixed, histories, strict=True):
        named = tuple(OPEN if i == BOS else i for i in history)
        context = named[max(0, len(named) - order + 1) :]
        for w in range(1, SIZE):
            expected = oracle.mixed(context, CLOSE if w == EOS else w, float(row[w]))
            assert found[w] == pytest.approx(expected, rel=2e-5)


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


def test_positions_move_weights_but_not_those_that_are_certain() -> None:
    gates = Gates(np.zeros((1, FEATURES + 1)), np.array([1.0, -1.0, 0.0]))
    weights = np.array([0, 0.2, 0.2, 0.2, 1], np.float32)
    moved = backoff.shift(weights, [0, 0, 15, 10**6, 0], gates)
    assert moved[[0, 4]].tolist() == [0, 1]
    assert moved[1] == pytest.approx(0.2 * math.e / (0.2 * math.e + 0.8))
    assert moved[1] > moved[2] > moved[3]
    assert moved[2] == pytest.approx(0.2)
    assert moved[3] == backoff.shift(weights[:1] + 0.2, [255], gates)[0]


def test_gates_come_with_the_package() -> None:
    for order in range(1, MAX_ORDER + 1):
        gates = backoff.population(order)
        assert gates.table.shape == (order, FEATURES + 1)
        assert gates.position.shape == (3,)
        assert ((gates.table[:, FEATURES] > 0) & (gates.table[:, FEATURES] < 1)).all()


def test_there_must_be_a_gate_by_order(backend: str) -> None:
    for gates in (some_gates(2, 1), Gates(np.zeros((3, 4)), np.zeros(3))):
        with pytest.raises(ArgumentError):
            compile_counts(counted(texts(), 3), gates)
