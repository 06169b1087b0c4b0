"""The model that a beam search holds, against the oracle, on both backends; that it never harms."""

from __future__ import annotations

import pickle
from typing import NoReturn

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perslm.blob import Metadata, encode
from perslm.counts import Specials, count
from perslm.errors import ArgumentError, BlobError, VocabularyMismatchError
from perslm.model import Estimator, NullModel, PersonalModel, check_vocabulary
from perslm.vocabulary import Vocabulary
from tests.oracle import OracleKatz, ngram_counts
from tests.support import Seq, sequence_lists

pytestmark = pytest.mark.usefixtures("backend")

SIZE = 8
BOS, EOS = 0, 1
SPECIALS = Specials(SIZE, BOS, EOS)
METADATA = Metadata("ab" * 16)
MAIL = [
    Seq([2, 3, 4], True, True),
    Seq([2, 3, 5], True, True),
    Seq([2, 3, 4], True, True),
    Seq([6, 3], True, True),
]


def make(
    sequences: list[Seq], order: int, weight: float = 0.3, estimator: Estimator = "backoff"
) -> PersonalModel:
    blob = encode(count(sequences, order, SPECIALS), METADATA)
    return PersonalModel.from_blob(blob, generation=7, weight=weight, estimator=estimator)


def oracle_of(sequences: list[Seq], order: int) -> OracleKatz:
    spelled = [(list(s.ids), s.opens, s.closes) for s in sequences]
    return OracleKatz(ngram_counts(spelled, order), order)


def spelled(history: list[int]) -> tuple[object, ...]:
    """A history for the oracle: restarted at the last special, which stands for <s>."""
    for at in range(len(history) - 1, -1, -1):
        if history[at] in (BOS, EOS):
            return ("<s>", *history[at + 1 :])
    return tuple(history)


histories = st.lists(st.lists(st.integers(0, SIZE + 2), max_size=9), min_size=1, max_size=4)


@given(sequences=sequence_lists(), histories=histories)
@pytest.mark.parametrize("order", range(1, 6))
def test_scores_equal_the_oracle(
    order: int, sequences: list[Seq], histories: list[list[int]]
) -> None:
    model, oracle = make(sequences, order, estimator="katz"), oracle_of(sequences, order)
    candidates = [list(range(SIZE + 2))] * len(histories)
    states = model.states(histories)
    logp, nxt = model.score(states, candidates)
    assert logp.dtype == np.float32
    assert nxt.dtype == states.dtype == np.uint32
    for i, history in enumerate(histories):
        for w in range(SIZE + 2):
            word = "</s>" if w == EOS else "never" if w == BOS else w
            assert logp[i, w] == pytest.approx(oracle.p(spelled(history), word), abs=1e-5)
        longer = model.states([[*history, w] for w in range(SIZE + 2)])
        assert np.array_equal(nxt[i], longer)
        steps = [model.step(int(states[i]), w) for w in range(SIZE + 2)]
        assert np.array_equal([p for p, _ in steps], logp[i])
        assert [state for _, state in steps] == nxt[i].tolist()
    dense = model.distribution(states)
    assert np.array_equal(dense, logp[:, :SIZE])
    if sequences and model.tokens:
        assert np.exp(dense.astype(float)).sum(axis=1) == pytest.approx(1, abs=1e-5)


@given(sequences=sequence_lists(), history=st.lists(st.integers(2, 6), max_size=5))
def test_continuations_are_the_top_of_the_distribution(
    sequences: list[Seq], history: list[int]
) -> None:
    model = make(sequences, 3)
    states = model.states([history])
    ids, logp = model.continuations(states, k=4)
    dense = model.distribution(states)[0]
    expected = sorted((-p, i) for i, p in enumerate(dense.tolist()) if np.isfinite(p))[:4]
    assert [(-p, i) for p, i in zip(logp[0].tolist(), ids[0].tolist(), strict=True)] == expected


