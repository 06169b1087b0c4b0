"""Backing off into the global LM: the kernel against its numpy twin, call by call."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perslm import _backend
from perslm._scoring import NumpyEngine, compile_counts
from perslm.counts import MAX_ORDER, Specials, count
from tests.support import Seq, sequence_lists, some_gates

SIZE, BOS, EOS = 7, 0, 1


@pytest.mark.skipif(_backend.native is None, reason="there is no kernel to compare")
@given(
    sequence_lists(),
    st.integers(1, MAX_ORDER),
    st.integers(0, 99),
    st.none() | st.lists(st.integers(1, 4), min_size=MAX_ORDER - 1, max_size=MAX_ORDER - 1),
    st.lists(st.lists(st.integers(0, SIZE + 1), max_size=6), min_size=1, max_size=6),
)
def test_kernel_and_numpy_agree(
    sequences: list[Seq],
    order: int,
    seed: int,
    minimum: list[int] | None,
    histories: list[list[int]],
) -> None:
    counts = count(sequences, order, Specials(SIZE, BOS, EOS))
    if minimum is not None:
        counts = counts.prune([1, *sorted(minimum)][:order])
    gates = some_gates(order, seed)
    n, ids = len(histories), np.array([i for row in histories for i in row], np.int64)
    begins = np.cumsum([0, *map(len, histories)])
    answers = []
    for engine in (compile_counts(counts, gates), NumpyEngine(counts, gates)):
        states, weights = np.empty(n, np.uint32), np.empty(n, np.float32)
        engine.states(ids, begins, states)
        engine.weights(states, weights)
        candidates = np.tile(np.arange(SIZE + 2), (n, 1))
        logprobs, behind = np.empty((n, SIZE + 2), "f4"), np.empty((n, SIZE + 2), "u4")
        engine.score(states, candidates, logprobs, behind)
        dense = np.empty((n, SIZE), "f4")
        engine.distribution(states, dense)
        events = np.empty((n, engine.event_count), "f4")
        engine.event_logprobs(states, events)
        best, best_logprobs = np.empty((n, engine.event_count), "u4"), np.empty_like(events)
        engine.continuations(states, best, best_logprobs)
        steps = np.array([engine.step(int(s), w)[0] for s in states for w in range(SIZE)])
        assert steps.reshape(n, -1) == pytest.approx(logprobs[:, :SIZE], abs=1e-6)
        assert (best_logprobs[:, 1:] <= best_logprobs[:, :-1]).all()
        assert np.take_along_axis(dense, best.astype(int), 1) == pytest.approx(
            best_logprobs, abs=1e-5
        )
        answers.append((weights, logprobs, dense, events, best_logprobs))
    for a, b in zip(*answers, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)
