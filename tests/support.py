"""What several tests share: where data lies, sequences of token ids, equality of counts."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import strategies as st

from perslm.backoff import FEATURES, Gates
from perslm.counts import Counts

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "fixtures"
SHARED = Path(os.environ.get("PERSLM_SHARED", ROOT.parent / "shared"))

Seq = namedtuple("Seq", "ids opens closes")


def shared(name: str) -> Path:
    """Path of a file of the measuring data, or skip the test."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"measuring data is absent: set PERSLM_SHARED to the folder that has {name}")
    return path


def golden_models() -> list[object]:
    """(text, model) of every model made by OpenGrm NGram: ours, and the measuring data's."""
    texts = sorted((FIXTURES / "golden").glob("*.txt"))
    real = SHARED / "golden" / "guzman-m.txt"
    cases: list[object] = [
        pytest.param(t, t.with_name(f"{t.stem}.katz.tsv.gz"), id=t.stem) for t in texts
    ]
    absent = pytest.mark.skipif(not real.exists(), reason="measuring data is absent")
    cases.append(
        pytest.param(real, real.with_name("guzman-m.katz.tsv.gz"), marks=absent, id="real-mail")
    )
    return cases


def sequence_lists(words: int = 4, first_word: int = 2) -> st.SearchStrategy[list[Seq]]:
    """Lists of sequences over a few words, so that counts repeat."""
    ids = st.lists(st.integers(first_word, first_word + words - 1), max_size=8)
    return st.lists(st.builds(Seq, ids, st.booleans(), st.booleans()), max_size=12)


def some_gates(order: int, seed: int) -> Gates:
    """Gates that nobody fitted, different for every seed."""
    random = Random(seed)
    rows = [
        [random.uniform(-1, 1) for _ in range(FEATURES)] + [random.uniform(0.1, 0.95)]
        for _ in range(order)
    ]
    moves = ([0.2, -0.6, 0.3], [0.3, 0.5, -0.4], [-0.8, 0.5, -0.3, 0.9, -0.2])
    return Gates(np.array(rows), *map(np.array, moves))


def arrays(counts: Counts) -> list[np.ndarray]:
    levels = [(v.context, v.word, v.suffix, v.count) for v in counts.levels]
    return [*(a for level in levels for a in level), *(counts.cut or ()), counts.count_of_counts()]


def same_counts(a: Counts, b: Counts) -> bool:
    """Whether all arrays are equal, in type too."""
    return len(arrays(a)) == len(arrays(b)) and all(
        x.dtype == y.dtype and np.array_equal(x, y)
        for x, y in zip(arrays(a), arrays(b), strict=True)
    )
