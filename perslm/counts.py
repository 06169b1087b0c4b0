"""N-gram counts of one user: what a model is made of, and all that is stored of it.

Counts are held as a trie in flat arrays, one :class:`Level` per order. Entry ``i`` of level k is a
k-gram: ``context[i]`` is the index, in level k-1, of the k-gram without its last word, and
``suffix[i]`` the index, in level k-1, of the k-gram without its oldest word. Entries are sorted by
(context, word), which is the lexicographic order of the n-grams; so the successors of a context are
one slice. Two rules hold for every ``Counts`` and everything else relies on them:

* *closure*: the prefix and the suffix of every n-gram are in the level below;
* ``<s>`` is only ever the first word of a context and has no count of its own (its entry in level 1
  holds 0); ``</s>`` is only ever the last word, and an event like any other.

Counts add (:func:`merge`) and subtract exactly, so a model can be built in parts, extended by a new
message, or made to forget one. :meth:`Counts.prune` drops rare n-grams and keeps what Katz needs to
stay exact: the mass cut from each context and the count-of-counts of the whole.

:func:`count` is native where the kernel is there, with a numpy twin that gives the same arrays;
:meth:`Counts.to_native` and :meth:`Counts.from_native` are the way into the kernel and out of it.

Probabilities are made from counts in ``perslm.katz``; bytes in ``perslm.blob``.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from perslm import _backend
from perslm.errors import ArgumentError

if TYPE_CHECKING:
    from perslm._kernel import _native
    from perslm.vocabulary import Sequence as TokenSequence

UInt32Array: TypeAlias = npt.NDArray[np.uint32]
Int64Array: TypeAlias = npt.NDArray[np.int64]
AnyIntegers: TypeAlias = npt.NDArray[np.integer[Any]]

MAX_ORDER = 5
"""The highest order a model may have."""

BINS = 5
"""K of the Katz formulas: counts above it are trusted (almost) fully."""

_LIMIT = 1 << 32


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """All n-grams of one order, sorted by (context, word).

    ``context``, ``word`` and ``suffix`` are uint32[n], ``count`` is int64[n].
    """

    context: UInt32Array
    word: UInt32Array
    suffix: UInt32Array
    count: Int64Array

    def __len__(self) -> int:
        return len(self.word)

    def __repr__(self) -> str:  # the arrays are what a user wrote
        return f"Level(ngrams={len(self)})"

    def keys(self) -> npt.NDArray[np.uint64]:
        """Return (context, word) as one ascending uint64[n], for binary search."""
        return pair_keys(self.context, self.word)


@dataclass(frozen=True, slots=True)
class Specials:
    """The ids that counts must know of a vocabulary.

    ``size`` is the number of real ids (columns of the global LM); ``bos`` and ``eos`` open and
    close a sequence. An id that is ``size`` or above is virtual: the global LM never emits it.
    """

    size: int
    bos: int
    eos: int

    def __post_init__(self) -> None:
        ids = (self.size, self.bos, self.eos)
        if self.bos == self.eos or min(ids) < 0 or max(ids) >= _LIMIT:
            raise ArgumentError("<s> and </s> need two different ids of their own, of 32 bits")


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """The n-gram counts of one user, of order ``len(levels)``.

    ``cut[k]`` is, for each k-gram context (``cut[0]``: for the empty one), how many events were
    pruned after it, int64; None if nothing was. ``whole`` is then the count-of-counts from before.
    """

    specials: Specials
    levels: tuple[Level, ...]
    cut: tuple[Int64Array, ...] | None = None
    whole: Int64Array | None = None

    def __repr__(self) -> str:  # the arrays are what a user wrote
        pruned = self.cut is not None
        return f"Counts(order={self.order}, ngrams={self.ngrams}, pruned={pruned})"

    @property
    def order(self) -> int:
        """Return the order N of the longest n-grams."""
        return len(self.levels)

    @property
    def ngrams(self) -> tuple[int, ...]:
        """Return the number of n-grams of each order; the context-only ``<s>`` is not one."""
        first = int(np.count_nonzero(self.levels[0].word != self.specials.bos))
        return (first, *(len(level) for level in self.levels[1:]))

    @property
    def tokens(self) -> int:
        """Return the number of events, ``</s>`` included."""
        return int(self.levels[0].count.sum())

    def count_of_counts(self) -> Int64Array:
        """Return n_r as int64[order, BINS + 1]: entry [o-1, r-1] counts the o-grams seen r times.

        Order 1 counts events only, not the context ``<s>``. After pruning it is that of the whole.
        """
        if self.whole is not None:
            return self.whole
        table = np.zeros((self.order, BINS + 1), np.int64)
        for row, level in zip(table, self.levels, strict=True):
            row[:] = np.bincount(np.minimum(level.count, BINS + 2), minlength=BINS + 3)[1:-1]
        return table

    def totals(self, order: int) -> Int64Array:
        """Return C(h) = Σ_w c(hw) for every context h of ``order`` words, int64[contexts].

        Order 0 is the empty context. Events cut by pruning are part of the sum.
        """
        contexts = 1 if order == 0 else len(self.levels[order - 1])
        above = self.levels[order]
        sums = np.zeros(contexts, np.int64)
        np.add.at(sums, above.context, above.count)
        return sums if self.cut is None else sums + self.cut[order]

    def shorten(self, order: int) -> Counts:
        """Return the counts of orders 1 to ``order`` alone, as if no longer n-gram was counted."""
        if not 1 <= order <= self.order:
            raise ArgumentError(f"order must be 1 to {self.order}, not {order}")
        cut = None if self.cut is None else self.cut[:order]
        whole = None if self.whole is None else self.whole[:order]
        levels = list(self.levels[:order])
        if cut is None:  # a pruned <s> keeps its entry, for the mass that was cut after it
            levels = _drop_unused_bos(levels, self.specials)
        return Counts(self.specials, tuple(levels), cut, whole)

    def prune(self, minimum: Sequence[int]) -> Counts:
        """Drop every o-gram seen fewer than ``minimum[o-1]`` times; what stays, stays closed.

        ``minimum`` has one entry per order and must not decrease, which is what closure needs; the
        first is 1, for the words themselves carry the distribution that all else backs off to. The
        mass cut per context and the count-of-counts from before are kept, so that Katz gives each
        remaining n-gram the very probability it had. Raises ArgumentError on other shapes.
        """
        shape_ok = len(minimum) == self.order and minimum[0] <= 1
        if not shape_ok or any(b < a for a, b in pairwise(minimum)):
            raise ArgumentError(
                f"minimum needs {self.order} counts, the first 1, that never decrease"
            )
        return self.select(
            [
                (level.count >= least) | ((level.word == self.specials.bos) & (order == 1))
                for order, (level, least) in enumerate(
                    zip(self.levels, minimum, strict=True), start=1
                )
            ]
        )

    def select(self, keep: Sequence[npt.NDArray[np.bool_]]) -> Counts:
        """Return the n-grams that ``keep`` names, bool[n] by level, with what was cut around them.

        They must be closed under taking prefixes and suffixes, ``<s>`` among them if anything is. A
        word that goes is as if it had never been written: nothing is known to be cut after the
        empty context. Of every other context the mass cut is kept, and the count-of-counts from
        before are.
        """
        levels: list[Level] = []
        cuts: list[Int64Array] = []
        renumber = np.zeros(1, np.int64)  # old index in the level below -> new index
        kept_below = np.ones(1, bool)
        for k, (level, kept) in enumerate(zip(self.levels, keep, strict=True)):
            lost = self.totals(k)
            np.subtract.at(lost, level.context[kept], level.count[kept])
            cuts.append(lost[kept_below] if k else np.zeros(1, np.int64))
            levels.append(
                Level(
                    renumber[level.context[kept]].astype(np.uint32),
                    level.word[kept],
                    renumber[level.suffix[kept]].astype(np.uint32),
                    level.count[kept],
                )
            )
            renumber, kept_below = np.cumsum(kept) - 1, kept
        return Counts(self.specials, tuple(levels), tuple(cuts), self.count_of_counts())

    def to_native(self) -> _native.Counts:
        """Return a copy for the kernel, which must be there.

        Raises ArgumentError if these counts break a rule of this module, or have 2^32 tokens.
        """
        assert _backend.native is not None
        levels = [
            (
                *(np.ascontiguousarray(a, np.uint32) for a in (v.context, v.word, v.suffix)),
                np.ascontiguousarray(v.count, np.int64),
            )
            for v in self.levels
        ]
        specials = self.specials
        try:
            native: _native.Counts = _backend.native.Counts.from_arrays(
                specials.size, specials.bos, specials.eos, levels, self.cut, self.whole
            )
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"these are no counts: {error}") from error
        return native

    @classmethod
    def from_native(cls, native: _native.Counts, specials: Specials) -> Counts:
        """Return a copy of the kernel's counts, which were made with ``specials``."""
        levels, cut, whole = native.arrays()
        return cls(
            specials,
            tuple(Level(*arrays) for arrays in levels),
            None if cut is None else tuple(cut),
            whole,
        )


