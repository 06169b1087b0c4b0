"""A function in the place of a global LM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from perslm.errors import ArgumentError
from perslm.interpolate import Float32Array
from perslm.vocabulary import Vocabulary

__all__ = ["FunctionLM"]

_BLOCK = 32


class FunctionLM:
    """A global LM made of a function (``perslm.global_lm.GlobalLM``).

    ``function`` takes histories (a sequence of sequences of ids) and returns ln p(w | history) for
    every id w, [n, width] numbers with width ≥ ``vocabulary.size``, each row summing to 1. What it
    raises is passed on; ArgumentError is raised if its answer has another shape.
    """

    def __init__(
        self,
        function: Callable[[Sequence[Sequence[int]]], Float32Array],
        vocabulary: Vocabulary,
    ) -> None:
        self._function = function
        self._vocabulary = vocabulary

    @property
    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary given."""
        return self._vocabulary

    def logprobs(self, histories: Sequence[Sequence[int]]) -> Float32Array:
        """Return what the function says, float32[n, width]."""
        rows = np.asarray(self._function(histories), np.float32)
        if rows.ndim != 2 or len(rows) != len(histories) or rows.shape[1] < self._vocabulary.size:
            raise ArgumentError(
                f"the global LM's function must return ({len(histories)}, "
                f"{self._vocabulary.size} or more) numbers, not {rows.shape}"
            )
        return rows

    def sequence(self, ids: Sequence[int]) -> Iterator[Float32Array]:
        """Yield ln p(w | ids[:t]) for t = 1 … len(ids) − 1, as float32[block, width] in order."""
        for begin in range(1, len(ids), _BLOCK):
            ends = range(begin, min(begin + _BLOCK, len(ids)))
            yield self.logprobs([ids[:end] for end in ends])
