"""The word trigram of American English inside the Python package ``pocketsphinx``.

72,547 words in lower case, without marks, learnt from broadcast and telephone speech: give it text
in lower case. Good for fast runs over words, no match for a neural LM. The package's own code is
not used, its model file read here (27 MB; a few seconds)::

    pip install --no-deps pocketsphinx

The file is a trie of n-grams read backwards, the last word first, in bit-packed records::

    "Trie Language Model", the order (1 byte), the number of n-grams of each order (uint32 each)
    1 (uint32), then tables of 2^16 float32 each: probabilities and backoffs of 2-grams,
    probabilities of 3-grams
    1-grams and one more record: probability, backoff (float32), first 2-gram (uint32)
    2-grams and one more: word, backoff, probability (16 bits each: places in the tables),
    first 3-gram; then 3-grams: word, probability. The links say how many there really are. Fields
    of bits follow each other from the least significant up; 8 bytes of slack follow both arrays
    length of the words (uint32), and the words, each closed by a zero byte

Probabilities are logarithms to the base 1.0001.
"""

from __future__ import annotations

import importlib.util
import math
import struct
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from perslm import automaton
from perslm.arpa import CLOSE, OPEN
from perslm.automaton import Automaton
from perslm.counts import Counts, Level, Specials
from perslm.errors import InteropError
from perslm.global_lm.ngrams import NgramLM
from perslm.smoothing import Smoothed
from perslm.vocabulary import Vocabulary

__all__ = ["pocketsphinx"]

_MAGIC = b"Trie Language Model\x03"
_UNIT = math.log(1.0001)
_TABLE = 1 << 16

Ints: TypeAlias = npt.NDArray[np.int64]
Section: TypeAlias = tuple[npt.NDArray[Any], ...]


def pocketsphinx() -> NgramLM:
    """Return the trigram of the installed package as a global LM.

    Raises InteropError if the package is not installed or its file is not of the known form.
    """
    spec = importlib.util.find_spec("pocketsphinx")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / "model" / "en-us" / "en-us.lm.bin"
        if path.is_file():
            return read(path.read_bytes())
    raise InteropError(
        "the trigram of pocketsphinx is not installed: pip install --no-deps pocketsphinx"
    )


def read(data: bytes) -> NgramLM:
    """Return the model of such a file. Raises InteropError if it is not of the known form."""
    try:
        words, sections = _Trie(data).sections()
    except (ValueError, IndexError, struct.error) as error:
        raise InteropError(
            "the model file of pocketsphinx is not of the known form: install pocketsphinx 5"
        ) from error
    listed = [word for word in words if word not in (OPEN, CLOSE)]
    vocabulary = Vocabulary.from_words(w for w in listed if w.lower() != "<unk>")
    ids = np.array([_id(vocabulary, word) for word in words])
    return NgramLM(_assemble(sections, ids, vocabulary), vocabulary)


def _id(vocabulary: Vocabulary, word: str) -> int:
    ends = {OPEN: vocabulary.bos, CLOSE: vocabulary.eos}
    found = ends[word] if word in ends else vocabulary.id(word)
    return 0 if found is None else found  # <UNK>, however it is spelled


