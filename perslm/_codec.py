"""Counts to the payload of a blob and back, in Python: the twin of the kernel's codec.

FORMAT.md specifies every step; this file follows its sections in order. It is for platforms that
the kernel was not built for: some hundred times slower, and the same bytes. Headers, sections and
checksums are ``perslm.blob``'s.

One walk over the counts both writes and reads, as in the kernel: the coder is either a
:class:`_Reader`, that tells, or a :class:`_Writer`, that is told. Bits lie on a stack, so what is
read first must be written last: the writer notes all steps and pushes them in reverse.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from typing import NamedTuple, NoReturn

import numpy as np

from perslm.counts import BINS, MAX_ORDER, Counts, Level, Specials

_LARGEST = (1 << 31) - 1
_NGRAMS_PER_BYTE, _FREE_NGRAMS, _MOST_NGRAMS = 256, 1024, 1 << 24
_BOTTOM = 1 << 32
_SMALL = 6
_FEW_COLUMNS = 32
_FEW_MEMBERS = 16
_NONE = -1


class BadPayloadError(ValueError):
    """A payload is none; the message names the rule of FORMAT.md that was broken."""


def encode(counts: Counts) -> bytes:
    """Return the payload of ``counts``; raises ValueError if no sequences have them."""
    _check(counts)
    sizes = [len(level) for level in counts.levels]
    _require(sum(sizes) <= _MOST_NGRAMS, "there are more than 2^24 n-grams")
    writer = _Writer()
    trie = _Trie.of(counts)
    _Walk(writer, trie).run()
    return b"".join(map(_varint, sizes)) + writer.stack(_least_words(sum(sizes)))


def _check(counts: Counts) -> None:
    """Refuse what is no trie of counts; the kernel does so when it takes them over."""
    _require(1 <= counts.order <= MAX_ORDER, "the order is not 1 to 5")
    below = Level(*(np.zeros(1, np.uint32),) * 3, np.zeros(1, np.int64))
    specials = counts.specials
    for order, level in enumerate(counts.levels, start=1):
        context, word, suffix, count = level.context, level.word, level.suffix, level.count
        n = len(word)
        _require(all(a.shape == (n,) for a in (context, suffix, count)), "arrays differ in length")
        inside = (context < len(below)).all() and (suffix < len(below)).all()
        _require(inside, "a context or suffix is not in the level below")
        keys = level.keys()
        _require((keys[:-1] < keys[1:]).all(), "n-grams are not ascending")
        is_bos = word == specials.bos
        _require(((count == 0) == is_bos).all() and not (count < 0).any(), "a count is not above 0")
        _require((is_bos | (word < specials.size)).all(), "a word is outside the vocabulary")
        if order > 1:
            _require(not is_bos.any(), "<s> follows a word")
            _require((below.word[context] != specials.eos).all(), "</s> is followed")
            ends = below.word[suffix] == word
            begins = below.context[suffix] == below.suffix[context]
            _require((ends & begins).all(), "a suffix is not the n-gram without its oldest word")
        else:
            _require(not suffix.any(), "a word has a suffix")
        below = level
    if counts.cut is None or counts.whole is None:
        neither = counts.cut is None and counts.whole is None
        _require(neither, "pruned counts have both cut and whole")
        return
    contexts = [1, *(len(level) for level in counts.levels[:-1])]
    _require([len(masses) for masses in counts.cut] == contexts, "cut has not one per context")
    _require(counts.whole.shape == (counts.order, BINS + 1), "whole is not int64[order, 6]")
    _require(all((a >= 0).all() for a in (*counts.cut, counts.whole)), "a count is below 0")


def _require(holds: bool | np.bool_, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def decode(payload: bytes, order: int, specials: Specials, pruned: bool) -> Counts:
    """Return the counts of a payload; raises BadPayloadError whatever else the bytes are."""
    at = 0
    sizes = []
    for _ in range(order):
        size, at = _read_varint(payload, at)
        sizes.append(size)
    room = min(_FREE_NGRAMS + _NGRAMS_PER_BYTE * (len(payload) - at), _MOST_NGRAMS)
    if sum(sizes) > room:
        raise BadPayloadError(
            "rule 13: more n-grams are announced than a payload of this length may hold"
        )
    if sizes[0] > specials.size + 1:
        raise BadPayloadError("rule 8: more words are announced than the vocabulary has")
    reader = _Reader(payload[at:])
    trie = _Trie(specials, sizes, pruned)
    _Walk(reader, trie).run()
    reader.end(_least_words(sum(sizes)))
    return trie.counts()


def _least_words(ngrams: int) -> int:
    size = -(-max(ngrams - _FREE_NGRAMS, 0) // _NGRAMS_PER_BYTE)
    return max(-(-(size - 8) // 4), 0)


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


class _Number:
    """The bits of numbers that are drawn from one distribution."""

    __slots__ = ("high", "longer", "more")

    def __init__(self) -> None:
        self.more = [_Bit() for _ in range(_SMALL)]
        self.longer: defaultdict[int, _Bit] = defaultdict(_Bit)
        self.high: defaultdict[int, _Bit] = defaultdict(_Bit)


def _half_octave(x: int) -> int:
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


class _Urn:
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


class _Models:
    """The models of the numbers of one order above 1."""

    def __init__(self) -> None:
        self.opening = _Number()
        self.cut = _Number()
        self._others: defaultdict[tuple[str, int, int], _Number] = defaultdict(_Number)

    def missing(self, seen: int) -> _Number:
        return self._others["missing", _half_octave(seen), 0]

    def ending(self, missing: int) -> _Number:
        return self._others["ending", _half_octave(missing), 0]

    def left(self, members: int) -> _Number:
        return self._others["left", _half_octave(members), 0]

    def distinct(self, events: int, columns: int) -> _Number:
        row = events if events < 16 else min(_half_octave(events) + 7, 47)
        return self._others["distinct", row, min(_half_octave(columns) - 3, 7)]

    def extra(self, extra: int, members: int, most: int) -> _Number:
        mean = min(_half_octave(extra * 4 // members), 15)
        return self._others["extra", mean, min(_half_octave(most), 15)]


class _Reader:
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

    def number(self, model: _Number, value: int, most: int) -> int:
        value = 0
        while value < _SMALL and self._bit(model.more[value]):
            value += 1
        if value == _SMALL:
            value += self._large(model)
        if value > most:
            self.fail("rule 7: a number is larger than it can be")
        return value

    def draw(self, urn: _Urn, members: list[int], count: int) -> list[int]:
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

    def slots(self, urn: _Urn, low: int, bits: int, places: list[int], count: int) -> list[int]:
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

    def _large(self, model: _Number) -> int:
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


class _Writer:
    """Notes what a reader will take, and pushes it from the last to the first."""

    reads = False

    def __init__(self) -> None:
        self._notes: list[_Share | _Set] = []

    def fail(self, why: str) -> NoReturn:
        raise ValueError(why)

    def flag(self, value: bool) -> bool:
        self._notes.append(_share_of(value, value + 1, 2))
        return value

    def number(self, model: _Number, value: int, most: int) -> int:
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

    def draw(self, urn: _Urn, members: list[int], count: int) -> list[int]:
        shares = [_Share(sum(urn.tokens[:i]), urn.tokens[i], 0) for i in members]
        self._notes.append(_Set(shares, urn.total))
        return members

    def slots(self, urn: _Urn, low: int, bits: int, places: list[int], count: int) -> list[int]:
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


class _Trie:
    """Counts in lists, rows by context: what the walk reads or fills."""

    def __init__(self, specials: Specials, sizes: list[int], pruned: bool) -> None:
        self.specials = specials
        self.sizes = sizes
        self.pruned = pruned
        self.words: list[int] = []
        self.begin: list[list[int]] = [[0, sizes[0]], *([0] for _ in sizes[1:])]
        self.suffix: list[list[int]] = [[] for _ in sizes]
        self.label: list[list[int]] = [[] for _ in sizes]
        self.count: list[list[int]] = [[] for _ in sizes]
        self.cut = [[0] * n for n in [1, *sizes[:-1]]] if pruned else []
        self.whole = [[0] * (BINS + 1) for _ in sizes] if pruned else []

    @classmethod
    def of(cls, counts: Counts) -> _Trie:
        trie = cls(counts.specials, [len(level) for level in counts.levels], False)
        trie.words = counts.levels[0].word.tolist()
        index = {word: i for i, word in enumerate(trie.words)}
        contexts = 1
        for k, level in enumerate(counts.levels):
            successors = np.bincount(level.context, minlength=contexts)
            trie.begin[k] = [0, *np.cumsum(successors).tolist()]
            trie.suffix[k] = level.suffix.tolist()
            trie.label[k] = [index[word] for word in level.word.tolist()]
            trie.count[k] = level.count.tolist()
            contexts = len(level)
        if counts.cut is not None:
            trie.pruned = True
            trie.cut = [masses.tolist() for masses in counts.cut]
            trie.whole = counts.count_of_counts().tolist()
        return trie

    def counts(self) -> Counts:
        word = np.array(self.words, np.uint32)
        levels = tuple(
            Level(
                np.repeat(np.arange(len(begin) - 1, dtype=np.uint32), np.diff(begin)),
                word[np.array(label, np.int64)],
                np.array(suffix, np.uint32),
                np.array(count, np.int64),
            )
            for begin, label, suffix, count in zip(
                self.begin, self.label, self.suffix, self.count, strict=True
            )
        )
        if not self.pruned:
            return Counts(self.specials, levels)
        cut = tuple(np.array(masses, np.int64) for masses in self.cut)
        return Counts(self.specials, levels, cut, np.array(self.whole, np.int64))


class _Walk:
    """Goes through the counts of all orders in the order of FORMAT.md."""

    def __init__(self, coder: _Reader | _Writer, trie: _Trie) -> None:
        self._coder = coder
        self._trie = trie
        self._bos = _NONE  # entries of level 1, or none
        self._eos = _NONE

    def run(self) -> None:
        if self._trie.pruned:
            if self._trie.cut[0][0]:
                self._coder.fail("words themselves were cut")
            model = _Number()
            for row in self._trie.whole:
                row[:] = [self._coder.number(model, n, _LARGEST) for n in row]
        self._words()
        for order in range(2, len(self._trie.sizes) + 1):
            self._order(order)

    def _words(self) -> None:
        coder, trie = self._coder, self._trie
        specials, n = trie.specials, trie.sizes[0]
        opens = coder.flag(specials.bos in trie.words)
        if opens and n == 0:
            coder.fail("rule 9: <s> is announced, but nothing is there")
        gap_models: defaultdict[int, _Number] = defaultdict(_Number)
        count_models: defaultdict[int, _Number] = defaultdict(_Number)
        gaps, counts, least, events = 128, 64, 0, 0
        known = [
            (w, c) for w, c in zip(trie.words, trie.count[0], strict=True) if w != specials.bos
        ]
        if not coder.reads and sum(trie.count[0]) != sum(c for _, c in known):
            coder.fail("<s> is counted as an event")
        found: list[tuple[int, int]] = []
        for i in range(n - opens):
            word, count = (0, 0) if coder.reads else known[i]
            gap = coder.number(gap_models[min(_half_octave(gaps), 63)], word - least, _LARGEST)
            word = least + gap
            if word >= specials.size:
                coder.fail("rule 8: a word is not in the vocabulary")
            if word == specials.bos:
                coder.fail("rule 9: <s> is counted as an event")
            count = 1 + coder.number(count_models[_half_octave(counts)], count - 1, _LARGEST - 1)
            found.append((word, count))
            gaps += gap - (gaps >> 4)
            counts += min(count, 64) - (counts >> 4)
            least = word + 1
            events += count
        if events > _LARGEST:
            coder.fail("rule 7: there are 2^31 events or more")
        if opens:
            insort(found, (specials.bos, 0))
        if opens and not trie.pruned and len(trie.sizes) == 1:
            coder.fail("rule 9: <s> begins nothing")
        trie.words = [word for word, _ in found]
        trie.label[0] = list(range(n))
        trie.suffix[0] = [0] * n
        trie.count[0] = [count for _, count in found]
        if opens:
            self._bos = trie.words.index(specials.bos)
        if specials.eos in trie.words:
            self._eos = trie.words.index(specials.eos)

    def _order(self, order: int) -> None:
        coder, trie = self._coder, self._trie
        k, below = order - 1, order - 2
        begin = trie.begin[k]
        urns = [
            _Urn(trie.count[below][a:b], a)
            for a, b in zip(trie.begin[below], trie.begin[below][1:], strict=False)
        ]
        models = _Models()
        some_missing = coder.flag(not coder.reads and self._any_missing(order))
        missing = 0
        for context in range(trie.sizes[below]):
            seen = trie.count[below][context]
            is_bos = order == 2 and context == self._bos
            row: list[int] = []
            if not coder.reads:
                row = list(range(begin[context], begin[context + 1]))
            if trie.label[below][context] != self._eos:
                events = sum(trie.count[k][i] for i in row)
                events = self._events(models, order, context, is_bos, some_missing, events)
                missing += 0 if is_bos else seen - events
                if events:
                    urn = urns[trie.suffix[below][context]]
                    self._row(models, order, urn, events, row)
            elif row or (trie.pruned and trie.cut[k][context]):
                coder.fail("something follows </s>")
            if coder.reads:
                begin.append(len(trie.suffix[k]))
        if len(trie.suffix[k]) != trie.sizes[k]:
            coder.fail("rule 12: there are fewer n-grams than announced")
        if some_missing != bool(missing):
            coder.fail("rule 10: events are missing, or not, otherwise than announced")

    def _any_missing(self, order: int) -> bool:
        trie, k, below = self._trie, order - 1, order - 2
        return any(
            sum(trie.count[k][a:b]) != trie.count[below][i]
            for i, (a, b) in enumerate(zip(trie.begin[k], trie.begin[k][1:], strict=False))
            if trie.label[below][i] != self._eos and not (order == 2 and i == self._bos)
        )

    def _events(
        self,
        models: _Models,
        order: int,
        context: int,
        is_bos: bool,
        some_missing: bool,
        events: int,
    ) -> int:
        """Return how many events follow a context; if counts are pruned, see what was cut."""
        coder, trie = self._coder, self._trie
        seen = trie.count[order - 2][context]
        missing = 0
        if is_bos:
            events = coder.number(models.opening, events, _LARGEST)
            if events == 0 and not trie.pruned:
                coder.fail("rule 9: <s> begins nothing")
        else:
            if events > seen:
                coder.fail("more follows a context than was seen of it")
            if some_missing:
                missing = coder.number(models.missing(seen), seen - events, seen)
            events = seen - missing
        if trie.pruned:
            cut = trie.cut[order - 1]
            if is_bos:
                cut[context] = coder.number(models.cut, cut[context], _LARGEST - events)
            elif cut[context] > missing:
                coder.fail("more was cut after a context than was seen of it")
            elif missing:
                ending = coder.number(models.ending(missing), missing - cut[context], missing)
                cut[context] = missing - ending
        return events

    def _row(self, models: _Models, order: int, urn: _Urn, events: int, row: list[int]) -> None:
        """The successors of one context: which columns of the urn, and how many tokens of each."""
        coder, trie = self._coder, self._trie
        k = order - 1
        if events > urn.total:
            coder.fail("rule 11: an urn holds fewer tokens than are drawn from it")
        members = urn.nonzero
        if events < urn.total:
            most = members = min(events, urn.nonzero)
            if most > 1:
                model = models.distinct(events, urn.nonzero)
                members -= coder.number(model, most - len(row), most - 1)
        if not coder.reads and members != len(row):
            coder.fail("more follows a context than its urn holds")
        chosen = self._choose(
            models, urn, members, [trie.suffix[k][i] - urn.first for i in row], events == urn.total
        )
        if len(trie.suffix[k]) + len(chosen) > trie.sizes[k] and coder.reads:
            coder.fail("rule 12: there are more n-grams than announced")
        room = sum(urn.tokens[column] - 1 for column in chosen)
        extra = events - members
        if extra > room:
            coder.fail("rule 11: an urn holds fewer tokens than are drawn from it")
        for i, column in enumerate(chosen):
            most = urn.tokens[column] - 1
            own = 0
            if extra == room:
                own = most
            elif extra and most:
                left = members - i
                own = extra
                if left > 1:
                    told = 0 if coder.reads else trie.count[k][row[i]] - 1
                    model = models.extra(extra, left, most)
                    own = coder.number(model, told, min(extra, most))
            room -= most
            extra -= own
            if extra > room:
                coder.fail("rule 7: a count is smaller than it can be")
            if coder.reads:
                trie.suffix[k].append(urn.first + column)
                trie.label[k].append(trie.label[k - 1][urn.first + column])
                trie.count[k].append(own + 1)
            elif trie.count[k][row[i]] != own + 1:
                coder.fail("the counts of a context do not add up")
            urn.take(column, own + 1)

    def _choose(
        self, models: _Models, urn: _Urn, members: int, told: list[int], empties: bool
    ) -> list[int]:
        """Return the columns of a row in ascending order."""
        coder = self._coder
        if any(not 0 <= i < len(urn.tokens) or not urn.tokens[i] for i in told):
            coder.fail("the suffix of an n-gram is missing or seen less often")
        few = len(urn.tokens) <= _FEW_COLUMNS
        if empties or (few and members == urn.nonzero):
            return [column for column, tokens in enumerate(urn.tokens) if tokens]
        if few:
            return coder.draw(urn, told, members)
        table = urn.table
        places = [bisect_left(table.columns, column) for column in told]
        places = self._bisect(models, urn, 0, table.bits, places, members)
        return [table.columns[place] for place in places]

    def _bisect(
        self, models: _Models, urn: _Urn, low: int, bits: int, told: list[int], members: int
    ) -> list[int]:
        """Return the members among slots low to low + 2^bits, as places in the urn's table."""
        if members <= _FEW_MEMBERS:
            return self._coder.slots(urn, low, bits, told, members) if members else []
        coder = self._coder
        if bits == 0:
            coder.fail("rule 11: more columns are drawn than there are")
        middle = low + (1 << (bits - 1))
        split = bisect_left(told, middle, key=urn.table.starts.__getitem__)
        half = members // 2
        told_code = 2 * (split - half) if split >= half else 2 * (half - split) - 1
        code = coder.number(models.left(members), told_code, 2 * members)
        left = half - (code + 1) // 2 if code % 2 else half + code // 2
        if not 0 <= left <= members:
            coder.fail("rule 11: more columns are drawn than there are")
        return [
            *self._bisect(models, urn, low, bits - 1, told[:split], left),
            *self._bisect(models, urn, middle, bits - 1, told[split:], members - left),
        ]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if at == len(data):
            raise BadPayloadError("rule 12: the payload ends too early")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if byte == 0 and shift:
                raise BadPayloadError("rule 7: a number is longer than it needs to be")
            if value > _LARGEST:
                break
            return value, at
    raise BadPayloadError("rule 7: a number has more than 31 bits")
