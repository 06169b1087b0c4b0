"""One user's messages to a blob: duplicates, digests, and that order does not matter."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from builders.build import build_user, source_digest, specials, unique
from builders.prepare import Prepared, Settings
from perslm import blob
from perslm.counts import count
from perslm.vocabulary import SPECIALS, Sequence, Vocabulary
from tests.oracle import ngram_counts

VOCABULARY = Vocabulary.from_words("abcdef")
FIRST = len(SPECIALS)


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


@given(MAILS)
def test_a_blob_holds_what_the_kept_messages_say(messages: list[Prepared]) -> None:
    built = build_user("u", messages, VOCABULARY, Settings(order=2))
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
    expected = Counter(len(gram) for gram in ngram_counts(sequences, 2))
    assert built.ngrams == (expected[1], expected[2])
    again = count(sequences, 2, specials(VOCABULARY))
    assert blob.encode(again, decoded.metadata) == built.blob


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
    }
    assert len(digests) == 8
    assert {len(digest) for digest in digests} == {32}


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
    whole = build_user("u", messages, words, Settings(order=3))
    small = build_user("u", messages, words, Settings(order=3, max_bytes=2048))
    assert len(small.blob) <= 2048 < len(whole.blob)
    assert (whole.pruned, small.pruned) == (0, sum(whole.ngrams) - sum(small.ngrams))
    assert small.ngrams == blob.decode(small.blob).counts.ngrams
    assert (small.tokens, small.messages) == (whole.tokens, whole.messages) == (2000, 200)
    assert build_user("u", messages[::-1], words, Settings(order=3, max_bytes=2048)) == small
    roomy = build_user("u", messages, words, Settings(order=3, max_bytes=1 << 20))
    assert roomy.ngrams == whole.ngrams
    assert len(roomy.blob) == len(whole.blob)
