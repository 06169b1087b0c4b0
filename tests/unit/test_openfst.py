"""OpenFst: scores by composition are ours, and acceptors come back as the model they were.

Two oracles that share nothing with the library but the acceptor. The exact one replaces backoff
arcs by the word arcs they stand for (what a failure arc means), then composes and sums in the log
semiring. The other composes with the backoff arcs as ε and takes the shortest path, which is exact
wherever no detour over a backoff arc is better than the arc of the word itself.
"""

from __future__ import annotations

import gzip
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perslm import openfst
from perslm.arpa import TOLERANCE
from perslm.automaton import ROOT, Automaton, build
from perslm.blob import Metadata
from perslm.counts import Specials, count
from perslm.errors import ArgumentError, InteropError, MissingExtraError
from perslm.katz import estimate
from perslm.model import PersonalModel
from tests.support import FIXTURES, Seq, golden_models, sequence_lists

pywrapfst = pytest.importorskip("pywrapfst", reason="pynini is not installed: perslm[interop]")

WORDS = ["<s>", "</s>", "alpha", "beta", "gamma", "delta"]
SPECIALS = Specials(len(WORDS), 0, 1)
IDS = {word: i for i, word in enumerate(WORDS)}

# float32 keeps 24 bits of every weight
FLOAT32 = 2.0**-23


def automaton(sequences: list[Seq], order: int, specials: Specials = SPECIALS) -> Automaton:
    counts = count(sequences, order, specials)
    return build(counts, estimate(counts))


def small_model(order: int = 3) -> Automaton:
    rng = random.Random(11)
    rows = [[rng.choice([2, 2, 2, 3, 4]) for _ in range(rng.randrange(1, 6))] for _ in range(12)]
    return automaton([Seq(row, True, True) for row in rows], order)


def assert_same(got: Automaton, expected: Automaton) -> None:
    """The same structure, exactly; the same weights, as float32."""
    assert got.start == expected.start
    for name in ("arc_begin", "label", "next_state", "backoff_state", "state_order"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), name)
    for name in ("weight", "backoff_weight", "final_weight"):
        np.testing.assert_allclose(
            getattr(got, name), getattr(expected, name), rtol=FLOAT32, atol=0, err_msg=name
        )


# --- shape --------------------------------------------------------------------------------------


def test_one_word_arc_for_arc() -> None:
    # p = 1/2 for "alpha" and </s>; the bigrams keep 0.999, so α = 0.001 / 0.5
    fst = openfst.to_fst(automaton([Seq([2], True, True)], 2), WORDS.__getitem__)
    half, trusted, alpha = -math.log(0.5), -math.log(0.999), -math.log(0.002)
    expected = {
        0: [(3, half, 2)],
        1: [(0, alpha, 0), (3, trusted, 2)],
        2: [(0, alpha, 0)],
    }
    assert fst.start() == 1
    assert {s: len(list(fst.arcs(s))) for s in fst.states()} == {0: 1, 1: 2, 2: 1}
    for state, arcs in expected.items():
        for arc, (label, weight, target) in zip(fst.arcs(state), arcs, strict=True):
            assert (arc.ilabel, arc.olabel, arc.nextstate) == (label, label, target)
            assert float(arc.weight) == pytest.approx(weight, rel=1e-6)
    assert [float(fst.final(s)) for s in fst.states()] == pytest.approx([half, math.inf, trusted])
    assert [fst.input_symbols().find(i) for i in range(7)] == ["<epsilon>", *WORDS]
    assert fst.output_symbols().find("beta") == 4
    assert (fst.arc_type(), fst.fst_type()) == ("standard", "vector")


