"""One user's messages to a blob: duplicates, digests, and that order does not matter."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from builders.build import build_user, source_digest, specials, unique
from builders.prepare import Prepared, Settings
from perslm import blob
from perslm.counts import Counts, count
from perslm.rules import Rules
from perslm.vocabulary import SPECIALS, Sequence, Vocabulary
from tests.oracle import ngram_counts

VOCABULARY = Vocabulary.from_words("abcdef")
FIRST = len(SPECIALS)
BLOCKED = Rules().block("a", [])


def mail(when: float, digests: str, *words: str) -> Prepared:
    """A message of one-letter words, each string a sentence; one letter a digest."""
    sequences = tuple(
        Sequence(tuple(FIRST + "abcdef".index(letter) for letter in sentence), True, True)
        for sentence in words
    )
    return Prepared("u", when, tuple(d.encode() for d in digests), sequences)


def test_of_two_that_share_a_digest_the_older_stays() -> None:
    old, copy, other = mail(1, "mx", "ab"), mail(2, "nx", "abc"), mail(3, "o", "d")
    assert unique([other, copy, old]) == ([old, other], 1)


def test_a_copy_of_a_copy_is_one() -> None:
    kept, duplicates = unique([mail(1, "ab", "a"), mail(2, "bc", "a"), mail(3, "cd", "a")])
    assert len(kept) == 1
    assert duplicates == 2
    # the last makes one of the first two
    assert unique([mail(1, "a", "a"), mail(2, "b", "a"), mail(3, "ab", "a")])[1] == 2


def test_messages_without_digests_are_never_copies() -> None:
    assert unique([mail(0, "", "a"), mail(0, "", "a")])[1] == 0


MAILS = st.lists(
    st.builds(
        mail,
        st.integers(0, 3).map(float),
        st.text("pqrst", max_size=2),
        st.text("abcdef", min_size=1, max_size=5),
    ),
    max_size=8,
)


@given(MAILS, st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(
    messages: list[Prepared], shuffle: random.Random
) -> None:
    shuffled = list(messages)
    shuffle.shuffle(shuffled)
    settings = Settings(order=3)
    assert build_user("u", shuffled, VOCABULARY, settings) == build_user(
        "u", messages, VOCABULARY, settings
    )


@given(MAILS, st.integers(1, 3))
def test_a_blob_holds_what_the_kept_messages_say(messages: list[Prepared], least: int) -> None:
    built = build_user("u", messages, VOCABULARY, Settings(order=3, min_messages=least))
    kept, duplicates = unique(messages)
    decoded = blob.decode(built.blob)
    newest = max((int(m.when) for m in kept), default=0)
    assert decoded.metadata == blob.Metadata(
        VOCABULARY.fingerprint, len(kept), built.source_digest, max(newest, 0)
    )
    sequences = [s for message in kept for s in message.sequences]
    assert built.messages + built.duplicates == len(messages)
    assert built.duplicates == duplicates
    assert built.tokens == sum(len(s.ids) + 1 for s in sequences)
    in_messages = Counter(as_ids(g) for m in kept for g in ngram_counts(m.sequences, 3))
    counted = {as_ids(g): n for g, n in ngram_counts(sequences, 3).items()}
    left = {g: n for g, n in counted.items() if len(g) == 1 or in_messages[g] >= least}
    assert grams(decoded.counts) == left
    assert built.ngrams == tuple(sum(len(g) == k for g in left) for k in (1, 2, 3))
    assert built.pruned == len(counted) - len(left)
    whole = count(sequences, 3, specials(VOCABULARY))
    assert np.array_equal(decoded.counts.totals(0), whole.totals(0))
    totals = {g: whole.totals(1)[i] for i, g in enumerate(grams_of(whole, 0))}
    kept_totals = {
        g: decoded.counts.totals(1)[i] for i, g in enumerate(grams_of(decoded.counts, 0))
    }
    assert kept_totals == totals


def as_ids(gram: tuple[object, ...]) -> tuple[int, ...]:
    ends = {"<s>": VOCABULARY.bos, "</s>": VOCABULARY.eos}
    return tuple(ends.get(word, word) for word in gram)  # type: ignore[call-overload]


def grams_of(counts: Counts, k: int) -> list[tuple[int, ...]]:
    """The n-grams of one level, <s> among them."""
    level = counts.levels[k]
    below = grams_of(counts, k - 1) if k else [()]
    return [
        (*below[c], w) for c, w in zip(level.context.tolist(), level.word.tolist(), strict=True)
    ]


def grams(counts: Counts) -> dict[tuple[int, ...], int]:
    """Every n-gram with its count, without <s>, which has none."""
    found: dict[tuple[int, ...], int] = {}
    for k, level in enumerate(counts.levels):
        found.update(zip(grams_of(counts, k), level.count.tolist(), strict=True))
    found.pop((VOCABULARY.bos,), None)
    return found


def test_the_source_digest_tells_builds_apart() -> None:
    messages = [mail(1, "p", "ab", "c"), mail(2, "q", "d")]
    other_words = Vocabulary.from_words("abcdefg")
    digests = {
        source_digest(messages, VOCABULARY, Settings(order=3)),
        source_digest(messages, VOCABULARY, Settings(order=2)),
        source_digest(messages, VOCABULARY, Settings(order=3, max_bytes=1024)),
        source_digest(messages, VOCABULARY, Settings(order=3, max_bytes=2048)),
        source_digest(messages, other_words, Settings(order=3)),
        source_digest(messages[:1], VOCABULARY, Settings(order=3)),
        source_digest([mail(1, "p", "abc"), mail(2, "q", "d")], VOCABULARY, Settings(order=3)),
        source_digest([mail(1, "p", "a", "bc"), messages[1]], VOCABULARY, Settings(order=3)),
        source_digest([mail(1, "p", "ab"), mail(2, "q", "c", "d")], VOCABULARY, Settings(order=3)),
        source_digest(messages, VOCABULARY, Settings(order=3, min_messages=1)),
        source_digest(messages, VOCABULARY, Settings(order=3), BLOCKED),
        source_digest(messages, VOCABULARY, Settings(order=3), BLOCKED.block("ab", [])),
        source_digest(messages, VOCABULARY, Settings(order=3), Rules(opted_out=True)),
    }
    assert len(digests) == 13
    assert {len(digest) for digest in digests} == {32}


def test_blocked_words_are_as_if_never_written() -> None:
    messages = [mail(1, "p", "abcab", "ba"), mail(2, "q", "abc", "bab")]
    rules = Rules().block(["B c"], [VOCABULARY])
    built = build_user("u", messages, VOCABULARY, Settings(order=3, min_messages=1), rules)
    a, b, c = (FIRST + i for i in range(3))
    found = grams(blob.decode(built.blob).counts)
    assert (b, c) not in found
    assert found[a, b] == 2  # of "abcab" the last, and "bab": what is left of the cut ones is (a,)
    assert (c,) not in found
    # the phrases decide, whatever vocabulary their spellings are of
    foreign = Rules(phrases=rules.phrases, blocked=Rules().block(["a"], [VOCABULARY]).blocked)
    assert build_user("u", messages, VOCABULARY, Settings(min_messages=1), foreign) == built


def test_of_who_has_opted_out_nothing_is_learned() -> None:
    messages = [mail(1, "p", "abcab"), mail(2, "q", "abc")]
    built = build_user("u", messages, VOCABULARY, Settings(), Rules(opted_out=True))
    assert (built.messages, built.tokens, built.ngrams) == (0, 0, (0, 0, 0))


def test_a_model_of_so_many_bytes_is_built_of_the_whole_mail() -> None:
    words = Vocabulary.from_words([f"w{i}" for i in range(3000)])
    random_ids = random.Random(1)
    messages = [
        Prepared(
            "u",
            float(when),
            (b"%d" % when,),
            (Sequence(tuple(random_ids.randrange(FIRST, 3000) for _ in range(9)), True, True),),
        )
        for when in range(200)
    ]
    all_kept = Settings(order=3, min_messages=1)
    whole = build_user("u", messages, words, all_kept)
    small = build_user("u", messages, words, replace(all_kept, max_bytes=2048))
    assert len(small.blob) <= 2048 < len(whole.blob)
    assert (whole.pruned, small.pruned) == (0, sum(whole.ngrams) - sum(small.ngrams))
    assert small.ngrams == blob.decode(small.blob).counts.ngrams
    assert (small.tokens, small.messages) == (whole.tokens, whole.messages) == (2000, 200)
    assert build_user("u", messages[::-1], words, replace(all_kept, max_bytes=2048)) == small
    roomy = build_user("u", messages, words, replace(all_kept, max_bytes=1 << 20))
    assert roomy.ngrams == whole.ngrams
    assert len(roomy.blob) == len(whole.blob)


def test_two_messages_and_so_many_bytes_are_one_choice() -> None:
    """Counts are pruned once: what stays is of two messages, and worth its bytes."""
    words = Vocabulary.from_words([f"w{i}" for i in range(300)])
    ids = random.Random(1)
    messages = [
        Prepared(
            "u",
            float(when),
            (b"%d" % when,),
            (Sequence(tuple(ids.randrange(FIRST, 300) for _ in range(60)), True, True),),
        )
        for when in range(400)
    ]
    both = build_user("u", messages, words, Settings(order=3, max_bytes=2048))
    of_two = build_user("u", messages, words, Settings(order=3))
    assert len(both.blob) <= 2048 < len(of_two.blob)
    left, allowed = (grams(blob.decode(b.blob).counts) for b in (both, of_two))
    assert left.items() < allowed.items()
    assert any(len(g) > 1 for g in left)
