"""A user's model as bytes, and back: the only code that knows the layout that FORMAT.md specifies.

A blob holds the n-gram counts (``perslm.counts``) and a fixed header; no string and no weight, for
Katz computes every weight from the counts. It is canonical: equal counts and metadata give equal
bytes on every platform, with no holes and nothing after the end.

:func:`decode` trusts nothing. Whatever the bytes, it returns a blob that keeps every rule of
``Counts`` or raises :class:`~perslm.errors.BlobError` naming the numbered rule of FORMAT.md that
was broken. Each stored number takes at least one byte, so a hostile blob cannot make the reader
allocate more than about 100 times its own size.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perslm.counts import (
    BINS,
    MAX_ORDER,
    AnyIntegers,
    Counts,
    Int64Array,
    Level,
    Specials,
    UInt32Array,
    pair_keys,
)
from perslm.errors import ArgumentError, BlobError

MAGIC = b"pslm"
VERSION = 0

_PRUNED = 1
_HEADER = struct.Struct("<4sBBH16sIIII16sI")
_CHECKSUM = struct.Struct("<I")
_LIMIT = 1 << 32
_VARINT_BYTES = 5


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a blob says of itself besides its counts.

    ``fingerprint`` (of the vocabulary) and ``source_digest`` (of the messages counted) are 32
    hexadecimal digits; ``messages`` is how many messages were counted.
    """

    fingerprint: str
    messages: int = 0
    source_digest: str = "0" * 32


@dataclass(frozen=True, slots=True)
class Decoded:
    """A blob's content."""

    counts: Counts
    metadata: Metadata


def encode(counts: Counts, metadata: Metadata) -> bytes:
    """Return the blob of ``counts``; the same input always gives the same bytes.

    Raises ArgumentError if a digest is not 32 hexadecimal digits or a number needs over 32 bits.
    """
    values: list[AnyIntegers] = []
    contexts = 1
    for level in counts.levels:
        successors = np.bincount(level.context, minlength=contexts)
        values += [successors, _gaps(level), level.count]
        contexts = len(level)
    if counts.cut is not None:
        values += [*counts.cut, counts.count_of_counts().ravel()]
    payload = _encode_varints(np.concatenate(values).astype(np.int64))
    specials = counts.specials
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
            _digest(metadata.source_digest),
            len(payload),
        )
    except struct.error as error:
        raise ArgumentError("a number in the metadata does not fit in 32 bits") from error
    body = header + payload
    return body + _CHECKSUM.pack(zlib.crc32(body))


def decode(blob: bytes) -> Decoded:
    """Return what ``blob`` holds; raises BlobError on anything but a whole, valid blob."""
    if len(blob) < _HEADER.size + _CHECKSUM.size:
        raise BlobError("rule 1: shorter than a header and a checksum", len(blob))
    magic, version, order, flags, fingerprint, size, bos, eos, messages, source, length = (
        _HEADER.unpack_from(blob)
    )
    if magic != MAGIC:
        raise BlobError("rule 2: the magic bytes are not those of a perslm model", 0)
    if version != VERSION:
        raise BlobError(f"rule 3: format version {version}, this reader knows {VERSION}", 4)
    end = _HEADER.size + length
    if len(blob) != end + _CHECKSUM.size:
        raise BlobError("rule 4: the length is not the one in the header", len(blob))
    if _CHECKSUM.unpack_from(blob, end)[0] != zlib.crc32(blob[:end]):
        raise BlobError("rule 5: the checksum does not match", end)
    if not 1 <= order <= MAX_ORDER or flags & ~_PRUNED or bos == eos:
        raise BlobError("rule 6: a header field is out of range", 5)
    specials = Specials(size, bos, eos)
    values = _Values(_decode_varints(np.frombuffer(blob, np.uint8, length, _HEADER.size)))
    levels: list[Level] = []
    for k in range(1, order + 1):
        levels.append(_read_level(values, k, levels, specials))
    cut = whole = None
    if flags & _PRUNED:
        cut = tuple(values.take(n) for n in (1, *(len(level) for level in levels[:-1])))
        whole = values.take(order * (BINS + 1)).reshape(order, BINS + 1)
        if cut[0][0]:
            raise BlobError("rule 10: words themselves were pruned")
    values.finish()
    counts = Counts(specials, tuple(levels), cut, whole)
    return Decoded(counts, Metadata(fingerprint.hex(), messages, source.hex()))


