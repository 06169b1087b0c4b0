"""Counts to the payload of a blob and back, in Python: the twin of the kernel's codec.

FORMAT.md specifies every step; this file follows its sections in order. It is for platforms that
the kernel was not built for: some hundred times slower, and the same bytes. Headers, sections and
checksums are ``perslm.blob``'s, coders and what they learn ``perslm._coders``'s.

One walk over the counts both writes and reads, as in the kernel: the coder is either a
:class:`Reader`, that tells, or a :class:`Writer`, that is told. Bits lie on a stack, so what is
read first must be written last: the writer notes all steps and pushes them in reverse.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict

import numpy as np

from perslm._coders import BadPayloadError, Models, Number, Reader, Urn, Writer, half_octave
from perslm.counts import BINS, MAX_ORDER, Counts, Level, Specials

_LARGEST = (1 << 31) - 1
_NGRAMS_PER_BYTE, _FREE_NGRAMS, _MOST_NGRAMS = 256, 1024, 1 << 24
_FEW_COLUMNS = 32
_FEW_MEMBERS = 16
_NONE = -1


def encode(counts: Counts) -> bytes:
    """Return the payload of ``counts``; raises ValueError if no sequences have them."""
    _check(counts)
    sizes = [len(level) for level in counts.levels]
    _require(sum(sizes) <= _MOST_NGRAMS, "there are more than 2^24 n-grams")
    writer = Writer()
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
    reader = Reader(payload[at:])
    trie = _Trie(specials, sizes, pruned)
    _Walk(reader, trie).run()
    reader.end(_least_words(sum(sizes)))
    return trie.counts()


def _least_words(ngrams: int) -> int:
    size = -(-max(ngrams - _FREE_NGRAMS, 0) // _NGRAMS_PER_BYTE)
    return max(-(-(size - 8) // 4), 0)


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

    def __init__(self, coder: Reader | Writer, trie: _Trie) -> None:
        self._coder = coder
        self._trie = trie
        self._bos = _NONE  # entries of level 1, or none
        self._eos = _NONE

    def run(self) -> None:
        if self._trie.pruned:
            if self._trie.cut[0][0]:
                self._coder.fail("words themselves were cut")
            model = Number()
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
        gap_models: defaultdict[int, Number] = defaultdict(Number)
        count_models: defaultdict[int, Number] = defaultdict(Number)
        gaps, counts, least, events = 128, 64, 0, 0
        known = [
            (w, c) for w, c in zip(trie.words, trie.count[0], strict=True) if w != specials.bos
        ]
        if not coder.reads and sum(trie.count[0]) != sum(c for _, c in known):
            coder.fail("<s> is counted as an event")
        found: list[tuple[int, int]] = []
        for i in range(n - opens):
            word, count = (0, 0) if coder.reads else known[i]
            gap = coder.number(gap_models[min(half_octave(gaps), 63)], word - least, _LARGEST)
            word = least + gap
            if word >= specials.size:
                coder.fail("rule 8: a word is not in the vocabulary")
            if word == specials.bos:
                coder.fail("rule 9: <s> is counted as an event")
            count = 1 + coder.number(count_models[half_octave(counts)], count - 1, _LARGEST - 1)
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
            Urn(trie.count[below][a:b], a)
            for a, b in zip(trie.begin[below], trie.begin[below][1:], strict=False)
        ]
        models = Models()
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
        models: Models,
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

    def _row(self, models: Models, order: int, urn: Urn, events: int, row: list[int]) -> None:
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
        self, models: Models, urn: Urn, members: int, told: list[int], empties: bool
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
        self, models: Models, urn: Urn, low: int, bits: int, told: list[int], members: int
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
