"""Counts in the kernel: equal to the numpy twin's, array for array, and checked on the way in."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perslm import _backend
from perslm.counts import Counts, Level, Specials, count
from perslm.errors import ArgumentError
from tests.support import Seq, same_counts, sequence_lists

pytestmark = pytest.mark.skipif(
    _backend.native is None, reason="the kernel was not built, or is off"
)

SPECIALS = Specials(7, 0, 1)


def numpy_count(sequences: list[Seq], order: int, specials: Specials) -> Counts:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_backend, "native", None)
        return count(sequences, order, specials)


@given(
    sequences=sequence_lists(words=9),
    order=st.integers(1, 5),
    specials=st.sampled_from(
        [
            Specials(11, 0, 1),
            Specials(11, 11, 1),  # <s> is virtual
            Specials(3_000_000_000, 2_999_999_999, 1),
            Specials(11, 1, 0),
        ]
    ),
)
def test_both_implementations_give_the_same_arrays(
    sequences: list[Seq], order: int, specials: Specials
) -> None:
    assert same_counts(count(sequences, order, specials), numpy_count(sequences, order, specials))


def test_ids_of_many_digits() -> None:
    # the kernel sorts by eleven bits at a time
    ids = [2**31 + 5, 5, 2**22 + 5, 2**11 + 5, 4, 2**31 + 5, 5, 2**22, 2**11]
    specials = Specials(2**32 - 1, 0, 1)
    counts = count([Seq(ids, True, True)] * 2, 3, specials)
    assert counts.levels[0].word.tolist() == [0, 1, *sorted(set(ids))]
    assert same_counts(counts, numpy_count([Seq(ids, True, True)] * 2, 3, specials))


@given(sequences=sequence_lists(), order=st.integers(1, 5), minimum=st.integers(1, 3))
def test_into_the_kernel_and_back(sequences: list[Seq], order: int, minimum: int) -> None:
    whole = count(sequences, order, SPECIALS)
    for counts in (whole, whole.prune([1] + [minimum] * (order - 1))):
        native = counts.to_native()
        assert same_counts(Counts.from_native(native, SPECIALS), counts)
        assert native.order == counts.order
        assert native.ngrams == counts.ngrams
        assert native.tokens == counts.tokens


BROKEN = {
    "contexts are not ascending": {"context": [1, 0, 2, 2]},
    "a context is not in the level below": {"context": [0, 2, 2, 9]},
    "another word": {"word": [2, 3, 2, 2]},
    "a suffix is not in the level below": {"suffix": [2, 3, 1, 7]},
    "n-grams are not ascending": {"word": [2, 3, 3, 1], "suffix": [2, 3, 3, 1]},
    "<s> follows": {"word": [0, 3, 1, 3], "suffix": [0, 3, 1, 3]},
    "</s> is followed": {"context": [0, 1, 2, 2]},
    "only <s> has a count of 0": {"count": [1, 1, 0, 1]},
    "does not fit in 32 bits": {"count": [1, 1, -1, 1]},
    "sum to 2^32": {"count": [1, 2**31, 2**31, 1]},
    "differ in length": {"count": [1, 2, 1]},
}


@pytest.mark.parametrize("problem", BROKEN)
def test_what_breaks_a_rule_stays_out_of_the_kernel(problem: str) -> None:
    # bigrams: <s> 2, 2 3 (twice), 3 </s>, 3 2
    counts = count([Seq([2, 3], True, True), Seq([3, 2, 3], False, False)], 2, SPECIALS)
    level = counts.levels[1]
    assert level.context.tolist() == [0, 2, 3, 3]
    assert level.word.tolist() == [2, 3, 1, 2]
    fields = {f: getattr(level, f) for f in ("context", "word", "suffix", "count")}
    changed = {f: np.array(v, fields[f].dtype) for f, v in BROKEN[problem].items()}
    broken = Counts(SPECIALS, (counts.levels[0], Level(**{**fields, **changed})))
    with pytest.raises(ArgumentError, match=re.escape(problem)):
        broken.to_native()


def test_words_are_checked_on_the_way_into_the_kernel() -> None:
    def unigrams(words: list[int], counts: list[int], suffixes: list[int]) -> Counts:
        n = len(words)
        context, word = np.zeros(n, np.uint32), np.array(words, np.uint32)
        suffix, number = np.array(suffixes, np.uint32), np.array(counts, np.int64)
        return Counts(SPECIALS, (Level(context, word, suffix, number),))

    assert unigrams([0, 2, 6], [0, 1, 1], [0, 0, 0]).to_native().ngrams == (2,)
    for words, counts, suffixes, problem in (
        ([2, 2], [1, 1], [0, 0], "not ascending"),
        ([2, 7], [1, 1], [0, 0], "outside the vocabulary"),
        ([0, 2], [1, 1], [0, 0], "only <s>"),
        ([2, 3], [1, 0], [0, 0], "only <s>"),
        ([2, 3], [1, 1], [0, 1], "not their own labels"),
    ):
        with pytest.raises(ArgumentError, match=problem):
            unigrams(words, counts, suffixes).to_native()
    with pytest.raises(ArgumentError, match="order is not 1 to 5"):
        Counts(SPECIALS, ()).to_native()


def test_cut_mass_is_checked_on_the_way_into_the_kernel() -> None:
    pruned = count([Seq([2, 3], True, True)] * 2, 2, SPECIALS).prune([1, 2])
    assert pruned.cut is not None
    assert pruned.whole is not None
    short = (pruned.cut[0], pruned.cut[1][1:])
    negative = (pruned.cut[0], pruned.cut[1] - 1)
    huge = (pruned.cut[0], pruned.cut[1] + 2**31)
    for cut, whole, problem in (
        (short, pruned.whole, "one per context"),
        (negative, pruned.whole, "32 bits"),
        (huge, pruned.whole, r"sum to 2\^32"),
        (pruned.cut[:1], pruned.whole, "one array per order"),
        (pruned.cut, pruned.whole[:1], "one row per order"),
        (pruned.cut, pruned.whole[:, :5].copy(), "order, 6"),
        (pruned.cut, None, "both"),
        (pruned.cut, pruned.whole.astype(np.int32), "dtype"),
    ):
        with pytest.raises(ArgumentError, match=problem):
            Counts(SPECIALS, pruned.levels, cut, whole).to_native()


@pytest.mark.parametrize(
    ("tokens", "begins", "problem"),
    [
        ([2, 3], [1], "does not begin at 0"),
        ([2, 3], [], "does not begin at 0"),
        ([2, 3], [0, 2, 1], "ascending"),
        ([2, 3], [0, 3], "ascending"),
        ([2, 3], [-1, 0], "ascending"),
        ([2, 0, 3], [0], "in the middle"),
        ([2, 1, 3], [0], "in the middle"),
        ([2, 7], [0], "outside the vocabulary"),
    ],
)
def test_the_kernel_counts_no_text_that_is_not_sound(
    tokens: list[int], begins: list[int], problem: str
) -> None:
    assert _backend.native is not None
    text = np.array(tokens, np.uint32), np.array(begins, np.int64)
    with pytest.raises(ValueError, match=problem):
        _backend.native.count(*text, 3, 7, 0, 1)
    with pytest.raises(ValueError, match="order"):
        _backend.native.count(*text, 6, 7, 0, 1)
    with pytest.raises(TypeError):
        _backend.native.count(text[0].astype(np.int64), text[1], 3, 7, 0, 1)
