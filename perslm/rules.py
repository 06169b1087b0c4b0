"""What must not be learned of a user, whatever the mail says: opt-out, and blocked phrases.

Rules lie in the store beside the models (``Store.rules``), one set for each user who has some and
one for everybody. They outlive builds and are no part of a blob: a build leaves out what is blocked
(``builders.hygiene``), and until it runs :meth:`Rules.without` takes it out of a model that is
loaded.

A phrase is kept twice. Its text is what a build goes by, whatever vocabulary it has; its
*spellings* are the sequences of ids that it may be in the vocabularies that the store knew when it
was blocked, so that a scorer needs no tokenizer. Phrases match whole words in any case. With an
imported tokenizer words that begin with the same tokens may go, too, and unusual capitals
(``zEPHyr``) are not seen.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import NamedTuple, TypeAlias

import msgpack
import numpy as np
import numpy.typing as npt

from perslm.counts import Counts, pair_keys
from perslm.errors import ArgumentError, RulesError
from perslm.tokenize import words
from perslm.vocabulary import Sequence, Vocabulary

Ids: TypeAlias = tuple[int, ...]

_VERSION = 1
_EVERY_CASE = 3  # words of a phrase whose capitals are varied one by one
_MOST_SPELLINGS = 4096
_BEFORE = ("a ", "(", "a.\n")  # what a phrase may follow, which decides on its first token
_LIMIT = 1 << 32


class Spelling(NamedTuple):
    """One way to write a blocked phrase: ids of the vocabulary with this fingerprint."""

    vocabulary: str
    ids: Ids

    def __repr__(self) -> str:  # the ids are words that somebody wants unknown
        return f"Spelling({len(self.ids)} ids)"


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for one user, or for everybody.

    Of somebody who has ``opted_out`` nothing is learned or kept. ``phrases`` are blocked, in the
    words they were given; ``blocked`` are their spellings. Make them with :meth:`block`.
    """

    opted_out: bool = False
    phrases: frozenset[str] = field(default=frozenset(), repr=False)
    blocked: frozenset[Spelling] = field(default=frozenset(), repr=False)

    def __bool__(self) -> bool:
        """Tell whether anything is ruled out."""
        return bool(self.opted_out or self.phrases or self.blocked)

    def __or__(self, other: Rules) -> Rules:
        """Return what holds if both do: a user's rules, and everybody's."""
        return Rules(
            self.opted_out or other.opted_out,
            self.phrases | other.phrases,
            self.blocked | other.blocked,
        )

    def block(self, phrases: Iterable[str], vocabularies: Iterable[Vocabulary]) -> Rules:
        """Return rules that block these phrases, too, as each of ``vocabularies`` spells them.

        Raises ArgumentError for a phrase without a word, MissingExtraError if an imported
        tokenizer is needed that is not installed.
        """
        all_phrases = self.phrases | {_folded(phrase) for phrase in phrases}
        return self._spelled(all_phrases, vocabularies)

    def unblock(self, phrases: Iterable[str], vocabularies: Iterable[Vocabulary]) -> Rules:
        """Return rules that no longer block these phrases.

        Raises ArgumentError if one is not blocked.
        """
        gone = {_folded(phrase) for phrase in phrases}
        if not gone <= self.phrases:
            raise ArgumentError(
                "this phrase is not blocked: perslm block --list shows those that are"
            )
        return self._spelled(self.phrases - gone, vocabularies)

    def _spelled(self, phrases: frozenset[str], vocabularies: Iterable[Vocabulary]) -> Rules:
        blocked = frozenset(
            Spelling(vocabulary.fingerprint, ids)
            for vocabulary in vocabularies
            for ids in spellings(phrases, vocabulary)
        )
        return Rules(self.opted_out, phrases, blocked)

    def without(self, counts: Counts, vocabulary: str) -> Counts:
        """Return ``counts`` without the n-grams that hold a blocked phrase; themselves if none do.

        ``vocabulary`` is the fingerprint of theirs. Of a phrase that is longer than the order,
        every part of that length goes: more than a build leaves out, which sees whole messages.
        """
        blocked = {s.ids for s in self.blocked if s.vocabulary == vocabulary}
        return _without(counts, blocked) if blocked else counts

    # --- bytes ----------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """Return the rules as bytes; the same rules give the same bytes."""
        by_vocabulary: dict[str, list[Ids]] = {}
        for fingerprint, ids in sorted(self.blocked):
            by_vocabulary.setdefault(fingerprint, []).append(ids)
        content = [_VERSION, self.opted_out, sorted(self.phrases), by_vocabulary]
        data: bytes = msgpack.packb(content)
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Rules:
        """Read what :meth:`to_bytes` wrote. Raises RulesError for anything else."""
        try:
            content = msgpack.unpackb(data, use_list=False)
        except (ValueError, msgpack.UnpackException):  # not chained: it may hold the words
            raise RulesError("they are damaged") from None
        match content:
            case (int(version), *_) if version != _VERSION:
                raise RulesError(f"their version is not {_VERSION}")
            case (int(), bool(opted_out), tuple(phrases), dict(by_vocabulary)):
                blocked = frozenset(_spellings_read(by_vocabulary))
                if all(isinstance(phrase, str) and phrase for phrase in phrases):
                    return cls(opted_out, frozenset(phrases), blocked)
        raise RulesError("they are damaged")


