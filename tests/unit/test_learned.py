"""A published model and what came after it, as one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perslm import blob
from perslm.blob import Metadata
from perslm.counts import Counts, Specials, count, merge
from perslm.errors import BlobError
from perslm.learned import add, current
from perslm.model import PersonalModel
from perslm.rules import Rules, Spelling
from perslm.store import Pending, Stored
from perslm.vocabulary import Sequence

SIZE, BOS, EOS = 9, 0, 1
SPECIALS = Specials(SIZE, BOS, EOS)
FINGERPRINT = "ab" * 16
OTHER = "cd" * 16

IDS = st.lists(st.integers(2, SIZE - 1), min_size=1, max_size=6)
SEQUENCES = st.lists(st.builds(Sequence, IDS.map(tuple), st.booleans(), st.booleans()), max_size=4)
MAILS = st.lists(SEQUENCES, max_size=4)


def message(number: int, *sequences: Sequence, vocabulary: str = FINGERPRINT) -> Pending:
    return Pending(b"m%d" % number, float(number), (b"d%d" % number,), sequences, vocabulary)


def said(*ids: int) -> Sequence:
    return Sequence(ids, opens=True, closes=True)


def ngrams(counts: Counts) -> dict[tuple[int, ...], int]:
    """Every n-gram with its count."""
    found: dict[tuple[int, ...], int] = {}
    above: list[tuple[int, ...]] = [()]
    for level in counts.levels:
        above = [(*above[c], int(w)) for c, w in zip(level.context, level.word, strict=True)]
        found.update(zip(above, level.count.tolist(), strict=True))
    return found


def pruned(counts: Counts, least: int = 2) -> Counts:
    return counts.prune([1] + [least] * (counts.order - 1))


def stored(counts: Counts, *pending: Pending, rules: Rules | None = None) -> Stored:
    data = blob.encode(counts, Metadata(FINGERPRINT, 3, "12" * 16, 2))
    return Stored(
        "ann", 4, 3, len(data), 5.0, "12" * 16, 3, counts.tokens, FINGERPRINT, data, pending, rules
    )


@given(base=MAILS, mail=MAILS, order=st.integers(1, 4), prune=st.booleans(), twice=st.booleans())
def test_what_counts_of_learned_messages(
    base: list[list[Sequence]], mail: list[list[Sequence]], order: int, prune: bool, twice: bool
) -> None:
    before = count([s for m in base for s in m], order, SPECIALS)
    if prune:
        before = pruned(before)
    mail = mail * 2 if twice else mail
    messages = [message(i, *sequences) for i, sequences in enumerate(mail)]
    after = add(before, messages)
    old = ngrams(before)
    each = [ngrams(count(m, order, SPECIALS)) for m in mail]
    expected = dict(old)
    for ngram in set().union(*each):
        spread = sum(ngram in found for found in each)
        if len(ngram) == 1 or ngram in old or spread > 1:
            expected[ngram] = old.get(ngram, 0) + sum(found.get(ngram, 0) for found in each)
    assert ngrams(after) == expected
    # what follows a context adds up, with what was cut, to all that was seen after it
    for k in range(1, order):
        below = {
            n: int(t)
            for n, t in zip(
                [n for n in ngrams(after) if len(n) == k], after.totals(k).tolist(), strict=True
            )
        }
        was = dict(zip([n for n in old if len(n) == k], before.totals(k).tolist(), strict=True))
        for context, total in below.items():
            new = sum(
                number for found in each for ngram, number in found.items() if ngram[:-1] == context
            )
            assert total == was.get(context, 0) + new
    read = blob.decode(blob.encode(after, Metadata(FINGERPRINT))).counts
    assert ngrams(read) == expected
    assert np.isfinite(PersonalModel.from_counts(after, Metadata(FINGERPRINT)).weights([0])).all()


def test_without_pruning_it_is_the_sum() -> None:
    base = count([said(2, 3, 4), said(2, 3)], 3, SPECIALS)
    messages = [message(i, said(2, 3, 5)) for i in range(2)]
    whole = merge([base, count([said(2, 3, 5)] * 2, 3, SPECIALS)])
    found = add(base, messages)
    assert found.cut is None
    for one, other in zip(found.levels, whole.levels, strict=True):
        for name in ("context", "word", "suffix", "count"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
    assert add(base, []) is base


def test_counts_of_counts_go_on() -> None:
    """Katz' discounts of a pruned model know of what was learned, as if it had been whole."""
    base = pruned(count([said(2, 3, 4), said(2, 3), said(5, 6)], 2, SPECIALS))
    found = add(base, [message(1, said(2, 3)), message(2, said(7, 8)), message(3, said(7, 8))])
    before, after = base.count_of_counts(), found.count_of_counts()
    assert before[1, :3].tolist() == [6, 2, 0]
    # 3 </s> was cut, and counts as new; <s> 7, 7 8 and 8 </s> come twice; <s> 2 and 2 3 once more
    assert after[1, :3].tolist() == [7, 3, 2]


def test_the_blob_as_it_is_now() -> None:
    base = count([said(2, 3, 4)], 3, SPECIALS)
    plain = stored(base)
    assert current(plain) is plain.blob
    assert current(plain, Rules()) is plain.blob
    new = stored(base, message(7, said(2, 8)), message(9, said(8)))
    read = blob.decode(current(new))
    assert read.metadata.messages == 5
    assert read.metadata.created == 9
    assert read.counts.tokens == base.tokens + 5
    other = blob.decode(current(stored(base, message(7, said(2, 8)), message(9, said(7)))))
    assert len({"12" * 16, read.metadata.source_digest, other.metadata.source_digest}) == 3
    assert current(new) == current(new)


def test_messages_of_another_vocabulary_are_left_out() -> None:
    base = stored(count([said(2, 3, 4)], 3, SPECIALS), message(1, said(2), vocabulary=OTHER))
    assert current(base) is base.blob


@pytest.mark.parametrize(
    "everybodys", [None, Rules(blocked=frozenset({Spelling(FINGERPRINT, (8,))}))]
)
def test_what_is_blocked_is_left_out(everybodys: Rules | None) -> None:
    mine = Rules(blocked=frozenset({Spelling(FINGERPRINT, (3,))}))
    found = stored(count([said(2, 3, 4)], 3, SPECIALS), message(1, said(8, 2)), rules=mine)
    left = ngrams(blob.decode(current(found, everybodys)).counts)
    assert not any(3 in ngram for ngram in left)
    assert any(8 in ngram for ngram in left) == (everybodys is None)
    elsewhere = Rules(blocked=frozenset({Spelling(OTHER, (3,))}))
    found = stored(count([said(2, 3, 4)], 3, SPECIALS), rules=elsewhere)
    assert current(found) is found.blob


def test_ids_that_the_vocabulary_does_not_have() -> None:
    damaged = stored(count([said(2, 3, 4)], 3, SPECIALS), message(1, said(2, SIZE)))
    with pytest.raises(BlobError, match="learned message"):
        current(damaged)
    with pytest.raises(BlobError):
        current(replace(damaged, blob=b"no model"))
