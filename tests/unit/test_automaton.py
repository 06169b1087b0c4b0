"""The automaton against hand arithmetic, its invariants, and the oracle."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perslm.automaton import ROOT, Automaton, build
from perslm.counts import Specials, count
from perslm.errors import AutomatonError
from perslm.katz import estimate
from tests.oracle import OracleKatz, ngram_counts
from tests.support import Seq, sequence_lists

SPECIALS = Specials(7, 0, 1)


def automaton(sequences: list[Seq], order: int) -> Automaton:
    counts = count(sequences, order, SPECIALS)
    return build(counts, estimate(counts))


@given(sequences=sequence_lists())
@pytest.mark.parametrize("order", range(1, 6))
def test_every_built_automaton_is_valid(order: int, sequences: list[Seq]) -> None:
    automaton(sequences, order).validate()


@given(sequences=sequence_lists(), minimum=st.integers(1, 3))
def test_pruned_automata_are_valid(sequences: list[Seq], minimum: int) -> None:
    counts = count(sequences, 4, SPECIALS).prune([1, minimum, minimum, minimum + 1])
    build(counts, estimate(counts)).validate()


@given(sequences=sequence_lists(), history=st.lists(st.integers(2, 6), max_size=6))
@pytest.mark.parametrize("order", range(1, 6))
def test_walks_give_the_oracle_probabilities(
    order: int, sequences: list[Seq], history: list[int]
) -> None:
    model = automaton(sequences, order)
    spelled = [(list(s.ids), s.opens, s.closes) for s in sequences]
    oracle = OracleKatz(ngram_counts(spelled, order), order)
    for opens in (False, True):
        state = np.array([model.start if opens else ROOT])
        for word in history:
            arc = model.walk(state, np.array([word])).arc[0]
            state = np.array([ROOT if arc < 0 else model.next_state[arc]])
        known = tuple(["<s>"] * opens + history)
        for word in range(2, 7):
            expected = oracle.p(known, word)
            assert -model.walk(state, np.array([word])).weight[0] == pytest.approx(expected)
        assert -model.closing(state)[0] == pytest.approx(oracle.p(known, "</s>"))


def test_two_sentences_by_hand() -> None:
    # "2 3" and "2 4": unigrams 2:2 3:1 4:1 </s>:2 of 6 events
    model = automaton([Seq([2, 3], True, True), Seq([2, 4], True, True)], 2)
    assert model.states == 5  # root, <s>, 2, 3, 4
    assert model.arcs == 3 + 1 + 2
    root = model.walk(np.zeros(4, int), np.array([2, 3, 4, 5]))
    assert np.exp(-root.weight) == pytest.approx([2 / 6, 1 / 6, 1 / 6, 0])
    # bigrams: <s> 2 seen twice; 2 3, 2 4, 3 </s>, 4 </s> once. n_1 = 4, n_2 = 1, A = 0:
    # d_1 = 2·1/4/1 = 0.5, d_2 = 3/1/2 > 1 falls back to 0.999
    start = np.array([model.start])
    assert math.exp(-model.walk(start, np.array([2])).weight[0]) == pytest.approx(0.999)
    # word 3 after <s>: α(<s>) p(3), α = (1 − 0.999) / (1 − 2/6)
    backed_off = math.exp(-model.walk(start, np.array([3])).weight[0])
    assert backed_off == pytest.approx(0.001 / (4 / 6) / 6)


def test_repr_holds_sizes_only() -> None:
    model = automaton([Seq([2, 3], True, True)], 2)
    assert repr(model) == "Automaton(order=2, states=4, arcs=4)"


def broken(model: Automaton, field: str, index: int, value: float) -> Automaton:
    changed = getattr(model, field).copy()
    changed[index] = value
    return dataclasses.replace(model, **{field: changed})


@pytest.mark.parametrize(
    ("field", "index", "value"),
    [
        ("weight", 0, 5.0),
        ("backoff_weight", 2, 0.1),
        ("label", 0, 6),
        ("label", 0, 1),
        ("next_state", 0, 3),
        ("next_state", 0, 99),
        ("backoff_state", 2, 2),
        ("state_order", 1, 3),
        ("final_weight", 0, math.inf),
        ("weight", 1, math.nan),
        ("arc_begin", 1, 0),
    ],
)
def test_validate_finds_damage(field: str, index: int, value: float) -> None:
    model = automaton([Seq([2, 3], True, True), Seq([2, 4, 3], True, True)], 3)
    model.validate()
    with pytest.raises(AutomatonError):
        broken(model, field, index, value).validate()