class _Trie:
    """The arrays of the file."""

    def __init__(self, data: bytes) -> None:
        if not data.startswith(_MAGIC):
            raise ValueError
        self._data = data
        self._at = len(_MAGIC)
        self._counts = struct.unpack_from("<3I", data, self._at)
        self._at += 16  # and the 1

    def sections(self) -> tuple[list[str], list[Section]]:
        """Return the words, and of each order: words of the n-grams, first to last; ln p; ln α."""
        one, two, three = self._counts
        logprob2, backoff2, logprob3 = self._take("<f4", 3 * _TABLE).reshape(3, _TABLE) * _UNIT
        first = self._take([("logprob", "<f4"), ("backoff", "<f4"), ("next", "<u4")], one + 1)
        word, at, link = one.bit_length(), 16, three.bit_length()
        word2, b2, p2, next2 = self._fields(two + 1, [word, at, at, link])
        word3, p3 = self._fields(three + 1, [word, at])
        (length,) = self._take("<u4", 1).tolist()
        words = self._data[self._at : self._at + length].split(b"\0")[:one]
        two, three = int(first["next"][-1]), int(next2[first["next"][-1]])  # the header has more
        if len(words) != one or three > len(word3):
            raise ValueError
        last = np.repeat(np.arange(one), np.diff(first["next"]))
        parent = np.repeat(np.arange(two), np.diff(next2[: two + 1]))
        return [w.decode() for w in words], [
            (np.arange(one), first["logprob"][:-1] * _UNIT, first["backoff"][:-1] * _UNIT),
            (word2[:two], last, logprob2[p2[:two]], backoff2[b2[:two]]),
            (word3[:three], word2[parent], last[parent], logprob3[p3[:three]], np.zeros(three)),
        ]

    def _take(self, dtype: Any, n: int) -> npt.NDArray[Any]:
        found: npt.NDArray[Any] = np.frombuffer(self._data, dtype, n, self._at)
        self._at += found.nbytes
        return found

    def _fields(self, n: int, widths: list[int]) -> list[Ints]:
        """Return the bit fields of n records, which begin at any bit."""
        size = sum(widths)
        length = (n * size + 7) // 8 + 8
        raw = self._take("u1", length)
        words: npt.NDArray[np.uint64] = np.ndarray(length - 7, "<u8", raw.tobytes(), strides=(1,))
        bits = np.arange(n, dtype=np.int64) * size
        found = []
        for width in widths:
            values = words[bits >> 3] >> (bits & 7).astype(np.uint64)
            found.append((values & np.uint64((1 << width) - 1)).astype(np.int64))
            bits += width
        return found


def _assemble(sections: list[tuple[Ints, ...]], ids: Ints, vocabulary: Vocabulary) -> Automaton:
    """Return the automaton, its n-grams in the order that it needs; one that lacks a part goes."""
    levels: list[Level] = []
    logprobs, backoffs = [], [np.zeros(1)]
    known: list[Ints] = [np.zeros(1, np.int64)]  # keys of the order below: context, word
    for order, (*columns, logprob, backoff) in enumerate(sections, 1):
        words = [ids[column] for column in columns]
        context, found_context = _places(known, words[:-1], len(logprob))
        suffix, found_suffix = _places(known, words[1:], len(logprob))
        rows = np.flatnonzero(found_context & found_suffix)
        rows = rows[np.lexsort((words[-1][rows], context[rows]))]
        levels.append(
            Level(
                context[rows].astype(np.uint32),
                words[-1][rows].astype(np.uint32),
                suffix[rows].astype(np.uint32),
                np.ones(len(rows), np.int64),
            )
        )
        logprobs.append(logprob[rows].astype(np.float64))
        backoffs.append(backoff[rows].astype(np.float64))
        known.append(_keys(context[rows], words[-1][rows]))
        if order == 1:
            levels[0].count[words[0][rows] == vocabulary.bos] = 0
    specials = Specials(vocabulary.size, vocabulary.bos, vocabulary.eos)
    model = Smoothed(tuple(logprobs), tuple(backoffs[:-1]), ())
    return automaton.build(Counts(specials, tuple(levels)), model)


def _keys(context: Ints, word: Ints) -> Ints:
    return (context << 32) | word


def _places(known: list[Ints], words: list[Ints], n: int) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Return where n n-grams stand among those of their order, and whether they do."""
    place = np.zeros(n, np.int64)
    found = np.ones(n, np.bool_)
    for keys, word in zip(known[1:], words, strict=False):
        wanted = _keys(place, word)
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found &= keys[place] == wanted
    return place, found
