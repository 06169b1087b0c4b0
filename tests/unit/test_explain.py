"""What made a score: every context of every word, with its counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perslm.blob import Metadata
from perslm.counts import Specials, count
from perslm.explain import explain, frequent, readable
from perslm.model import PersonalModel
from perslm.vocabulary import SPECIALS, Sequence, Vocabulary
from tests.oracle import ngram_counts

WORDS = Vocabulary.from_words("abcd")
A, B, C, D = range(len(SPECIALS), len(SPECIALS) + 4)
NOBODY = Metadata(WORDS.fingerprint)

texts = st.lists(
    st.builds(
        Sequence,
        st.lists(st.integers(A, D), min_size=1, max_size=6).map(tuple),
        st.just(True),
        st.just(True),
    ),
    min_size=1,
    max_size=8,
)


@given(texts, st.integers(1, 4), st.booleans())
def test_every_number_is_that_of_the_mail(mail: list[Sequence], order: int, prune: bool) -> None:
    counts = count(mail, order, Specials(WORDS.size, WORDS.bos, WORDS.eos))
    whole = {
        tuple({"<s>": WORDS.bos, "</s>": WORDS.eos}.get(w, w) for w in gram): n  # type: ignore[call-overload]
        for gram, n in ngram_counts(mail, order).items()
    }
    if prune:
        counts = counts.prune([1, *[2] * (order - 1)])
    model = PersonalModel.from_counts(counts, NOBODY)
    said = mail[0]
    history, ids = [WORDS.bos], [*said.ids, WORDS.eos]
    steps = explain(model, counts, history, ids)
    for i, (id, step) in enumerate(zip(ids, steps, strict=True)):
        before = [*history, *ids[:i]]
        states = model.states([before])
        assert step.logprob == model.score(states, [[id]])[0][0, 0]
        assert step.weight == model.weights(states)[0]
        lengths = [len(c.ids) for c in step.contexts]
        assert lengths == list(range(model.context_length(int(states[0])), -1, -1))
        for context in step.contexts:
            assert list(context.ids) == before[len(before) - len(context.ids) :]
            after = {g[-1]: n for g, n in whole.items() if g[:-1] == context.ids}
            kept = {w: n for w, n in after.items() if n > 1 or not prune or not context.ids}
            assert context.total == sum(after.values())
            assert context.distinct == len(kept)
            assert context.cut == sum(after.values()) - sum(kept.values())
            assert context.count == kept.get(id, 0)
        first = next(c for c in step.contexts if c.count)
        assert step.backoff == pytest.approx(step.logprob - first.logprob)


def test_a_word_that_was_never_written() -> None:
    counts = count([Sequence((A, B), True, True)], 3, Specials(WORDS.size, WORDS.bos, WORDS.eos))
    model = PersonalModel.from_counts(counts, NOBODY)
    (step,) = explain(model, counts, [WORDS.bos, A], [D])
    assert step.logprob == -math.inf
    assert [c.count for c in step.contexts] == [0, 0, 0]
    assert step.backoff == 0


def test_what_was_seen_most() -> None:
    mail = [Sequence((A, B), True, True)] * 3 + [Sequence((B, C), True, False)]
    counts = count(mail, 3, Specials(WORDS.size, WORDS.bos, WORDS.eos))
    ones, twos, threes = frequent(counts, 2)
    assert ones == [((B,), 4), ((WORDS.eos,), 3)] or ones == [((B,), 4), ((A,), 3)]
    assert twos[0] == ((WORDS.bos, A), 3)
    assert len(threes) == 2
    assert frequent(counts, 99)[0][-1] == ((C,), 1)  # <s> is no event
    assert readable((WORDS.bos, A, B, WORDS.eos), WORDS) == "<s> a b </s>"
    assert readable((), WORDS) == ""
    assert "a b" not in repr(explain(PersonalModel.from_counts(counts, NOBODY), counts, [A], [B]))
    assert np.all([n > 0 for of_order in frequent(counts, 99) for _, n in of_order])