def global_rows(n: int, width: int = SIZE) -> np.ndarray:
    logits = np.random.default_rng(3).normal(size=(n, width))
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def test_mix_is_the_mixture_and_sums_to_one() -> None:
    model = make(MAIL, 3, weight=0.4)
    states = model.states([[BOS, 2], [6], [7, 7]])
    rows = global_rows(3)
    expected = np.log(0.4 * np.exp(model.distribution(states)) + 0.6 * np.exp(rows))
    mixed = model.mix(states, rows)
    assert mixed.dtype == np.float32
    assert mixed == pytest.approx(expected, abs=1e-6)
    assert np.exp(mixed).sum(axis=1) == pytest.approx(1, abs=1e-6)


def test_mix_leaves_the_given_array_alone() -> None:
    model = make(MAIL, 3)
    rows = global_rows(2)
    before = rows.copy()
    model.mix(model.states([[2], [3]]), rows)
    assert np.array_equal(rows, before)


def test_mix_into_a_given_array_and_in_place() -> None:
    model = make(MAIL, 3)
    states = model.states([[2], [3]])
    rows = global_rows(2, SIZE + 3)
    expected = model.mix(states, rows)
    out = np.zeros_like(rows)
    assert model.mix(states, rows, out) is out
    assert out.tobytes() == expected.tobytes()
    assert model.mix(states, rows, out=rows) is rows
    assert rows.tobytes() == expected.tobytes()
    for silent in (make(MAIL, 3, weight=0.0), NullModel("degraded")):
        assert silent.mix(states, rows, rows) is rows
        assert silent.mix(states, rows, np.empty_like(rows)).tobytes() == expected.tobytes()


def test_arrays_that_a_mixture_cannot_be_written_to() -> None:
    model = make(MAIL, 3)
    states, rows = model.states([[2], [3]]), global_rows(2)
    frozen, both = rows.copy(), np.zeros((3, SIZE), np.float32)
    frozen.flags.writeable = False
    for out in (rows[:1], rows.astype(float), np.asfortranarray(rows), frozen, rows.tolist()):
        for mixer in (model, make(MAIL, 3, weight=0.0)):
            with pytest.raises(ArgumentError, match="out must be"):
                mixer.mix(states, rows, out)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="overlaps"):
        model.mix(states, both[:2], both[1:])


def test_padding_columns_keep_their_share() -> None:
    model = make(MAIL, 2, weight=0.25)
    rows = global_rows(1, SIZE + 3)
    mixed = model.mix(model.states([[2]]), rows)
    assert mixed[0, SIZE:] == pytest.approx(rows[0, SIZE:] + np.log(0.75), abs=1e-6)


def test_weight_zero_returns_the_very_array() -> None:
    model = make(MAIL, 3, weight=0.0)
    rows = global_rows(2)
    assert model.mix(model.states([[2], [3]]), rows) is rows


def test_weight_one_is_the_personal_model() -> None:
    model = make(MAIL, 3, weight=1.0)
    states = model.states([[2, 3]])
    assert model.mix(states, global_rows(1)) == pytest.approx(model.distribution(states), abs=1e-6)


def test_rows_of_weight_zero_are_copied_bit_for_bit() -> None:
    from perslm.interpolate import mix_columns

    rows = global_rows(2)
    rows[1, 0] = -np.inf
    mixed = mix_columns(
        rows, np.array([0.5, 0], np.float32), np.array([2]), np.zeros((2, 1), np.float32)
    )
    assert mixed[1].tobytes() == rows[1].tobytes()
    assert mixed[0].tobytes() != rows[0].tobytes()


def test_a_user_who_wrote_nothing_changes_nothing() -> None:
    model = make([], 3, weight=0.9)
    rows = global_rows(1)
    states = model.states([[BOS, 2, 3]])
    assert model.weights(states).tolist() == [0.0]
    assert model.mix(states, rows) is rows
    assert model.continuations(states)[0].shape == (1, 0)


def test_the_null_model_changes_nothing() -> None:
    model = NullModel("unknown_user")
    rows = global_rows(2)
    states = model.states([[1, 2], []])
    assert model.mix(states, rows) is rows
    assert model.weights(states).tolist() == [0.0, 0.0]
    logp, nxt = model.score(states, [[2, 3, 4]] * 2)
    assert logp.shape == nxt.shape == (2, 3)
    assert np.isneginf(logp).all()
    assert model.continuations(states)[0].shape == (2, 0)
    assert model.distribution(states).shape == (2, model.vocabulary_size) == (2, 0)


