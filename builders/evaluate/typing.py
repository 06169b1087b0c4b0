"""Suggestions while a person writes: are they what was written next?

Places are sampled where a word of test mail begins. At each the suggesters, with and without the
person's model, see what stands before it; what was written after it judges them. ExactMatch@N is
the share of suggestions of at least N words whose first N words were written (Chen et al., KDD
2019, section 5).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from builders.evaluate.mail import Letter
from perslm.model import Scorer
from perslm.suggest import Suggester

LONGEST = 15
"""Words of a suggestion that are looked at."""

_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a suggestion is asked for: a letter of the test mail, and where in its text."""

    letter: int
    cursor: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one suggestion, in numbers.

    ``confidence`` is −inf if there was none. Of its ``words``, the first ``right`` were written;
    ``saved`` are the characters that a writer who took it whole had not to type: all if it was
    right to its end, else none.
    """

    confidence: float
    words: int
    right: int
    saved: int

    def as_json(self) -> list[float | None]:
        """Return the fields as JSON has them."""
        confidence = self.confidence if math.isfinite(self.confidence) else None
        return [confidence, self.words, self.right, self.saved]

    @classmethod
    def from_json(cls, fields: list[float | None]) -> Outcome:
        """Return the outcome of :meth:`as_json`."""
        confidence, words, right, saved = fields
        assert words is not None
        assert right is not None
        assert saved is not None
        first = -math.inf if confidence is None else confidence
        return cls(first, int(words), int(right), int(saved))


def places(user: str, letters: list[Letter], number: int) -> list[Place]:
    """Return ``number`` places, or all if there are fewer; the same ones every time.

    A place has text before it and begins a word.
    """
    found = [
        Place(i, word.start())
        for i, letter in enumerate(letters)
        for word in _WORD.finditer(letter.text)
        if letter.text[: word.start()].strip()
    ]
    if len(found) <= number:
        return found
    seed = int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest())
    chosen = np.random.default_rng(seed).choice(len(found), number, replace=False)
    return [found[i] for i in sorted(chosen.tolist())]


def outcomes(
    suggester: Suggester, personal: Scorer | None, letters: list[Letter], where: list[Place]
) -> Iterator[Outcome]:
    """Yield what became of the best suggestion at each place."""
    for place in where:
        text = letters[place.letter].text
        found = suggester.suggest(text[: place.cursor], personal)
        if not found:
            yield Outcome(-math.inf, 0, 0, 0)
            continue
        suggested = found[0].text.split()[:LONGEST]
        written = text[place.cursor :].split()
        right = next(
            (
                i
                for i, pair in enumerate(zip(suggested, written, strict=False))
                if len(set(pair)) > 1
            ),
            min(len(suggested), len(written)),
        )
        whole = right == len(suggested)
        saved = len(" ".join(suggested)) if whole else 0
        yield Outcome(found[0].confidence, len(suggested), right, saved)


def exact_match(shown: list[Outcome]) -> list[float]:
    """Return ExactMatch@1 … @15, in 0 to 1; NaN where no suggestion is that long."""
    found = []
    for n in range(1, LONGEST + 1):
        long = [o for o in shown if o.words >= n]
        found.append(sum(o.right >= n for o in long) / len(long) if long else math.nan)
    return found


def average_exact_match(shown: list[Outcome]) -> float:
    """Return ExactMatch averaged over lengths, each weighted by its number of suggestions."""
    asked = sum(o.words for o in shown)
    return sum(o.right for o in shown) / asked if asked else math.nan


def most_confident(all_of: list[Outcome], share: float) -> list[Outcome]:
    """Return the ``share`` of all places where suggestions were surest, without those of none."""
    ranked = sorted(all_of, key=lambda o: -o.confidence)[: round(share * len(all_of))]
    return [o for o in ranked if o.words]
