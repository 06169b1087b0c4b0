"""Suggestions: what to show behind the cursor, and when to show nothing.

A beam search (``perslm.beam``) finds continuations; this file decides which of them a writer sees,
as "Gmail Smart Compose" (Chen et al., KDD 2019, section 3) does: a hypothesis is complete at the
end of a sentence or at a length limit, there without a last word that might go on; its confidence
is its log-probability divided by its length;
nothing is shown below a threshold, which :func:`calibrate` sets for a wanted coverage. A word that
is typed in part is completed first, and what holds a blocked phrase is never shown.

What a suggestion is worth is measured by ``perslm evaluate``.
"""

from __future__ import annotations

import math
import re
import sys
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from perslm.beam import Asking, GlobalModel, Hypothesis, search_together, steps_of
from perslm.errors import ArgumentError
from perslm.model import Scorer
from perslm.tokenize import detokenize, unfinished
from perslm.vocabulary import UNK, Vocabulary

_ENDS = re.compile(r"[.!?…。！？][\"'”’)\]]*\s*\Z|\n")
_OPEN = re.compile(r"[\w'’-]\Z")
_LAST_WORD = re.compile(r"\S+\Z")
_BEHIND_ALL = chr(sys.maxunicode)
_LONGEST_PHRASE = 200  # characters of a blocked phrase that may be typed before the cursor


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One continuation of a text.

    ``text`` is what to insert at the cursor, with the space before it if one is missing; ``ids``
    are the tokens of it, those of a word typed in part included. ``logprob`` is ln p of them all,
    ``confidence`` the same per token.
    """

    text: str = field(repr=False)
    ids: tuple[int, ...] = field(repr=False)
    logprob: float
    confidence: float


class Suggester:
    """Makes suggestions with one global LM and vocabulary, for many users. Thread-safe if they are.

    ``width`` hypotheses live at each of at most ``tokens`` steps; up to ``best`` suggestions are
    made. Those of a confidence below ``threshold`` (natural log per token) are not. ``blocklist``
    are words and phrases, in any case, that no suggestion may hold or complete; they match whole
    words. Raises ArgumentError for numbers below 1 and for empty phrases.
    """

    def __init__(
        self,
        global_model: GlobalModel,
        vocabulary: Vocabulary,
        *,
        width: int = 8,
        tokens: int = 15,
        best: int = 3,
        threshold: float = -math.inf,
        blocklist: Iterable[str] = (),
    ) -> None:
        if min(width, tokens, best) < 1:
            raise ArgumentError("width, tokens and best must be at least 1")
        self._global = global_model
        self._vocabulary = vocabulary
        self._width, self._tokens, self._best = width, tokens, best
        self._threshold = threshold
        self._blocked = _phrases(blocklist)
        pieces = vocabulary.pieces()
        self._stop = {vocabulary.eos, *(i for i, piece in enumerate(pieces) if _ENDS.search(piece))}
        # nobody can tell what stands for a word that is unknown, or for a name left out
        self._banned = set(vocabulary.special_ids) - {vocabulary.eos}
        self._banned |= {i for i, piece in enumerate(pieces) if not piece or "\ufffd" in piece}
        self._banned.discard(vocabulary.eos)
        self._index = _PrefixIndex(pieces, self._banned)

    @property
    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary of the global LM and of the models that fit it."""
        return self._vocabulary

    def __repr__(self) -> str:
        return f"Suggester(width={self._width}, tokens={self._tokens})"

    def suggest(self, text: str, personal: Scorer | None = None) -> list[Suggestion]:
        """Return what could follow ``text``, whose end is the cursor; best first, maybe nothing.

        With ``personal`` its model is mixed in at every step; without, or with a null model, the
        global LM alone decides.
        """
        return self.suggest_together([(text, personal)])[0]

    def suggest_together(
        self, places: Sequence[tuple[str, Scorer | None]]
    ) -> list[list[Suggestion]]:
        """Return :meth:`suggest` for each text and model, of many people, say.

        All are asked for at once, step by step: with a neural LM a dozen take hardly longer than
        a few one after the other.
        """
        words = self._vocabulary.kind == "words"
        kind = _WordCursor if words else _TextCursor
        cursors = [kind(text, self._vocabulary) for text, _ in places]
        searches = [
            self._search(cursor, personal)
            for cursor, (_, personal) in zip(cursors, places, strict=True)
        ]
        found = search_together(self._global, searches)
        return [self._chosen(*pair) for pair in zip(found, cursors, strict=True)]

    def _search(self, cursor: _Cursor, personal: Scorer | None) -> Asking:
        return steps_of(
            cursor.history,
            personal=personal,
            position=len(cursor.history) - 1,  # it begins with <s>
            width=self._width,
            steps=self._tokens,
            best=self._width,
            stop=self._stop,
            banned=self._banned,
            only=_Wanted(self, cursor),
        )

    def _chosen(self, found: list[Hypothesis], cursor: _Cursor) -> list[Suggestion]:
        chosen: dict[str, Suggestion] = {}
        for hypothesis in found:
            text = cursor.inserted(self.text(hypothesis.ids)).rstrip()
            confidence = hypothesis.per_token
            if text.strip() and confidence >= self._threshold:
                suggestion = Suggestion(text, hypothesis.ids, hypothesis.logprob, confidence)
                chosen.setdefault(text, suggestion)
        return list(chosen.values())[: self._best]

    def text(self, ids: Iterable[int]) -> str:
        """Return what ``ids`` add to a text that goes on before them."""
        kept = [i for i in ids if i != self._vocabulary.eos]
        if self._vocabulary.kind == "words":
            return detokenize(self._vocabulary.token(i) for i in kept)
        return "".join(self._index.pieces[i] for i in kept)

    def whole(self, ids: tuple[int, ...]) -> int:
        """Return how many of ``ids`` are whole words: if the last might go on, all before it."""
        pieces = self._index.pieces
        if self._vocabulary.kind == "words" or not _OPEN.search(pieces[ids[-1]]):
            return len(ids)
        return max((i for i, id in enumerate(ids) if pieces[id][:1].isspace()), default=0)

    def allowed(self, missing: str) -> npt.NDArray[np.intp] | None:
        """Return the ids that a text may go on with of which ``missing`` is typed already."""
        return self._index.matching(missing) if missing else None

    def is_blocked(self, before: str, written: str, *, ended: bool) -> bool:
        """Tell whether ``written`` holds or completes a blocked phrase.

        A phrase at its very end counts only if it has ``ended``: the last word may go on.
        """
        if self._blocked is None:
            return False
        text = before[-_LONGEST_PHRASE:] + written
        begin = len(text) - len(written)
        last = len(text) if ended else len(text) - 1
        return any(begin < match.end(1) <= last for match in self._blocked.finditer(text))


