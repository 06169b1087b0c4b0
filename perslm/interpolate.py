"""Mixing a user's model into the global LM: p = λ · p_personal + (1 − λ) · p_global.

This file has the arithmetic on log-probabilities and the choice of λ. The rule that it must not
break: a row whose λ is 0 comes back with the very bits it had.

Where λ comes from: the ``weight`` given when a model is loaded, for every state of a user with any
mail; else the estimator, by state (``perslm.backoff``), or :data:`DEFAULT_WEIGHT` for Katz.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from perslm import _backend
from perslm.errors import ArgumentError

Float32Array = npt.NDArray[np.float32]

DEFAULT_WEIGHT = 0.3
"""λ of a Katz model that was loaded without saying otherwise.

Best of 0, 0.1, … 0.9 on the later fifth of 14 people's mail, mixed into a trigram model of the
others' (perplexity 137.8 at 0, 99.6 at 0.3, 99.9 at 0.4: ``tests/benchmarks/weight.py``).
"""


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