def count(sequences: Iterable[TokenSequence], order: int, specials: Specials) -> Counts:
    """Count every n-gram of orders 1 to ``order`` inside the given sequences.

    A sequence that ``opens`` is preceded by one ``<s>``, one that ``closes`` is followed by
    ``</s>``; there is no other padding, and no n-gram spans two sequences. Cost: linear in the
    tokens and the order. Raises ArgumentError if ``order`` is not 1 to 5, or an id is not a word
    of the vocabulary, or a sequence closes with a virtual ``</s>``.
    """
    if not 1 <= order <= MAX_ORDER:
        raise ArgumentError(f"order must be 1 to {MAX_ORDER}, not {order}")
    flat, starts = _flatten(sequences, specials)
    if _backend.native is None:
        return _count(flat, starts, order, specials)
    size, bos, eos = specials.size, specials.bos, specials.eos
    native = _backend.native.count(flat, starts, order, size, bos, eos)
    return Counts.from_native(native, specials)


def merge(parts: Sequence[Counts]) -> Counts:
    """Return the sum of several counts of one vocabulary and order.

    Equal, array for array, to counting all their sequences at once. Raises ArgumentError if the
    parts disagree, are pruned, or there is none.
    """
    return _combine(parts, [1] * len(parts))


def subtract(whole: Counts, part: Counts) -> Counts:
    """Return ``whole`` without the sequences that ``part`` counted.

    Equal, array for array, to never having counted them. Raises ArgumentError if ``part`` was not
    a part of ``whole``, or either is pruned.
    """
    return _combine([whole, part], [1, -1])


