"""What the kernel offers to Python. Its callers are counts, blob and model; nobody else's are."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

_UInt32: TypeAlias = npt.NDArray[np.uint32]
_Int64: TypeAlias = npt.NDArray[np.int64]
_Level: TypeAlias = tuple[_UInt32, _UInt32, _UInt32, _Int64]

class Counts:
    """The n-gram counts of one user, as ``perslm.counts.Counts`` but outside of numpy."""

    @staticmethod
    def from_arrays(
        size: int,
        bos: int,
        eos: int,
        levels: Sequence[_Level],
        cut: Sequence[_Int64] | None,
        whole: _Int64 | None,
    ) -> Counts:
        """Take the arrays (context, word, suffix, count) of each level, ``cut`` and ``whole``.

        All as in ``perslm.counts``, of exactly these dtypes and C-contiguous, else TypeError.
        ValueError if they break a rule that counts keep, or a total has over 32 bits.
        """

    def arrays(self) -> tuple[list[_Level], list[_Int64] | None, _Int64 | None]:
        """Return what ``from_arrays`` takes, in arrays of the caller's own."""

    @property
    def order(self) -> int: ...
    @property
    def ngrams(self) -> tuple[int, ...]: ...
    @property
    def tokens(self) -> int: ...

def count(tokens: _UInt32, begins: _Int64, order: int, size: int, bos: int, eos: int) -> Counts:
    """Count every n-gram of the sequences that begin at ``begins`` in ``tokens``.

    ``<s>`` and ``</s>`` are among the tokens already, first and last of their sequences. ValueError
    if they are elsewhere, a token is outside the vocabulary, or the begins do not ascend from 0.
    """

class BadPayload(ValueError):
    """A payload is none; the message names the rule of FORMAT.md that was broken."""

def encode(counts: Counts) -> bytes:
    """Return the payload of a blob; ValueError if no sequences have these counts."""

def decode(payload: bytes, order: int, size: int, bos: int, eos: int, pruned: bool) -> Counts:
    """Return what ``encode`` was given; raises BadPayload whatever else the bytes are."""
