"""Engines: the native one against its numpy twin, call by call, and what only the native one does.

What both must do is in test_model.py, which runs on each.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perslm import _backend
from perslm._scoring import Engine, NumpyEngine, Smoothing
from perslm.counts import Counts, Level, Specials, count
from perslm.errors import ArgumentError
from perslm.interpolate import (
    Float32Array,
    mix_columns,
    mix_with_numpy,
    uncertainty,
    uncertainty_with_numpy,
)
from tests.support import Seq, sequence_lists

pytestmark = pytest.mark.skipif(_backend.native is None, reason="there is no kernel to compare")

SIZE, BOS, EOS = 8, 0, 1
VIRTUAL = Specials(6, 7, 6)


def native(counts: Counts) -> Engine:
    assert _backend.native is not None
    engine: Engine = _backend.native.Model(counts.to_native())
    return engine


def states(engine: Engine, histories: list[list[int]]) -> np.ndarray:
    begins = np.cumsum([0, *map(len, histories)])
    out = np.empty(len(histories), np.uint32)
    engine.states(np.array([i for row in histories for i in row], np.int64), begins, out)
    return out


def scores(engine: Engine, at: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logprobs, behind = np.empty(ids.shape, np.float32), np.empty(ids.shape, np.uint32)
    engine.score(at, ids, logprobs, behind)
    return logprobs, behind


def dense(engine: Engine, at: np.ndarray) -> np.ndarray:
    out = np.empty((len(at), engine.vocabulary_size), np.float32)
    engine.distribution(at, out)
    return out


def events(engine: Engine, at: np.ndarray) -> np.ndarray:
    out = np.empty((len(at), engine.event_count), np.float32)
    engine.event_logprobs(at, out)
    return out


def assert_close(a: np.ndarray, b: np.ndarray) -> None:
    """Equal but for how float32 is rounded along a chain of contexts."""
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def assert_same(counts: Counts, histories: list[list[int]], candidates: list[int]) -> None:
    ours, twin = native(counts), NumpyEngine(counts, Smoothing("katz"))
    for name in ("order", "tokens", "vocabulary_size", "ngrams", "fell_back", "event_count"):
        assert getattr(ours, name) == getattr(twin, name), name
    here, there = states(ours, histories), states(twin, histories)
    assert [ours.context_length(int(s)) for s in here] == [
        twin.context_length(int(s)) for s in there
    ]
    ids = np.tile(np.array(candidates, np.int64), (len(histories), 1))
    (logp, behind), (expected, expected_behind) = scores(ours, here, ids), scores(twin, there, ids)
    assert_close(logp, expected)
    ahead = [[*history, w] for history in histories for w in candidates]
    assert np.array_equal(behind.ravel(), states(ours, ahead))
    assert np.array_equal(expected_behind.ravel(), states(twin, ahead))
    for i, state in enumerate(here.tolist()):
        alone = [ours.step(state, word) for word in candidates]
        assert np.array_equal([p for p, _ in alone], logp[i])
        assert [s for _, s in alone] == behind[i].tolist()
    rows, known = dense(ours, here), events(ours, here)
    assert_close(rows, dense(twin, there))
    words = np.empty(ours.event_count, np.uint32)
    ours.events(words)
    assert np.array_equal(rows[:, words], known)
    assert np.count_nonzero(np.isfinite(rows)) == known.size
    inside = [w for w in candidates if w < ours.vocabulary_size]
    assert np.array_equal(
        rows[:, inside], scores(ours, here, ids[:, : len(inside)] * 0 + inside)[0]
    )
    for k in {0, 1, 3, ours.event_count // 2, ours.event_count}:
        k = min(k, ours.event_count)
        best, value = np.empty((len(here), k), np.uint32), np.empty((len(here), k), np.float32)
        ours.continuations(here, best, value)
        order = np.argsort(-known, axis=1, kind="stable")[:, :k]
        assert np.array_equal(best, words[order])
        assert np.array_equal(value, np.take_along_axis(known, order, axis=1))


histories = st.lists(st.lists(st.integers(0, SIZE + 2), max_size=7), min_size=1, max_size=4)


@given(sequence_lists(), histories, st.integers(1, 3), st.sampled_from(range(1, 6)))
def test_the_kernel_is_the_twin(
    sequences: list[Seq], asked: list[list[int]], least: int, order: int
) -> None:
    counts = count(sequences, order, Specials(SIZE, BOS, EOS))
    for counted in (counts, counts.prune([1, *[least] * (order - 1)])):
        assert_same(counted, asked, list(range(SIZE + 2)))


@given(sequence_lists(), histories, st.sampled_from(range(1, 6)))
def test_with_virtual_ids(sequences: list[Seq], asked: list[list[int]], order: int) -> None:
    open_ended = [Seq(s.ids, s.opens, False) for s in sequences]
    assert_same(count(open_ended, order, VIRTUAL), asked, list(range(SIZE + 2)))


def zipf(tokens: int, words: int, seed: int = 5) -> list[Seq]:
    """Sentences with frequent words and rare ones, so that rows are of every length."""
    chance = np.random.default_rng(seed)
    ids = np.minimum(chance.zipf(1.2, tokens) + 1, words + 1)
    breaks = np.sort(chance.integers(0, tokens, tokens // 12))
    return [Seq(part.tolist(), True, True) for part in np.split(ids, breaks)]


@pytest.mark.parametrize("order", [2, 3, 5])
def test_long_rows(order: int) -> None:
    sequences = zipf(60_000, 3_000)
    counts = count(sequences, order, Specials(3_100, BOS, EOS))
    rows = np.bincount(counts.levels[1].context)
    assert {(rows > n).any() for n in (16, 256, 512)} == {True}
    chance = np.random.default_rng(6)
    asked = [[BOS, 2], [2], [3, 2], [2, 3, 4], [BOS], [2999], [3050]]
    asked += [sequences[i].ids[: chance.integers(1, 9)] for i in chance.integers(0, 4000, 30)]
    candidates = [BOS, EOS, *range(2, 300), *chance.integers(2, 3_100, 300).tolist(), 1 << 40]
    assert_same(counts, asked, candidates)


@pytest.mark.parametrize("size", [1 << 32 - 1, 3_000_000])
def test_words_far_apart(size: int) -> None:
    step = size // 50
    far = [Seq([(i - 2) * step + 2 for i in s.ids], s.opens, s.closes) for s in zipf(600, 40)]
    counts = count(far, 3, Specials(size, BOS, EOS))
    candidates = [BOS, EOS, 2, step + 2, 3 * step + 2, 39 * step + 2, 3, step, size + 1]
    ours, twin = native(counts), NumpyEngine(counts, Smoothing("katz"))
    here, there = states(ours, [[2], [step + 2, 2]]), states(twin, [[2], [step + 2, 2]])
    ids = np.tile(np.array(candidates, np.int64), (2, 1))
    assert_close(scores(ours, here, ids)[0], scores(twin, there, ids)[0])
    assert ours.nbytes < 20_000


def test_more_words_than_16_bits_number() -> None:
    chance = np.random.default_rng(1)
    rare = np.arange(2, 70_002)
    mixed = np.ravel(np.column_stack([rare, np.minimum(chance.zipf(1.3, len(rare)) + 1, 900)]))
    sequences = [Seq(part.tolist(), True, True) for part in np.array_split(mixed, 9_000)]
    counts = count(sequences, 3, Specials(70_100, BOS, EOS))
    asked = [[2], [BOS, 2], [3, 5], [69_999, 2], [70_050]]
    assert_same(counts, asked, [BOS, EOS, *range(2, 200), *range(69_900, 70_110)])


def test_a_context_with_more_successors_than_an_offset_of_16_bits_spans() -> None:
    words = np.arange(2, 40_002)
    sequences = [Seq([a, b], False, False) for a in (2, 3, 4) for b in words.tolist()]
    assert_same(
        count(sequences, 2, Specials(40_100, BOS, EOS)), [[2], [3], [4], [5]], [2, 5, 40_001]
    )


@pytest.mark.parametrize("order", [3, 5])
def test_memory(order: int) -> None:
    counts = count(zipf(60_000, 20_000), order, Specials(50_000, BOS, EOS))
    engine = native(counts)
    arcs = sum(counts.ngrams[1:])
    assert 4 * arcs < engine.nbytes <= 12 * sum(counts.ngrams)


def test_states_that_are_none() -> None:
    counts = count(zipf(200, 9), 4, Specials(20, BOS, EOS))
    engine = native(counts)
    contexts = sum(len(level) for level in counts.levels[:-1])
    closed = np.concatenate([level.word == EOS for level in counts.levels[:-1]])
    for state in range(1, contexts + 40):
        given = np.array([state], np.uint32)
        if state > contexts or closed[state - 1]:
            with pytest.raises(ArgumentError, match="do not carry over"):
                engine.check(given)
            with pytest.raises(ArgumentError, match="do not carry over"):
                dense(engine, given)
        else:
            assert np.isfinite(dense(engine, given)).sum() == engine.event_count


def test_arrays_of_the_wrong_kind() -> None:
    engine = native(count(zipf(200, 9), 2, Specials(20, BOS, EOS)))
    at = np.zeros(2, np.uint32)
    ids, out, behind = (
        np.zeros((2, 3), np.int64),
        np.zeros((2, 3), np.float32),
        np.zeros((2, 3), np.uint32),
    )
    engine.score(at, ids, out, behind)
    frozen = out.copy()
    frozen.flags.writeable = False
    wrong = [
        (at.astype(np.int64), ids, out, behind),
        (at.astype(">u4"), ids, out, behind),
        (at[:1], ids, out, behind),
        (at, ids.astype(np.uint64), out, behind),
        (at, ids.astype(float), out, behind),
        (at, ids.T, out, behind),
        (at, ids[0], out, behind),
        (at, ids, out.astype(float), behind),
        (at, ids, out[:, :2].copy(), behind),
        (at, ids, frozen, behind),
        (at, ids, out, behind[:1]),
        ([0, 0], ids, out, behind),
        (at, ids, out, None),
    ]
    for arguments in wrong:
        with pytest.raises(TypeError):
            engine.score(*arguments)
    for begins in ([0, 3, 2], [-1, 2, 2], [0, 1, 4]):
        with pytest.raises(ArgumentError, match="begin"):
            engine.states(np.zeros(3, np.int64), np.array(begins), at)


@pytest.mark.parametrize("weight", [0.0, 1e-6, 0.3, 0.999, 1.0])
def test_mixing_is_exact(weight: float) -> None:
    chance = np.random.default_rng(2)
    width, known = 5_000, 1_500
    rows = -np.abs(chance.normal(size=(2, width)) * 12).astype(np.float32)
    rows[0, :40:3] = -np.inf
    columns = np.sort(chance.choice(width, known, replace=False)).astype(np.uint32)
    columns[:2], personal = [0, 1], -np.abs(chance.normal(size=(2, known)) * 9).astype(np.float32)
    personal[0, :30:2] = -np.inf
    personal[1, 5:9] = [0, -1e-7, -80, -200]
    weights = np.full(2, weight, np.float32)
    mixed = mix_columns(rows, weights, columns, personal)
    twin = np.empty_like(rows)
    mix_with_numpy(rows, weights, columns, personal, twin)
    assert_close(mixed, twin)
    unsorted = chance.permutation(known)
    again = mix_columns(rows, weights, columns[unsorted], personal[:, unsorted].copy())
    assert again.tobytes() == mixed.tobytes()
    in_place = rows.copy()
    assert mix_columns(in_place, weights, columns, personal, in_place) is in_place
    assert in_place.tobytes() == mixed.tobytes()
    if weight == 0:
        assert mixed.tobytes() == rows.tobytes()


@pytest.mark.parametrize("width", [2, 31, 32, 33, 5_000])
def test_how_sure_the_global_lm_is(width: int) -> None:
    chance = np.random.default_rng(width)
    rows = np.log(chance.dirichlet(np.full(width, 0.05), 4) + 1e-30).astype(np.float32)
    rows[1] = -np.log(width)
    rows[2, ::2] = -np.inf
    found, twin = uncertainty(rows), np.empty((4, 2), np.float32)
    uncertainty_with_numpy(rows, twin)
    assert found[:, 0].tolist() == twin[:, 0].tolist() == rows.max(1).tolist()
    assert found[:, 1] == pytest.approx(twin[:, 1], abs=1e-5)
    known = np.where(np.isfinite(rows), rows, 0).astype(float)
    assert found[:, 1] == pytest.approx(-(np.exp(rows.astype(float)) * known).sum(1), abs=1e-4)


def test_odd_rows_have_an_uncertainty_that_is_a_number() -> None:
    odd = np.array([[np.nan] * 3, [-np.inf] * 3, [np.inf, 5, -1], [np.nan, -1, -0.5]], np.float32)
    found, twin = uncertainty(odd), np.empty((4, 2), np.float32)
    uncertainty_with_numpy(odd, twin)
    assert_close(found, twin)
    assert found[:, 0].tolist() == [-87, -87, 0, -0.5]
    assert np.isfinite(found).all()
    assert uncertainty(np.zeros((2, 0), np.float32)).tolist() == [[-87, 0], [-87, 0]]


def test_what_is_no_number_stays_none() -> None:
    rows = np.full((1, 4), np.nan, np.float32)
    mixed = mix_columns(
        rows, np.array([0.5], np.float32), np.array([1]), np.zeros((1, 1), np.float32)
    )
    assert np.isnan(mixed).all()


def test_threads_do_not_disturb_each_other() -> None:
    engine = native(count(zipf(5_000, 400), 3, Specials(500, BOS, EOS)))
    at = states(engine, [[2, 3], [3], [BOS, 4]])

    def ask(_: int) -> Float32Array:
        return dense(engine, at)

    expected = dense(engine, at)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(row, expected) for row in pool.map(ask, range(200)))


def test_empty_levels() -> None:
    nothing = Level(*(np.zeros(0, t) for t in (np.uint32, np.uint32, np.uint32, np.int64)))
    for order in range(1, 6):
        assert_same(Counts(Specials(SIZE, BOS, EOS), (nothing,) * order), [[], [2]], [0, 1, 2])
