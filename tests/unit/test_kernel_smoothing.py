"""Smoothed models with λ from a table: the kernel against its numpy twin, and what it refuses.

What both must do is in test_smoothing.py and test_katz.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perslm import _backend, weights
from perslm._scoring import SMOOTHINGS, Engine, NumpyEngine, Smoothing, compile_counts, estimate
from perslm.counts import MAX_ORDER, Specials, count
from tests.support import Seq, sequence_lists

pytestmark = pytest.mark.skipif(_backend.native is None, reason="there is no kernel to compare")

SIZE = 7
SPECIALS = Specials(SIZE, 0, 1)
ORDERS = st.integers(1, MAX_ORDER)


@given(
    sequence_lists(),
    ORDERS,
    st.sampled_from(sorted(SMOOTHINGS)),
    st.integers(0, 99),
    st.booleans(),
    st.lists(st.lists(st.integers(0, SIZE + 1), max_size=6), min_size=1, max_size=5),
)
def test_the_kernel_is_the_twin(
    sequences: list[Seq],
    order: int,
    name: str,
    seed: int,
    pruned: bool,
    histories: list[list[int]],
) -> None:
    counts = count(sequences, order, SPECIALS)
    if pruned:
        counts = counts.prune([1] + [2] * (order - 1))
    shape = (order, weights.COUNTS, weights.MASSES)
    table = np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)
    ours = asked(compile_counts(counts, Smoothing(name, table)), histories)
    twin = asked(NumpyEngine(counts, Smoothing(name, table)), histories)
    assert ours[0].tolist() == twin[0].tolist()  # λ
    for one, other in zip(ours[1:], twin[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)


def asked(engine: Engine, histories: list[list[int]]) -> list[np.ndarray]:
    begins = np.cumsum([0, *map(len, histories)])
    states = np.empty(len(histories), np.uint32)
    engine.states(np.array([i for row in histories for i in row], np.int64), begins, states)
    lam, rows = np.empty(len(states), np.float32), np.empty((len(states), SIZE + 1), np.float32)
    behind, best = np.empty(rows.shape, np.uint32), min(3, engine.event_count)
    ids, top = np.empty((len(states), best), np.uint32), np.empty((len(states), best), np.float32)
    engine.weights(states, lam)
    engine.score(states, np.tile(np.arange(SIZE + 1), (len(states), 1)), rows, behind)
    engine.continuations(states, ids, top)
    return [lam, rows, top]


def test_the_kernel_takes_no_arrays_of_other_counts() -> None:
    assert _backend.native is not None
    counts = count([Seq([2, 3, 4], True, True), Seq([3, 4], True, False)], 2, SPECIALS)
    model = estimate(counts, Smoothing("absolute"))
    small = replace(counts, levels=counts.levels[:1])
    logprob = np.concatenate(model.logprob).astype(np.float32)  # type: ignore[union-attr]
    values, value = np.unique(logprob, return_inverse=True)
    arrays = (values, value.astype(np.uint32), np.zeros(5, np.float32), np.zeros(0, np.uint8))
    _backend.native.Model.smoothed(counts.to_native(), *arrays, [])
    wrong = [
        (small, arrays),
        (counts, (values[::-1].copy(), *arrays[1:])),
        (counts, (values, arrays[1] + np.uint32(len(values)), *arrays[2:])),
        (counts, (values, arrays[1], np.zeros(1, np.float32), arrays[3])),
        (counts, (*arrays[:3], np.zeros(2, np.uint8))),
    ]
    for of, given_arrays in wrong:
        with pytest.raises(TypeError, match=r"needs|none of|ascend"):
            _backend.native.Model.smoothed(of.to_native(), *given_arrays, [])
