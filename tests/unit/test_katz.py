"""Katz against hand arithmetic, OpenGrm's golden models, and the naive oracle.

Those hold the readable reference to the truth; one test holds whatever scores to the reference.
"""

from __future__ import annotations

import gzip
import math
from collections import namedtuple
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given

from perslm import blob
from perslm.counts import Counts, Specials, count
from perslm.katz import discounts, estimate
from perslm.model import PersonalModel
from perslm.smoothing import Smoothed
from tests.oracle import CLOSE, OPEN, OracleKatz, ngram_counts
from tests.support import golden_models, sequence_lists

BOS, EOS = 0, 1
Seq = namedtuple("Seq", "ids opens closes")


def table(counts: Counts, katz: Smoothed, names: list[str]) -> tuple[dict, dict]:
    """All probabilities and backoff weights, keyed by the words."""
    logp: dict[tuple[str, ...], float] = {}
    backoff: dict[tuple[str, ...], float] = {}
    below: list[tuple[str, ...]] = [()]
    for k, level in enumerate(counts.levels):
        grams = [
            (*below[c], names[w])
            for c, w in zip(level.context.tolist(), level.word.tolist(), strict=True)
        ]
        for gram, value in zip(grams, katz.logprob[k].tolist(), strict=True):
            if gram != (OPEN,):
                logp[gram] = value
        if k + 1 < counts.order:
            for gram, value in zip(grams, katz.log_backoff[k + 1].tolist(), strict=True):
                if gram[-1] != CLOSE:
                    backoff[gram] = value
        below = grams
    return logp, backoff


def read_text(path: Path) -> tuple[list[Seq], list[str]]:
    names = [OPEN, CLOSE]
    ids: dict[str, int] = {}
    sequences = []
    for line in path.read_text("utf-8").splitlines():
        row = []
        for word in line.split():
            if word not in ids:
                ids[word] = len(names)
                names.append(word)
            row.append(ids[word])
        if row:
            sequences.append(Seq(row, True, True))
    return sequences, names


@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize(("text", "model"), golden_models())
def test_equals_opengrm(text: Path, model: Path, order: int) -> None:
    sequences, names = read_text(text)
    counts = count(sequences, order, Specials(len(names), BOS, EOS))
    logp, backoff = table(counts, estimate(counts), names)
    golden_p: dict[tuple[str, ...], float] = {}
    golden_b: dict[tuple[str, ...], float] = {}
    with gzip.open(model, "rt", encoding="utf-8") as lines:
        for line in lines:
            of_order, kind, gram, value = line.rstrip("\n").split("\t")
            if int(of_order) == order:
                (golden_p if kind == "p" else golden_b)[tuple(gram.split(" "))] = float(value)
    assert golden_p, "the golden file has nothing of this order"
    assert logp.keys() == golden_p.keys()
    assert backoff.keys() == golden_b.keys()
    p_tolerance = 2e-6 if text.stem == "full-vocabulary" else 1e-6
    for gram, value in golden_p.items():
        assert logp[gram] == pytest.approx(value, abs=p_tolerance)
    # α is a quotient of two left-over masses. OpenGrm holds them in float32: an absolute error up
    # to 2e-7 in each, so a relative one of 2e-7 over the smaller mass, which is 0.001 at least,
    # but for the contexts that have seen every event: their α is a constant.
    kept, below = dict.fromkeys(backoff, 0.0), dict.fromkeys(backoff, 0.0)
    for gram, value in logp.items():
        if len(gram) > 1:
            kept[gram[:-1]] += math.exp(value)
            below[gram[:-1]] += math.exp(logp[gram[1:]])
    for gram, value in golden_b.items():
        left = 1 - max(kept[gram], below[gram])
        tolerance = 1e-6 if value == -99 else min(2e-4, max(1e-6, 2e-7 / left))
        assert backoff[gram] == pytest.approx(value, abs=tolerance)


@given(sequences=sequence_lists())
@pytest.mark.parametrize("order", range(1, 6))
def test_equals_the_oracle(order: int, sequences: list[Seq]) -> None:
    names = [OPEN, CLOSE, "a", "b", "c", "d"]
    counts = count(sequences, order, Specials(len(names), BOS, EOS))
    logp, backoff = table(counts, estimate(counts), names)
    spelled = [([names[i] for i in s.ids], s.opens, s.closes) for s in sequences]
    oracle = OracleKatz(ngram_counts(spelled, order), order)
    assert logp.keys() == oracle.counts.keys()
    for gram, value in logp.items():
        assert value == pytest.approx(oracle.p(gram[:-1], gram[-1]), abs=1e-9)
    assert backoff.keys() == oracle.contexts - {()}
    for gram, value in backoff.items():
        assert value == pytest.approx(oracle.alpha(gram), abs=1e-6)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize(("text", "model"), golden_models())
