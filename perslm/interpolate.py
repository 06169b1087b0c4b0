"""Mixing a user's model into the global LM: p = λ · p_personal + (1 − λ) · p_global.

This file has the arithmetic on log-probabilities and the choice of λ. The rule that it must not
break: a row whose λ is 0 comes back with the very bits it had.

Where λ comes from: the ``weight`` given when a model is loaded, for every state of a user with any
mail; else by state, from the estimator (``perslm.backoff``) or a table (``perslm.weights``), moved
by what is known of the place, above all how sure the global LM is (:func:`uncertainty`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from perslm import _backend
from perslm.errors import ArgumentError

Float32Array = npt.NDArray[np.float32]

NEGLIGIBLE = -87.0
"""ln p at and below which a word adds nothing to an entropy; float32 ends about there."""


def check_weight(weight: float) -> float:
    """Return ``weight`` if it can be an interpolation weight; raises ArgumentError if not."""
    if not 0 <= weight <= 1:
        raise ArgumentError(f"an interpolation weight lies between 0 and 1, not {weight}")
    return weight


def mix_columns(
    global_logprobs: Float32Array,
    weights: Float32Array,
    columns: npt.NDArray[np.integer],
    personal_logprobs: Float32Array,
    out: Float32Array | None = None,
) -> Float32Array:
    """Return ln(λ·p_personal + (1−λ)·p_global) as float32[n, width], natural log.

    ``global_logprobs`` is float32[n, width], ``weights`` (λ) float32[n]. The personal model knows
    only the words ``columns`` (int[m], distinct): ``personal_logprobs`` is float32[n, m], and every
    other word has personal probability 0. A row with λ = 0 is copied bit for bit. ``out`` takes the
    result, as :func:`check_out` allows it; it may be ``global_logprobs`` itself. Cost: one shift of
    all columns by ln(1−λ), then the m known ones. Raises ArgumentError if a column is not in a row.
    """
    rows = np.ascontiguousarray(global_logprobs, np.float32)
    out = np.empty_like(rows) if out is None else check_out(out, rows)
    if len(columns) and not 0 <= columns.min() <= columns.max() < rows.shape[1]:
        raise ArgumentError("a column of the personal model is not in the global LM's rows")
    if _backend.native is None:
        mix_with_numpy(rows, weights, columns, personal_logprobs, out)
    else:
        _backend.native.mix_columns(
            rows,
            np.ascontiguousarray(weights, np.float32),
            np.ascontiguousarray(columns, np.uint32),
            np.ascontiguousarray(personal_logprobs, np.float32),
            out,
        )
    return out


def mix_with_numpy(
    global_logprobs: Float32Array,
    weights: Float32Array,
    columns: npt.NDArray[np.integer],
    personal_logprobs: Float32Array,
    out: Float32Array,
) -> None:
    """Fill ``out`` as :func:`mix_columns` does where there is no kernel."""
    silent = weights <= 0
    with np.errstate(divide="ignore"):
        log_weight = np.log(weights)[:, None]
        log_rest = np.log1p(-weights)[:, None]
    mixed = global_logprobs + log_rest
    known = mixed[:, columns]
    mixed[:, columns] = np.logaddexp(known, log_weight + personal_logprobs)
    mixed[silent] = global_logprobs[silent]
    out[:] = mixed


def uncertainty(global_logprobs: Float32Array) -> Float32Array:
    """Return how sure the global LM is, float32[n, 2]: the greatest ln p of each row, its entropy.

    ``global_logprobs`` is float32[n, width], natural log; the entropy is in nats. A NaN, and ln p
    below :data:`NEGLIGIBLE`, count as probability 0, ln p above 0 as 0: both numbers are finite.
    """
    rows = np.ascontiguousarray(global_logprobs, np.float32)
    found = np.empty((len(rows), 2), np.float32)
    if _backend.native is None:
        uncertainty_with_numpy(rows, found)
    else:
        _backend.native.uncertainty(rows, found)
    return found


def uncertainty_with_numpy(rows: Float32Array, out: Float32Array) -> None:
    """Fill ``out`` as :func:`uncertainty` does where there is no kernel."""
    logprobs = np.where(rows > NEGLIGIBLE, np.minimum(rows, np.float32(0)), np.float32(NEGLIGIBLE))
    out[:, 0] = logprobs.max(1, initial=NEGLIGIBLE)
    probabilities = np.where(logprobs > NEGLIGIBLE, np.exp(logprobs), np.float32(0))
    out[:, 1] = -(probabilities * logprobs).sum(1)


def check_out(out: Float32Array, rows: Float32Array) -> Float32Array:
    """Return ``out`` if the mixture of ``rows`` can be written to it; raises ArgumentError if not.

    It must be float32, C-contiguous, writable and of their shape, and ``rows`` itself or apart.
    """
    if out is rows and out.flags.writeable:
        return out
    if (
        type(out) is not np.ndarray
        or out.dtype != np.float32
        or out.shape != rows.shape
        or not out.flags.carray
    ):
        raise ArgumentError(
            "out must be a writable, aligned and C-contiguous array of float32 and of the shape "
            f"{rows.shape}"
        )
    if np.may_share_memory(out, rows) and _address(out) != _address(rows):
        raise ArgumentError(
            "out overlaps the global log-probabilities: give them, or another array"
        )
    return out


def _address(array: Float32Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
