"""A slow, plain reader of version 1 blobs, written from FORMAT.md and nothing else.

It is the oracle for both readers of perslm, and imports nothing of them. ``read`` returns every
field and count of a blob, or raises ``RefusedError`` with the number of the rule that is broken.
``Blob.seen`` counts which branches of the specification the blob went through, so that tests can
assert that their blobs go through all of them.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right, insort
from collections import Counter, defaultdict
from dataclasses import dataclass, field

NGram = tuple[int, ...]

BRANCHES = frozenset(
    {
        "<s>: virtual",
        "bisection: even",
        "bisection: odd",
        "distinct: 16 events or more",
        "distinct: last model of columns",
        "distinct: last model of events",
        "distinct: must be 1",
        "draw: r = 32",
        "ending: neither all nor nothing",
        "gap: last model",
        "missing: flag False",
        "missing: flag True",
        "number: of 0 more bits",
        "number: of 1 more bits",
        "number: of 2 more bits",
        "number: of 2+ more bits",
        "number: small",
        "row: all that is left",
        "share: 1",
        "share: all",
        "share: last model",
        "share: number",
        "share: one column",
        "share: the last",
        "small urn: all",
        "small urn: draw",
        "stack: words appended",
        "stack: zeros put back",
        "table: column goes on beyond the slots",
        "table: draw",
        "table: made",
        "table: made anew",
        "table: used again",
        "urn: 32 columns, one of <s>",
        "urn: 33 columns, one of <s>",
        "varint: several bytes",
    }
)
"""What ``Blob.seen`` counts."""

LIMIT = 2**31
LOW, HIGH = 2**32, 2**64


class RefusedError(Exception):
    def __init__(self, rule: int, why: str) -> None:
        self.rule = rule
        super().__init__(f"rule {rule}: {why}")


def refuse_if(broken: bool, rule: int, why: str) -> None:
    if broken:
        raise RefusedError(rule, why)


@dataclass
class Blob:
    order: int
    pruned: bool
    fingerprint: str
    size: int
    bos: int
    eos: int
    messages: int
    tokens: int
    created: int
    digest: str
    counts: dict[NGram, int] = field(default_factory=dict)
    cut: dict[NGram, int] = field(default_factory=dict)  # context -> events cut, if pruned
    whole: list[list[int]] | None = None  # n_1 ... n_6 of each order, if pruned
    weights: tuple[int, int, tuple[int, ...]] | None = None  # B, M and N·B·M values
    skipped: dict[int, bytes] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)

    def ngrams(self, order: int) -> list[NGram]:
        return sorted(g for g in self.counts if len(g) == order)


def read(data: bytes) -> Blob:
    """Read a whole blob: the frame, then its sections, then the payload."""

    def integer(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little")

    refuse_if(len(data) < 80, 1, "too short")
    refuse_if(data[:4] != b"pslm", 2, "magic")
    refuse_if(data[4] != 1, 3, "version")
    end = 76 + integer(72, 4)
    refuse_if(end + 4 > len(data), 4, "payload length")
    refuse_if(integer(len(data) - 4, 4) != zlib.crc32(data[:-4]), 5, "checksum")
    blob = Blob(
        order=data[5],
        pruned=bool(data[6] & 1),
        fingerprint=data[8:24].hex(),
        size=integer(24, 4),
        bos=integer(28, 4),
        eos=integer(32, 4),
        messages=integer(36, 4),
        tokens=integer(40, 4),
        created=integer(44, 8),
        digest=data[52:68].hex(),
    )
    refuse_if(not 1 <= blob.order <= 5, 6, "order")
    refuse_if(integer(6, 2) > 1, 6, "flags")
    refuse_if(max(blob.size, blob.bos, blob.eos) >= LIMIT, 6, "2^31 or more")
    refuse_if(blob.bos == blob.eos, 6, "<s> is </s>")
    refuse_if(data[68:72] != bytes([1, 5, 0, 0]), 6, "smoothing, bins or reserved")
    read_sections(blob, data[end:-4])
    read_payload(blob, data[76:end])
    return blob


def read_sections(blob: Blob, data: bytes) -> None:
    at = last = 0
    while at < len(data):
        refuse_if(len(data) - at < 5, 15, "no room for kind and length")
        kind, length = data[at], int.from_bytes(data[at + 1 : at + 5], "little")
        content = data[at + 5 : at + 5 + length]
        refuse_if(kind <= last, 15, "kinds do not ascend")
        refuse_if(len(content) < length, 15, "cut short")
        refuse_if(kind >= 128, 16, "unknown and not to be skipped")
        if kind == 1:
            blob.weights = weight_table(blob.order, content)
        else:
            blob.skipped[kind] = content
        at, last = at + 5 + length, kind


def weight_table(order: int, content: bytes) -> tuple[int, int, tuple[int, ...]]:
    refuse_if(len(content) < 2, 17, "no dimensions")
    b, m = content[:2]
    refuse_if(not (1 <= b <= 32 and 1 <= m <= 16), 17, "dimensions")
    refuse_if(len(content) != 2 + 2 * order * b * m, 17, "size")
    pairs = zip(content[2::2], content[3::2], strict=True)
    return b, m, tuple(low + 256 * high for low, high in pairs)


class Stack:
    """The state and the words below it; the last of ``words`` is the top."""

    def __init__(self, data: bytes, ngrams: int) -> None:
        refuse_if(ngrams > min(1024 + 256 * len(data), 2**24), 13, "too many n-grams")
        refuse_if(len(data) < 8 or len(data) % 4 != 0, 12, "no whole stack")
        self.x = int.from_bytes(data[:8], "little")
        refuse_if(self.x < LOW, 12, "state")
        parts = (data[at : at + 4] for at in range(8, len(data), 4))
        self.words = [int.from_bytes(part, "little") for part in parts][::-1]
        self.untouched = len(self.words)  # from the bottom: never taken off
        needed = -(-(-(-(ngrams - 1024) // 256) - 8) // 4)  # two quotients, rounded up
        self.padded = len(self.words) == needed

    def slot(self, r: int) -> int:
        return self.x & ((1 << r) - 1)

    def take(self, start: int, size: int, r: int) -> None:
        slot = self.slot(r)
        assert start <= slot < start + size <= 1 << r
        self.x = size * (self.x >> r) + slot - start
        if self.x < LOW:
            refuse_if(not self.words, 12, "no word is left")
            self.x = (self.x << 32) | self.words.pop()
            self.untouched = min(self.untouched, len(self.words))

    def put(self, start: int, size: int, r: int) -> None:
        if size == 2**r:
            return
        if self.x >= size << (64 - r):
            self.words.append(self.x & (LOW - 1))
            self.x >>= 32
        self.x = ((self.x // size) << r) + start + self.x % size
        assert LOW <= self.x < HIGH

    def finish(self) -> int:
        """Refuse what no writer leaves; return the number of words that were only appended."""
        refuse_if(self.x != LOW, 12, "last state")
        refuse_if(any(self.words), 12, "words are left")
        refuse_if(self.untouched > 0 and not self.padded, 12, "zeros without need")
        return self.untouched


def proportion(begin: int, end: int, total: int) -> tuple[int, int, int]:
    """Return (start, size, r) of the units [begin, end) of ``total``."""
    r = 24 if total <= 2**22 else 32
    start = -(-(begin << r) // total)
    return start, -(-(end << r) // total) - start, r


class Bit:
    def __init__(self) -> None:
        self.p, self.m = 32768, 0

    def read(self, stack: Stack) -> bool:
        one = stack.slot(16) < self.p
        a = 65536 // (self.m + 2)
        if one:
            stack.take(0, self.p, 16)
            self.p += (65536 - self.p) * a >> 16
        else:
            stack.take(self.p, 65536 - self.p, 16)
            self.p -= self.p * a >> 16
        self.p = min(max(self.p, 32), 65504)
        self.m = min(self.m + 1, 254)
        return one


class Number:
    def __init__(self) -> None:
        self.more = [Bit() for _ in range(6)]
        self.longer = [Bit() for _ in range(31)]
        self.high = [Bit() for _ in range(32)]

    def read(self, stack: Stack, seen: Counter[str]) -> int:
        for v, bit in enumerate(self.more):
            if not bit.read(stack):
                seen["number: small"] += 1
                return v
        length = 0
        while length < 31 and self.longer[length].read(stack):
            length += 1
        u = 1
        if length >= 1:
            u = 2 + self.high[length].read(stack)
        if length >= 2:
            r = length - 1
            low = stack.slot(r)
            stack.take(low, 1, r)
            u = (u << r) | low
        seen[f"number: of {min(length, 2)}{'+' * (length > 2)} more bits"] += 1
        return u + 5


def magnitude(x: int) -> int:
    """H of FORMAT.md."""
    if x == 0:
        return 0
    log = x.bit_length() - 1
    return 1 + 2 * log + (x >> (log - 1) & 1 if log else 0)


class Urn:
    def __init__(self, columns: list[tuple[int, int]]) -> None:
        self.words = [word for word, _ in columns]
        self.rest = [count for _, count in columns]  # R
        self.table_total = 0  # W from which the table was made, 0 for no table
        self.bits = 0
        self.starts: list[int] = []
        self.owners: list[int] = []  # the column that begins at each start

    def make_table(self) -> None:
        self.table_total = total = sum(self.rest)
        self.bits = (total - 1).bit_length()
        factor = (1 << (self.bits + 32)) // total
        before = 0
        self.starts, self.owners = [], []
        for column, r in enumerate(self.rest):
            if r:
                self.starts.append((before * factor) >> 32)
                self.owners.append(column)
                before += r


def read_payload(blob: Blob, data: bytes) -> None:
    announced, at = [], 0
    for _ in range(blob.order):
        value, at = varint(data, at)
        blob.seen["varint: several bytes"] += value >= 128
        announced.append(value)
    stack = Stack(data[at:], sum(announced))
    refuse_if(announced[0] > blob.size + 1, 8, "more words than the vocabulary has")
    Walk(blob, announced, stack).read()


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the value and where the next one begins."""
    value = 0
    for shift in range(0, 35, 7):
        refuse_if(at == len(data), 12, "no whole varint")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            refuse_if(byte == 0 and shift > 0, 7, "a varint longer than needed")
            refuse_if(value >= LIMIT, 7, "a varint too large")
            return value, at
    raise RefusedError(7, "a varint too long")


