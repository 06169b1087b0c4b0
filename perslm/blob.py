"""A user's model as bytes, and back: the only code that knows the layout that FORMAT.md specifies.

A blob is a header, the n-gram counts as a payload (``perslm._codec``, or the kernel), optional
sections, and a checksum. It has no string and no probability: Katz computes those from the counts.
It is canonical: equal counts and metadata give equal bytes on every platform, with no holes and
nothing after the end.

:func:`decode` and :func:`load` trust nothing. Whatever the bytes, they return counts that keep
every rule of ``perslm.counts`` or raise :class:`~perslm.errors.BlobError` naming the numbered rule
of FORMAT.md that was broken, in time and memory that are bounded by a multiple of the length.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from perslm import _backend, _codec
from perslm.counts import MAX_ORDER, Counts, Specials
from perslm.errors import ArgumentError, BlobError

if TYPE_CHECKING:
    from perslm._kernel import _native

MAGIC = b"pslm"
VERSION = 1

KATZ = 1
"""The smoothing that a model is meant for; there is no other yet."""

LARGEST = (1 << 31) - 1
"""The largest count, and the most events and ids, that a blob can hold."""

WeightTable: TypeAlias = tuple[tuple[tuple[int, ...], ...], ...]

_PRUNED = 1
_BINS = 5
_HEADER = struct.Struct("<4sBBH16sIIIIIQ16sBBHI")
_SECTION = struct.Struct("<BI")
_CHECKSUM = struct.Struct("<I")
_WEIGHTS = 1
_MUST_KNOW = 128
_COUNT_BUCKETS, _MASS_BUCKETS = 32, 16


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a blob says of itself besides its counts.

    ``fingerprint`` (of the vocabulary) and ``source_digest`` (of the messages counted) are 32
    hexadecimal digits; ``messages`` is how many messages were counted; ``created`` is a POSIX time,
    0 if not known. The builders give the date of the newest message, so that the same mail gives
    the same bytes whenever it is built.

    ``weights``, if there, is a table of interpolation weights in units of 1/65535, by matched order
    (0 to order − 1), bucket of the context's count (its binary logarithm) and bucket of the mass
    that the context keeps for its own successors (equal parts of 0 to 1).
    """

    fingerprint: str
    messages: int = 0
    source_digest: str = "0" * 32
    created: int = 0
    weights: WeightTable | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """A blob's content."""

    counts: Counts
    metadata: Metadata


@dataclass(frozen=True, slots=True)
class Loaded:
    """A blob's content, its counts as the backend holds them."""

    specials: Specials
    order: int
    counts: _native.Counts | Counts
    metadata: Metadata


def encode(counts: Counts, metadata: Metadata) -> bytes:
    """Return the blob of ``counts``; the same input always gives the same bytes.

    Raises ArgumentError if a digest is not 32 hexadecimal digits, a number does not fit in its
    field, the weight table has no such shape, or no sequences have these counts.
    """
    native = _backend.native
    try:
        payload = _codec.encode(counts) if native is None else native.encode(counts.to_native())
    except ValueError as error:
        raise ArgumentError(f"these counts cannot be those of sequences: {error}") from error
    specials = counts.specials
    if max(specials.size, specials.bos, specials.eos) > LARGEST:
        raise ArgumentError("a blob holds ids below 2^31 only")
    try:
        header = _HEADER.pack(
            MAGIC,
            VERSION,
            counts.order,
            0 if counts.cut is None else _PRUNED,
            _digest(metadata.fingerprint),
            specials.size,
            specials.bos,
            specials.eos,
            metadata.messages,
            counts.tokens,
            metadata.created,
            _digest(metadata.source_digest),
            KATZ,
            _BINS,
            0,
            len(payload),
        )
    except struct.error as error:
        raise ArgumentError("a number in the metadata does not fit in its field") from error
    body = header + payload
    if metadata.weights is not None:
        table = _pack_weights(metadata.weights, counts.order)
        body += _SECTION.pack(_WEIGHTS, len(table)) + table
    return body + _CHECKSUM.pack(zlib.crc32(body))


def decode(data: bytes) -> Decoded:
    """Return what a blob holds; raises BlobError on anything but a whole, valid blob."""
    loaded = load(data)
    counts = loaded.counts
    if not isinstance(counts, Counts):
        counts = Counts.from_native(counts, loaded.specials)
    return Decoded(counts, loaded.metadata)


