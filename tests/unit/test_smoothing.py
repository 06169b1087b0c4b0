"""The smoothings that interpolate, and λ from tables, against their definitions in dictionaries.

Katz is in test_katz.py; that the kernel scores the same is in test_kernel_smoothing.py.
"""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perslm import automaton, weights
from perslm._scoring import SMOOTHINGS, Smoothing, compile_counts
from perslm.blob import Metadata, encode
from perslm.counts import MAX_ORDER, Counts, Specials, count
from perslm.errors import ArgumentError
from perslm.kneser_ney import discounts
from perslm.model import Estimator, PersonalModel
from perslm.store import Head, Store
from tests.oracle import CLOSE, OPEN, OracleInterpolated, ngram_counts
from tests.support import Seq, sequence_lists

SIZE, BOS, EOS = 7, 0, 1
NOBODY = Metadata("0" * 32)
ORDERS = st.integers(1, MAX_ORDER)
INTERPOLATED: list[Estimator] = ["witten_bell", "absolute", "kneser_ney"]
BY_TABLE: list[Estimator] = ["katz", *INTERPOLATED]


def counted(sequences: list[Seq], order: int) -> Counts:
    return count(sequences, order, Specials(SIZE, BOS, EOS))


def named(ids: list[int]) -> tuple[object, ...]:
    return tuple({BOS: OPEN, EOS: CLOSE}.get(i, i) for i in ids)


def grams_of(counts: Counts) -> list[list[tuple[object, ...]]]:
    """The n-grams of each level, as words; first the empty one."""
    levels: list[list[tuple[object, ...]]] = [[()]]
    for level in counts.levels:
        below = levels[-1]
        levels.append(
            [
                (*below[c], *named([w]))
                for c, w in zip(level.context.tolist(), level.word.tolist(), strict=True)
            ]
        )
    return levels


@pytest.mark.parametrize("name", INTERPOLATED)
@given(sequence_lists(), ORDERS, st.integers(1, 3))
def test_equals_the_oracle(name: str, sequences: list[Seq], order: int, least: int) -> None:
    counts = counted(sequences, order)
    whole = ngram_counts([(s.ids, s.opens, s.closes) for s in sequences], order)
    if least > 1:
        counts = counts.prune([1] + [least] * (order - 1))
    grams = grams_of(counts)
    kept = {gram for level in grams[1:] for gram in level} - {(OPEN,)}
    oracle = OracleInterpolated(name, whole, order, kept if least > 1 else None)
    model = SMOOTHINGS[name](counts)
    for level, logprob in zip(grams[1:], model.logprob, strict=True):
        for gram, value in zip(level, logprob.tolist(), strict=True):
            expected = 0.0 if gram == (OPEN,) else oracle.p(gram[:-1], gram[-1])
            assert math.exp(value) == pytest.approx(expected, abs=1e-12)
    for level, log_backoff in zip(grams[1:-1], model.log_backoff[1:], strict=True):
        for gram, value in zip(level, log_backoff.tolist(), strict=True):
            if gram[-1] != CLOSE:
                left = 1 - math.fsum(oracle.own(gram).values())
                assert math.exp(value) == pytest.approx(left, abs=1e-12)


@pytest.mark.parametrize("name", BY_TABLE)
@given(sequence_lists(), ORDERS, st.booleans())
def test_every_state_sums_to_one(name: str, sequences: list[Seq], order: int, pruned: bool) -> None:
    counts = counted(sequences, order)
    if pruned:
        counts = counts.prune([1] + [2] * (order - 1))
    automaton.build(counts, SMOOTHINGS[name](counts)).validate()


def texts() -> list[Seq]:
    return [Seq([2, 3, 4], True, True), Seq([2, 3, 5], True, True), Seq([3, 4], True, False)]


def p(name: str, history: list[int], word: int, sequences: list[Seq] | None = None) -> float:
    model = PersonalModel.from_counts(
        counted(sequences or texts(), 2),
        NOBODY,
        weight=0.5,
        estimator=name,  # type: ignore[arg-type]
    )
    return math.exp(model.score(model.states([history]), [[word]])[0][0, 0])


def test_by_hand(backend: str) -> None:
    # 3 was seen three times, and followed by 4 twice and 5 once; 10 tokens, of them 2: 2, 4: 2,
    # 5: 1, </s>: 2
    assert p("witten_bell", [3], 4) == pytest.approx(2 / 5 + 2 / 5 * 2 / 10)
    assert p("witten_bell", [3], 2) == pytest.approx(2 / 5 * 2 / 10)
    # bigrams seen once: <s> 3, 3 5, 4 </s>, 5 </s>; twice: <s> 2, 2 3, 3 4; so D = 4 / 10
    assert p("absolute", [3], 4) == pytest.approx(1.6 / 3 + 0.8 / 3 * 2 / 10)
    # of 7 different bigrams two end in 3, two in </s>, the others are 2, 4 and 5; n_3 = 0: D(2) = 1
    assert p("kneser_ney", [3], 4) == pytest.approx(1 / 3 + 1.5 / 3 * 1 / 7)
    assert p("kneser_ney", [], 3) == pytest.approx(2 / 7)