def test_tokens_that_openfst_and_its_tools_cannot_hold_are_escaped() -> None:
    words = ["bos", "eos", "a b", "<epsilon>", "", "</s>", "<backoff>"]
    model = automaton([Seq([2, 3, 4, 5, 6], True, True)], 2, Specials(7, 0, 1))
    fst = openfst.to_fst(model, words.__getitem__, backoff_label=9)
    table = fst.input_symbols()
    assert [table.find(i) for i in (*range(8), 9)] == [
        "<epsilon>",
        "<s>",
        "</s>",
        "a\\x{20}b",
        "\\x{3c}epsilon>",
        "\\x{}",
        "\\x{3c}/s>",
        "\\x{3c}backoff>",
        "<backoff>",
    ]
    known = {word: i for i, word in enumerate(words)}
    back = openfst.from_fst(fst, model.specials, id_of=known.get, backoff_label=9)
    assert_same(back, model)


def test_ids_without_a_token_have_no_symbol() -> None:
    def token(i: int) -> str:
        if i == 3:
            raise ArgumentError("no token has id 3")
        return WORDS[i]

    table = openfst.symbols(SPECIALS, token)
    assert (table.find(4), table.find(5), table.num_symbols()) == ("", "gamma", 6)


def test_two_ids_of_one_token() -> None:
    with pytest.raises(InteropError, match="id 5 is also that of another"):
        openfst.symbols(SPECIALS, [*WORDS[:5], "beta"].__getitem__)


def test_arguments() -> None:
    model = small_model()
    with pytest.raises(ArgumentError, match="arc_type"):
        openfst.to_fst(model, arc_type="quaternion")
    for label in (-1, 3, SPECIALS.size, 1 << 31):
        with pytest.raises(ArgumentError, match="backoff_label"):
            openfst.to_fst(model, backoff_label=label)


