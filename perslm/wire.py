"""Numpy arrays in msgpack: what the scoring service and its clients write and accept.

Both forms are msgpack maps with exactly these keys; numbers are little-endian, rows follow each
other without gaps (C order), and nothing comes after the last one::

    array  {"dtype": "<f4" or "<u4", "shape": [n, …], "data": bin}
    rows   {"dtype": "<u4", "lengths": [l0, l1, …], "data": bin}     # rows of different lengths

So the float32 array [[0.5, 1.0]] is ``{"dtype": "<f4", "shape": [1, 2], "data": 0000003f0000803f}``
(``data`` as hexadecimal). −inf, which a log-probability can be, is the IEEE value 000080ff.

Readers check everything and copy nothing: an array shares the memory of the message it came in,
and is read-only. The requests that carry these arrays are the business of ``service.codec`` on one
side and ``perslm.client`` on the other.

One request is so frequent that the kernel reads it whole: :func:`plain_query`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from perslm import _backend
from perslm.counts import AnyIntegers, UInt32Array
from perslm.errors import ArgumentError

if TYPE_CHECKING:
    from perslm._kernel._native import Query as Query

DType: TypeAlias = Literal["<f4", "<u4"]

LARGEST_ID = (1 << 32) - 1
"""The largest token id that the wire can carry; no vocabulary reaches it."""


def pack_array(array: npt.ArrayLike, dtype: DType) -> dict[str, object]:
    """Return the map that stands for ``array``, converted to ``dtype``."""
    values = np.ascontiguousarray(array, dtype)
    return {"dtype": dtype, "shape": list(values.shape), "data": values.tobytes()}


def pack_rows(rows: Iterable[Sequence[int] | AnyIntegers]) -> dict[str, object]:
    """Return the map that stands for rows of token ids, which may differ in length."""
    arrays = [np.asarray(row, "<u4") for row in rows]
    data = b"".join(array.tobytes() for array in arrays)
    return {"dtype": "<u4", "lengths": [len(array) for array in arrays], "data": data}


def unpack_array(packed: object, dtype: DType, dimensions: int) -> npt.NDArray[Any]:
    """Return the array that a map stands for; raises ArgumentError if it is not such a map."""
    shape, data = _parts(packed, dtype, "shape")
    if len(shape) != dimensions:
        raise ArgumentError(f"an array has {len(shape)} dimensions where {dimensions} are expected")
    if math.prod(shape) * 4 != len(data):
        raise ArgumentError("an array's data does not have the length that its shape asks for")
    return np.frombuffer(data, dtype).reshape(shape)


def unpack_rows(packed: object) -> list[UInt32Array]:
    """Return the rows of token ids that a map stands for; raises ArgumentError if it is none."""
    lengths, data = _parts(packed, "<u4", "lengths")
    if sum(lengths) * 4 != len(data):
        raise ArgumentError("the data of rows does not have the length that their lengths ask for")
    flat = np.frombuffer(data, "<u4")
    rows = []
    begin = 0
    for length in lengths:
        rows.append(flat[begin : begin + length])
        begin += length
    return rows


def plain_query(body: bytes, max_histories: int) -> Query | None:
    """Return the request to score candidates that msgpack holds, or None if it is not plain.

    A plain request has ``user``, ``vocabulary``, at most ``max_histories`` ``histories`` and as
    many rows of ``candidates`` in the binary forms, at least one of each, maybe ``positions`` in
    theirs, and nothing else. Others may be as good, and without the kernel none is plain: the
    readers of every request take them, or say what is wrong.
    """
    native = _backend.native
    return None if native is None else native.Query.from_msgpack(body, max_histories)


def plain_query_of_protobuf(body: bytes, max_histories: int) -> Query | None:
    """Return what :func:`plain_query` does, of a ScoreRequest, which may have ``timeout_ms``."""
    native = _backend.native
    return None if native is None else native.Query.from_protobuf(body, max_histories)


def _parts(packed: object, dtype: DType, sizes: str) -> tuple[list[int], bytes]:
    if not isinstance(packed, dict) or packed.keys() != {"dtype", sizes, "data"}:
        raise ArgumentError(f"an array is a map of dtype, {sizes} and data")
    if packed["dtype"] != dtype:
        raise ArgumentError(f"an array's dtype must be {dtype}")
    numbers, data = packed[sizes], packed["data"]
    if not isinstance(numbers, list) or not all(
        type(n) is int and 0 <= n <= LARGEST_ID for n in numbers
    ):
        raise ArgumentError(f"{sizes} must be a list of integers of 0 to 2³² − 1")
    if not isinstance(data, bytes):
        raise ArgumentError("an array's data must be binary")
    return numbers, data
