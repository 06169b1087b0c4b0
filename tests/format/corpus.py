"""Counts and blobs for the tests of the format: texts, counts of no text, sealed bytes.

``CASES`` are chosen so that reading them goes through every branch of FORMAT.md.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from random import Random

import numpy as np
import pytest

from perslm import _backend
from perslm.blob import Metadata, decode, encode
from perslm.counts import BINS, Counts, Level, Specials, count, merge
from perslm.errors import BlobError
from tests.format import reference
from tests.format.reference import NGram
from tests.support import Seq

METADATA = Metadata("0123456789abcdef" * 2, 3, "f" * 32, 1_700_000_000)
SPECIALS = Specials(7, 0, 1)
NATIVE = _backend.native
BACKENDS = [None] if NATIVE is None else [NATIVE, None]
HEADER = 76


def grams(counts: Counts) -> dict[NGram, int]:
    """Return every n-gram as a tuple of ids, with its count."""
    found: dict[NGram, int] = {}
    below: list[NGram] = [()]
    for level in counts.levels:
        pairs = zip(level.context.tolist(), level.word.tolist(), strict=True)
        below = [(*below[context], word) for context, word in pairs]
        found.update(zip(below, level.count.tolist(), strict=True))
    return found


def cuts(counts: Counts) -> dict[NGram, int]:
    """Return how many events were cut after each context, where that is not 0."""
    if counts.cut is None:
        return {}
    contexts = [(), *grams(counts)]
    flat = (mass for masses in counts.cut for mass in masses.tolist())
    return {g: mass for g, mass in zip(contexts, flat, strict=False) if mass}


def from_grams(
    found: Mapping[NGram, int],
    order: int,
    specials: Specials,
    cut: Mapping[NGram, int] | None = None,
    whole: list[list[int]] | None = None,
) -> Counts:
    """Return the same as arrays."""
    levels: list[Level] = []
    indices: list[dict[NGram, int]] = [{(): 0}]
    for k in range(1, order + 1):
        level = sorted(g for g in found if len(g) == k)
        below = indices[-1]
        levels.append(
            Level(
                np.array([below[g[:-1]] for g in level], np.uint32),
                np.array([g[-1] for g in level], np.uint32),
                np.array([below[g[1:]] if k > 1 else 0 for g in level], np.uint32),
                np.array([found[g] for g in level], np.int64),
            )
        )
        indices.append({g: i for i, g in enumerate(level)})
    if cut is None:
        return Counts(specials, tuple(levels))
    masses = tuple(np.array([cut.get(g, 0) for g in index], np.int64) for index in indices[:-1])
    return Counts(specials, tuple(levels), masses, np.array(whole, np.int64))


def text(
    seed: int, sentences: int, words: int, longest: int = 20, most: float = 0.9, first: int = 2
) -> list[Seq]:
    """Sentences whose words are as common as in a natural text."""
    random = Random(seed)

    def word() -> int:
        return first + int(random.paretovariate(0.7) - 1) % words

    return [
        Seq(
            [word() for _ in range(random.randrange(longest))],
            random.random() < most,
            random.random() < most,
        )
        for _ in range(sentences)
    ]


def drawn(random: Random, order: int, specials: Specials, words: int, most: int) -> Counts:
    """Counts drawn from urns at random: valid, but of no text."""
    ids = random.sample(range(2, specials.size), min(words, specials.size - 2))
    found: dict[NGram, int] = {(w,): random.randint(1, most) for w in [specials.eos, *ids]}
    cut: dict[NGram, int] | None = {} if random.random() < 0.3 else None
    opens = order > 1 and random.random() < 0.8
    whole = [[random.randrange(most) for _ in range(BINS + 1)] for _ in range(order)]
    loss = random.choice([0, 0, 0.1, 0.9])
    for k in range(2, order + 1):
        urns: defaultdict[NGram, dict[int, int]] = defaultdict(dict)
        level = sorted(g for g in found if len(g) == k - 1 and g != (specials.bos,))
        for g in level:
            urns[g[:-1]][g[-1]] = found[g]
        contexts = [g for g in level if g[-1] != specials.eos]
        if k == 2 and opens:
            contexts.insert(0, (specials.bos,))
            found[specials.bos,] = 0
        for h in contexts:
            urn = urns[h[1:]]
            held, seen = sum(urn.values()), found[h] or most
            events = min(held, seen)
            if random.random() < loss:
                events = random.randint(min(1, events), events)
            if cut is not None:
                cut[h] = random.randint(0, seen - events)
            left = events
            for w in random.sample(sorted(urn), len(urn)):
                held -= urn[w]
                taken = random.randint(max(0, left - held), min(left, urn[w]))
                if taken:
                    found[*h, w] = taken
                urn[w] -= taken
                left -= taken
    return from_grams(found, order, specials, cut, None if cut is None else whole)


def many_times(sequences: list[Seq], order: int, specials: Specials, doublings: int) -> Counts:
    counts = count(sequences, order, specials)
    for _ in range(doublings):
        counts = merge([counts, counts])
    return counts


def pruned(counts: Counts, minimum: int) -> Counts:
    return counts.prune([1] + [minimum] * (counts.order - 1))


WIDE = Specials(2**31 - 1, 0, 1)

ALL_WORDS = Seq(list(range(2, 32)), True, True)  # with <s> and </s> 32 columns

CASES: dict[str, Callable[[], Counts]] = {
    "nothing": lambda: count([], 3, SPECIALS),
    "nothing, pruned": lambda: pruned(count([], 3, SPECIALS), 2),
    "words": lambda: count(text(1, 30, 50), 1, Specials(52, 0, 1)),
    "few words": lambda: count(text(2, 150, 5), 5, SPECIALS),
    "many words": lambda: count(text(3, 120, 3000), 3, Specials(3002, 0, 1)),
    "whole sentences": lambda: count(text(4, 100, 200, most=1), 4, Specials(202, 0, 1)),
    "fragments": lambda: count(text(5, 100, 60, most=0), 3, Specials(62, 0, 1)),
    "32 columns": lambda: count([ALL_WORDS, *text(6, 60, 30)], 2, Specials(33, 0, 1)),
    "33 columns": lambda: count([ALL_WORDS, *text(6, 60, 31)], 2, Specials(33, 0, 1)),
    "pruned": lambda: pruned(count(text(8, 200, 40), 5, Specials(42, 0, 1)), 2),
    "pruned, shortened": lambda: pruned(count(text(9, 80, 40), 5, Specials(42, 0, 1)), 3).shorten(
        2
    ),
    "pruned, only words": lambda: pruned(count(text(9, 9, 9), 3, Specials(42, 0, 1)), 9).shorten(1),
    "virtual": lambda: count(text(10, 80, 300), 4, Specials(302, 305, 1)),
    "long rows": lambda: count(text(11, 300, 400, longest=8), 3, Specials(402, 0, 1)),
    "large counts": lambda: many_times(text(12, 60, 80), 3, Specials(82, 0, 1), 20),
    "large ids": lambda: count([Seq([9, 2**31 - 20, 2**31 - 10], True, True)], 2, WIDE),
    "drawn": lambda: drawn(Random(14), 3, Specials(47, 0, 1), 45, 2**22),
    "free": lambda: count([Seq([w], False, False) for w in range(2, 14_000)], 1, WIDE),
}


@cache
def case(name: str) -> tuple[Counts, bytes]:
    """Counts and their blob."""
    counts = CASES[name]()
    return counts, encode(counts, METADATA)


def on_every_backend() -> Iterator[None]:
    """Run the body of a loop with the kernel, if it was built, and again on numpy."""
    for native in BACKENDS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_backend, "native", native)
            yield


def sealed(body: bytes) -> bytes:
    return body + u32(zlib.crc32(body))


def changed(blob: bytes, at: int, field: bytes) -> bytes:
    """Return the blob with other bytes somewhere before its checksum, and the checksum of these."""
    return sealed(blob[:at] + field + blob[at + len(field) : -4])


def with_payload(blob: bytes, payload: bytes) -> bytes:
    return sealed(blob[: HEADER - 4] + u32(len(payload)) + payload)


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def section(kind: int, content: bytes, length: int | None = None) -> bytes:
    return bytes([kind]) + u32(len(content) if length is None else length) + content


def with_sections(blob: bytes, *sections: bytes) -> bytes:
    return sealed(blob[:-4] + b"".join(sections))


def payload_of(blob: bytes) -> bytes:
    """Return the payload of a blob without sections."""
    return blob[HEADER:-4]


def check_outcome(blob: bytes) -> reference.Blob | None:
    """Read on all backends and by the reference; all refuse, or all give the same.

    What is accepted must be canonical, so ``blob`` has no sections that are skipped.
    """
    try:
        expected = reference.read(blob)
    except reference.RefusedError:
        expected = None
    for _ in on_every_backend():
        if expected is None:
            with pytest.raises(BlobError, match=r"rule \d+:"):
                decode(blob)
            continue
        decoded = decode(blob)
        check_equal(decoded.counts, expected)
        assert encode(decoded.counts, decoded.metadata) == blob
    return expected


def check_equal(counts: Counts, expected: reference.Blob) -> None:
    specials = counts.specials
    assert (specials.size, specials.bos, specials.eos) == (
        expected.size,
        expected.bos,
        expected.eos,
    )
    assert grams(counts) == expected.counts
    assert cuts(counts) == {g: mass for g, mass in expected.cut.items() if mass}
    whole = None if counts.cut is None else counts.count_of_counts().tolist()
    assert whole == expected.whole