def calibrate(confidences: npt.ArrayLike, coverage: float) -> float:
    """Return the threshold that shows suggestions at the share ``coverage`` of all places.

    ``confidences`` are those of the best suggestion at each of many places that the threshold was
    not made for; −inf where there is none. Raises ArgumentError if there are none, or if
    ``coverage`` is not within 0 and 1.
    """
    values = np.sort(np.asarray(confidences, np.float64).ravel())[::-1]
    if not len(values) or not 0 <= coverage <= 1 or np.isnan(values).any():
        raise ArgumentError("a threshold needs confidences of places, and a coverage of 0 to 1")
    shown = round(coverage * len(values))
    return math.inf if shown == 0 else float(values[shown - 1])


class _TextCursor:
    """Where a text ends, for tokenizers that see the text itself.

    ``before`` is all but the last word, and ``typed`` that word with the space before it: the
    tokens of a word typed in part are seldom those that the whole word begins with.
    """

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        word = _LAST_WORD.search(text)
        self.before = (text[: word.start()] if word else text).rstrip()
        self.typed = text[len(self.before) :]
        if self.before and self.typed:
            self.typed = " " + self.typed.lstrip()
        self.history = vocabulary.history(self.before)

    def missing(self, written: str) -> str:
        """Return what of the typed word is not yet in ``written``."""
        return self.typed[len(written) :]

    def inserted(self, written: str) -> str:
        """Return what to insert, where ``written`` begins with what is typed."""
        return written[len(self.typed) :]


