"""Suggestions while a person writes: are they what was written next?

Places are sampled where a word of test mail begins. At each the suggesters, with and without the
person's model, see what stands before it; what was written after it judges them. ExactMatch@N is
the share of suggestions of at least N words whose first N words were written (Chen et al., KDD
2019, section 5). ``answers`` asks the suggesters.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from builders.evaluate.mail import Letter
from perslm.suggest import Suggestion

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

    ``confidence`` is −inf if there was none. Of its ``words``, the first ``right`` were written.
    ``saved`` are the characters that a writer who took it whole had not to type: all if it was
    right to its end, else none; ``begun`` those of its right words, for one who takes it word by
    word.
    """

    confidence: float
    words: int
    right: int
    saved: int
    begun: int

    def as_json(self) -> list[float | None]:
        """Return the fields as JSON has them."""
        confidence = self.confidence if math.isfinite(self.confidence) else None
        return [confidence, self.words, self.right, self.saved, self.begun]

    @classmethod
    def from_json(cls, fields: Sequence[float | None]) -> Outcome:
        """Return the outcome of :meth:`as_json`; raises ValueError for anything else."""
        confidence, *numbers = fields
        words, right, saved, begun = (int(n or 0) for n in numbers)
        return cls(-math.inf if confidence is None else confidence, words, right, saved, begun)


def places(user: str, letters: Sequence[Letter], number: int) -> list[Place]:
    """Return ``number`` places, or all if there are fewer; the same ones every time.

    A place has text before it and begins a word. More of them are the same ones and others.
    """
    found = [
        Place(i, word.start())
        for i, letter in enumerate(letters)
        for word in _WORD.finditer(letter.text)
        if letter.text[: word.start()].strip()
    ]
    seed = int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest())
    chosen = np.random.default_rng(seed).permutation(len(found))[:number]
    return [found[i] for i in sorted(chosen.tolist())]


def judged(suggestions: Sequence[Suggestion], written: str) -> Outcome:
    """Return what becomes of the first of ``suggestions`` where ``written`` followed."""
    if not suggestions:
        return Outcome(-math.inf, 0, 0, 0, 0)
    suggested = suggestions[0].text.split()[:LONGEST]
    pairs = enumerate(zip(suggested, written.split(), strict=False))
    alike = min(len(suggested), len(written.split()))
    right = next((i for i, (ours, theirs) in pairs if ours != theirs), alike)
    begun = len(" ".join(suggested[:right]))
    saved = begun if right == len(suggested) else 0
    return Outcome(suggestions[0].confidence, len(suggested), right, saved, begun)


def exact_match(shown: Sequence[Outcome]) -> list[float]:
    """Return ExactMatch@1 … @15, in 0 to 1; NaN where no suggestion is that long."""
    found = []
    for n in range(1, LONGEST + 1):
        long = [o for o in shown if o.words >= n]
        found.append(sum(o.right >= n for o in long) / len(long) if long else math.nan)
    return found


def average_exact_match(shown: Sequence[Outcome]) -> float:
    """Return ExactMatch averaged over lengths, each weighted by its number of suggestions."""
    asked = sum(o.words for o in shown)
    return sum(o.right for o in shown) / asked if asked else math.nan


def above(outcomes: Sequence[Outcome], threshold: float) -> list[Outcome]:
    """Return what is shown at a threshold: suggestions of this confidence or more."""
    return [o for o in outcomes if o.words and o.confidence >= threshold]