def test_without_pywrapfst(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pywrapfst", None)
    for call in (
        lambda: openfst.to_fst(small_model()),
        lambda: openfst.dump(small_model(), tmp_path / "model.fst"),
        lambda: openfst.load(tmp_path / "model.fst", SPECIALS),
        lambda: openfst.symbols(SPECIALS, WORDS.__getitem__),
    ):
        with pytest.raises(MissingExtraError, match=r"OpenFst interop .*perslm\[interop\]"):
            call()


# --- scores by composition ----------------------------------------------------------------------


def acceptor(ids: list[int], arc_type: str) -> Any:
    """The linear acceptor of a sentence."""
    fst = pywrapfst.VectorFst(arc_type=arc_type)
    one = pywrapfst.Weight.one(fst.weight_type())
    fst.add_states(len(ids) + 1)
    fst.set_start(0)
    fst.set_final(len(ids))
    for i, token_id in enumerate(ids):
        fst.add_arc(i, pywrapfst.Arc(token_id + 1, token_id + 1, one, i + 1))
    return fst


def without_failures(model: Any, failure: int) -> Any:
    """The acceptor in which every word that failure arcs lead to has an arc of its own."""
    kind = model.weight_type()
    result = pywrapfst.VectorFst(arc_type=model.arc_type())
    result.add_states(model.num_states())
    result.set_start(model.start())
    none = pywrapfst.Weight.zero(kind)
    for state in model.states():
        seen = set()
        final = none
        so_far = pywrapfst.Weight.one(kind)
        here: int | None = state
        while here is not None:
            if final == none and model.final(here) != none:
                final = pywrapfst.times(so_far, model.final(here))
            following, on = None, so_far
            for arc in model.arcs(here):
                weight = pywrapfst.times(so_far, arc.weight)
                if arc.ilabel == failure:
                    following, on = arc.nextstate, weight
                elif arc.ilabel not in seen:
                    seen.add(arc.ilabel)
                    result.add_arc(
                        state, pywrapfst.Arc(arc.ilabel, arc.ilabel, weight, arc.nextstate)
                    )
            here, so_far = following, on
        result.set_final(state, final)
    return result.arcsort()


def composed_weight(sentence: Any, model: Any) -> float:
    """The weight of all paths of the sentence, in the semiring of the two."""
    lattice = pywrapfst.compose(sentence, model)
    if lattice.start() == pywrapfst.NO_STATE_ID:
        return math.inf
    return float(pywrapfst.shortestdistance(lattice, reverse=True)[lattice.start()])


def sentence_weight(model: Automaton, ids: list[int]) -> float:
    """−ln p(ids </s> | <s>), by the automaton."""
    state, total = np.array([model.start]), 0.0
    for token_id in ids:
        path = model.walk(state, np.array([token_id]))
        total += float(path.weight[0])
        state = np.where(path.arc < 0, ROOT, model.next_state[path.arc])
    total += float(model.closing(state)[0])
    return total


@given(sequences=sequence_lists(), sentence=st.lists(st.integers(2, 5), max_size=6))
@pytest.mark.parametrize("order", range(1, 6))
def test_composition_with_failure_arcs_gives_our_scores(
    order: int, sequences: list[Seq], sentence: list[int]
) -> None:
    model = automaton([*sequences, Seq([2], True, True)], order)
    phi = SPECIALS.size + 1
    fst = openfst.to_fst(model, arc_type="log64", backoff_label=phi)
    got = composed_weight(acceptor(sentence, "log64"), without_failures(fst, phi))
    assert got == pytest.approx(sentence_weight(model, sentence), rel=1e-6)


@pytest.mark.parametrize("order", range(1, 6))
def test_distributions_sum_to_one_in_the_log_semiring(order: int) -> None:
    fst = without_failures(openfst.to_fst(small_model(order), arc_type="log64"), openfst.EPSILON)
    for state in fst.states():
        mass = math.exp(-float(fst.final(state)))
        mass += math.fsum(math.exp(-float(arc.weight)) for arc in fst.arcs(state))
        assert mass == pytest.approx(1, abs=1e-7)


def detours_cost_more(model: Automaton) -> bool:
    """Whether no word or end has a better path over a backoff arc than its own."""
    inner = model.arc_state != ROOT
    leaves, label = model.arc_state[inner], model.label[inner]
    around = model.backoff_weight[leaves] + model.walk(model.backoff_state[leaves], label).weight
    closes = np.isfinite(model.final_weight) & (model.state_order > 0)
    over = model.backoff_weight[closes] + model.closing(model.backoff_state[closes])
    return bool((model.weight[inner] <= around).all()) and bool(
        (model.final_weight[closes] <= over).all()
    )


@pytest.mark.parametrize("order", range(1, 6))
def test_composition_with_epsilon_backoff_gives_our_scores_on_shortest_paths(order: int) -> None:
    # every n-gram is seen more than 5 times and keeps 0.999 of its mass, so detours never pay
    rows = [[2, 3], [2, 4], [5, 3, 2], [4, 4, 5]]
    model = automaton([Seq(row, True, True) for row in rows for _ in range(7)], order)
    assert detours_cost_more(model)
    fst = openfst.to_fst(model)
    for sentence in (*rows, [], [3, 3], [5, 4, 2, 2], [2, 3, 2, 3, 2]):
        best = pywrapfst.shortestpath(pywrapfst.compose(acceptor(sentence, "standard"), fst))
        got = float(pywrapfst.shortestdistance(best, reverse=True)[best.start()])
        assert got == pytest.approx(sentence_weight(model, sentence), rel=1e-5)


def test_a_word_that_was_never_written_has_no_path() -> None:
    model = automaton([Seq([2, 3], True, True)], 2)
    fst = without_failures(openfst.to_fst(model, arc_type="log64"), openfst.EPSILON)
    assert composed_weight(acceptor([2, 5], "log64"), fst) == math.inf
    assert sentence_weight(model, [2, 5]) == math.inf


def test_a_grammar_of_the_same_symbols_intersects() -> None:
    model = automaton([Seq([2, 3], True, True), Seq([2, 4], True, True)], 2)
    table = openfst.symbols(SPECIALS, WORDS.__getitem__)
    compiler = pywrapfst.Compiler(acceptor=True, isymbols=table, keep_isymbols=True)
    compiler.write("0 1 alpha\n1 2 gamma\n2\n")
    lattice = pywrapfst.compose(compiler.compile(), openfst.to_fst(model, WORDS.__getitem__))
    best = pywrapfst.shortestpath(lattice)
    distance = float(pywrapfst.shortestdistance(best, reverse=True)[best.start()])
    assert distance == pytest.approx(sentence_weight(model, [2, 4]), rel=1e-5)


# --- round trips --------------------------------------------------------------------------------


@given(sequences=sequence_lists(), backoff_label=st.sampled_from([0, SPECIALS.size + 1]))
@pytest.mark.parametrize("order", range(1, 6))
def test_round_trip(order: int, sequences: list[Seq], backoff_label: int) -> None:
    model = automaton(sequences, order)
    fst = openfst.to_fst(model, backoff_label=backoff_label)
    back = openfst.from_fst(fst, SPECIALS, backoff_label=backoff_label)
    assert_same(back, model)
    assert back.order <= order  # of the longest n-gram there is
    assert (back.total <= model.total).all()


@given(sequences=sequence_lists(), minimum=st.integers(2, 3))
def test_round_trip_of_pruned_models(sequences: list[Seq], minimum: int) -> None:
    counts = count(sequences, 4, SPECIALS).prune([1, 1, minimum, minimum])
    model = build(counts, estimate(counts))
    assert_same(openfst.from_fst(openfst.to_fst(model), SPECIALS), model)


@pytest.mark.parametrize("arc_type", ["standard", "log", "log64"])
def test_round_trip_in_every_arc_type(arc_type: str) -> None:
    model = small_model()
    fst = openfst.to_fst(model, arc_type=arc_type)
    assert_same(openfst.from_fst(fst, SPECIALS), model)


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    counts = count([Seq([2, 3, 2, 4], True, True), Seq([3, 4], True, False)], 4, SPECIALS)
    model = build(counts, estimate(counts))
    path = tmp_path / "model.fst"
    personal = PersonalModel.from_counts(counts, Metadata("0" * 32), estimator="katz")
    openfst.dump(personal, path, WORDS.__getitem__)
    assert pywrapfst.Fst.read(str(path)).num_states() == model.states
    back = openfst.load(path, SPECIALS, id_of=IDS.get)
    assert_same(back, model)
    assert back.order == 4
    openfst.dump(model, path)
    assert_same(openfst.load(path, SPECIALS), model)


# --- models of OpenGrm --------------------------------------------------------------------------


def as_opengrm(path: Path, order: int) -> Any:
    """The golden model of one order as OpenGrm holds it.

    State 0 has the empty context and 1 that of ``<s>``, the others are numbered as they come; so
    are the words. Weights are float32.
    """
    logprob: dict[tuple[str, ...], float] = {}
    backoff: dict[tuple[str, ...], float] = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            model_order, kind, ngram, value = line.rstrip("\n").split("\t")
            if int(model_order) == order:
                (logprob if kind == "p" else backoff)[tuple(ngram.split(" "))] = float(value)
    table = pywrapfst.SymbolTable()
    table.add_symbol("<epsilon>")
    fst = pywrapfst.VectorFst()
    state = {(): fst.add_state()}
    if order > 1:
        state["<s>",] = fst.add_state()
    fst.set_start(fst.num_states() - 1)
    for context in backoff:
        if context not in state:
            state[context] = fst.add_state()
    for context, value in backoff.items():
        weight = pywrapfst.Weight("tropical", -value)
        fst.add_arc(state[context], pywrapfst.Arc(0, 0, weight, state[context[1:]]))
    for ngram, value in logprob.items():
        weight = pywrapfst.Weight("tropical", -value)
        if ngram[-1] == "</s>":
            fst.set_final(state[ngram[:-1]], weight)
            continue
        target = ngram
        while target not in state:
            target = target[1:]
        label = table.add_symbol(ngram[-1])
        fst.add_arc(state[ngram[:-1]], pywrapfst.Arc(label, label, weight, state[target]))
    fst.set_input_symbols(table)
    fst.set_output_symbols(table)
    return fst.arcsort()


@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize(("text", "golden"), golden_models())
def test_reads_models_of_opengrm(text: Path, golden: Path, order: int) -> None:
    rows = [line.split() for line in text.read_text("utf-8").splitlines() if line.split()]
    words = ["<s>", "</s>", *sorted({word for row in rows for word in row})]
    number = {word: i for i, word in enumerate(words)}
    specials = Specials(len(words), 0, 1)
    ours = automaton([Seq([number[w] for w in row], True, True) for row in rows], order, specials)
    theirs = openfst.from_fst(as_opengrm(golden, order), specials, id_of=number.get)
    np.testing.assert_array_equal(theirs.next_state, ours.next_state)
    np.testing.assert_array_equal(theirs.backoff_state, ours.backoff_state)
    np.testing.assert_allclose(theirs.weight, ours.weight, atol=4e-6)
    np.testing.assert_allclose(theirs.final_weight, ours.final_weight, atol=4e-6)
    # float32, where little mass is left over
    np.testing.assert_allclose(theirs.backoff_weight, ours.backoff_weight, rtol=1e-6, atol=2e-4)


def test_reads_a_model_that_lost_a_context() -> None:
    """Tools that prune may drop a state; arcs then lead to the next shorter context."""
    model = small_model(2)
    gamma = np.array([WORDS.index("gamma")])
    dropped = int(model.next_state[model.find(np.array([ROOT]), gamma)[0]])
    kept = [state for state in range(model.states) if state != dropped]
    number = {state: i for i, state in enumerate(kept)}
    whole = openfst.to_fst(model)
    fst = pywrapfst.VectorFst()
    fst.add_states(len(kept))
    fst.set_start(number[model.start])
    for state in kept:
        fst.set_final(number[state], whole.final(state))
        for old in whole.arcs(state):
            target = number.get(old.nextstate, ROOT)
            fst.add_arc(number[state], pywrapfst.Arc(old.ilabel, old.olabel, old.weight, target))
    back = openfst.from_fst(fst, SPECIALS)
    assert back.states == model.states - 1
    assert (back.label == gamma).any()
    assert (back.next_state[back.label == gamma] == ROOT).all()


# --- broken acceptors and files -----------------------------------------------------------------


def edit(change: Callable[[Any], object]) -> Any:
    fst = openfst.to_fst(small_model(3), WORDS.__getitem__)
    change(fst)
    return fst


def arc(label: int, target: int, olabel: int | None = None) -> Any:
    weight = pywrapfst.Weight("tropical", 1.0)
    return pywrapfst.Arc(label, label if olabel is None else olabel, weight, target)


def redirect_start_backoff(fst: Any) -> None:
    """Let the root back off to the start state: a circle."""
    fst.add_arc(0, arc(0, fst.start()))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda fst: fst.delete_states(), "no start state"),
        (lambda fst: fst.add_arc(1, arc(0, 0)), "more than one backoff arc"),
        (lambda fst: fst.add_arc(1, arc(3, 0, olabel=4)), "not an acceptor"),
        (lambda fst: fst.add_arc(1, arc(4, 99)), "not an acceptor"),
        (lambda fst: fst.add_arc(1, arc(7, 0)), "label 7 is no word"),
        (lambda fst: fst.add_arc(1, arc(-3, 0)), "label -3 is no word"),
        (lambda fst: fst.add_arc(1, arc(1, 0)), "labelled <s> or </s>"),
        (lambda fst: fst.add_state(), "no backoff arc"),
        (lambda fst: fst.add_arc(fst.add_state(), arc(0, 0)), "not reached"),
        (redirect_start_backoff, "circle"),
        (lambda fst: fst.set_start(fst.num_states() - 1), "must be that of <s>"),
        (lambda fst: fst.add_arc(0, arc(3, 0)), "sum to 1: labels do not ascend"),
        (lambda fst: fst.set_final(0, 9.0), "sum to 1: the distribution"),
        (lambda fst: fst.set_final(0, -999.0), "a probability is above 1"),
    ],
)
def test_broken_acceptors(change: Callable[[Any], object], problem: str) -> None:
    with pytest.raises(InteropError) as caught:
        openfst.from_fst(edit(change), SPECIALS)
    assert problem in str(caught.value)


