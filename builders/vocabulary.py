"""Build a word vocabulary from the mail of many users.

A vocabulary is shared, so a word enters only if at least ``min_users`` different users wrote it,
and never if it looks secret or holds a long number: what one user alone writes does not show
through it. Counting streams; memory grows with the distinct words, not with the mail. Partial
counters from worker processes merge to the same result in any order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b

from perslm.entities import looks_secret
from perslm.errors import ArgumentError, VocabularyError
from perslm.vocabulary import SPECIALS, Vocabulary

__all__ = ["WordCounter", "build_vocabulary"]

_LONGEST = 40  # characters; longer "words" are debris
_LONG_NUMBER = re.compile(r"\d{5}")
_NOT_WORDS = frozenset(SPECIALS)


class WordCounter:
    """Counts words and, up to ``min_users``, the different users of each.

    Users are kept as 8-byte digests, at most ``min_users`` - 1 for a word, and none once a word
    has enough of them. Can be pickled.
    """

    def __init__(self, min_users: int = 2) -> None:
        if min_users < 1:
            raise ArgumentError(f"min_users is {min_users}, it must be at least 1")
        self.min_users = min_users
        self._counts: Counter[str] = Counter()
        # The users of a word that has too few of them yet, and the words that have enough.
        self._users: dict[str, tuple[int, ...]] = {}
        self._enough: set[str] = set()

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, user: str, tokens: Iterable[str]) -> None:
        """Count the tokens of one user: a sentence, a message or a mailbox."""
        added = Counter(tokens)
        self._counts.update(added)
        digest = int.from_bytes(blake2b(user.encode("utf-8", "replace"), digest_size=8).digest())
        self._note(added, (digest,))

    def merge(self, other: WordCounter) -> None:
        """Add what another counter has counted.

        Raises ArgumentError if it was made with another ``min_users``.
        """
        if other.min_users != self.min_users:
            raise ArgumentError(
                f"counters for {self.min_users} and {other.min_users} users cannot be merged"
            )
        self._counts.update(other._counts)
        self._enough |= other._enough
        for word in other._enough:
            self._users.pop(word, None)
        for word, digests in other._users.items():
            self._note((word,), digests)

    def vocabulary(self, size: int = 50_000, min_users: int | None = None) -> Vocabulary:
        """Return the ``size`` most frequent words that enough users wrote.

        Words of the same count are in the order of their code points. The special tokens come on
        top of ``size``. ``min_users`` may be lower than the counter's own, not higher.

        Raises ArgumentError for a number out of range, VocabularyError if no word is left.
        """
        needed = self.min_users if min_users is None else min_users
        if size < 1:
            raise ArgumentError(f"size is {size}, it must be at least 1")
        if not 1 <= needed <= self.min_users:
            raise ArgumentError(
                f"min_users is {needed}, this counter can tell from 1 to {self.min_users}"
            )
        words = [
            (-count, word)
            for word, count in self._counts.items()
            if (word in self._enough or len(self._users.get(word, ())) >= needed)
            and _admissible(word)
        ]
        if not words:
            raise VocabularyError(
                f"no word was written by at least {needed} different users: give the mail of more "
                "users, or `--min-users 1` if nobody but its one user will ever see the vocabulary"
                if needed > 1
                else "the mail holds no words: check that the source and its users are right"
            )
        words.sort()
        return Vocabulary.from_words(word for _, word in words[:size])

    def _note(self, words: Iterable[str], digests: tuple[int, ...]) -> None:
        """Note that the users with these digests wrote the words."""
        enough, users, needed = self._enough, self._users, self.min_users
        for word in words:
            if word in enough:
                continue
            known = users.get(word, ())
            new = known + tuple(digest for digest in digests if digest not in known)
            if len(new) >= needed:
                enough.add(word)
                users.pop(word, None)
            elif new != known:
                users[word] = new


def build_vocabulary(
    texts: Iterable[tuple[str, Iterable[str]]], *, size: int = 50_000, min_users: int = 2
) -> Vocabulary:
    """Build a vocabulary from pairs of a user and tokens of that user's, in any order and portions.

    Raises as ``WordCounter.vocabulary``.
    """
    counter = WordCounter(min_users)
    for user, tokens in texts:
        counter.add(user, tokens)
    return counter.vocabulary(size)


def _admissible(word: str) -> bool:
    return (
        len(word) <= _LONGEST
        and word not in _NOT_WORDS
        and _LONG_NUMBER.search(word) is None
        and not looks_secret(word)
    )