class Walk:
    """Takes all n-grams from a stack, order by order."""

    def __init__(self, blob: Blob, announced: list[int], stack: Stack) -> None:
        self.blob = blob
        self.seen = blob.seen
        self.announced = announced
        self.stack = stack
        self.models: defaultdict[tuple[str | int, ...], Number] = defaultdict(Number)

    def number(self, most: int, *model: str | int) -> int:
        v = self.models[model].read(self.stack, self.seen)
        refuse_if(v > most, 7, f"{model} is above its bound")
        return v

    def uniform(self, t: int) -> int:
        r = proportion(0, 1, t)[2]
        unit = self.stack.slot(r) * t >> r
        self.stack.take(*proportion(unit, unit + 1, t))
        return unit

    def put_rank(self, drawn: list[int], column: int) -> None:
        """Add the column to those drawn, and give the bits of their order back."""
        insort(drawn, column)
        if len(drawn) > 1:
            rank = drawn.index(column)
            self.stack.put(*proportion(rank, rank + 1, len(drawn)))

    def read(self) -> None:
        blob, seen = self.blob, self.seen
        if blob.pruned:
            blob.whole = [[self.number(LIMIT - 1, "n") for _ in range(6)] for _ in self.announced]
        self.words()
        for k in range(2, blob.order + 1):
            self.models.clear()
            self.grams(k)
        refuse_if(self.tokens() != blob.tokens, 14, "tokens")
        seen["stack: words appended"] += self.stack.finish() > 0
        seen["stack: zeros put back"] += len(self.stack.words) > self.stack.untouched

    def tokens(self) -> int:
        return sum(self.blob.counts[g] for g in self.blob.ngrams(1))

    def words(self) -> None:
        blob = self.blob
        opens = self.uniform(2)
        left = self.announced[0] - opens
        refuse_if(left < 0, 9, "<s> is an n-gram, but none is announced")
        if opens:
            blob.counts[blob.bos,] = 0
            self.seen["<s>: virtual"] += blob.bos >= blob.size
        least, a, b = 0, 128, 64
        for _ in range(left):
            gap = self.number(LIMIT - 1, "gap", min(magnitude(a), 63))
            self.seen["gap: last model"] += magnitude(a) >= 63
            count = 1 + self.number(LIMIT - 1, "count", magnitude(b))
            word = least + gap
            refuse_if(word >= blob.size, 8, "a word beyond the vocabulary")
            refuse_if(word == blob.bos, 9, "<s> is counted")
            blob.counts[word,] = count
            least = word + 1
            a += gap - (a >> 4)
            b += min(count, 64) - (b >> 4)
        refuse_if(opens > 0 and blob.order == 1 and not blob.pruned, 9, "nothing begins with <s>")
        refuse_if(self.tokens() >= LIMIT, 7, "tokens of 2^31 or more")

    def grams(self, k: int) -> None:
        blob = self.blob
        missing = bool(self.uniform(2))
        self.seen[f"missing: flag {missing}"] += 1
        below = blob.ngrams(k - 1)
        columns: defaultdict[NGram, list[tuple[int, int]]] = defaultdict(list)
        for g in below:
            columns[g[:-1]].append((g[-1], blob.counts[g]))
        urns = {context: Urn(row) for context, row in columns.items()}
        left = self.announced[k - 1]
        any_missing = False
        for h in below:
            if h[-1] == blob.eos:
                continue
            total = self.events(h, missing)
            any_missing |= h != (blob.bos,) and total < blob.counts[h]
            row = self.row(urns.get(h[1:]), total) if total else {}
            refuse_if(len(row) > left, 12, "more n-grams than announced")
            left -= len(row)
            blob.counts.update({(*h, word): count for word, count in row.items()})
        refuse_if(left > 0, 12, "fewer n-grams than announced")
        refuse_if(missing and not any_missing, 10, "nothing is missing")

    def events(self, h: NGram, missing: bool) -> int:
        """Return S, the number of events after h; store how many were cut."""
        blob = self.blob
        if h == (blob.bos,):
            total = self.number(LIMIT - 1, "opening")
            refuse_if(total == 0 and not blob.pruned, 9, "nothing begins with <s>")
            if blob.pruned:
                blob.cut[h] = self.number(LIMIT - 1 - total, "cut")
            return total
        count, lost = blob.counts[h], 0
        if missing:
            lost = self.number(count, "missing", min(magnitude(count), 63))
        if blob.pruned:
            ending = self.number(lost, "ending", min(magnitude(lost), 63)) if lost else 0
            blob.cut[h] = lost - ending
            self.seen["ending: neither all nor nothing"] += 0 < ending < lost
        return count - lost

    def row(self, urn: Urn | None, total: int) -> dict[int, int]:
        """Draw S tokens: the successors of one context with their counts."""
        seen = self.seen
        refuse_if(urn is None, 11, "no urn")
        assert urn is not None
        rest = urn.rest
        held = sum(rest)  # W
        filled = [column for column, r in enumerate(rest) if r]
        refuse_if(total > held, 11, "more than the urn holds")
        if total == held:
            seen["row: all that is left"] += 1
            members, taken = filled, [rest[column] for column in filled]
        else:
            members = self.members(urn, filled, held, self.distinct(total, len(filled)))
            taken = self.shares([rest[column] for column in members], total)
        for column, count in zip(members, taken, strict=True):
            rest[column] -= count
        return {urn.words[column]: count for column, count in zip(members, taken, strict=True)}

    def distinct(self, total: int, columns: int) -> int:
        """Return T, how many successors there are."""
        most = min(total, columns)
        if most == 1:
            self.seen["distinct: must be 1"] += 1
            return 1
        s = total if total < 16 else min(magnitude(total) + 7, 47)
        z = min(magnitude(columns) - 3, 7)
        self.seen["distinct: 16 events or more"] += total >= 16
        self.seen["distinct: last model of events"] += s == 47
        self.seen["distinct: last model of columns"] += z == 7
        return most - self.number(most - 1, "distinct", s, z)

    def members(self, urn: Urn, filled: list[int], held: int, number: int) -> list[int]:
        seen = self.seen
        for columns in (32, 33):
            of_bos = len(urn.words) == columns and self.blob.bos in urn.words
            seen[f"urn: {columns} columns, one of <s>"] += of_bos
        if len(urn.words) > 32:
            if not urn.table_total:
                seen["table: made"] += 1
                urn.make_table()
            elif held <= urn.table_total // 4:
                seen["table: made anew"] += 1
                urn.make_table()
            else:
                seen["table: used again"] += 1
            members: list[int] = []
            self.among(urn, 0, urn.bits, number, members)
            return sorted(members)
        if number == len(filled):
            seen["small urn: all"] += 1
            return filled
        drawn: list[int] = []
        for _ in range(number):
            seen["small urn: draw"] += 1
            left = [column for column in filled if column not in drawn]
            sums = [0]
            for column in left:
                sums.append(sums[-1] + urn.rest[column])
            t = sums[-1]
            seen["draw: r = 32"] += t > 2**22
            r = proportion(0, 1, t)[2]
            at = bisect_right(sums, self.stack.slot(r) * t >> r) - 1
            self.stack.take(*proportion(sums[at], sums[at + 1], t))
            self.put_rank(drawn, left[at])
        return drawn

    def among(self, urn: Urn, first: int, c: int, t: int, members: list[int]) -> None:
        """Find the t members that begin among the slots [first, first + 2^c)."""
        seen = self.seen
        if t > 16:
            refuse_if(c == 0, 11, "many members in one slot")
            v = self.number(2 * t, "left", magnitude(t))
            q = t // 2 + v // 2 if v % 2 == 0 else t // 2 - (v + 1) // 2
            refuse_if(not 0 <= q <= t, 11, "more members on one side than there are")
            seen[f"bisection: {'odd' if v % 2 else 'even'}"] += 1
            self.among(urn, first, c - 1, q, members)
            self.among(urn, first + 2 ** (c - 1), c - 1, t - q, members)
            return
        drawn: list[int] = []
        for _ in range(t):
            seen["table: draw"] += 1
            slot = first + self.stack.slot(c)
            at = bisect_right(urn.starts, slot) - 1
            start, column = urn.starts[at], urn.owners[at]
            end = urn.starts[at + 1] if at + 1 < len(urn.starts) else 2**urn.bits
            refuse_if(start < first, 11, "a column that begins before these slots")
            refuse_if(urn.rest[column] == 0, 11, "an empty column")
            refuse_if(column in drawn, 11, "a column twice")
            seen["table: column goes on beyond the slots"] += end > first + 2**c
            self.stack.take(start - first, min(end, first + 2**c) - start, c)
            self.put_rank(drawn, column)
        members += drawn

    def shares(self, rests: list[int], total: int) -> list[int]:
        """Return how many of each column are taken."""
        seen = self.seen
        counts: list[int] = []
        for i, rest in enumerate(rests):
            j = len(rests) - i
            e = total - sum(counts) - j
            q = sum(rests[i:]) - j
            refuse_if(e > q, 7 if counts else 11, "columns hold less than is taken")
            if len(rests) == 1:
                seen["share: one column"] += 1
                counts.append(total)
            elif e == q:
                seen["share: all"] += 1
                counts.append(rest)
            elif e == 0 or rest == 1:
                seen["share: 1"] += 1
                counts.append(1)
            elif j == 1:
                seen["share: the last"] += 1
                counts.append(1 + e)
            else:
                seen["share: number"] += 1
                model = min(magnitude(4 * e // j), 15), min(magnitude(rest - 1), 15)
                seen["share: last model"] += model == (15, 15)
                counts.append(1 + self.number(min(e, rest - 1), "extra", *model))
        return counts
