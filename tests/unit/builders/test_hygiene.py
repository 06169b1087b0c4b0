"""What of a user's messages is learned: boilerplate, outliers and blocked phrases are not."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.hygiene import (
    MOST_REPEATS,
    MOST_TOKENS,
    OFTEN,
    PASSAGE,
    Text,
    in_messages,
    learnable,
)
from builders.prepare import Prepared
from perslm.counts import Specials, count
from perslm.rules import Matcher
from perslm.vocabulary import Sequence

BOS, EOS = 0, 1
SPECIALS = Specials(10_000, BOS, EOS)


def message(*sentences: list[int], opens: bool = True, closes: bool = True) -> Prepared:
    sequences = tuple(Sequence(tuple(ids), opens, closes) for ids in sentences)
    return Prepared("u", 0.0, (), sequences)


def prose(seed: int, tokens: int = 30) -> list[int]:
    return [random.Random(seed * 1000 + i).randrange(100, 10_000) for i in range(tokens)]


FOOTER = list(range(10, 10 + PASSAGE))


def left(messages: list[Prepared]) -> list[Text]:
    return learnable(messages)


def test_ordinary_mail_stays_as_it_is() -> None:
    mail = [message(prose(i), prose(i + 500)) for i in range(40)]
    assert left(mail) == [m.sequences for m in mail]


@pytest.mark.parametrize("sentences", [1, 2, 4])
def test_a_footer_of_every_message_goes_however_it_is_cut_into_sentences(sentences: int) -> None:
    step = PASSAGE // sentences
    footer = [FOOTER[i : i + step] for i in range(0, PASSAGE, step)]
    mail = [message(prose(i), *footer) for i in range(40)]
    assert left(mail) == [message(prose(i)).sequences for i in range(40)]


def test_the_sentence_around_a_footer_is_cut_as_at_an_entity() -> None:
    mail = [message([*prose(i, 3), *FOOTER, 5000 + i]) for i in range(OFTEN)]
    for i, text in enumerate(left(mail)):
        assert text == (
            Sequence(tuple(prose(i, 3)), True, False),
            Sequence((5000 + i,), False, True),
        )


def test_what_stands_in_fewer_messages_stays() -> None:
    few = [message(prose(i), FOOTER) for i in range(OFTEN - 1)]
    rare = [message(prose(i), *([FOOTER] if i % 3 == 0 else [])) for i in range(60)]
    short = [message(prose(i), FOOTER[:-1]) for i in range(60)]
    for mail in (few, rare, short):
        assert left(mail) == [m.sequences for m in mail]


def test_a_footer_of_a_time_goes_although_it_is_not_in_most_messages() -> None:
    mail = [message(prose(i), *([FOOTER] if 100 <= i < 120 else [])) for i in range(300)]
    assert left(mail) == [message(prose(i)).sequences for i in range(300)]


def test_a_message_says_no_more_than_so_many_tokens() -> None:
    long = message(*(prose(i) for i in range(MOST_TOKENS // 30 + 10)))
    (text,) = left([long])
    assert sum(len(s.ids) for s in text) == MOST_TOKENS
    assert text[:-1] == long.sequences[: len(text) - 1]
    assert not text[-1].closes


@given(st.lists(st.lists(st.integers(2, 4), min_size=1, max_size=80), max_size=60))
def test_no_ngram_is_counted_more_often_from_one_message(sentences: list[list[int]]) -> None:
    (text,) = left([message(*sentences)])
    counts = count(text, 3, SPECIALS)
    assert all(level.count.max(initial=0) <= MOST_REPEATS for level in counts.levels[1:])
    assert counts.tokens <= MOST_TOKENS + len(text)
    if len(sentences) <= MOST_REPEATS // 2 and sum(map(len, sentences)) <= MOST_REPEATS:
        assert text == message(*sentences).sequences


def test_repetition_counts_for_each_message_alone() -> None:
    said = [prose(1, 5)] * 3
    mail = [message(*said, prose(i)) for i in range(2, 1 + OFTEN)]
    assert left(mail) == [m.sequences for m in mail]


texts = st.lists(
    st.lists(
        st.builds(
            lambda ids, opens, closes: Sequence(tuple(ids), opens, closes),
            st.lists(st.integers(2, 5), min_size=1, max_size=7),
            st.booleans(),
            st.booleans(),
        ),
        max_size=3,
    ).map(tuple),
    max_size=6,
)


@given(texts, st.integers(1, 5))
def test_in_how_many_messages_an_ngram_stands(mail: list[Text], order: int) -> None:
    counts = count([s for text in mail for s in text], order, SPECIALS)
    expected: Counter[tuple[int, ...]] = Counter()
    for text in mail:
        alone = count(text, order, SPECIALS)
        expected.update(spelled(alone.levels))
    found = in_messages(counts, mail)
    grams = spelled(counts.levels)
    assert [len(numbers) for numbers in found] == [len(level) for level in counts.levels]
    numbers = np.concatenate(found).tolist()
    assert all(n == expected[g] for g, n in zip(grams, numbers, strict=True) if len(g) > 1)


def spelled(levels: object) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    below: list[tuple[int, ...]] = [()]
    for level in levels:  # type: ignore[attr-defined]
        below = [
            (*below[c], w) for c, w in zip(level.context.tolist(), level.word.tolist(), strict=True)
        ]
        found += below
    return found


blocked_ids = st.frozensets(
    st.lists(st.integers(2, 5), min_size=1, max_size=4).map(tuple), min_size=1, max_size=5
)


@given(texts, blocked_ids)
def test_blocked_phrases_leave_no_trace_and_nothing_else_goes(
    mail: list[Text], blocked: frozenset[tuple[int, ...]]
) -> None:
    found = learnable([Prepared("u", 0.0, (), text) for text in mail], blocked)
    for before, after in zip(mail, found, strict=True):
        expected: list[Sequence] = []
        for ids, opens, closes in before:
            hit = [False] * len(ids)
            for phrase in blocked:
                for i in range(len(ids) - len(phrase) + 1):
                    if ids[i : i + len(phrase)] == phrase:
                        hit[i : i + len(phrase)] = [True] * len(phrase)
            at = 0
            while at < len(ids):
                end = at
                while end < len(ids) and not hit[end]:
                    end += 1
                if end > at:
                    piece = Sequence(ids[at:end], opens and at == 0, closes and end == len(ids))
                    expected.append(piece)
                at = end + 1
        assert after == tuple(expected)


def test_the_automaton_finds_what_overlaps() -> None:
    matcher = Matcher({(2, 3, 4), (3, 4, 5, 6), (4,), (9, 9)})
    assert matcher.spans([2, 3, 4, 5, 6, 7, 4, 9, 9, 9]) == [(0, 5), (6, 7), (7, 10)]
