"""Which words enter a shared vocabulary, in which order, and merging of partial counts."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.vocabulary import WordCounter, build_vocabulary
from perslm.errors import ArgumentError, VocabularyError
from perslm.vocabulary import SPECIALS, Vocabulary

portions = st.lists(
    st.tuples(st.sampled_from("uvwxyz"), st.lists(st.sampled_from("abcdefg"), max_size=6)),
    max_size=25,
)


def words_of(vocabulary: Vocabulary) -> list[str]:
    return [vocabulary.token(id) for id in range(len(SPECIALS), vocabulary.size)]


def test_words_of_enough_users_by_falling_count() -> None:
    texts = [
        ("ann", ["the", "the", "b", "a", "own", "own", "own", "own"]),
        ("bob", ["the", "a", "b"]),
        ("ann", ["own"]),
    ]
    # the: 3 times; a and b: 2 times, by code point; own: 5 times, but by ann alone.
    assert words_of(build_vocabulary(texts)) == ["the", "a", "b"]
    assert words_of(build_vocabulary(texts, size=2)) == ["the", "a"]
    assert words_of(build_vocabulary(texts, min_users=1)) == ["own", "the", "a", "b"]
    assert build_vocabulary(texts) == build_vocabulary(reversed(texts))


@pytest.mark.parametrize(
    "word",
    ["x12345", "a1b2c3d4e5", "deadbeefdeadbeef0", "12345", "x" * 41, "<url>", "<s>", "<unk>"],
)
def test_what_never_enters(word: str) -> None:
    texts = [("ann", [word, "fine"]), ("bob", [word, "fine"])]
    assert words_of(build_vocabulary(texts)) == ["fine"]


def test_one_user_alone_builds_nothing_that_is_shared() -> None:
    with pytest.raises(VocabularyError, match="--min-users 1"):
        build_vocabulary([("ann", ["a", "b"]), ("ann", ["a"])])
    with pytest.raises(VocabularyError, match="no words"):
        build_vocabulary([], min_users=1)


def test_numbers_out_of_range() -> None:
    with pytest.raises(ArgumentError, match="min_users is 0"):
        WordCounter(0)
    counter = WordCounter(2)
    counter.add("ann", ["a"])
    with pytest.raises(ArgumentError, match="size is 0"):
        counter.vocabulary(0)
    with pytest.raises(ArgumentError, match="from 1 to 2"):
        counter.vocabulary(min_users=3)
    with pytest.raises(ArgumentError, match="cannot be merged"):
        counter.merge(WordCounter(3))
    assert words_of(counter.vocabulary(min_users=1)) == ["a"]


@given(portions, st.integers(1, 4), st.integers(0, 25))
def test_merging_parts_is_counting_all(
    texts: list[tuple[str, list[str]]], min_users: int, cut: int
) -> None:
    users = {word: {user for user, tokens in texts if word in tokens} for word in "abcdefg"}
    counts = {word: sum(tokens.count(word) for _, tokens in texts) for word in "abcdefg"}
    expected = sorted(
        (word for word in "abcdefg" if len(users[word]) >= min_users),
        key=lambda word: (-counts[word], word),
    )
    parts = [WordCounter(min_users), WordCounter(min_users)]
    for index, (user, tokens) in enumerate(texts):
        parts[index >= cut].add(user, tokens)
    parts[0].merge(pickle.loads(pickle.dumps(parts[1])))
    if expected:
        assert words_of(parts[0].vocabulary()) == expected
    else:
        with pytest.raises(VocabularyError):
            parts[0].vocabulary()


def test_memory_holds_few_users_of_a_word() -> None:
    counter = WordCounter(3)
    for user in range(1000):
        counter.add(f"user {user}", ["common"])
    assert len(counter) == 1
    assert len(pickle.dumps(counter)) < 400