def empty(order: int, specials: Specials) -> Counts:
    """Return the counts of a user who wrote nothing."""
    return count([], order, specials)


def pair_keys(
    high: AnyIntegers,
    low: AnyIntegers,
) -> npt.NDArray[np.uint64]:
    """Return ``high << 32 | low`` as uint64, which sorts as the pair does."""
    return (high.astype(np.uint64) << np.uint64(32)) | low.astype(np.uint64)


def split_keys(keys: npt.NDArray[np.uint64]) -> tuple[UInt32Array, UInt32Array]:
    """Return the two halves of :func:`pair_keys`."""
    return (keys >> np.uint64(32)).astype(np.uint32), keys.astype(np.uint32)


def _flatten(
    sequences: Iterable[TokenSequence], specials: Specials
) -> tuple[UInt32Array, Int64Array]:
    """Return all tokens with their ``<s>`` and ``</s>``, and where each sequence starts."""
    tokens: list[int] = []
    starts: list[int] = []
    opening = closing = 0
    for sequence in sequences:
        starts.append(len(tokens))
        if sequence.opens:
            tokens.append(specials.bos)
            opening += 1
        tokens.extend(sequence.ids)
        if sequence.closes:
            tokens.append(specials.eos)
            closing += 1
    outside = f"a token id is outside the vocabulary of {specials.size}"
    try:
        flat = np.asarray(array("I", tokens))  # several times faster than np.array(tokens)
    except (OverflowError, TypeError) as error:
        raise ArgumentError(outside) from error
    special = (flat == specials.bos) | (flat == specials.eos)
    if np.count_nonzero(special) != opening + closing:
        raise ArgumentError("a sequence holds <s> or </s>: mark them with opens and closes instead")
    if (flat[~special] >= specials.size).any():
        raise ArgumentError(outside)
    if closing and specials.eos >= specials.size:
        raise ArgumentError("a sequence closes, but this vocabulary has no </s> that is emitted")
    if len(flat) >= _LIMIT - 1:
        raise ArgumentError("2^32 tokens or more: no model holds so many")
    return flat, np.array(starts, np.int64)