@pytest.mark.parametrize(
    "histories", [["orchid"], [["orchid"]], [[2.5]], [3], [None], np.zeros((1, 2), bool)]
)
def test_histories_that_are_no_ids_are_not_repeated(histories: object) -> None:
    with pytest.raises(ArgumentError, match="integers") as caught:
        make(MAIL, 3).states(histories)  # type: ignore[arg-type]
    assert "orchid" not in str(caught.value)
    assert caught.value.__suppress_context__  # what numpy or Python said of it is not shown


@pytest.mark.parametrize(("state", "word"), [(0, -1), (-1, 2), (10**6, 2), (0, 2.0), ("0", 2)])
def test_single_words_that_are_none(state: int, word: int) -> None:
    with pytest.raises(ArgumentError):
        make(MAIL, 3).step(state, word)


def test_arrays_of_other_types_and_strides() -> None:
    model = make(MAIL, 3)
    histories = np.array([[2, 3], [BOS, 2], [6, 3]])
    states = model.states(histories.tolist())
    assert np.array_equal(model.states(histories), states)
    assert np.array_equal(model.states(np.repeat(histories, 2, axis=1)[:, ::2]), states)
    candidates = np.array([[2, 4, 7], [3, EOS, 5], [1 << 32, (1 << 32) + 2, 1 << 40]])
    logp, nxt = model.score(states, candidates)
    small = np.minimum(candidates, SIZE + 1)  # as unknown
    for same in (small.astype(np.int32), small.astype(np.uint32), small.astype(np.uint16), small):
        for order in "CF":
            again = model.score(states.astype(np.int16), np.asarray(same, order=order))
            assert np.array_equal(again[0], logp)
            assert np.array_equal(again[1], nxt)
    strided = np.repeat(states, 2)[::2]
    assert np.array_equal(model.distribution(strided), model.distribution(states))
    assert model.step(states[0], candidates[0, 0]) == (logp[0, 0], nxt[0, 0])


def test_empty_batches() -> None:
    model = make(MAIL, 3)
    states = model.states([])
    assert states.shape == (0,)
    assert model.score(states, [])[0].shape == (0, 0)
    assert model.mix(states, np.zeros((0, SIZE), np.float32)).shape == (0, SIZE)
    assert model.score(model.states([[2]]), [[]])[0].shape == (1, 0)


@pytest.mark.parametrize(
    ("states", "candidates"),
    [
        ([0], [[1], [2]]),
        ([0], [1, 2]),
        ([0, 0], [[1, 2], [3]]),
        ([0], [[-1]]),
        ([0], [[0.5]]),
        ([10**6], [[1]]),
        ([-1], [[1]]),
        ([[0]], [[1]]),
        ([0.5], [[1]]),
    ],
)
def test_wrong_arguments_are_named(states: list[int], candidates: list[list[int]]) -> None:
    with pytest.raises(ArgumentError):
        make(MAIL, 3).score(states, candidates)


def test_wrong_rows_and_weights_are_named() -> None:
    model = make(MAIL, 3)
    with pytest.raises(ArgumentError, match="vocabulary the model was built with"):
        model.mix(model.states([[2]]), global_rows(1, SIZE - 1))
    with pytest.raises(ArgumentError, match="between 0 and 1"):
        make(MAIL, 3, weight=1.5)
    with pytest.raises(ArgumentError, match="at least 1"):
        model.continuations(model.states([[2]]), k=0)
    with pytest.raises(ArgumentError, match="negative"):
        model.states([[-3]])
    with pytest.raises(BlobError):
        PersonalModel.from_blob(b"not a model")


def test_events_are_the_distribution_without_its_zeros() -> None:
    model = make(MAIL, 3)
    states = model.states([[BOS, 2], [7]])
    dense = model.distribution(states)
    assert model.events.tolist() == np.flatnonzero(np.isfinite(dense[0])).tolist()
    assert np.array_equal(model.event_logprobs(states), dense[:, model.events])


