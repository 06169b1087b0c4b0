"""Write sound inputs for the fuzz target, to mutate.

    python -m tests.fuzz.seeds FOLDER

The counts are of random sequences, from a fixed seed. The first byte of an input is what
``decode.cpp`` makes order, pruning and vocabulary of; the rest is a payload.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np

from perslm import _backend
from perslm.counts import Counts, Specials, count
from tests.support import Seq

VOCABULARIES = (Specials(50, 0, 1), Specials(50, 50, 1), Specials(4_000_000_000, 1, 2))


def sequences(random: np.random.Generator, number: int) -> list[Seq]:
    lengths = random.integers(0, 12, number)
    words = (3 + random.zipf(1.4, n) % 45 for n in lengths)
    opens, closes = random.random((2, number)) < 0.9
    return [Seq(w.tolist(), *flags) for w, *flags in zip(words, opens, closes, strict=True)]


def payload(counts: Counts) -> bytes:
    assert _backend.native is not None, "the fuzz target needs the kernel"
    encoded: bytes = _backend.native.encode(counts.to_native())
    return encoded


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    for order, pruned, vocabulary in product(range(1, 6), (False, True), range(3)):
        for number in (0, 1, 3, 12, 60):
            counts = count(sequences(random, number), order, VOCABULARIES[vocabulary])
            if pruned:
                counts = counts.prune([1] + [2] * (order - 1))
            first = order - 1 + 5 * pruned + 10 * vocabulary
            name = f"order{order}-{'pruned' if pruned else 'whole'}-{vocabulary}-{number}"
            (folder / name).write_bytes(bytes([first]) + payload(counts))


if __name__ == "__main__":
    main()
