"""What the kernel offers to Python. Its callers are counts, blob and model; nobody else's are."""

from collections.abc import Sequence
from typing import TypeAlias, overload

import numpy as np
import numpy.typing as npt

_UInt32: TypeAlias = npt.NDArray[np.uint32]
_UInt8: TypeAlias = npt.NDArray[np.uint8]
_Int64: TypeAlias = npt.NDArray[np.int64]
_Float32: TypeAlias = npt.NDArray[np.float32]
_Float64: TypeAlias = npt.NDArray[np.float64]
_TokenIds: TypeAlias = npt.NDArray[np.integer]
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
    @property
    def specials(self) -> tuple[int, int, int]:
        """The vocabulary's size, ``<s>`` and ``</s>``."""

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

class Model:
    """A model compiled for scoring: ``perslm._scoring.Engine``, which says what the calls do.

    Arrays have exactly the dtypes and shapes named there and are C-contiguous, else TypeError.
    """

    @overload
    def __init__(self, counts: Counts) -> None: ...
    @overload
    def __init__(self, counts: Counts, gates: _Float64, size: _Float64) -> None: ...
    @staticmethod
    def weighted(counts: Counts, weights: _UInt8) -> Model:
        """Katz with λ from a table, ``perslm.weights``."""

    @staticmethod
    def smoothed(
        counts: Counts,
        logprobs: _Float32,
        values: _UInt32,
        log_backoffs: _Float32,
        weights: _UInt8,
        fell_back: Sequence[int],
    ) -> Model:
        """A model that was estimated elsewhere: arrays by n-gram, context, state, level by level.

        ``logprobs`` are the distinct ones, ascending, and ``values`` says of each n-gram which;
        ``weights`` are λ in 255ths, of no state or of all, first of the empty context.
        """

    @property
    def order(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def vocabulary_size(self) -> int: ...
    @property
    def ngrams(self) -> tuple[int, ...]: ...
    @property
    def fell_back(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def event_count(self) -> int: ...
    def events(self, out: _UInt32) -> None: ...
    def check(self, states: _UInt32) -> None: ...
    def context_length(self, state: int) -> int: ...
    def states(self, ids: _TokenIds, begins: _Int64, out: _UInt32) -> None: ...
    def weights(self, states: _UInt32, out: _Float32) -> None: ...
    def step(self, state: int, token: int) -> tuple[float, int]: ...
    def score(
        self, states: _UInt32, candidates: _TokenIds, logprobs: _Float32, next: _UInt32
    ) -> None: ...
    def event_logprobs(self, states: _UInt32, out: _Float32) -> None: ...
    def distribution(self, states: _UInt32, out: _Float32) -> None: ...
    def continuations(self, states: _UInt32, ids: _UInt32, logprobs: _Float32) -> None: ...
    def mix(
        self, states: _UInt32, weights: _Float32, global_logprobs: _Float32, out: _Float32
    ) -> None: ...

class Query:
    """A plain request to score candidates; ``perslm.wire.plain_query`` says what that is.

    ``timeout_ms`` is −1 where the request has none.
    """

    @staticmethod
    def from_msgpack(body: bytes, max_histories: int) -> Query | None: ...
    @staticmethod
    def from_protobuf(body: bytes, max_histories: int) -> Query | None: ...
    @property
    def user(self) -> str: ...
    @property
    def vocabulary(self) -> str: ...
    @property
    def n(self) -> int: ...
    @property
    def k(self) -> int: ...
    @property
    def timeout_ms(self) -> int: ...
    def answer(
        self,
        model: Model,
        weight: float | None,
        factors: _Float64 | None,
        before: bytes,
        between: bytes,
    ) -> bytes:
        """Return ``before``, λ float32[n], ``between`` and the candidates' ln p float32[n, k].

        λ is ``weight`` for each history; if that is None, what the model says of its state, moved
        to its position, if the request has positions, by ``factors`` (``perslm.backoff.factors``).
        """

def mix_columns(
    global_logprobs: _Float32,
    weights: _Float32,
    columns: _UInt32,
    personal_logprobs: _Float32,
    out: _Float32,
) -> None:
    """Fill ``out`` as ``perslm.interpolate.mix_columns`` does; arrays as those of Model."""

def uncertainty(global_logprobs: _Float32, out: _Float32) -> None:
    """Fill ``out`` as ``perslm.interpolate.uncertainty`` does; arrays as those of Model."""

def shift(
    weights: _Float32,
    positions: _UInt32 | None,
    factors: _Float64,
    uncertainty: _Float32 | None,
    coefficients: _Float64,
) -> None:
    """Move ``weights`` as ``perslm.backoff.shift`` does; arrays as those of Model.

    ``factors`` are those of positions, ``coefficients`` those of an uncertainty.
    """