def test_symbols_decide_only_if_there_are_any() -> None:
    fst = openfst.to_fst(small_model())
    with pytest.raises(InteropError, match="no symbol table"):
        openfst.from_fst(fst, SPECIALS, id_of=IDS.get)
    with pytest.raises(InteropError, match="no word of the vocabulary") as caught:
        openfst.from_fst(
            openfst.to_fst(small_model(), WORDS.__getitem__), SPECIALS, id_of={"beta": 3}.get
        )
    assert "alpha" not in str(caught.value)


def test_a_vocabulary_that_cannot_close() -> None:
    with pytest.raises(InteropError, match="no </s>"):
        openfst.from_fst(openfst.to_fst(small_model()), Specials(6, 0, 8))


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InteropError, match="cannot read"):
        openfst.load(tmp_path / "absent.fst", SPECIALS)
    with pytest.raises(InteropError, match="cannot write"):
        openfst.dump(small_model(), tmp_path / "absent" / "model.fst")


def test_files_of_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "model.fst"
    path.write_text("0 1 alpha\n")
    with pytest.raises(InteropError, match="not an OpenFst file"):
        openfst.load(path, SPECIALS)
    pywrapfst.convert(openfst.to_fst(small_model()), "const").write(str(path))
    with pytest.raises(InteropError, match="fstconvert --fst_type=vector"):
        openfst.load(path, SPECIALS)


