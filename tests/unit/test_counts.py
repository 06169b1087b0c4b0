"""Counting, adding, subtracting and pruning, against a dictionary."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perslm.counts import Counts, Specials, count, empty, merge, subtract
from perslm.errors import ArgumentError
from tests.oracle import ngram_counts
from tests.support import Seq, same_counts, sequence_lists

pytestmark = pytest.mark.usefixtures("backend")

SPECIALS = Specials(7, 0, 1)
NAMES = {0: "<s>", 1: "</s>"}


def as_dict(counts: Counts) -> Counter[tuple[object, ...]]:
    """The counts, n-gram by n-gram, with every index of the trie followed."""
    grams: list[tuple[object, ...]] = [()]
    result: Counter[tuple[object, ...]] = Counter()
    for level in counts.levels:
        longer = [
            (*grams[c], NAMES.get(w, w))
            for c, w in zip(level.context.tolist(), level.word.tolist(), strict=True)
        ]
        for gram, suffix in zip(longer, level.suffix.tolist(), strict=True):
            assert grams[suffix] == gram[1:]
        keys = level.keys()
        assert (keys[1:] > keys[:-1]).all()
        result.update(
            {g: c for g, c in zip(longer, level.count.tolist(), strict=True) if g != ("<s>",)}
        )
        grams = longer
    return result


def naive(sequences: list[Seq], order: int) -> Counter[tuple[object, ...]]:
    return ngram_counts([(list(s.ids), s.opens, s.closes) for s in sequences], order)


@given(sequences=sequence_lists())
@pytest.mark.parametrize("order", range(1, 6))
def test_counts_every_ngram(order: int, sequences: list[Seq]) -> None:
    counts = count(sequences, order, SPECIALS)
    expected = naive(sequences, order)
    assert as_dict(counts) == expected
    assert counts.ngrams == tuple(sum(len(g) == k for g in expected) for k in range(1, order + 1))
    assert counts.tokens == sum(c for g, c in expected.items() if len(g) == 1)
    for k, row in enumerate(counts.count_of_counts().tolist(), start=1):
        of_order = [c for g, c in expected.items() if len(g) == k]
        assert row == [of_order.count(r) for r in range(1, 7)]


@given(parts=st.lists(sequence_lists(), min_size=1, max_size=4), order=st.integers(1, 5))
def test_merging_equals_counting_together(parts: list[list[Seq]], order: int) -> None:
    together = count([s for part in parts for s in part], order, SPECIALS)
    assert same_counts(merge([count(part, order, SPECIALS) for part in parts]), together)


@given(kept=sequence_lists(), removed=sequence_lists(), order=st.integers(1, 5))
def test_subtracting_equals_never_having_counted(
    kept: list[Seq], removed: list[Seq], order: int
) -> None:
    whole = count(kept + removed, order, SPECIALS)
    assert same_counts(
        subtract(whole, count(removed, order, SPECIALS)), count(kept, order, SPECIALS)
    )


@given(sequences=sequence_lists(), minimum=st.integers(2, 4), order=st.integers(2, 5))
def test_pruning_keeps_totals_and_closure(sequences: list[Seq], minimum: int, order: int) -> None:
    whole = count(sequences, order, SPECIALS)
    pruned = whole.prune([1] + [minimum] * (order - 1))
    expected = naive(sequences, order)
    kept = {g: c for g, c in expected.items() if len(g) == 1 or c >= minimum}
    assert as_dict(pruned) == kept
    assert np.array_equal(pruned.count_of_counts(), whole.count_of_counts())
    assert pruned.totals(0).tolist() == whole.totals(0).tolist()
    again = pruned.prune([1] + [minimum] * (order - 1))
    assert same_counts(again, pruned)
    assert [c.tolist() for c in again.cut or ()] == [c.tolist() for c in pruned.cut or ()]


@given(sequences=sequence_lists(), order=st.integers(1, 5))
def test_shortening_equals_counting_to_a_lower_order(sequences: list[Seq], order: int) -> None:
    assert same_counts(
        count(sequences, 5, SPECIALS).shorten(order), count(sequences, order, SPECIALS)
    )


@given(sequences=sequence_lists(), order=st.integers(2, 5), shorter=st.integers(1, 5))
def test_shortening_pruned_counts_keeps_totals(
    sequences: list[Seq], order: int, shorter: int
) -> None:
    shorter = min(order, shorter)
    pruned = count(sequences, order, SPECIALS).prune([1] + [2] * (order - 1))
    short = pruned.shorten(shorter)
    kept = {g: c for g, c in as_dict(pruned).items() if len(g) <= shorter}
    assert as_dict(short) == kept
    assert short.order == shorter
    for k in range(shorter):
        assert np.array_equal(short.totals(k), pruned.totals(k))


def test_reprs_hold_sizes_only() -> None:
    counts = count([Seq([2, 3], True, True)], 2, SPECIALS)
    assert repr(counts) == "Counts(order=2, ngrams=(3, 3), pruned=False)"
    assert repr(counts.levels[1]) == "Level(ngrams=3)"


def test_pruned_mass_by_hand() -> None:
    # 2 is followed by 3 three times and by 4 once
    counts = count([Seq([2, 3], False, False)] * 3 + [Seq([2, 4], False, False)], 2, SPECIALS)
    pruned = counts.prune([1, 2])
    assert pruned.ngrams == (3, 1)
    assert pruned.cut is not None
    assert pruned.cut[1].tolist() == [1, 0, 0]
    assert pruned.totals(1).tolist() == [4, 0, 0]


def test_nothing_counted() -> None:
    assert empty(3, SPECIALS).ngrams == (0, 0, 0)
    assert same_counts(merge([empty(3, SPECIALS)] * 2), empty(3, SPECIALS))


@pytest.mark.parametrize(
    ("sequence", "problem"),
    [
        (Seq([0], True, True), "holds <s>"),
        (Seq([2, 1, 3], True, True), "holds <s>"),
        (Seq([7], True, True), "outside the vocabulary"),
        (Seq([-1], True, True), "outside the vocabulary"),
        (Seq([2**32 + 2], True, True), "outside the vocabulary"),
        (Seq([2.0], True, True), "outside the vocabulary"),
    ],
)
def test_ids_are_checked(sequence: Seq, problem: str) -> None:
    with pytest.raises(ArgumentError, match=problem):
        count([sequence], 2, SPECIALS)


def test_a_virtual_end_is_never_counted() -> None:
    virtual = Specials(5, 5, 6)
    assert count([Seq([2, 3], True, False)], 2, virtual).ngrams == (2, 2)
    with pytest.raises(ArgumentError, match="no </s>"):
        count([Seq([2, 3], True, True)], 2, virtual)


@pytest.mark.parametrize("order", [0, 6])
def test_orders_out_of_range(order: int) -> None:
    with pytest.raises(ArgumentError, match="1 to 5"):
        count([], order, SPECIALS)


def test_what_cannot_be_combined() -> None:
    a, b = count([Seq([2], True, True)], 2, SPECIALS), count([Seq([3], True, True)], 2, SPECIALS)
    with pytest.raises(ArgumentError, match="never added"):
        subtract(a, b)
    with pytest.raises(ArgumentError, match="at least one"):
        merge([])
    with pytest.raises(ArgumentError, match="different"):
        merge([a, count([], 3, SPECIALS)])
    with pytest.raises(ArgumentError, match="prune"):
        merge([a, b.prune([1, 2])])
    with pytest.raises(ArgumentError, match="never decrease"):
        a.prune([2, 2])
    with pytest.raises(ArgumentError, match="two different ids"):
        Specials(5, 1, 1)
    with pytest.raises(ArgumentError, match="32 bits"):
        Specials(2**32, 0, 1)