def _spellings_read(by_vocabulary: dict[object, object]) -> Iterator[Spelling]:
    for fingerprint, sequences in by_vocabulary.items():
        if not isinstance(fingerprint, str) or not isinstance(sequences, tuple):
            raise RulesError("they are damaged")
        for ids in sequences:
            if not isinstance(ids, tuple) or not ids:
                raise RulesError("they are damaged")
            if not all(isinstance(i, int) and 0 <= i < _LIMIT for i in ids):
                raise RulesError("they are damaged")
            yield Spelling(fingerprint, ids)


# --- spellings ----------------------------------------------------------------------------------


def _folded(phrase: str) -> str:
    folded = " ".join(phrase.casefold().split())
    if not any(map(str.isalnum, folded)):
        raise ArgumentError("a blocked phrase has at least one word")
    return folded


@lru_cache(maxsize=64)
def spellings(phrases: frozenset[str], vocabulary: Vocabulary) -> frozenset[Ids]:
    """Return the sequences of ids that the phrases may be written as in ``vocabulary``.

    A word that a word vocabulary does not have needs none: it is ``<unk>`` to a model. Raises
    MissingExtraError if an imported tokenizer is not installed.
    """
    spell = _in_words(vocabulary) if vocabulary.kind == "words" else _in_pieces(vocabulary)
    return frozenset(ids for phrase in phrases for ids in spell(phrase))


def _in_words(vocabulary: Vocabulary) -> Callable[[str], Iterable[Ids]]:
    """Return what spells a phrase in a word vocabulary, where words may be joined: ``X-based``."""
    alone: dict[str, set[int]] = {}  # ids of a word, in any case
    inside: dict[str, set[int]] = {}  # of joined words that hold a word or words,
    ending: dict[str, set[int]] = {}  # that end with a word,
    opening: dict[str, set[int]] = {}  # that begin with one
    for id in range(vocabulary.size):
        if id in vocabulary.special_ids:
            continue
        token = vocabulary.token(id).casefold()
        alone.setdefault(token, set()).add(id)
        parts = "".join(c if c.isalnum() else " " for c in token).split()
        for i in range(len(parts)):
            for end in range(i + 1, len(parts) + 1):
                inside.setdefault(" ".join(parts[i:end]), set()).add(id)
        if parts:
            ending.setdefault(parts[-1], set()).add(id)
            opening.setdefault(parts[0], set()).add(id)

    def spell(phrase: str) -> Iterator[Ids]:
        tokens = words(phrase)
        for id in inside.get(" ".join(tokens), ()):
            yield (id,)
        choices = [alone.get(token, set()) for token in tokens]
        if len(tokens) > 1:
            choices[0] = choices[0] | ending.get(tokens[0], set())
            choices[-1] = choices[-1] | opening.get(tokens[-1], set())
        if math.prod(map(len, choices)) > _MOST_SPELLINGS:
            raise ArgumentError("a blocked phrase can be written in too many ways: shorten it")
        yield from product(*choices)

    return spell