def test_models_score_by_the_reference(text: Path, model: Path, order: int) -> None:
    sequences, names = read_text(text)
    counts = count(sequences, order, Specials(len(names), BOS, EOS))
    logp, backoff = table(counts, estimate(counts), names)
    ids = {name: i for i, name in enumerate(names)}
    random = Random(order)
    contexts = [(), *random.sample(sorted(backoff), min(200, len(backoff)))]
    # words seen after each context, and others, which are backed off to
    seen: dict[tuple[str, ...], list[str]] = {}
    for gram in logp:
        seen.setdefault(gram[:-1], []).append(gram[-1])
    rows = [
        random.sample(seen.get(c, []), min(10, len(seen.get(c, []))))
        + random.choices(sorted(set(names) - {OPEN}), k=20)
        for c in contexts
    ]

    def expected(context: tuple[str, ...], word: str) -> float:
        if (*context, word) in logp:
            return logp[*context, word]
        if not context:
            return -math.inf
        return backoff.get(context, 0) + expected(context[1:], word)

    scorer = PersonalModel.from_blob(blob.encode(counts, blob.Metadata("0" * 32)), estimator="katz")
    states = scorer.states([[ids[w] for w in c] for c in contexts])
    for state, context, row in zip(states, contexts, rows, strict=True):
        scores, _ = scorer.score([state], [[ids[w] for w in row]])
        expectation = [expected(context, w) for w in row]
        assert scores[0].tolist() == pytest.approx(expectation, abs=5e-6)


def test_discounts_by_hand() -> None:
    # n_1 … n_6 = 10, 4, 2, 1, 1, 0: A = 6·0 / (1·10) = 0, so d_r = (r+1)·n_{r+1} / (r·n_r)
    d, fell_back = discounts(np.array([10, 4, 2, 1, 1, 0]))
    assert d[0] == pytest.approx(2 * 4 / 10)
    assert d[1] == pytest.approx(3 * 2 / 4 / 2)
    assert d[2] == pytest.approx(4 * 1 / 2 / 3)
    # d_4 = 5·1/1/4 > 1 and d_5 = 6/1/5 > 1 (n_6 = 0 is left out): both unusable
    assert d[3] == d[4] == d[5] == 0.999
    assert fell_back


def test_discounts_with_the_correction_term() -> None:
    # A = 6·1 / (1·30) = 0.2, d_1 = (2·8/30 − 0.2) / 0.8
    d, _ = discounts(np.array([30, 8, 5, 3, 2, 1]))
    assert d[0] == pytest.approx((16 / 30 - 0.2) / 0.8)


def test_only_singletons_fall_back_and_say_so() -> None:
    counts = count([Seq([2, 3, 4], True, True)], 2, Specials(5, BOS, EOS))
    katz = estimate(counts)
    # bigrams: four, each seen once; d_1 = 2/4/1 = 0.5, usable
    assert katz.fell_back == ()
    counts = count([Seq([2], True, True)] * 2, 2, Specials(5, BOS, EOS))
    # two bigrams, each seen twice: d_2 = 3/2/2 = 0.75
    assert discounts(counts.count_of_counts()[1])[0][1] == pytest.approx(0.75)
    counts = count([Seq([2], True, True)], 2, Specials(5, BOS, EOS))
    # two bigrams, each seen once: d_1 = 2/2/1 = 1, unusable
    assert estimate(counts).fell_back == (2,)


@pytest.mark.parametrize("order", range(1, 6))
def test_nothing_written(order: int) -> None:
    counts = count([], order, Specials(5, BOS, EOS))
    assert counts.tokens == 0
    assert [len(p) for p in estimate(counts).logprob] == [0] * order


def test_model_without_end_of_sequence_keeps_all_mass() -> None:
    counts = count([Seq([2, 3, 2, 2, 3, 3], False, False)], 2, Specials(4, BOS, EOS))
    logp, backoff = table(counts, estimate(counts), [OPEN, CLOSE, "a", "b"])
    for h in "ab":
        assert math.exp(logp[h, "a"]) + math.exp(logp[h, "b"]) == pytest.approx(1)
        assert backoff[(h,)] == -99


def test_pruning_keeps_the_probabilities() -> None:
    text = [Seq([2, 3, 4, 2, 3], True, True)] * 3 + [Seq([2, 4, 3], True, True)]
    whole = count(text, 3, Specials(5, BOS, EOS))
    names = [OPEN, CLOSE, "a", "b", "c"]
    before, _ = table(whole, estimate(whole), names)
    pruned = whole.prune([1, 2, 2])
    assert sum(pruned.ngrams) < sum(whole.ngrams)
    after, _ = table(pruned, estimate(pruned), names)
    assert after.items() <= before.items()