def load(data: bytes) -> Loaded:
    """Return what a blob holds without turning the counts into arrays; raises BlobError.

    The fastest way to a model: the kernel makes one of what this returns.
    """
    if len(data) < _HEADER.size + _CHECKSUM.size:
        raise BlobError("rule 1: shorter than a header and a checksum", len(data))
    (
        magic,
        version,
        order,
        flags,
        fingerprint,
        size,
        bos,
        eos,
        messages,
        tokens,
        created,
        source,
        smoothing,
        bins,
        reserved,
        length,
    ) = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise BlobError("rule 2: the magic bytes are not those of a perslm model", 0)
    if version != VERSION:
        raise BlobError(f"rule 3: format version {version}, this reader knows {VERSION}", 4)
    end = len(data) - _CHECKSUM.size
    if _HEADER.size + length > end:
        raise BlobError("rule 4: shorter than the header says", len(data))
    if _CHECKSUM.unpack_from(data, end)[0] != zlib.crc32(memoryview(data)[:end]):
        raise BlobError("rule 5: the checksum does not match", end)
    known = smoothing == KATZ and bins == _BINS and not flags & ~_PRUNED and not reserved
    if not known or not 1 <= order <= MAX_ORDER or bos == eos or max(size, bos, eos) > LARGEST:
        raise BlobError("rule 6: a header field is out of range", 5)
    payload = data[_HEADER.size : _HEADER.size + length]
    pruned = bool(flags & _PRUNED)
    weights = _read_sections(data, _HEADER.size + length, end, order)
    native = _backend.native
    specials = Specials(size, bos, eos)
    counts: _native.Counts | Counts
    try:
        if native is None:
            counts = _codec.decode(payload, order, specials, pruned)
        else:
            counts = native.decode(payload, order, size, bos, eos, pruned)
    except ValueError as error:
        raise BlobError(str(error)) from error
    except MemoryError as error:
        raise BlobError("the model is too large for the memory that is left") from error
    if counts.tokens != tokens:
        raise BlobError("rule 14: the header announces another number of tokens", 40)
    metadata = Metadata(fingerprint.hex(), messages, source.hex(), created, weights)
    return Loaded(specials, order, counts, metadata)


def _digest(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 16 or digest.hex() != text:
        raise ArgumentError(
            "a fingerprint or source digest is 32 hexadecimal digits, in lower case"
        )
    return digest


def _read_sections(data: bytes, at: int, end: int, order: int) -> WeightTable | None:
    weights = None
    last = 0
    while at < end:
        if end - at < _SECTION.size:
            raise BlobError("rule 15: a section is cut short", at)
        kind, length = _SECTION.unpack_from(data, at)
        if kind <= last:
            raise BlobError("rule 15: sections are not in ascending order of their kind", at)
        at += _SECTION.size
        if length > end - at:
            raise BlobError("rule 15: a section is cut short", at)
        if kind == _WEIGHTS:
            weights = _unpack_weights(data[at : at + length], order)
        elif kind >= _MUST_KNOW:
            raise BlobError("rule 16: a section is not known and must not be skipped", at)
        at += length
        last = kind
    return weights


def _pack_weights(table: WeightTable, order: int) -> bytes:
    counts = len(table[0]) if table else 0
    masses = len(table[0][0]) if counts else 0
    values = [value for by_count in table for by_mass in by_count for value in by_mass]
    regular = all(
        len(by_count) == counts and all(len(by_mass) == masses for by_mass in by_count)
        for by_count in table
    )
    in_range = 1 <= counts <= _COUNT_BUCKETS and 1 <= masses <= _MASS_BUCKETS
    if len(table) != order or not regular or not in_range:
        raise ArgumentError(
            f"a weight table has {order} orders, 1 to {_COUNT_BUCKETS} buckets of counts and "
            f"1 to {_MASS_BUCKETS} of masses"
        )
    try:
        return struct.pack(f"<BB{len(values)}H", counts, masses, *values)
    except struct.error as error:
        raise ArgumentError("a weight in a table is 0 to 65535") from error


def _unpack_weights(data: bytes, order: int) -> WeightTable:
    counts, masses = (data[0], data[1]) if len(data) >= 2 else (0, 0)
    in_range = 1 <= counts <= _COUNT_BUCKETS and 1 <= masses <= _MASS_BUCKETS
    if not in_range or len(data) != 2 + 2 * order * counts * masses:
        raise BlobError("rule 17: the weight table has another size than it announces")
    values = struct.unpack(f"<{order * counts * masses}H", data[2:])
    rows = [values[i : i + masses] for i in range(0, len(values), masses)]
    return tuple(tuple(rows[i : i + counts]) for i in range(0, len(rows), counts))