class _WordCursor:
    """Where a text ends, for vocabularies of words.

    ``history`` are the ids of the sentence that it leaves open, without a last word that may be
    typed in part; ``before`` is the text without that word.
    """

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        tokens = unfinished(text)
        self.typed = ""
        if tokens and text and not text[-1].isspace() and tokens[-1][-1:].isalnum():
            self.typed = tokens.pop() if text.endswith(tokens[-1]) else ""
        unk = vocabulary.id(UNK)
        assert unk is not None
        ids = (vocabulary.id(token) for token in tokens)
        self.history = [vocabulary.bos, *(unk if i is None else i for i in ids)]
        self._glue = "" if self.typed or not text or text[-1].isspace() else " "
        self.before = text.removesuffix(self.typed) + self._glue

    def missing(self, written: str) -> str:
        """Return what of the typed word is not yet in ``written``: one token has it all."""
        return "" if written else self.typed

    def inserted(self, written: str) -> str:
        """Return what to insert, where ``written`` begins with what is typed."""
        if not self.typed and written[:1] in ".,;:!?)":
            return written
        return self._glue + written[len(self.typed) :]


_Cursor = _TextCursor | _WordCursor


class _Wanted:
    """The filter of one search: the typed word first, and no blocked phrase."""

    def __init__(self, suggester: Suggester, cursor: _Cursor) -> None:
        self._suggester = suggester
        self._cursor = cursor

    def allowed(self, ids: tuple[int, ...]) -> npt.NDArray[np.intp] | None:
        return self._suggester.allowed(self._cursor.missing(self._suggester.text(ids)))

    def keeps(self, ids: tuple[int, ...], ended: bool) -> bool:
        written = self._suggester.text(ids)
        if ended and self._cursor.missing(written):
            return False
        return not self._suggester.is_blocked(self._cursor.before, written, ended=ended)

    def whole(self, ids: tuple[int, ...]) -> int:
        n = self._suggester.whole(ids)
        return 0 if self._cursor.missing(self._suggester.text(ids[:n])) else n


class _PrefixIndex:
    """Which pieces begin with a text, or are the beginning of it."""

    def __init__(self, pieces: tuple[str, ...], banned: Collection[int]) -> None:
        self.pieces = pieces
        known = sorted((piece, i) for i, piece in enumerate(pieces) if i not in banned and piece)
        self._texts = [piece for piece, _ in known]
        self._ids = np.array([i for _, i in known], np.intp)

    def matching(self, text: str) -> npt.NDArray[np.intp]:
        """Return the ids of pieces that begin with ``text``, or that ``text`` begins with."""
        parts = [self._between(text, text + _BEHIND_ALL)]
        parts += [self._between(text[:n], text[:n] + "\0") for n in range(1, len(text))]
        return np.concatenate(parts)

    def _between(self, low: str, high: str) -> npt.NDArray[np.intp]:
        return self._ids[bisect_left(self._texts, low) : bisect_left(self._texts, high)]


def _phrases(blocklist: Iterable[str]) -> re.Pattern[str] | None:
    """Return what finds a blocked phrase, as group 1, wherever one begins; they may overlap."""
    phrases = [phrase.split() for phrase in blocklist]
    if not all(phrases):
        raise ArgumentError("a blocked phrase has at least one word")
    if not phrases:
        return None
    phrases.sort(key=lambda phrase: -len(" ".join(phrase)))  # of those that begin alike the longest
    found = "|".join(r"\s+".join(map(re.escape, phrase)) for phrase in phrases)
    return re.compile(rf"(?<!\w)(?=((?:{found})(?!\w)))", re.IGNORECASE)