def test_facts_about_a_model() -> None:
    counts = count(MAIL, 3, SPECIALS)
    model = make(MAIL, 3)
    model.automaton.validate()
    assert model.automaton.ngrams == counts.ngrams
    same = PersonalModel.from_counts(counts, METADATA)
    assert np.array_equal(same.automaton.weight, model.automaton.weight)
    states = model.states([[2, 3], [7], [BOS]])
    assert [model.context_length(int(s)) for s in states] == [2, 0, 1]
    assert np.array_equal(same.distribution(same.states([[2, 3]])), model.distribution(states[:1]))
    assert model.fell_back == same.fell_back
    assert 0 < model.nbytes < same.nbytes < 20_000  # a blob is smaller than its counts
    assert model.ngrams == counts.ngrams
    assert model.tokens == counts.tokens
    assert model.vocabulary_fingerprint == "ab" * 16


def test_repr_holds_shapes_only() -> None:
    assert repr(make(MAIL, 2)) == "PersonalModel(order=2, ngrams=15, generation=7)"


def unaligned(array: np.ndarray) -> np.ndarray:
    """The same numbers one byte off, as from the middle of a message."""
    message = b"\0" + array.tobytes()
    return np.frombuffer(message, array.dtype, offset=1).reshape(array.shape)


def test_unaligned_arrays_are_taken() -> None:
    model = make(MAIL, 3)
    states = model.states([[BOS, 2], [3]])
    candidates = np.array([[3, 4], [5, 9]], np.int64)
    rows = global_rows(2)
    logp, nxt = model.score(states, candidates)
    odd_logp, odd_nxt = model.score(unaligned(states), unaligned(candidates))
    assert np.array_equal(odd_logp, logp)
    assert np.array_equal(odd_nxt, nxt)
    assert np.array_equal(model.mix(unaligned(states), unaligned(rows)), model.mix(states, rows))


def test_the_largest_ids_lead_to_the_root() -> None:
    model = make(MAIL, 3)
    logp, nxt = model.score([0], np.array([[2**63 + 5, 2**64 - 1]], np.uint64))
    assert np.isneginf(logp).all()
    assert not nxt.any()
    assert model.step(0, 2**64) == model.step(0, SIZE + 5)


def test_errors_do_not_repeat_what_was_given() -> None:
    model = make(MAIL, 3)
    with pytest.raises(ArgumentError, match="one-dimensional"):
        model.score([[1], [2, 3]], [[2]])  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match="array of numbers") as caught:
        model.mix([0], [["secret"] * SIZE])  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(ArgumentError, match="shape"):
        model.score([0, 0], np.zeros((3, 0), np.int64))
    for state in (-1, 2**40, 10**6):
        with pytest.raises(ArgumentError):
            model.context_length(state)


def test_a_model_can_be_sent_to_another_process() -> None:
    counts = count(MAIL, 3, SPECIALS)
    for model in (make(MAIL, 3, 0.4), PersonalModel.from_counts(counts, METADATA, weight=0.4)):
        twin = pickle.loads(pickle.dumps(model))
        assert (twin.generation, twin.weight) == (model.generation, 0.4)
        states = model.states([[BOS, 2]])
        assert np.array_equal(twin.distribution(states), model.distribution(states))


def test_any_bytes_like_object_is_a_blob() -> None:
    blob = encode(count(MAIL, 3, SPECIALS), METADATA)
    for data in (bytearray(blob), memoryview(blob)):
        assert PersonalModel.from_blob(data).ngrams == make(MAIL, 3).ngrams


@pytest.mark.parametrize("error", [MemoryError, ValueError])
def test_a_model_that_cannot_be_compiled_is_a_blob_error(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    blob = encode(count(MAIL, 3, SPECIALS), METADATA)

    def too_large(counts: object, gates: object) -> NoReturn:
        raise error

    monkeypatch.setattr("perslm.model.compile_counts", too_large)
    with pytest.raises(BlobError, match="too large"):
        PersonalModel.from_blob(blob)


def test_a_vocabulary_of_another_size_is_another() -> None:
    vocabulary = Vocabulary.from_words(["a", "b"])
    name, size = vocabulary.fingerprint, vocabulary.size
    for own in (None, name, vocabulary):
        check_vocabulary(own, name, size)
    for own, wrong in ((vocabulary, (name, size + 1)), (name, ("0" * 32, size))):
        with pytest.raises(VocabularyMismatchError):
            check_vocabulary(own, *wrong)