@pytest.mark.parametrize("name", BY_TABLE)
def test_words_and_markers(backend: str, name: str) -> None:
    assert p(name, [3], 6) == 0  # never written
    assert p(name, [6], 3) == p(name, [], 3)  # an unknown history tells nothing
    assert p(name, [3], BOS) == 0
    assert p(name, [5], EOS) > p(name, [3], EOS) > 0
    total = sum(p(name, [2, 3], w) for w in range(SIZE))
    assert total == pytest.approx(1)
    nobody = PersonalModel.from_counts(counted([], 2), NOBODY, estimator=name)  # type: ignore[arg-type]
    assert nobody.weights(nobody.states([[2]])).tolist() == [0]


def test_discounts_of_kneser_ney() -> None:
    found = discounts(np.array([20, 8, 4, 2]))
    assert found is not None  # Y = 20 / 36
    assert found.tolist() == pytest.approx([1 - 16 / 36, 2 - 30 / 36, 3 - 40 / 36])
    assert discounts(np.array([20, 8, 4, 0])) is None
    assert discounts(np.array([2, 1, 1, 9])) is None  # D(3+) below 0


@pytest.mark.parametrize("name", ["absolute", "kneser_ney"])
def test_orders_without_discounts_are_named(backend: str, name: Estimator) -> None:
    counts = counted([Seq([2, 3], True, True)], 3)
    assert PersonalModel.from_counts(counts, NOBODY, estimator=name).fell_back == (2, 3)
    assert PersonalModel.from_counts(counted([], 3), NOBODY, estimator=name).fell_back == ()


@given(sequence_lists(), ORDERS, st.sampled_from(BY_TABLE))
def test_the_bucket_is_what_a_state_knows(sequences: list[Seq], order: int, name: str) -> None:
    counts = counted(sequences, order)
    grams, model = grams_of(counts), SMOOTHINGS[name](counts)
    found = weights.buckets(counts, model)
    followed: dict[tuple[object, ...], list[tuple[float, int]]] = {}
    for level, facts, logprob in zip(grams[1:], counts.levels, model.logprob, strict=True):
        rows = zip(level, np.exp(logprob).tolist(), facts.count.tolist(), strict=True)
        for gram, chance, seen in rows:
            followed.setdefault(gram[:-1], []).append((chance, seen))
    place = {}
    for level, own in zip(grams, found, strict=False):
        for gram, at in zip(level, own.tolist(), strict=True):
            place[gram] = at
            if gram not in followed:
                expected = place[gram[1:]] if gram else at
            else:
                mass = math.fsum(chance for chance, _ in followed[gram])
                total = sum(seen for _, seen in followed[gram])
                size = total.bit_length() - 1 if total else 0
                expected = (len(gram) * 16 + size) * 8 + min(7, int(mass * 8 + 1e-6))
            assert at == expected


@pytest.mark.parametrize("order", range(1, MAX_ORDER + 1))
@pytest.mark.parametrize("name", BY_TABLE)
def test_tables_come_with_the_package(name: str, order: int) -> None:
    table = weights.population(name, order)
    assert table.shape == (order, weights.COUNTS, weights.MASSES)
    assert table.dtype == np.uint8
    assert table.max() < weights.UNIT  # a λ of 1 would forbid what the user never wrote
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 1


@pytest.mark.parametrize("name", BY_TABLE)
def test_the_estimator_is_chosen_and_kept(backend: str, name: Estimator) -> None:
    counts = counted(texts(), 3)
    history = [[2, 3], [3], []]
    model = PersonalModel.from_blob(encode(counts, NOBODY), estimator=name)
    again = pickle.loads(pickle.dumps(model))
    assert model.estimator == again.estimator == name
    lam = model.weights(model.states(history))
    assert lam.tolist() == again.weights(again.states(history)).tolist()
    assert len(set(lam.tolist())) > 1
    moved = model.weights(model.states(history), [0, 0, 0])
    assert (moved != lam).all()  # by the place in a text, as with any λ by state
    model.automaton.validate()
    row = np.log(np.full((3, SIZE), 1 / SIZE, np.float32))
    mixed = np.exp(model.mix(model.states(history), row).astype(float))
    assert mixed.sum(axis=1).tolist() == pytest.approx([1, 1, 1])
    given_one = PersonalModel.from_counts(counts, NOBODY, weight=0.25, estimator=name)
    assert given_one.weights(given_one.states(history)).tolist() == [0.25] * 3


def test_a_store_loads_with_the_estimator_asked_for(store: Store) -> None:
    store.publish("u", encode(counted(texts(), 3), NOBODY), parent=Head(0, 0))
    for name in ("backoff", *BY_TABLE):
        model = store.load("u", estimator=name, strict=True)
        assert isinstance(model, PersonalModel)
        assert model.estimator == name
    with pytest.raises(ArgumentError, match="kneser_ney"):
        store.load("u", estimator="guess")  # type: ignore[arg-type]


def test_a_table_is_for_one_order(backend: str) -> None:
    counts = counted(texts(), 3)
    with pytest.raises(ArgumentError):
        compile_counts(counts, Smoothing("katz", weights.population("katz", 2)))
