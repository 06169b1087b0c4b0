"""Score requests and answers as msgpack and as JSON.

Both have the same fields, those of ``service.core.ScoreRequest`` and ``ScoreAnswer``; fields that
do not apply are left out. They differ in how arrays are written:

=============  ============================================  ==================================
field          msgpack                                       JSON
=============  ============================================  ==================================
histories      rows <u4, or a list of lists of integers      a list of lists of integers
candidates     array <u4 [n, k], or a list of lists          a list of lists, all equally long
positions      array <u4 [n], or a list of integers          a list of integers
weights        array <f4 [n]                                 a list of numbers
logprobs       array <f4 [n, k]                              a list of lists; null stands for −∞,
                                                             which JSON cannot write
ids            array <u4 [n, k], or [k] if compact           a list of lists, or a list
=============  ============================================  ==================================

*array* and *rows* are the maps that ``perslm.wire`` specifies. A number in JSON is written with all
digits, so that reading it as a double and rounding to float32 gives the same bits as msgpack.

Whatever the bytes, :func:`decode` returns a request whose fields have the right types and ranges,
or raises RequestError. What fields mean, and whether they fit together, is ``service.core``'s.

The step of a beam search goes from bytes to bytes: ``perslm.wire.plain_query`` reads it, and its
answer is put into a :func:`frame`. What they read and write is what the others do.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Final, Literal, NoReturn, TypeAlias

import msgpack
import numpy as np

from perslm import wire
from perslm.counts import MAX_ORDER, UInt32Array
from perslm.errors import ArgumentError
from perslm.model import Candidates
from service.core import RequestError, ScoreAnswer, ScoreRequest, Status, too_many_histories

Format: TypeAlias = Literal["json", "msgpack"]

_LONGEST_CONTEXT: Final = MAX_ORDER - 1
_FIELDS: Final = frozenset(
    ("user", "vocabulary", "histories", "candidates", "top_k", "dense", "compact", "positions")
)


def decode(body: bytes, form: Format, max_histories: int = 1024) -> ScoreRequest:
    """Return the request that ``body`` holds; raises RequestError if it holds none.

    A body can name far more histories than it has bytes to spare, so their number is looked at
    before any of them is.
    """
    fields = _read(body, form)
    if not isinstance(fields, dict) or not fields.keys() <= _FIELDS:
        raise RequestError(
            "invalid_request", f"a request is a map with no other fields than {_names(_FIELDS)}"
        )
    for name in ("user", "vocabulary", "histories"):
        if fields.get(name) is None:
            raise RequestError("invalid_request", f"the field {name} is missing")
    candidates, top_k = fields.get("candidates"), fields.get("top_k")
    positions = fields.get("positions")
    if top_k is not None and type(top_k) is not int:
        raise RequestError("invalid_request", "top_k must be an integer")
    return ScoreRequest(
        user=_text(fields, "user"),
        vocabulary=_text(fields, "vocabulary"),
        histories=_histories(fields["histories"], max_histories),
        candidates=None if candidates is None else _candidates(candidates),
        top_k=top_k,
        dense=_flag(fields, "dense"),
        compact=_flag(fields, "compact"),
        positions=None if positions is None else _positions(positions),
    )


def encode(answer: ScoreAnswer, form: Format) -> bytes:
    """Return the bytes of an answer."""
    fields: dict[str, object] = {
        "status": answer.status,
        "reason": answer.reason,
        "generation": answer.generation,
        "order": answer.order,
    }
    if form == "msgpack":
        fields["weights"] = wire.pack_array(answer.weights, "<f4")
        fields["logprobs"] = wire.pack_array(answer.logprobs, "<f4")
        if answer.ids is not None:
            fields["ids"] = wire.pack_array(answer.ids, "<u4")
        packed: bytes = msgpack.packb(fields)
        return packed
    fields["weights"] = answer.weights.tolist()
    logprobs = answer.logprobs.astype(object)
    logprobs[np.isneginf(answer.logprobs)] = None
    fields["logprobs"] = logprobs.tolist()
    if answer.ids is not None:
        fields["ids"] = answer.ids.tolist()
    return json.dumps(fields, allow_nan=False, separators=(",", ":")).encode()


@lru_cache(maxsize=4096)
def frame(
    status: Status, reason: str, generation: int, order: int, n: int, k: int
) -> tuple[bytes, bytes]:
    """Return what msgpack has around the arrays of an answer for candidates: a ``core.Frame``."""
    values = np.zeros((n, k), np.float32)
    whole = encode(
        ScoreAnswer(status, reason, generation, order, np.zeros(n, np.float32), values), "msgpack"
    )
    last: bytes = msgpack.packb("logprobs") + msgpack.packb(wire.pack_array(values, "<f4"))
    between = last[: -4 * n * k]
    return whole[: -len(last) - 4 * n], between


def _read(body: bytes, form: Format) -> Any:
    try:
        if form == "msgpack":
            return msgpack.unpackb(body)
        return json.loads(body, parse_constant=_reject)
    except (ValueError, RecursionError) as error:
        # Not chained: the parsers' messages may repeat content.
        code, line = "malformed_body", type(error).__name__
        raise RequestError(code, f"the body is not the {form} it claims to be ({line})") from None


def _reject(constant: str) -> NoReturn:
    raise ValueError(constant)


def _names(fields: frozenset[str]) -> str:
    return ", ".join(sorted(fields))


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise RequestError("invalid_request", f"{name} must be text")
    return value


def _flag(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise RequestError("invalid_request", f"{name} must be true or false")
    return bool(value)


def _histories(value: object, most: int) -> list[list[int]]:
    lengths = value.get("lengths") if isinstance(value, dict) else value
    if isinstance(lengths, list) and len(lengths) > most:
        raise too_many_histories(most)
    if isinstance(value, list):
        return [_ids(row, "histories") for row in value]
    try:
        rows = wire.unpack_rows(value)
    except ArgumentError as error:
        raise RequestError("invalid_request", f"histories: {error}") from error
    return [row[-_LONGEST_CONTEXT:].tolist() for row in rows]


def _candidates(value: object) -> Candidates:
    if isinstance(value, list):
        return [_ids(row, "candidates") for row in value]
    try:
        return wire.unpack_array(value, "<u4", 2)
    except ArgumentError as error:
        raise RequestError("invalid_request", f"candidates: {error}") from error


def _positions(value: object) -> UInt32Array:
    if isinstance(value, list):
        if not all(type(i) is int and 0 <= i <= wire.LARGEST_ID for i in value):
            raise RequestError("invalid_request", "positions are integers of 0 to 2³² − 1")
        return np.array(value, np.uint32)
    try:
        return wire.unpack_array(value, "<u4", 1)
    except ArgumentError as error:
        raise RequestError("invalid_request", f"positions: {error}") from error


def _ids(row: object, field: str) -> list[int]:
    if not isinstance(row, list):
        raise RequestError("invalid_request", f"{field} must be a list of lists of token ids")
    if not all(type(i) is int and 0 <= i <= wire.LARGEST_ID for i in row):
        raise RequestError(
            "invalid_ids", f"a token id in {field} is not an integer of 0 to 2³² − 1"
        )
    return row
