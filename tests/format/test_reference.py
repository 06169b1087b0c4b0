"""Both backends and the reference, which was written from FORMAT.md alone, read the same."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perslm.automaton import build
from perslm.blob import decode, encode
from perslm.counts import Counts, Specials, count
from perslm.katz import estimate
from tests.format import reference
from tests.format.corpus import (
    CASES,
    METADATA,
    case,
    changed,
    check_equal,
    check_outcome,
    drawn,
    on_every_backend,
    payload_of,
    pruned,
    with_payload,
)
from tests.support import Seq, sequence_lists

SPECIALS = st.sampled_from([Specials(7, 0, 1), Specials(7, 6, 5), Specials(7, 9, 1)])


@st.composite
def some_counts(draw: st.DrawFn) -> Counts:
    """Counts of a few sentences: of any order, pruned, shortened, with a virtual <s>."""
    specials = draw(SPECIALS)
    words = min(specials.size, specials.bos, specials.eos) if specials.eos == 5 else 4
    sequences: list[Seq] = draw(sequence_lists(words=min(words, 4), first_word=2 - (words == 5)))
    order = draw(st.integers(1, 5))
    counts = count(sequences, order, specials)
    minimum = draw(st.sampled_from([None, None, 2, 3]))
    if minimum:
        counts = pruned(counts, minimum)
    return counts.shorten(draw(st.integers(1, order)))


def check(counts: Counts, blob: bytes) -> reference.Blob:
    """Everyone writes ``blob`` and reads ``counts`` in it."""
    found = check_outcome(blob)
    assert found is not None
    check_equal(counts, found)
    for _ in on_every_backend():
        assert encode(counts, METADATA) == blob
    return found


@pytest.mark.parametrize("name", CASES)
def test_cases(name: str) -> None:
    check(*case(name))


def test_the_cases_take_every_branch() -> None:
    seen = sum((reference.read(case(name)[1]).seen for name in CASES), Counter[str]())
    assert set(seen) == reference.BRANCHES


@settings(deadline=None)
@given(counts=some_counts())
def test_sentences(counts: Counts) -> None:
    check(counts, encode(counts, METADATA))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    order=st.integers(1, 4),
    bos=st.sampled_from([0, 99]),
    words=st.sampled_from([0, 1, 2, 4, 8, 31, 33]),
    most=st.sampled_from([1, 2, 5, 30, 2**20]),
)
def test_counts_of_no_text(seed: int, order: int, bos: int, words: int, most: int) -> None:
    order = min(order, 2) if words > 8 else order
    counts = drawn(Random(seed), order, Specials(60, bos, 1), words, most)
    check(counts, encode(counts, METADATA))


def test_every_field_is_read() -> None:
    counts, blob = case("virtual")
    found = reference.read(blob)
    assert found.order == counts.order
    assert (found.size, found.bos, found.eos) == (302, 305, 1)
    assert found.tokens == counts.tokens
    assert (found.fingerprint, found.digest) == (METADATA.fingerprint, METADATA.source_digest)
    assert (found.messages, found.created) == (METADATA.messages, METADATA.created)
    assert found.weights is None
    assert not found.skipped


def check_change(blob: bytes) -> None:
    """All refuse it, or all read the same valid counts, which nothing else than it encodes."""
    found = check_outcome(blob)
    if found is not None:
        counts = decode(blob).counts
        build(counts, estimate(counts)).validate()


@settings(deadline=None, max_examples=300)
@given(counts=some_counts(), data=st.data())
def test_sealed_changes_of_the_payload(counts: Counts, data: st.DataObject) -> None:
    payload = bytearray(payload_of(encode(counts, METADATA)))
    for _ in range(data.draw(st.integers(1, 2))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    extra = data.draw(st.sampled_from([b""] * 8 + [b"\0", bytes(4), b"\1\0\0\0"]))
    check_change(with_payload(encode(counts, METADATA), bytes(payload) + extra))


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from([name for name in CASES if name not in ("drawn", "free")]),
    data=st.data(),
)
def test_sealed_changes_of_larger_payloads(name: str, data: st.DataObject) -> None:
    _, blob = case(name)
    payload = bytearray(payload_of(blob))
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    check_change(with_payload(blob, bytes(payload)))


@settings(deadline=None, max_examples=150)
@given(
    counts=some_counts(),
    at=st.sampled_from([5, 6, 7, *range(24, 44), 68, 69, 70, 71]),
    value=st.integers(0, 255),
)
def test_sealed_changes_of_the_header(counts: Counts, at: int, value: int) -> None:
    check_change(changed(encode(counts, METADATA), at, bytes([value])))


@settings(max_examples=200)
@given(payload=st.binary(max_size=60), order=st.integers(1, 5), flags=st.integers(0, 1))
def test_sealed_garbage(payload: bytes, order: int, flags: int) -> None:
    blob = encode(count([], 1, Specials(7, 0, 1)), METADATA)
    blob = changed(changed(blob, 5, bytes([order])), 6, bytes([flags]))
    check_change(with_payload(blob, payload))
