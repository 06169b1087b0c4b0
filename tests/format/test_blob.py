"""Blobs: round trips, canonical bytes, and a BlobError for everything that is not one."""

from __future__ import annotations

import dataclasses
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perslm.automaton import build
from perslm.blob import MAGIC, Metadata, decode, encode
from perslm.counts import Counts, Specials, count
from perslm.errors import ArgumentError, BlobError
from perslm.katz import estimate
from tests.support import Seq, sequence_lists

SPECIALS = Specials(7, 0, 1)
METADATA = Metadata("0123456789abcdef" * 2, 3, "f" * 32)
HEADER = struct.Struct("<4sBBH16sIIII16sI")


def equal(a: Counts, b: Counts) -> bool:
    pairs = [
        (x, y)
        for la, lb in zip(a.levels, b.levels, strict=True)
        for x, y in (
            (la.context, lb.context),
            (la.word, lb.word),
            (la.suffix, lb.suffix),
            (la.count, lb.count),
        )
    ]
    if a.cut is not None and b.cut is not None:
        pairs += list(zip(a.cut, b.cut, strict=True))
    pairs.append((a.count_of_counts(), b.count_of_counts()))
    same = all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)
    return same and a.specials == b.specials and (a.cut is None) == (b.cut is None)


@given(sequences=sequence_lists(), minimum=st.sampled_from([None, 2, 3]))
@pytest.mark.parametrize("order", range(1, 6))
def test_round_trip(order: int, sequences: list[Seq], minimum: int | None) -> None:
    counts = count(sequences, order, SPECIALS)
    if minimum:
        counts = counts.prune([1] + [minimum] * (order - 1))
    blob = encode(counts, METADATA)
    decoded = decode(blob)
    assert equal(decoded.counts, counts)
    assert decoded.metadata == METADATA
    assert encode(decoded.counts, decoded.metadata) == blob


def sample() -> bytes:
    sequences = [Seq([2, 3, 4], True, True), Seq([2, 3], True, True), Seq([6] * 140, False, True)]
    return encode(count(sequences, 3, SPECIALS), METADATA)


def test_every_truncation_is_refused() -> None:
    blob = sample()
    for n in range(len(blob)):
        with pytest.raises(BlobError):
            decode(blob[:n])
    with pytest.raises(BlobError, match="rule 4"):
        decode(blob + b"\0")


def test_every_flip_of_one_byte_is_refused() -> None:
    blob = sample()
    for at in range(len(blob)):
        for mask in (1, 16, 128, 255):
            damaged = bytearray(blob)
            damaged[at] ^= mask
            with pytest.raises(BlobError):
                decode(bytes(damaged))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BlobError):
        decode(data)


def sealed(payload: bytes, *, order: int = 2, flags: int = 0, eos: int = 1) -> bytes:
    """A blob with a right checksum around any payload."""
    body = HEADER.pack(MAGIC, 0, order, flags, bytes(16), 7, 0, eos, 0, bytes(16), len(payload))
    body += payload
    return body + struct.pack("<I", zlib.crc32(body))


@settings(max_examples=500)
@given(payload=st.binary(max_size=60), order=st.integers(0, 6), flags=st.integers(0, 2))
def test_sealed_garbage_is_refused_or_keeps_every_rule(
    payload: bytes, order: int, flags: int
) -> None:
    try:
        decoded = decode(sealed(payload, order=order, flags=flags))
    except BlobError:
        return
    blob = encode(decoded.counts, dataclasses.replace(decoded.metadata))
    assert blob == sealed(payload, order=order, flags=flags)


@settings(max_examples=500)
@given(
    sequences=sequence_lists(),
    order=st.integers(1, 5),
    minimum=st.sampled_from([None, 2]),
    at=st.integers(0),
    value=st.integers(0, 127),
)
def test_what_is_read_after_a_sealed_change_is_a_valid_model(
    sequences: list[Seq], order: int, minimum: int | None, at: int, value: int
) -> None:
    counts = count(sequences, order, SPECIALS)
    if minimum:
        counts = counts.prune([1] + [minimum] * (order - 1))
    payload = bytearray(encode(counts, METADATA)[HEADER.size : -4])
    payload[at % len(payload)] = value
    try:
        decoded = decode(sealed(bytes(payload), order=order, flags=int(minimum is not None)))
    except BlobError:
        return
    build(decoded.counts, estimate(decoded.counts)).validate()


@pytest.mark.parametrize(
    ("payload", "rule"),
    [
        # order 2: [successors of the root][gaps][counts], then those of each word
        (bytes([1, 2, 1, 1, 2]), 12),  # the payload lacks the last count
        (bytes([1, 2, 1, 0, 9]), 12),  # a number too many
        (bytes([1, 2, 0, 0]), 7),  # a word that was never seen
        (bytes([1, 2, 0x80]), 7),  # an unfinished number
        (bytes([0x80, 0x00]), 7),  # a number longer than needed
        (bytes([0xFF] * 5 + [1]), 7),  # a number too large
        (bytes([1, 7, 1, 0]), 8),  # word 7 of a vocabulary of 7
        (bytes([1, 1, 1, 1, 2, 1]), 9),  # a word after </s>
        (bytes([1, 2, 1, 1, 0, 1]), 9),  # <s> after a word
        (bytes([1, 2, 1, 1, 3, 1]), 11),  # 2 3, but never 3
    ],
)
def test_hostile_payloads(payload: bytes, rule: int) -> None:
    with pytest.raises(BlobError, match=f"rule {rule}:"):
        decode(sealed(payload))


def test_words_cannot_be_pruned_away() -> None:
    zeros = bytes(2 * 6)
    with pytest.raises(BlobError, match="rule 10:"):
        decode(sealed(bytes([1, 2, 1, 0, 5, 0]) + zeros, flags=1))


@pytest.mark.parametrize("order", [0, 6])
def test_orders_out_of_range(order: int) -> None:
    with pytest.raises(BlobError, match="rule 6:"):
        decode(sealed(b"\0", order=order))


def test_other_versions_name_themselves() -> None:
    blob = bytearray(sample())
    blob[4] = 9
    with pytest.raises(BlobError, match="version 9"):
        decode(bytes(blob))


@pytest.mark.parametrize("fingerprint", ["", "xyz", "0" * 31, "0" * 34])
def test_metadata_is_checked(fingerprint: str) -> None:
    with pytest.raises(ArgumentError, match="hexadecimal"):
        encode(count([], 1, SPECIALS), Metadata(fingerprint))
