"""Fitting λ: the tokens it is fitted on are those that models score, and it is the likeliest."""

from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import weights as fitting
from builders.build import build_user
from builders.evaluate.mail import Letter
from builders.prepare import Prepared, Settings
from builders.weights import Sample
from perslm import backoff, blob, weights
from perslm._scoring import SMOOTHINGS, Smoothing, compile_counts
from perslm.blob import Metadata
from perslm.counts import MAX_ORDER, Counts, Specials, count
from perslm.model import PersonalModel
from perslm.vocabulary import Vocabulary
from tests.support import Seq, same_counts, sequence_lists

SIZE, BOS, EOS = 7, 0, 1
NOBODY = Metadata("0" * 32)
ORDERS = st.integers(1, MAX_ORDER)
TEXTS = st.lists(st.lists(st.integers(EOS, SIZE - 1), min_size=1, max_size=7), min_size=1)


def counted(sequences: list[Seq], order: int) -> Counts:
    return count(sequences, order, Specials(SIZE, BOS, EOS))


def passages(texts: list[list[int]]) -> list[fitting.Passage]:
    """Texts of which a global LM says that everything is as likely."""
    said = [np.tile(np.float32([-np.log(SIZE), -1, 1]), (len(words), 1)) for words in texts]
    return [(np.array([BOS, *words]), row) for words, row in zip(texts, said, strict=True)]


@given(sequence_lists(), ORDERS, TEXTS, st.booleans())
def test_tokens_have_what_models_say(
    sequences: list[Seq], order: int, texts: list[list[int]], pruned: bool
) -> None:
    texts = [[w for w in words[:-1] if w != EOS] + words[-1:] for words in texts]
    counts = counted(sequences, order)
    if pruned:
        counts = counts.prune([1] + [2] * (order - 1))
    found = fitting.trail(counts, passages(texts))
    histories = [[BOS, *words[:t]] for words in texts for t in range(len(words))]
    words = [[w] for text in texts for w in text]
    assert found.position.tolist() == [len(h) - 1 for h in histories]
    shape = (order, weights.COUNTS, weights.MASSES)
    table = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    for name in SMOOTHINGS:
        own = fitting.sample(counts, found, name)
        model = PersonalModel(compile_counts(counts, Smoothing(name, table)), NOBODY, counts)
        states = model.states(histories)
        scored = np.exp(model.score(states, words)[0][:, 0].astype(float))
        np.testing.assert_allclose(own.personal, scored, rtol=1e-4, atol=1e-9)
        if counts.tokens:
            lam = table.ravel()[own.place] / np.float32(weights.UNIT)
            np.testing.assert_allclose(lam, model.weights(states))
    other = backoff.estimate(counts, backoff.population(order))
    model = PersonalModel.from_counts(counts, NOBODY)
    states = model.states(histories)
    if counts.tokens:
        lam = fitting.at_state(found, other.weight)
        np.testing.assert_allclose(lam, model.weights(states), rtol=1e-4, atol=1e-6)
        scored = np.exp(model.score(states, words)[0][:, 0].astype(float))
        np.testing.assert_allclose(fitting.personal(found, other), scored, rtol=1e-3, atol=1e-7)


def drawn(seed: int, lam: list[float], n: int = 4000) -> Sample:
    """Tokens of a mixture: each place has the λ of ``lam``; one word of two is the personal one."""
    random = np.random.default_rng(seed)
    place = random.integers(0, len(lam), n)
    from_model = random.random(n) < np.array(lam)[place]
    word = np.where(from_model, 0, random.integers(0, 10, n))  # 0: what the person always writes
    return Sample(np.where(word == 0, 1.0, 0.0), np.full(n, 0.1), place)


def loss(sample: Sample, lam: np.ndarray) -> float:
    own = lam[sample.place]
    return -float(np.log(own * sample.personal + (1 - own) * sample.shared).mean())


def test_maximization_finds_the_mixture() -> None:
    lam = [0.1, 0.5, 0.9]
    sample = drawn(1, lam)
    found = fitting.maximize(sample, np.full(3, 0.3), strength=0)
    assert found == pytest.approx(lam, abs=0.05)
    for place in range(3):
        for step in (-0.01, 0.01):
            moved = found.copy()
            moved[place] += step
            assert loss(sample, moved) > loss(sample, found)


def test_a_prior_is_drawn_to_and_stays_where_nothing_is_said() -> None:
    sample = drawn(2, [0.8, 0.8, 0.8], 300)
    few = Sample(sample.personal, sample.shared, np.minimum(sample.place, 1))
    found = fitting.maximize(few, np.array([0.2, 0.2, 0.2]), strength=100)
    assert found[2] == pytest.approx(0.2)
    assert 0.2 < found[0] < found[1] < 0.8
    none = Sample(np.zeros(0), np.zeros(0), np.zeros(0, np.int64))
    assert fitting.maximize(none, np.array([0.4])).tolist() == [0.4]


def test_everybody_counts_alike() -> None:
    long, short = drawn(3, [0.9], 5000), drawn(4, [0.1], 50)
    table = fitting.fit([long, short], 1)
    alone = fitting.fit([long], 1)
    assert table[0, 0, 0] < 0.65 < alone[0, 0, 0]
    assert table.shape == (1, weights.COUNTS, weights.MASSES)


def test_tables_are_bytes_and_never_all() -> None:
    fitted = np.array([[[0.0, 0.5, 0.999, 1.0]]])
    assert fitting.in_units(fitted).tolist() == [[[0, 128, 254, 254]]]
    text = fitting.as_json({"katz": {1: fitted}, "absolute": {1: fitted}})
    assert json.loads(text)["katz"]["1"] == [[[0, 128, 254, 254]]]


def test_what_is_fitted_on_is_what_a_build_makes() -> None:
    vocabulary = Vocabulary.from_words(["a", "b", "c", "d"])
    random = Random(5)
    texts = ["".join(random.choices("ab cd ", k=30)) for _ in range(12)]
    letters, messages = [], []
    for number, text in enumerate(texts):
        sequences = tuple(vocabulary.encode(" ".join(text)))
        letters.append(Letter(float(number), 1, "", (), sequences))
        messages.append(Prepared("u", float(number), (b"%d" % number,), sequences))
    for settings in (Settings(), Settings(min_messages=1)):
        built = blob.decode(build_user("u", messages, vocabulary, settings).blob).counts
        counts = fitting.learned(letters, vocabulary, settings.order, settings.min_messages)
        assert same_counts(built, counts)
    twice = fitting.learned(letters, vocabulary, 2, 1, again=letters)
    assert twice.tokens == 2 * counts.tokens
