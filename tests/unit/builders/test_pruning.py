"""Models of so many bytes: closed, small enough, the same every time, and still distributions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.pruning import affordable, costs, shrink, values
from perslm import _backend, automaton, backoff, blob, katz
from perslm._scoring import NumpyEngine, Smoothing, compile_counts
from perslm.blob import Metadata
from perslm.counts import MAX_ORDER, Counts, Specials, count
from perslm.errors import ArgumentError
from tests.support import Seq, same_counts, sequence_lists, some_gates

SIZE, BOS, EOS = 42, 0, 1
NOBODY = Metadata("0" * 32)
ORDERS = st.integers(1, MAX_ORDER)
SEQUENCES = sequence_lists(words=40)


def counted(sequences: list[Seq], order: int) -> Counts:
    return count(sequences, order, Specials(SIZE, BOS, EOS))


def grams(counts: Counts) -> dict[tuple[int, ...], int]:
    """Every n-gram with its count; looks at contexts, not at suffixes."""
    found: dict[tuple[int, ...], int] = {}
    below: list[tuple[int, ...]] = [()]
    for level in counts.levels:
        here = [
            (*below[c], int(w))
            for c, w in zip(level.context.tolist(), level.word.tolist(), strict=True)
        ]
        found.update(zip(here, level.count.tolist(), strict=True))
        below = here
    return found


@given(SEQUENCES, ORDERS, st.floats(0, 1))
def test_a_blob_is_never_larger_than_allowed(
    sequences: list[Seq], order: int, share: float
) -> None:
    counts = counted(sequences, order)
    full = len(blob.encode(counts, NOBODY))
    nothing = len(blob.encode(counts.select([level.count < 0 for level in counts.levels]), NOBODY))
    # what was counted in the whole is kept, and alone may be more than a tiny model is
    budget = full if full < nothing else nothing + int((full - nothing) * share)
    pruned, data = shrink(counts, NOBODY, budget)
    assert len(data) <= budget
    decoded = blob.decode(data).counts
    assert same_counts(decoded, pruned)
    assert shrink(counts, NOBODY, budget)[1] == data
    before, after = grams(counts), grams(pruned)
    assert after.items() <= before.items()
    for gram in after:
        assert len(gram) == 1 or {gram[:-1], gram[1:]} <= after.keys()
    for k in range(1, order):
        kept = dict(zip(list_of(pruned, k), pruned.totals(k).tolist(), strict=True))
        whole = dict(zip(list_of(counts, k), counts.totals(k).tolist(), strict=True))
        assert kept.items() <= whole.items()


def list_of(counts: Counts, k: int) -> list[tuple[int, ...]]:
    return [gram for gram in grams(counts) if len(gram) == k]


@given(SEQUENCES, ORDERS, st.floats(-12, 6), st.integers(0, 99))
def test_every_state_sums_to_one_at_any_price(
    sequences: list[Seq], order: int, price: float, seed: int
) -> None:
    counts = counted(sequences, order)
    keep = affordable(counts, values(counts), costs(counts), float(np.exp(price)))
    pruned = counts.select(keep)
    assert same_counts(blob.decode(blob.encode(pruned, NOBODY)).counts, pruned)
    found = backoff.estimate(pruned, some_gates(order, seed))
    automaton.build(pruned, found).validate()
    if pruned.tokens:
        assert all(((w > 0) & (w < 1)).all() for w in found.weight)
        automaton.build(pruned, katz.estimate(pruned)).validate()


@pytest.mark.skipif(_backend.native is None, reason="there is no kernel to compare")
@given(SEQUENCES, ORDERS, st.floats(-12, 6), st.integers(0, 99), st.booleans())
def test_the_kernel_reads_what_is_left_as_numpy_does(
    sequences: list[Seq], order: int, price: float, seed: int, backing_off: bool
) -> None:
    counts = counted(sequences, order)
    pruned = counts.select(affordable(counts, values(counts), costs(counts), float(np.exp(price))))
    recipe = some_gates(order, seed) if backing_off else Smoothing("katz")
    histories = [[BOS], [], *([*s.ids][:n] for s in sequences for n in (2, 5))]
    begins = np.cumsum([0, *map(len, histories)])
    answers = []
    for engine in (compile_counts(pruned, recipe), NumpyEngine(pruned, recipe)):
        states = np.empty(len(histories), np.uint32)
        engine.states(np.array([i for row in histories for i in row], np.int64), begins, states)
        weights = np.zeros(len(histories), np.float32)
        if backing_off:
            engine.weights(states, weights)
        dense = np.empty((len(histories), SIZE), np.float32)
        engine.distribution(states, dense)
        answers.append((weights, dense))
    for a, b in zip(*answers, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


def test_counts_that_fit_stay_as_they_are() -> None:
    counts = counted([Seq([2, 3, 4], True, True)] * 3, 3)
    full = blob.encode(counts, NOBODY)
    pruned, data = shrink(counts, NOBODY, len(full))
    assert pruned is counts
    assert data == full


def many_words() -> Counts:
    random = np.random.default_rng(1)
    sequences = [Seq(row.tolist(), True, True) for row in random.integers(2, 2000, (200, 9))]
    return count(sequences, 3, Specials(2000, BOS, EOS))


def test_words_alike_do_not_all_go_at_once() -> None:
    pruned, data = shrink(many_words(), NOBODY, 1024)
    assert 900 < len(data) <= 1024
    assert pruned.ngrams[0] > 100


def test_what_is_frequent_stays() -> None:
    habit = [Seq([2, 3, 4, 5], True, True)] * 50
    random = np.random.default_rng(2)
    once = [Seq(row.tolist(), True, True) for row in random.integers(6, 2000, (200, 9))]
    counts = count([*habit, *once], 3, Specials(2000, BOS, EOS))
    pruned, _ = shrink(counts, NOBODY, 1024)
    assert {(BOS, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, EOS)} <= grams(pruned).keys()


def test_what_cannot_be_done_is_an_error() -> None:
    counts = many_words()
    with pytest.raises(ArgumentError, match="allow more"):
        shrink(counts, NOBODY, 50)
    pruned, _ = shrink(counts, NOBODY, 2000)
    with pytest.raises(ArgumentError, match="once only"):
        shrink(pruned, NOBODY, 1024)
