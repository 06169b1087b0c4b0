"""The two coders of the codec's walk, and the models that both learn: the twins of the kernel's.

A :class:`Reader` takes numbers and members of sets from a payload; a :class:`Writer` is told them.
FORMAT.md specifies every step. What is coded in which order is ``perslm._codec``'s.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from typing import NamedTuple, NoReturn

import numpy as np

_BOTTOM = 1 << 32
_SMALL = 6


class BadPayloadError(ValueError):
    """A payload is none; the message names the rule of FORMAT.md that was broken."""


class _Share(NamedTuple):
    """Slots ``start`` to ``start + size`` of 2^bits."""

    start: int
    size: int
    bits: int


def _precision(total: int) -> int:
    return 24 if total <= 1 << 22 else 32


def _share_of(begin: int, end: int, total: int) -> _Share:
    bits = _precision(total)
    first = -(-(begin << bits) // total)
    return _Share(first, -(-(end << bits) // total) - first, bits)


class _Stack:
    """A state above words of 32 bits; below the last lie zeros without number."""

    def __init__(self, words: list[int], state: int, *, borrows: bool) -> None:
        self.words = words
        self.state = state
        self.lowest = len(words)
        self._borrows = borrows

    def peek(self, bits: int) -> int:
        return self.state & ((1 << bits) - 1)

    def drop(self, share: _Share) -> None:
        self.state = share.size * (self.state >> share.bits) + self.peek(share.bits) - share.start
        if self.state < _BOTTOM:
            self.state = self.state << 32 | self._pop()

    def push(self, share: _Share) -> None:
        if share.size >> share.bits:
            return
        if self.state >= share.size << (64 - share.bits):
            self.words.append(self.state & 0xFFFFFFFF)
            self.state >>= 32
        whole, rest = divmod(self.state, share.size)
        self.state = (whole << share.bits) + share.start + rest

    def take_uniform(self, total: int) -> int:
        bits = _precision(total)
        value = self.peek(bits) * total >> bits
        self.drop(_share_of(value, value + 1, total))
        return value

    def _pop(self) -> int:
        if not self.words:
            if not self._borrows:
                raise BadPayloadError("rule 12: the payload ends too early")
            return 0
        word = self.words.pop()
        self.lowest = min(self.lowest, len(self.words))
        return word


class _Bit:
    """The probability of a 1, in 65536ths, learned from the bits so far."""

    __slots__ = ("one", "seen")

    def __init__(self) -> None:
        self.one = 32768
        self.seen = 0

    def share(self, bit: int) -> _Share:
        return _Share(0, self.one, 16) if bit else _Share(self.one, 65536 - self.one, 16)

    def learn(self, bit: int) -> None:
        rate = 65536 // (self.seen + 2)
        if bit:
            self.one += (65536 - self.one) * rate >> 16
        else:
            self.one -= self.one * rate >> 16
        self.one = min(max(self.one, 32), 65504)
        self.seen = min(self.seen + 1, 254)


class Number:
    """The bits of numbers that are drawn from one distribution."""

    __slots__ = ("high", "longer", "more")

    def __init__(self) -> None:
        self.more = [_Bit() for _ in range(_SMALL)]
        self.longer: defaultdict[int, _Bit] = defaultdict(_Bit)
        self.high: defaultdict[int, _Bit] = defaultdict(_Bit)


def half_octave(x: int) -> int:
    if x == 0:
        return 0
    octave = x.bit_length() - 1
    return 1 + 2 * octave + (x >> (octave - 1) & 1 if octave else 0)


class _Table:
    """Who holds which of 2^bits slots, in proportion to the tokens when it was made."""

    def __init__(self, tokens: list[int]) -> None:
        self.total = sum(tokens)
        self.bits = (self.total - 1).bit_length()
        scale = (1 << (self.bits + 32)) // self.total
        self.columns = [i for i, n in enumerate(tokens) if n]
        self.starts: list[int] = []
        before = 0
        for column in self.columns:
            self.starts.append(before * scale >> 32)
            before += tokens[column]
        self.starts.append(1 << self.bits)


class Urn:
    """The columns below one context: the tokens that each still holds."""

    def __init__(self, tokens: list[int], first: int) -> None:
        self.tokens = tokens
        self.first = first
        self.total = sum(tokens)
        self.nonzero = sum(map(bool, tokens))
        self._table: _Table | None = None

    def take(self, column: int, count: int) -> None:
        self.tokens[column] -= count
        self.total -= count
        self.nonzero -= self.tokens[column] == 0

    @property
    def table(self) -> _Table:
        if self._table is None or self.total <= self._table.total // 4:
            self._table = _Table(self.tokens)
        return self._table


class Models:
    """The models of the numbers of one order above 1."""

    def __init__(self) -> None:
        self.opening = Number()
        self.cut = Number()
        self._others: defaultdict[tuple[str, int, int], Number] = defaultdict(Number)

    def missing(self, seen: int) -> Number:
        return self._others["missing", half_octave(seen), 0]

    def ending(self, missing: int) -> Number:
        return self._others["ending", half_octave(missing), 0]

    def left(self, members: int) -> Number:
        return self._others["left", half_octave(members), 0]

    def distinct(self, events: int, columns: int) -> Number:
        row = events if events < 16 else min(half_octave(events) + 7, 47)
        return self._others["distinct", row, min(half_octave(columns) - 3, 7)]

    def extra(self, extra: int, members: int, most: int) -> Number:
        mean = min(half_octave(extra * 4 // members), 15)
        return self._others["extra", mean, min(half_octave(most), 15)]


class Reader:
    """Takes what a writer wrote off the stack."""

    reads = True

    def __init__(self, data: bytes) -> None:
        if len(data) < 8 or len(data) % 4:
            raise BadPayloadError("rule 12: the stack is no sequence of words")
        state = int.from_bytes(data[:8], "little")
        if state < _BOTTOM:
            raise BadPayloadError("rule 12: the state of the stack is out of range")
        words = np.frombuffer(data, "<u4", offset=8)[::-1].tolist()
        self._stack = _Stack(words, state, borrows=False)
        self._words = len(words)

    def fail(self, why: str) -> NoReturn:
        raise BadPayloadError(why)

    def flag(self, value: bool) -> bool:
        return self._stack.take_uniform(2) == 1

    def number(self, model: Number, value: int, most: int) -> int:
        value = 0
        while value < _SMALL and self._bit(model.more[value]):
            value += 1
        if value == _SMALL:
            value += self._large(model)
        if value > most:
            self.fail("rule 7: a number is larger than it can be")
        return value

    def draw(self, urn: Urn, members: list[int], count: int) -> list[int]:
        total = urn.total
        members = []
        for _ in range(count):
            bits = _precision(total)
            rest = self._stack.peek(bits) * total >> bits
            before = 0
            for column, tokens in enumerate(urn.tokens):
                if column in members:
                    continue
                if rest < before + tokens:
                    break
                before += tokens
            self._stack.drop(_share_of(before, before + tokens, total))
            self._order(members, column)
            total -= tokens
        return members

    def slots(self, urn: Urn, low: int, bits: int, places: list[int], count: int) -> list[int]:
        table = urn.table
        places = []
        for _ in range(count):
            place = bisect_right(table.starts, low + self._stack.peek(bits)) - 1
            start = table.starts[place]
            if start < low:
                self.fail("rule 11: a column is drawn that begins elsewhere")
            end = min(table.starts[place + 1], low + (1 << bits))
            self._stack.drop(_Share(start - low, end - start, bits))
            if urn.tokens[table.columns[place]] == 0:
                self.fail("rule 11: a column is drawn twice, or is empty")
            if place in places:
                self.fail("rule 11: a column is drawn twice, or is empty")
            self._order(places, place)
        return places

    def end(self, least_words: int) -> None:
        stack = self._stack
        read = stack.lowest == 0 or self._words == least_words
        if stack.state != _BOTTOM or any(stack.words) or not read:
            self.fail("rule 12: the payload goes on after its end, or was cut or changed")

    def _order(self, members: list[int], member: int) -> None:
        """Add a member, and give back the bits that its place in the order took."""
        insort(members, member)
        if len(members) > 1:
            rank = members.index(member)
            self._stack.push(_share_of(rank, rank + 1, len(members)))

    def _bit(self, model: _Bit) -> bool:
        bit = self._stack.peek(16) < model.one
        self._stack.drop(model.share(bit))
        model.learn(bit)
        return bit

    def _large(self, model: Number) -> int:
        length = 0
        while length < 31 and self._bit(model.longer[length]):
            length += 1
        value = 1
        if length > 0:
            value = 2 + self._bit(model.high[length])
        if length > 1:
            low = self._stack.peek(length - 1)
            self._stack.drop(_Share(low, 1, length - 1))
            value = value << (length - 1) | low
        return value - 1


class _Set(NamedTuple):
    """Members of a row in ascending order: shares of slots, or, if total > 0, tokens of it."""

    members: list[_Share]
    total: int


class Writer:
    """Notes what a reader will take, and pushes it from the last to the first."""

    reads = False

    def __init__(self) -> None:
        self._notes: list[_Share | _Set] = []

    def fail(self, why: str) -> NoReturn:
        raise ValueError(why)

    def flag(self, value: bool) -> bool:
        self._notes.append(_share_of(value, value + 1, 2))
        return value

    def number(self, model: Number, value: int, most: int) -> int:
        if value > most:
            self.fail("a count is larger than it can be")
        for i in range(_SMALL):
            self._bit(model.more[i], value > i)
            if value == i:
                return value
        rest = value - _SMALL + 1
        length = rest.bit_length() - 1
        for i in range(length):
            self._bit(model.longer[i], True)
        if length < 31:
            self._bit(model.longer[length], False)
        if length > 0:
            self._bit(model.high[length], bool(rest >> (length - 1) & 1))
        if length > 1:
            self._notes.append(_Share(rest & ((1 << (length - 1)) - 1), 1, length - 1))
        return value

    def draw(self, urn: Urn, members: list[int], count: int) -> list[int]:
        shares = [_Share(sum(urn.tokens[:i]), urn.tokens[i], 0) for i in members]
        self._notes.append(_Set(shares, urn.total))
        return members

    def slots(self, urn: Urn, low: int, bits: int, places: list[int], count: int) -> list[int]:
        starts = urn.table.starts
        high = low + (1 << bits)
        shares = [
            _Share(starts[i] - low, min(starts[i + 1], high) - starts[i], bits) for i in places
        ]
        self._notes.append(_Set(shares, 0))
        return places

    def stack(self, least_words: int) -> bytes:
        stack = _Stack([], _BOTTOM, borrows=True)
        for note in reversed(self._notes):
            if isinstance(note, _Share):
                stack.push(note)
            else:
                self._push(stack, note)
        words = np.array(stack.words[::-1], "<u4").tobytes()
        return (stack.state.to_bytes(8, "little") + words).ljust(8 + 4 * least_words, b"\0")

    def _bit(self, model: _Bit, bit: bool) -> None:
        self._notes.append(model.share(bit))
        model.learn(bit)

    def _push(self, stack: _Stack, note: _Set) -> None:
        """Undraw: the order that the reader drew them in is read off the stack, backwards."""
        left = list(note.members)
        while left:
            rank = stack.take_uniform(len(left)) if len(left) > 1 else 0
            share = left.pop(rank)
            if note.total:  # whatever is left had been taken out before
                before = share.start - sum(other.size for other in left[:rank])
                total = note.total - sum(other.size for other in left)
                share = _share_of(before, before + share.size, total)
            stack.push(share)