def _gaps(level: Level) -> Int64Array:
    """Return each word minus the least it could be, given its predecessor in the same slice."""
    word = level.word.astype(np.int64)
    gaps = word.copy()
    inside = level.context[1:] == level.context[:-1]
    gaps[1:][inside] = np.diff(word)[inside] - 1
    return gaps


def _read_level(values: _Values, k: int, below: list[Level], specials: Specials) -> Level:
    contexts = len(below[-1]) if below else 1
    successors = values.take(contexts)
    n = int(successors.sum())
    gaps = values.take(n)
    count = values.take(n)
    context = np.repeat(np.arange(contexts, dtype=np.uint32), successors)
    # words restart in each slice: running sum over everything, minus its value before the slice
    running = np.cumsum(gaps + 1)
    begins = np.cumsum(successors) - successors
    before = np.concatenate([[0], running])[begins]
    word64 = running - np.repeat(before, successors) - 1
    known = (word64 < specials.size) | (word64 == specials.bos)
    if not known.all():
        raise BlobError(f"rule 8: a word of order {k} is not in the vocabulary")
    word = word64.astype(np.uint32)
    is_bos = word == specials.bos
    if below:
        ends_in_eos = below[-1].word == specials.eos
        if is_bos.any() or successors[ends_in_eos].any():
            raise BlobError(f"rule 9: <s> or </s> in the middle of an n-gram of order {k}")
    if (count[~is_bos] == 0).any() or count[is_bos].any():
        raise BlobError(f"rule 7: an n-gram of order {k} has a count that cannot be")
    return Level(context, word, _suffixes(context, word, below, k), count)


def _suffixes(context: UInt32Array, word: UInt32Array, below: list[Level], k: int) -> UInt32Array:
    """Return the index of each n-gram's suffix in the level below."""
    if not below:
        return np.zeros(len(word), np.uint32)
    keys = below[-1].keys()
    wanted = pair_keys(below[-1].suffix[context], word)
    at = np.searchsorted(keys, wanted)
    missing = at == len(keys)
    at[missing] = 0
    if missing.any() or (keys[at] != wanted).any():
        raise BlobError(f"rule 11: the suffix of an n-gram of order {k} is missing")
    return at.astype(np.uint32)


class _Values:
    """The numbers of a payload, taken in order."""

    def __init__(self, values: Int64Array) -> None:
        self._values = values
        self._at = 0

    def take(self, n: int) -> Int64Array:
        if n > len(self._values) - self._at:
            raise BlobError("rule 12: the payload ends too early")
        self._at += n
        return self._values[self._at - n : self._at]

    def finish(self) -> None:
        if self._at != len(self._values):
            raise BlobError("rule 12: the payload goes on after its end")


def _digest(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 16:
        raise ArgumentError("a fingerprint or source digest is 32 hexadecimal digits")
    return digest


def _encode_varints(values: Int64Array) -> bytes:
    """Return unsigned LEB128: seven bits a byte, low first, the high bit set but on the last."""
    if len(values) and values.max() >= _LIMIT:
        raise ArgumentError("a count does not fit in 32 bits")
    lengths = np.ones(len(values), np.int64)
    for extra in range(1, _VARINT_BYTES):
        lengths += values >= 1 << (7 * extra)
    begins = np.cumsum(lengths) - lengths
    out = np.zeros(int(lengths.sum()), np.uint8)
    for i in range(_VARINT_BYTES):
        has = lengths > i
        more = (lengths[has] > i + 1).astype(np.int64) << 7
        out[begins[has] + i] = (values[has] >> (7 * i)) & 127 | more
    return out.tobytes()


def _decode_varints(data: npt.NDArray[np.uint8]) -> Int64Array:
    ends = np.flatnonzero(data < 128)
    if len(data) and (not len(ends) or ends[-1] != len(data) - 1):
        raise BlobError("rule 7: the last number is not finished")
    begins = np.concatenate([[0], ends + 1])[:-1].astype(np.int64)
    lengths = ends - begins + 1
    if len(lengths) and lengths.max() > _VARINT_BYTES:
        raise BlobError("rule 7: a number has more than 32 bits")
    if (data[ends[lengths > 1]] == 0).any():
        raise BlobError("rule 7: a number is longer than it needs to be")
    values = np.zeros(len(ends), np.int64)
    for i in range(_VARINT_BYTES):
        has = lengths > i
        values[has] |= (data[begins[has] + i].astype(np.int64) & 127) << (7 * i)
    if len(values) and values.max() >= _LIMIT:
        raise BlobError("rule 7: a number has more than 32 bits")
    return values
