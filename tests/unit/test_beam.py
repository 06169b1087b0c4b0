"""Beam search against exhaustive search, with and without a personal model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perslm.beam import Hypothesis, PersonalOnly, PooledModel, search
from perslm.blob import Metadata, encode
from perslm.counts import Specials, count
from perslm.errors import ArgumentError
from perslm.model import NullModel, PersonalModel
from tests.support import Seq

pytestmark = pytest.mark.usefixtures("backend")

SPECIALS = Specials(6, 0, 1)
OFFICE = [Seq([2, 3, 4], True, True), Seq([2, 3, 5], True, True), Seq([3, 4], True, True)]


def personal(weight: float = 0.5) -> PersonalModel:
    counts = count([Seq([2, 5, 5], True, True)] * 3, 3, SPECIALS)
    return PersonalModel.from_blob(encode(counts, Metadata("ab" * 16)), weight=weight)


def exhaustive(
    model: PooledModel, mixed: PersonalModel | None, history: list[int], steps: int
) -> dict[tuple[int, ...], float]:
    """The log-probability of every continuation of exactly so many ids."""
    result = {}
    for ids in itertools.product(range(2, SPECIALS.size), repeat=steps):
        total = 0.0
        for i, word in enumerate(ids):
            before = [[*history, *ids[:i]]]
            row = model.logprobs(before)
            if mixed is not None:
                row = mixed.mix(mixed.states(before), row)
            total += float(row[0, word])
        result[ids] = total
    return result


@given(history=st.lists(st.integers(2, 5), max_size=3), weight=st.sampled_from([None, 0.2, 0.9]))
def test_a_wide_beam_is_exhaustive(history: list[int], weight: float | None) -> None:
    pooled = PooledModel(count(OFFICE, 3, SPECIALS))
    model = None if weight is None else personal(weight)
    found = search(pooled, history, personal=model, width=64, steps=3, best=64, banned=[0, 1])
    expected = exhaustive(pooled, model, history, 3)
    assert {h.ids for h in found} == set(expected)
    for h in found:
        assert h.logprob == pytest.approx(expected[h.ids], abs=1e-4)
    assert [h.logprob for h in found] == sorted((h.logprob for h in found), reverse=True)


def test_personal_words_come_first_and_the_null_model_changes_nothing() -> None:
    pooled = PooledModel(count(OFFICE, 3, SPECIALS))
    alone = search(pooled, [0, 2], stop=[1], banned=[0])
    assert alone[0].ids[0] == 3
    assert search(pooled, [0, 2], personal=personal(0.9), stop=[1], banned=[0])[0].ids[0] == 5
    assert search(pooled, [0, 2], personal=NullModel("degraded"), stop=[1], banned=[0]) == alone
    assert search(pooled, [0, 2], personal=personal(0.0), stop=[1], banned=[0]) == alone


def test_a_hypothesis_ends_at_a_stop_id() -> None:
    found = search(PersonalOnly(personal()), [0, 2, 5, 5], stop=[1], banned=[0], steps=4)
    assert found[0].ids == (1,)


def test_pooled_rows_sum_to_one_and_leave_no_word_out() -> None:
    rows = PooledModel(count(OFFICE, 2, SPECIALS)).logprobs([[0, 2], [5]])
    assert np.exp(rows.astype(float)).sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert np.isfinite(rows).all()


def test_a_pool_of_nothing_is_uniform() -> None:
    rows = PooledModel(count([], 2, SPECIALS)).logprobs([[0]])
    assert np.exp(rows) == pytest.approx(np.full((1, 6), 1 / 6))


def test_virtual_ids_may_be_banned() -> None:
    virtual = Specials(5, 5, 6)
    pooled = PooledModel(count([Seq([2, 3], True, False)], 2, virtual))
    assert search(pooled, [5], banned=[5, 6]) == search(pooled, [5])


def test_arguments() -> None:
    pooled = PooledModel(count(OFFICE, 2, SPECIALS))
    with pytest.raises(ArgumentError):
        search(pooled, [], width=0)
    with pytest.raises(ArgumentError):
        PooledModel(count(OFFICE, 2, SPECIALS), epsilon=0)


def test_what_is_shown_of_a_hypothesis_holds_no_words() -> None:
    assert repr(Hypothesis((271, 828), -1.5)) == "Hypothesis(logprob=-1.5)"
