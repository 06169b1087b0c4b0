"""What callers of a model give it, as the arrays that engines take; or an ArgumentError.

Nothing of what was given is in an error's message or its causes: it may be somebody's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from perslm._scoring import OUTSIDE, TOKEN_DTYPES
from perslm.counts import AnyIntegers, UInt32Array
from perslm.errors import ArgumentError
from perslm.interpolate import Float32Array

if TYPE_CHECKING:
    from perslm.model import Candidates, States

_UINT32 = np.dtype(np.uint32)


def last_ids(history: Sequence[int] | AnyIntegers, depth: int) -> list[int]:
    """Return the last ``depth`` ids of a history, which alone can matter.

    Raises ArgumentError, without what was given, if one is negative or no integer.
    """
    try:
        recent = [*map(index, history[max(0, len(history) - depth) :])]
    except TypeError:  # not chained: what was given may be somebody's text
        raise ArgumentError("a history is a sequence of token ids, which are integers") from None
    if recent and min(recent) < 0:
        raise ArgumentError("a history holds a negative token id")
    return recent


def as_matrix(candidates: Candidates, n: int) -> npt.NDArray[Any]:
    """Return ``candidates`` as int64[n, k]; raises ArgumentError if they are not that."""
    try:
        ids = np.asarray(candidates)
    except ValueError as error:  # rows of different lengths
        raise ArgumentError("candidates need as many ids for every state") from error
    if ids.size == 0 and (ids.ndim < 2 or len(ids) == n):
        ids = ids.reshape(n, -1).astype(np.int64) if n else np.zeros((0, 0), np.int64)
    if ids.ndim != 2 or len(ids) != n or ids.dtype.kind not in "ui":
        raise ArgumentError(f"candidates need the shape ({n}, k) of integers, one row per state")
    if ids.dtype == np.uint64:  # would turn negative
        ids = np.minimum(ids, np.uint64(OUTSIDE))
    ids = ids.astype(np.int64)
    if ids.size and ids.min() < 0:
        raise ArgumentError("a candidate is a negative token id")
    return ids


def as_states(states: States) -> UInt32Array:
    """Return ``states`` as C-contiguous uint32[n]; raises ArgumentError if they cannot be."""
    if (
        type(states) is np.ndarray
        and states.dtype is _UINT32
        and states.ndim == 1
        and states.flags.aligned
    ):
        return np.ascontiguousarray(states)
    try:
        array = np.asarray(states)
    except (ValueError, OverflowError):  # rows of different lengths; not chained: no ids in errors
        raise ArgumentError("states must be a one-dimensional array of integers") from None
    if array.size == 0:
        array = array.astype(np.uint32)
    if array.ndim != 1 or array.dtype.kind not in "ui":
        raise ArgumentError("states must be a one-dimensional array of integers")
    if len(array) and not 0 <= array.min() <= array.max() <= OUTSIDE:
        raise ArgumentError("a state is not one of this model: states do not carry over")
    return array.astype(np.uint32)


def as_floats(rows: Float32Array) -> Float32Array:
    """Return ``rows`` as C-contiguous float32; raises ArgumentError if they are no numbers."""
    try:
        return np.require(rows, np.float32, ("C", "A"))
    except (ValueError, TypeError):  # not chained: it would repeat what was given
        raise ArgumentError("global log-probabilities are an array of numbers") from None


def as_candidates(candidates: Candidates, n: int) -> npt.NDArray[np.integer[Any]]:
    """Return ``candidates`` as C-contiguous integers[n, k] for an engine."""
    if (
        type(candidates) is np.ndarray
        and candidates.dtype in TOKEN_DTYPES
        and candidates.ndim == 2
        and len(candidates) == n
        and candidates.flags.aligned
    ):
        return np.ascontiguousarray(candidates)
    return np.ascontiguousarray(as_matrix(candidates, n))