@pytest.fixture(scope="module")
def sound_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("fst") / "model.fst"
    openfst.dump(automaton([Seq([2, 3], True, True)], 3), path, WORDS.__getitem__)
    return path.read_bytes()


def test_every_truncation_is_an_error(sound_file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.fst"
    for length in range(len(sound_file)):
        path.write_bytes(sound_file[:length])
        with pytest.raises(InteropError):
            openfst.load(path, SPECIALS, id_of=IDS.get)


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_damaged_byte_gives_a_model_or_an_interop_error(
    sound_file: bytes, tmp_path: Path, mask: int
) -> None:
    """OpenFst files have no checksum, so some damage shows only as another, valid model."""
    path = tmp_path / "model.fst"
    for at in range(len(sound_file)):
        damaged = bytearray(sound_file)
        damaged[at] ^= mask
        path.write_bytes(damaged)
        try:
            model = openfst.load(path, SPECIALS, id_of=IDS.get)
        except InteropError:
            continue
        model.validate(TOLERANCE)


def test_the_office_model_goes_through_a_file(tmp_path: Path) -> None:
    rows = [line.split() for line in (FIXTURES / "golden" / "office.txt").read_text().splitlines()]
    words = ["<s>", "</s>", *sorted({word for row in rows for word in row})]
    number = {word: i for i, word in enumerate(words)}
    specials = Specials(len(words), 0, 1)
    model = automaton([Seq([number[w] for w in row], True, True) for row in rows], 5, specials)
    openfst.dump(model, tmp_path / "office.fst", words.__getitem__)
    back = openfst.load(tmp_path / "office.fst", specials, id_of=number.get, tolerance=1e-5)
    assert_same(back, model)