def _in_pieces(vocabulary: Vocabulary) -> Callable[[str], Iterable[Ids]]:
    """Return what spells a phrase with an imported tokenizer: words and spaces make tokens."""

    def spell(phrase: str) -> Iterator[Ids]:
        parts = phrase.split()
        ways = {phrase, phrase.upper(), _titled(phrase), " ".join(map(_titled, parts))}
        if len(parts) <= _EVERY_CASE:
            cases = [(part, _titled(part), part.upper()) for part in parts]
            ways |= {" ".join(way) for way in product(*cases)}
        for way in ways:
            yield tuple(vocabulary.history(way)[1:])
            for before in _BEFORE:
                head, whole = vocabulary.history(before), vocabulary.history(before + way)
                if whole[: len(head)] == head and len(whole) > len(head):
                    yield tuple(whole[len(head) :])

    return spell


def _titled(word: str) -> str:
    return word[:1].upper() + word[1:]


# --- in counts ----------------------------------------------------------------------------------


def _without(counts: Counts, blocked: Iterable[Ids]) -> Counts:
    order = counts.order
    parts = {ids[i : i + order] for ids in blocked for i in range(max(len(ids) - order, 0) + 1)}
    gone: list[npt.NDArray[np.bool_]] = []
    for k, level in enumerate(counts.levels):
        dropped = np.zeros(len(level), bool)
        dropped[_places(counts, [part for part in parts if len(part) == k + 1], k)] = True
        if k:
            dropped |= gone[-1][level.context] | gone[-1][level.suffix]
        gone.append(dropped)
    if not any(map(np.any, gone)):
        return counts
    words_left = ~gone[0] & (counts.levels[0].word != counts.specials.bos)
    if not words_left.any():  # no words, no contexts
        return counts.select([np.zeros(len(level), bool) for level in counts.levels])
    return counts.select([~dropped for dropped in gone])


def _places(counts: Counts, ngrams: list[Ids], k: int) -> npt.NDArray[np.intp]:
    """Return the indexes in level ``k`` of those n-grams that are there."""
    sought = np.array(ngrams, np.uint64).reshape(-1, k + 1)
    at = np.zeros(len(sought), np.intp)  # the empty context
    for column, level in enumerate(counts.levels[: k + 1]):
        keys = level.keys()
        if not len(keys):
            return np.zeros(0, np.intp)
        wanted = pair_keys(at, sought[:, column])
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        there = keys[at] == wanted
        at, sought = at[there], sought[there]
    return at


# --- in sequences -------------------------------------------------------------------------------


class Matcher:
    """Finds blocked sequences in texts of ids: the automaton of Aho and Corasick (1975).

    Makes one step for each id, however many sequences there are.
    """

    def __init__(self, blocked: Iterable[Ids]) -> None:
        self._next: list[dict[int, int]] = [{}]
        longest = [0]  # how long the longest match is that ends in a state
        for ids in sorted(blocked):
            state = 0
            for id in ids:
                if id not in self._next[state]:
                    self._next[state][id] = len(self._next)
                    self._next.append({})
                    longest.append(0)
                state = self._next[state][id]
            longest[state] = len(ids)
        self._longest = longest
        self._shorter = [0] * len(self._next)  # the longest suffix of a state that is one, too
        waiting = deque(self._next[0].values())
        while waiting:
            state = waiting.popleft()
            for id, child in self._next[state].items():
                waiting.append(child)
                self._shorter[child] = self._step(self._shorter[state], id)
                longest[child] = max(longest[child], longest[self._shorter[child]])

    def _step(self, state: int, id: int) -> int:
        while state and id not in self._next[state]:
            state = self._shorter[state]
        return self._next[state].get(id, 0)

    def spans(self, ids: Iterable[int]) -> list[tuple[int, int]]:
        """Return where blocked sequences stand, start and end; those that overlap are one span."""
        found: list[tuple[int, int]] = []
        state = 0
        for end, id in enumerate(ids, start=1):
            state = self._step(state, id)
            if self._longest[state]:
                start = end - self._longest[state]
                while found and found[-1][1] > start:
                    start = min(start, found.pop()[0])
                found.append((start, end))
        return found

    def without(self, sequence: Sequence) -> list[Sequence]:
        """Return what is left of a sequence: pieces that no n-gram bridges."""
        spans = self.spans(sequence.ids)
        if not spans:
            return [sequence]
        ids, opens, closes = sequence
        starts, ends = [0, *(end for _, end in spans)], [*(start for start, _ in spans), len(ids)]
        return [
            Sequence(ids[a:b], opens and a == 0, closes and b == len(ids))
            for a, b in zip(starts, ends, strict=True)
            if a < b
        ]
