"""What is measured on: users' sentences as token ids, read from files or made up.

Ids are by falling frequency over all users, as in a word vocabulary: 0 is every word outside it, 1
and 2 are ``<s>`` and ``</s>``. No text is kept, and none is ever shown.
"""

from __future__ import annotations

import gzip
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from perslm.counts import Specials
from perslm.errors import SourceError
from perslm.tokenize import words
from perslm.vocabulary import Sequence

SIZE = 50_000
"""Ids of the vocabulary."""

UNKNOWN, BOS, EOS = 0, 1, 2
SPECIALS = Specials(SIZE, BOS, EOS)

_FIRST_WORD = 3
_REMEDY = (
    "it takes JSON lines (.jsonl, .jsonl.gz), a file for each user, with a list `sentences` in "
    "every line; without --source users are made up"
)

# Pitman-Yor processes, one per context, each backing off to the shorter one (Teh 2006): discount
# and strength by length of the context. So chosen that 60,000 tokens have about as many distinct
# n-grams of each order, and as many seen once, as those of real mail.
_DISCOUNT = (0.95, 0.66, 0.68, 0.77)
_STRENGTH = (1.0, 5.0, 2.0, 0.1)
_SKEW = 0.7  # a new word of rank r is drawn with probability ~ 1 / r ** _SKEW
_CLOSING = 1 / 13  # the chance that a new event is </s>


@dataclass(frozen=True, eq=False)
class Corpus:
    """Users' sentences. ``frequency`` is how often each id occurs over all users, int64[SIZE]."""

    source: str
    users: list[list[Sequence]]
    frequency: npt.NDArray[np.int64]

    def __repr__(self) -> str:
        return f"Corpus({len(self.users)} users)"

    def by_size(self, tokens: int) -> list[int]:
        """Return the indices of the users, those first who wrote nearest to ``tokens`` tokens."""
        return sorted(
            range(len(self.users)), key=lambda i: abs(count_tokens(self.users[i]) - tokens)
        )

    def narrow(self, size: int) -> Corpus:
        """Return the same with a vocabulary of the first ``size`` ids."""
        users = [
            [
                Sequence(tuple(i if i < size else UNKNOWN for i in s.ids), s.opens, s.closes)
                for s in user
            ]
            for user in self.users
        ]
        return Corpus(self.source, users, self.frequency[:size])


def count_tokens(user: list[Sequence]) -> int:
    """Return the number of events: words, and one ``</s>`` a sentence."""
    return sum(len(sentence.ids) + 1 for sentence in user)


def read(source: Path) -> Corpus:
    """Return the users of a file or of all JSON lines files in a folder, one a file.

    Raises SourceError if there are none, or a line has no ``sentences``.
    """
    files = [source]
    if source.is_dir():
        files = sorted(p for p in source.iterdir() if p.name.endswith((".jsonl", ".jsonl.gz")))
    texts = [list(_sentences(path)) for path in files]
    texts = [text for text in texts if text]
    if not texts:
        raise SourceError(str(source), "no sentences here", _REMEDY)
    frequency = Counter(itertools.chain.from_iterable(itertools.chain.from_iterable(texts)))
    frequent = (word for word, _ in frequency.most_common(SIZE - _FIRST_WORD))
    ids = {word: i for i, word in enumerate(frequent, _FIRST_WORD)}
    users = [
        [Sequence(tuple(ids.get(word, UNKNOWN) for word in s), True, True) for s in text]
        for text in texts
    ]
    return _corpus(f"{len(users)} users' mail", users)


def invent(tokens: int, seed: int = 1) -> Corpus:
    """Return users who wrote about ``tokens``, a half, a quarter and an eighth as many.

    Words are as skewed, and n-grams return as often, as in mail. Always the same for one ``seed``.
    """
    sizes = [max(1, tokens >> i) for i in range(4)]
    users = [_write(size, random.Random(seed + i)) for i, size in enumerate(sizes)]
    return _corpus(f"{len(users)} made-up users", users)


def _corpus(source: str, users: list[list[Sequence]]) -> Corpus:
    frequency = np.zeros(SIZE, np.int64)
    for user in users:
        ids = itertools.chain.from_iterable(sentence.ids for sentence in user)
        frequency += np.bincount(np.fromiter(ids, np.int64), minlength=SIZE)
    return Corpus(source, users, frequency)


def _sentences(path: Path) -> Iterator[list[str]]:
    opened = gzip.open if path.name.endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield from filter(None, map(words, json.loads(line)["sentences"]))
    except (ValueError, KeyError, TypeError, EOFError, gzip.BadGzipFile):
        # not chained: what could not be read is somebody's mail
        raise SourceError(str(path), "no JSON lines of sentences", _REMEDY) from None


def _write(tokens: int, chance: random.Random) -> list[Sequence]:
    """Return sentences of about ``tokens`` events."""
    ranks = range(_FIRST_WORD, SIZE)
    skewed = list(itertools.accumulate((i - _FIRST_WORD + 1) ** -_SKEW for i in ranks))
    # what was drawn after a context, once a time, and the different ones of it
    drawn: dict[tuple[int, ...], tuple[list[int], set[int]]] = {}
    sentences: list[Sequence] = []
    ids: list[int] = []
    for _ in range(tokens):
        history = (BOS, *ids)
        passed = []
        event = None
        for length in range(min(len(_DISCOUNT) - 1, len(history)), -1, -1):
            seen, kinds = drawn.setdefault(history[len(history) - length :], ([], set()))
            passed.append((seen, kinds))
            old = len(seen) - _DISCOUNT[length] * len(kinds)
            if seen and chance.random() * (len(seen) + _STRENGTH[length]) < old:
                event = seen[int(chance.random() * len(seen))]
                break
        if event is None and chance.random() < _CLOSING:
            event = EOS
        if event is None:
            event = chance.choices(ranks, cum_weights=skewed)[0]
        for seen, kinds in passed:
            seen.append(event)
            kinds.add(event)
        if event != EOS:
            ids.append(event)
        elif ids:
            sentences.append(Sequence(tuple(ids), True, True))
            ids = []
    if ids:
        sentences.append(Sequence(tuple(ids), True, True))
    return sentences