def _count(flat: UInt32Array, starts: Int64Array, order: int, specials: Specials) -> Counts:
    """Count in numpy: one sort per order over all tokens."""
    # room[i]: how many words from position i on belong to the same sequence
    lengths = np.diff(np.append(starts, len(flat)))
    room = np.repeat(starts + lengths, lengths) - np.arange(len(flat))
    levels: list[Level] = []
    rank = np.zeros(len(flat), np.int64)  # index of the (k-1)-gram that starts at each position
    for k in range(1, order + 1):
        positions = np.flatnonzero(room >= k)
        keys = pair_keys(rank[positions], flat[positions + k - 1])
        distinct, first, inverse, number = np.unique(
            keys, return_index=True, return_inverse=True, return_counts=True
        )
        if k == 1:
            suffix = np.zeros(len(distinct), np.uint32)
            number = np.where(distinct == specials.bos, 0, number)
        else:
            suffix = rank[positions[first] + 1].astype(np.uint32)
        levels.append(Level(*split_keys(distinct), suffix, number.astype(np.int64)))
        rank[positions] = inverse
    return Counts(specials, tuple(_drop_unused_bos(levels, specials)))


def _drop_unused_bos(levels: list[Level], specials: Specials) -> list[Level]:
    """Remove the context ``<s>`` from level 1 if no n-gram of level 2 begins with it."""
    first = levels[0]
    at = np.flatnonzero(first.word == specials.bos)
    if not len(at) or (len(levels) > 1 and (levels[1].context == at[0]).any()):
        return levels
    index = at[0]
    levels[0] = Level(*(np.delete(a, index) for a in _arrays(first)))
    if len(levels) > 1:
        old = levels[1]
        levels[1] = Level(
            (old.context - (old.context > index)).astype(np.uint32),
            old.word,
            (old.suffix - (old.suffix > index)).astype(np.uint32),
            old.count,
        )
    return levels


def _arrays(level: Level) -> tuple[npt.NDArray[np.generic], ...]:
    return level.context, level.word, level.suffix, level.count


def _combine(parts: Sequence[Counts], signs: Sequence[int]) -> Counts:
    """Return Σ sign · part, without the n-grams whose sum is zero."""
    if not parts:
        raise ArgumentError("nothing to merge: give at least one part")
    head = parts[0]
    if any(p.specials != head.specials or p.order != head.order for p in parts):
        raise ArgumentError("counts of different vocabularies or orders cannot be combined")
    if any(p.cut is not None for p in parts):
        raise ArgumentError("pruned counts cannot be combined: combine first, then prune")
    bos = head.specials.bos
    levels: list[Level] = []
    # index of each part's (k-1)-grams in the combined level, before dropping zeros
    maps = [np.zeros(1, np.int64) for _ in parts]
    kept = np.zeros(1, np.int64)  # combined index -> index after dropping zeros, or -1
    for k in range(1, head.order + 1):
        level_parts = [p.levels[k - 1] for p in parts]
        keys = np.concatenate(
            [pair_keys(m[lv.context], lv.word) for m, lv in zip(maps, level_parts, strict=True)]
        )
        distinct, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        total = np.zeros(len(distinct), np.int64)
        signed = [s * lv.count for s, lv in zip(signs, level_parts, strict=True)]
        np.add.at(total, inverse, np.concatenate(signed))
        if (total < 0).any():
            raise ArgumentError("cannot subtract counts that were never added")
        suffixes = np.concatenate([m[lv.suffix] for m, lv in zip(maps, level_parts, strict=True)])[
            first
        ]
        context, word = split_keys(distinct)
        keep = (total > 0) | ((word == bos) & (k == 1))
        if (kept[context[keep]] < 0).any() or (kept[suffixes[keep]] < 0).any():
            raise ArgumentError("cannot subtract counts that were never added")
        levels.append(
            Level(
                kept[context[keep]].astype(np.uint32),
                word[keep],
                kept[suffixes[keep]].astype(np.uint32),
                total[keep],
            )
        )
        kept = np.where(keep, np.cumsum(keep) - 1, -1)
        ends = np.cumsum([len(lv) for lv in level_parts])[:-1]
        maps = [np.asarray(m, np.int64) for m in np.split(inverse, ends)]
    return Counts(head.specials, tuple(_drop_unused_bos(levels, head.specials)))
