"""What of a user's messages may be learned at all: no boilerplate, no outlier, nothing blocked.

Cleaning looks at one message; this looks at all that a user wrote, as ids, and leaves out

* *boilerplate*: passages of PASSAGE tokens or more that stand word for word in OFTEN messages or
  more, and in SHARE of all from the first of these to the last. That is a slogan or a footer that
  cleaning does not know; what a person says often is said in far fewer;
* of each message, what comes after MOST_TOKENS tokens, and what makes an n-gram above order 1
  that the message has MOST_REPEATS times already: so none outweighs the others;
* phrases that are blocked (``perslm.rules``).

What is left out ends a sequence without ``</s>`` and begins another without ``<s>``, as an entity
does in ``perslm.vocabulary``: no n-gram bridges it. All functions are pure, and go by the set of
messages in time order, which ``builders.build`` makes.

:func:`in_messages` says in how many messages each n-gram stands, for the rule that one message
alone teaches no n-gram above order 1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from builders.prepare import Prepared
from perslm.counts import Counts, Int64Array, pair_keys
from perslm.rules import Ids, Matcher
from perslm.vocabulary import Sequence as TokenSequence

VERSION = 1
"""Of what these rules leave out; part of every source digest."""

PASSAGE = 8
OFTEN = 10
SHARE = 0.5
MOST_TOKENS = 2000
MOST_REPEATS = 20

_END = (1 << 32) - 1  # no token

Text: TypeAlias = tuple[TokenSequence, ...]
Mask: TypeAlias = npt.NDArray[np.bool_]


def learnable(messages: Sequence[Prepared], blocked: Collection[Ids] = ()) -> list[Text]:
    """Return what may be learned of each message; ``messages`` are in time order, without copies.

    ``blocked`` are sequences of ids. Linear in the tokens but for sorting them.
    """
    texts = [message.sequences for message in messages]
    flat = _Flat(texts)
    texts = flat.without(texts, flat.boilerplate() | flat.excess())
    if not blocked:
        return texts
    matcher = Matcher(blocked)
    return [
        tuple(piece for sequence in text for piece in matcher.without(sequence)) for text in texts
    ]


def in_messages(counts: Counts, texts: Sequence[Text]) -> list[Int64Array]:
    """Return in how many messages each n-gram above order 1 stands, int64[n] by level.

    ``counts`` are those of all sequences of ``texts``. Words (level 0) have no entry of use: 0.
    """
    bos, eos = counts.specials.bos, counts.specials.eos
    flat: list[int] = []
    ends: list[int] = []  # of the sequence that each token is in
    of_message: list[int] = []
    for number, text in enumerate(texts):
        before = len(flat)
        for sequence in text:
            start = len(flat)
            if sequence.opens:
                flat.append(bos)
            flat += sequence.ids
            if sequence.closes:
                flat.append(eos)
            ends += [len(flat)] * (len(flat) - start)
        of_message += [number] * (len(flat) - before)
    tokens, message = np.array(flat, np.uint32), np.array(of_message, np.int64)
    room = np.array(ends, np.int64) - np.arange(len(flat))
    at = np.zeros(len(flat), np.int64)  # index of the k-gram that starts at each position
    result = [np.zeros(len(counts.levels[0]), np.int64)]
    for k, level in enumerate(counts.levels):
        starts = np.flatnonzero(room > k)
        at[starts] = np.searchsorted(level.keys(), pair_keys(at[starts], tokens[starts + k]))
        if k:
            once = np.unique(at[starts] * len(texts) + message[starts])
            result.append(np.bincount(once // max(len(texts), 1), minlength=len(level)))
    return result


class _Flat:
    """The tokens of all messages in one array, without ``<s>`` and ``</s>``."""

    def __init__(self, texts: Iterable[Text]) -> None:
        tokens: list[int] = []
        ends = [0]
        begins: list[int] = []
        for text in texts:
            for sequence in text:
                begins.append(len(tokens))
                tokens += sequence.ids
            ends.append(len(tokens))
        self.begins = np.array(begins, np.int64)
        self.tokens = np.array(tokens, np.int64)
        self.starts = np.array(ends, np.int64)
        lengths = np.diff(self.starts)
        self.message = np.repeat(np.arange(len(lengths)), lengths)
        self.place = np.arange(len(tokens)) - self.starts[self.message]
        """How many tokens of the same message stand before each."""

    def boilerplate(self) -> Mask:
        """Return which tokens stand in a passage that (nearly) every message has."""
        dropped = np.zeros(len(self.tokens), bool)
        if len(self.starts) <= OFTEN:
            return dropped
        # name every passage: of 2 tokens by those of 1, of 4 by those of 2, ... in whole messages
        room = self.starts[self.message + 1] - np.arange(len(self.tokens))
        name, length = self.tokens, 1
        starts = np.arange(len(self.tokens))
        while length < PASSAGE:
            starts = np.flatnonzero(room >= 2 * length)
            _, inverse = np.unique(
                pair_keys(name[starts], name[starts + length]), return_inverse=True
            )
            name = np.zeros(len(self.tokens), np.int64)
            name[starts] = inverse
            length *= 2
        total = len(self.starts) - 1
        once = np.unique(name[starts] * total + self.message[starts])  # a message once
        passage, message = np.divmod(once, total)
        firsts = np.flatnonzero(np.diff(passage, prepend=-1))
        lasts = np.append(firsts[1:], len(passage)) - 1
        number = lasts - firsts + 1
        span = message[lasts] - message[firsts] + 1 if len(firsts) else number
        usual = (number >= OFTEN) & (number >= SHARE * span)
        if usual.any():
            for start in starts[usual[name[starts]]].tolist():
                dropped[start : start + PASSAGE] = True
        return dropped

    def excess(self) -> Mask:
        """Return which tokens are too many of a message, or of the same pair in a message."""
        dropped = self.place >= MOST_TOKENS
        lengths = np.diff(self.starts)
        if lengths.max(initial=0) <= MOST_REPEATS:
            return dropped
        # pairs of a token and the one before it, and of the last of a sequence and its end
        before = np.zeros(len(self.tokens), np.int64)
        before[1:] = self.tokens[:-1] + 1
        before[self.begins] = 0
        lasts = np.append(self.begins[1:], len(self.tokens)) - 1
        at = np.concatenate([np.arange(len(self.tokens)), lasts])
        pairs = np.concatenate(
            [
                pair_keys(before, self.tokens),
                pair_keys(self.tokens[lasts] + 1, np.full(len(lasts), _END)),
            ]
        )
        looked_at = (lengths > MOST_REPEATS)[self.message[at]] & ~dropped[at]
        at, pairs = at[looked_at], pairs[looked_at]
        order = np.lexsort((at, pairs, self.message[at]))
        pairs, message = pairs[order], self.message[at[order]]
        first = np.ones(len(order), bool)
        first[1:] = (pairs[1:] != pairs[:-1]) | (message[1:] != message[:-1])
        rank = np.arange(len(order))
        rank -= np.maximum.accumulate(np.where(first, rank, 0))
        dropped[at[order[rank >= MOST_REPEATS]]] = True
        return dropped

    def without(self, texts: list[Text], dropped: Mask) -> list[Text]:
        """Return the messages without the tokens of a mask."""
        if not dropped.any():
            return texts
        result = list(texts)
        for number in np.unique(self.message[dropped]).tolist():
            at = int(self.starts[number])
            pieces: list[TokenSequence] = []
            for sequence in texts[number]:
                end = at + len(sequence.ids)
                pieces += _pieces(sequence, dropped[at:end])
                at = end
            result[number] = tuple(pieces)
        return result


def _pieces(sequence: TokenSequence, dropped: Mask) -> list[TokenSequence]:
    """Cut a sequence where tokens are dropped."""
    if not dropped.any():
        return [sequence]
    ids, opens, closes = sequence
    cuts = [-1, *np.flatnonzero(dropped).tolist(), len(ids)]
    return [
        TokenSequence(ids[a + 1 : b], opens and a < 0, closes and b == len(ids))
        for a, b in pairwise(cuts)
        if b - a > 1
    ]
