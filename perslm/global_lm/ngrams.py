"""An n-gram model over words as a global LM: an ARPA file, or any automaton.

Reading ARPA is ``perslm.arpa``'s, the automaton ``perslm.automaton``'s. What is here is rows: every
word's probability after a history, at the cost of the arcs on the way from its state to the root.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from perslm import arpa
from perslm.automaton import ROOT, Automaton
from perslm.counts import Specials
from perslm.errors import ArgumentError, InteropError
from perslm.interpolate import Float32Array
from perslm.vocabulary import SPECIALS, Vocabulary

__all__ = ["UNKNOWN", "NgramLM", "arpa_file"]

UNKNOWN = 0.02
"""Share of the words that a model of words has no probability for, ``<unk>`` above all."""

_BLOCK = 64


class NgramLM:
    """A backoff n-gram model as a global LM (``perslm.global_lm.GlobalLM``).

    ``model`` is over the ids of ``vocabulary``. Ids without a probability of their own, such as
    ``<unk>`` where the model has none, share ``unknown`` equally: p = (1−ε)·p_model elsewhere.
    ``<s>`` is never predicted (−inf), nor is ``</s>`` if the model does not close sentences.
    Answers depend on the histories alone; any number of threads may ask.
    """

    def __init__(
        self, model: Automaton, vocabulary: Vocabulary, *, unknown: float = UNKNOWN
    ) -> None:
        if not 0 < unknown < 1:
            raise ArgumentError("unknown must lie between 0 and 1")
        self._model = model
        self._vocabulary = vocabulary
        root = np.full(vocabulary.size, -np.inf)
        self._fill(root, ROOT)
        without = np.flatnonzero(np.isneginf(root))
        ends = [vocabulary.bos, vocabulary.eos]
        self._without = without[~np.isin(without, ends)]
        self._share = unknown if len(self._without) else 0.0
        self._root = root

    @property
    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary of the model's words."""
        return self._vocabulary

    def logprobs(self, histories: Sequence[Sequence[int]]) -> Float32Array:
        """Return ln p(w | history) for every id w, float32[n, size].

        A history restarts at the last ``<s>`` or ``</s>`` that it holds; an empty one is the middle
        of nowhere. Raises ArgumentError for a negative id.
        """
        rows = np.empty((len(histories), self._vocabulary.size), np.float32)
        for i, state in enumerate(self._states(histories).tolist()):
            chain = [state]
            while chain[-1] != ROOT:
                chain.append(int(self._model.backoff_state[chain[-1]]))
            row = self._root.copy()
            for at in reversed(chain[:-1]):
                row -= self._model.backoff_weight[at]
                self._fill(row, at)
            # rounded and pruned files sum to 1 only nearly
            row += np.log1p(-self._share) - np.log(np.exp(row).sum())
            if self._share:
                row[self._without] = np.log(self._share / len(self._without))
            rows[i] = row
        return rows

    def sequence(self, ids: Sequence[int]) -> Iterator[Float32Array]:
        """Yield ln p(w | ids[:t]) for t = 1 … len(ids) − 1, as float32[block, size] in order."""
        longest = self._model.order - 1
        for begin in range(1, len(ids), _BLOCK):
            ends = range(begin, min(begin + _BLOCK, len(ids)))
            yield self.logprobs([ids[max(0, end - longest) : end] for end in ends])

    def _fill(self, row: npt.NDArray[np.float64], state: int) -> None:
        """Write what a state says of its own arcs."""
        model = self._model
        arcs = slice(model.arc_begin[state], model.arc_begin[state + 1])
        row[model.label[arcs]] = -model.weight[arcs]
        if np.isfinite(model.final_weight[state]):
            row[self._vocabulary.eos] = -model.final_weight[state]

    def _states(self, histories: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
        depth = self._model.order - 1
        states = np.full(len(histories), ROOT, np.int64)
        restarts = (self._vocabulary.bos, self._vocabulary.eos)
        for i, history in enumerate(histories):
            for word in map(int, history[max(0, len(history) - depth) :]):
                if word < 0:
                    raise ArgumentError("a history holds a negative token id")
                if word in restarts:
                    states[i] = self._model.start
                    continue
                arc = self._model.walk(states[i : i + 1], np.array([word])).arc[0]
                states[i] = self._model.next_state[arc] if arc >= 0 else ROOT
        return states

    def __repr__(self) -> str:
        return f"NgramLM(order={self._model.order}, ngrams={sum(self._model.ngrams)})"


def arpa_file(path: str | os.PathLike[str], vocabulary: Vocabulary | None = None) -> NgramLM:
    """Read an ARPA file (``perslm.arpa`` says which) as a global LM.

    Without ``vocabulary`` the words of the file make one, in their order. Costs some hundred bytes
    of memory per n-gram while reading. Raises InteropError if the file cannot be read, or holds
    words that the vocabulary has not; VocabularyError if its words cannot make one.
    """
    try:
        if vocabulary is None:
            vocabulary = Vocabulary.from_words(_words(Path(path)))
        specials = Specials(vocabulary.size, vocabulary.bos, vocabulary.eos)
        with open(path, encoding="utf-8") as file:
            model = arpa.load(file, id_of=vocabulary.id, specials=specials)
    except (OSError, UnicodeDecodeError) as error:
        raise InteropError(
            f"{os.fspath(path)} cannot be read: check the path, and that it is text in UTF-8"
        ) from error
    return NgramLM(model, vocabulary)


def _words(path: Path) -> Iterator[str]:
    """Yield the words of an ARPA file's first section that are no special tokens."""
    inside = False
    with path.open(encoding="utf-8") as file:
        for line in file:
            fields = line.split()
            if fields[:1] == ["\\1-grams:"]:
                inside = True
            elif inside and fields and fields[0].startswith("\\"):
                return
            elif inside and len(fields) > 1:
                word = arpa.unescape(fields[1])
                if word not in SPECIALS:
                    yield word
