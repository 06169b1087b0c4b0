"""Blobs: round trips, sections, and a BlobError for everything that is not one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perslm.blob import Metadata, WeightTable, decode, encode, load
from perslm.counts import Counts, Level, Specials, count
from perslm.errors import ArgumentError, BlobError
from tests.format.corpus import (
    METADATA,
    SPECIALS,
    payload_of,
    pruned,
    sealed,
    section,
    with_payload,
    with_sections,
)
from tests.support import Seq, same_counts, sequence_lists

pytestmark = pytest.mark.usefixtures("backend")

SEQUENCES = [Seq([2, 3, 4], True, True), Seq([2, 3], True, True), Seq([6] * 40, False, True)]
COUNTS = count(SEQUENCES, 3, SPECIALS)


@pytest.mark.parametrize("order", range(1, 6))
@settings(deadline=None, max_examples=30)
@given(sequences=sequence_lists(), minimum=st.sampled_from([None, 2, 3]))
def test_round_trip(order: int, sequences: list[Seq], minimum: int | None) -> None:
    counts = count(sequences, order, SPECIALS)
    if minimum:
        counts = pruned(counts, minimum)
    blob = encode(counts, METADATA)
    decoded = decode(blob)
    assert same_counts(decoded.counts, counts)
    assert decoded.counts.specials == counts.specials
    assert decoded.metadata == METADATA
    assert encode(decoded.counts, decoded.metadata) == blob


@pytest.mark.parametrize(
    "metadata",
    [
        Metadata("0" * 32),
        Metadata("f" * 32, 2**32 - 1, "0f" * 16, 2**64 - 1),
    ],
)
def test_metadata(metadata: Metadata) -> None:
    assert decode(encode(COUNTS, metadata)).metadata == metadata


def test_loading_gives_what_the_backend_works_with(backend: str) -> None:
    loaded = load(encode(COUNTS, METADATA))
    assert isinstance(loaded.counts, Counts) == (backend == "numpy")
    assert loaded.specials == SPECIALS
    assert loaded.metadata == METADATA


def test_every_truncation_is_refused() -> None:
    blob = encode(COUNTS, METADATA)
    for n in range(len(blob)):
        with pytest.raises(BlobError, match=r"rule [145]:"):
            decode(blob[:n])


def test_every_sealed_truncation_of_the_payload_is_refused() -> None:
    blob = encode(COUNTS, METADATA)
    payload = payload_of(blob)
    for n in range(len(payload)):
        with pytest.raises(BlobError, match=r"rule \d+:"):
            decode(with_payload(blob, payload[:n]))


def test_every_flip_of_one_byte_is_refused() -> None:
    blob = encode(COUNTS, METADATA)
    for at in range(len(blob)):
        for mask in (1, 16, 128, 255):
            damaged = bytearray(blob)
            damaged[at] ^= mask
            with pytest.raises(BlobError, match=r"rule [2345]:"):
                decode(bytes(damaged))


def test_nothing_may_follow() -> None:
    blob = encode(COUNTS, METADATA)
    for more in (b"\0", blob):
        with pytest.raises(BlobError, match="rule 5:"):
            decode(blob + more)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BlobError, match=r"rule [12]:"):
        decode(data)


def test_another_version_is_named() -> None:
    blob = encode(COUNTS, METADATA)
    with pytest.raises(BlobError, match="format version 9, this reader knows 1"):
        decode(sealed(blob[:4] + b"\x09" + blob[5:-4]))


def weight_table(order: int, counts: int, masses: int) -> WeightTable:
    cells = iter(range(0, 65536, 7))
    return tuple(
        tuple(tuple(next(cells) for _ in range(masses)) for _ in range(counts))
        for _ in range(order)
    )


@pytest.mark.parametrize(("counts", "masses"), [(1, 1), (2, 3), (32, 16)])
def test_weight_tables(counts: int, masses: int) -> None:
    metadata = replace(METADATA, weights=weight_table(3, counts, masses))
    blob = encode(COUNTS, metadata)
    decoded = decode(blob)
    assert decoded.metadata == metadata
    assert encode(decoded.counts, decoded.metadata) == blob
    # the slowest index is the order, the fastest the mass
    plain = encode(COUNTS, METADATA)
    flat = [v for by_count in metadata.weights or () for by_mass in by_count for v in by_mass]
    content = bytes([counts, masses]) + b"".join(v.to_bytes(2, "little") for v in flat)
    assert blob == with_sections(plain, section(1, content))


@pytest.mark.parametrize(
    "weights",
    [
        weight_table(2, 1, 1),  # of another order
        weight_table(3, 33, 1),
        weight_table(3, 1, 17),
        (((1, 2),), ((1, 2),), ((1,),)),
        (((1,), (2,)), ((1,),), ((1,),)),
        (((65536,),), ((0,),), ((0,),)),
        (((-1,),), ((0,),), ((0,),)),
    ],
)
def test_weight_tables_that_cannot_be(weights: WeightTable) -> None:
    with pytest.raises(ArgumentError, match="weight"):
        encode(COUNTS, replace(METADATA, weights=weights))


def test_sections_of_no_known_kind() -> None:
    plain = encode(COUNTS, METADATA)
    table = replace(METADATA, weights=weight_table(3, 1, 1))
    weights = section(1, encode(COUNTS, table)[len(plain) - 4 + 5 : -4])
    for kind in (2, 77, 127):
        for content in (b"", b"anything"):
            found = decode(with_sections(plain, section(kind, content)))
            assert found.metadata == METADATA
            assert same_counts(found.counts, COUNTS)
            assert decode(with_sections(plain, weights, section(kind, content))).metadata == table
    for kind in (128, 255):
        with pytest.raises(BlobError, match="rule 16:"):
            decode(with_sections(plain, weights, section(kind, b"")))


@pytest.mark.parametrize("digest", ["", "xyz", "0" * 31, "0" * 34, "g" * 32])
@pytest.mark.parametrize("field", ["fingerprint", "source_digest"])
def test_digests_are_checked(field: str, digest: str) -> None:
    with pytest.raises(ArgumentError, match="32 hexadecimal digits"):
        encode(COUNTS, replace(METADATA, **{field: digest}))


@pytest.mark.parametrize(
    "change", [{"messages": 2**32}, {"messages": -1}, {"created": 2**64}, {"created": -1}]
)
def test_numbers_are_checked(change: dict[str, int]) -> None:
    with pytest.raises(ArgumentError, match="does not fit in its field"):
        encode(COUNTS, replace(METADATA, **change))


def test_ids_are_checked() -> None:
    for specials in (Specials(2**31, 0, 1), Specials(9, 2**31, 1), Specials(9, 0, 2**31)):
        with pytest.raises(ArgumentError, match=r"ids below 2\^31 only"):
            encode(count([Seq([5], True, False)], 2, specials), METADATA)


def level(context: list[int], word: list[int], suffix: list[int], counts: list[int]) -> Level:
    ids = (np.array(column, np.uint32) for column in (context, word, suffix))
    return Level(*ids, np.array(counts, np.int64))


WORDS = level([0, 0, 0], [1, 2, 3], [0, 0, 0], [1, 2, 2])  # </s>, and two words

IMPOSSIBLE = {
    "2^31 tokens": [level([0, 0], [2, 3], [0, 0], [2**30, 2**30])],
    "<s> is an event": [level([0, 0], [0, 2], [0, 0], [1, 1])],
    "more after a word than there were": [WORDS, level([1], [3], [2], [3])],
    "more before a word than there were": [WORDS, level([1, 2], [1, 1], [0, 0], [1, 1])],
    "</s> is followed": [WORDS, level([0], [2], [1], [1])],
    "the suffix was never seen": [
        WORDS,
        level([1, 2], [2, 3], [1, 2], [1, 1]),
        level([0], [3], [1], [1]),  # 2 2 3 without 2 3
    ],
    "<s> before nothing": [
        level([0, 0], [0, 2], [0, 0], [0, 1]),
        level([], [], [], []),
    ],
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_counts_that_no_sequences_have(name: str) -> None:
    with pytest.raises(ArgumentError, match="counts"):
        encode(Counts(SPECIALS, tuple(IMPOSSIBLE[name])), METADATA)


def test_more_cut_than_there_was() -> None:
    counts = pruned(COUNTS, 2)
    assert counts.cut is not None
    opening, *others = np.flatnonzero(counts.cut[1] + (counts.levels[0].word == SPECIALS.bos))
    assert len(others) == 3
    for context, more in [(opening, 2**31 - 2), *((other, 1) for other in others)]:
        masses = counts.cut[1].copy()
        masses[context] += more  # <s> has no count that limits what was cut after it
        wrong = replace(counts, cut=(counts.cut[0], masses, counts.cut[2]))
        if context != opening:
            masses[context] += counts.levels[0].count[context]
        with pytest.raises(ArgumentError, match="counts"):
            encode(wrong, METADATA)
