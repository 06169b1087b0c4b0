"""ARPA files: ours byte for byte, others' as they come, and broken ones."""

from __future__ import annotations

import gzip
import io
import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perslm import arpa
from perslm.automaton import ROOT, Automaton, build
from perslm.blob import Metadata
from perslm.counts import Counts, Specials, count
from perslm.errors import InteropError
from perslm.katz import estimate
from perslm.model import PersonalModel
from tests.support import Seq, golden_models, sequence_lists

WORDS = ["<s>", "</s>", "alpha", "beta", "gamma", "delta"]
SPECIALS = Specials(len(WORDS), 0, 1)


def compiled(counts: Counts) -> Automaton:
    return build(counts, estimate(counts))


def automaton(sequences: list[Seq], order: int, specials: Specials = SPECIALS) -> Automaton:
    return compiled(count(sequences, order, specials))


def written(model: Automaton, words: list[str] = WORDS) -> str:
    file = io.StringIO()
    arpa.dump(model, words.__getitem__, file)
    return file.getvalue()


def ids(words: list[str]) -> Callable[[str], int | None]:
    return {word: i for i, word in enumerate(words) if i > 1}.get


def read(text: str, words: list[str] = WORDS, tolerance: float = arpa.TOLERANCE) -> Automaton:
    return arpa.load(
        io.StringIO(text),
        id_of=ids(words),
        specials=Specials(len(words), 0, 1),
        tolerance=tolerance,
    )


def p(model: Automaton, *words: str) -> float:
    """p(last word | the words before)."""
    state = np.array([ROOT])
    for word in words[:-1]:
        if word == "<s>":
            state[:] = model.start
            continue
        arc = model.walk(state, np.array([WORDS.index(word)])).arc[0]
        state[:] = ROOT if arc < 0 else model.next_state[arc]
    if words[-1] == "</s>":
        return math.exp(-model.closing(state)[0])
    return math.exp(-model.walk(state, np.array([WORDS.index(words[-1])])).weight[0])


def assert_same(got: Automaton, expected: Automaton) -> None:
    """The same structure, exactly; the same weights, to the last digits of a float64."""
    assert (got.order, got.start) == (expected.order, expected.start)
    for name in ("arc_begin", "label", "next_state", "backoff_state", "state_order"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), name)
    for name in ("weight", "backoff_weight", "final_weight"):
        np.testing.assert_allclose(
            getattr(got, name), getattr(expected, name), rtol=1e-15, atol=0, err_msg=name
        )


# --- writing ------------------------------------------------------------------------------------

# "alpha" once: p = 1/2 each; the bigrams keep 0.999, so α = 0.001 / 0.5
ONE_WORD = """\
\\data\\
ngram 1=3
ngram 2=2

\\1-grams:
-99\t<s>\t-2.698970004336018
-0.30102999566398114\t</s>
-0.30102999566398114\talpha\t-2.698970004336018

\\2-grams:
-0.00043451177401769163\t<s> alpha
-0.00043451177401769163\talpha </s>

\\end\\
"""


def edited(old: str, new: str) -> str:
    assert old in ONE_WORD
    return ONE_WORD.replace(old, new, 1)


def test_one_word_byte_for_byte() -> None:
    assert written(automaton([Seq([2], True, True)], 2)) == ONE_WORD
    assert math.log10(0.5) == pytest.approx(-0.30102999566398114, rel=1e-15)
    assert math.log10(0.999) == pytest.approx(-0.00043451177401769163, rel=1e-12)
    assert math.log10(0.002) == pytest.approx(-2.698970004336018, rel=1e-12)


def test_one_sentence_by_hand() -> None:
    # "alpha beta" is three events. Three bigrams, each once: d_1 = 2/3, and two trigrams, each
    # once: d_1 = 2/2 is unusable, so 0.999 (n_2 = 0 is left out of both)
    text = written(automaton([Seq([2, 3], True, True)], 3))
    expected: list[tuple[str, float, float | None]] = [
        ("<s>", 1e-99, (1 / 3) / (2 / 3)),
        ("</s>", 1 / 3, None),
        ("alpha", 1 / 3, (1 / 3) / (2 / 3)),
        ("beta", 1 / 3, (1 / 3) / (2 / 3)),
        ("<s> alpha", 2 / 3, 0.001 / (1 / 3)),
        ("alpha beta", 2 / 3, 0.001 / (1 / 3)),
        ("beta </s>", 2 / 3, None),
        ("<s> alpha beta", 0.999, None),
        ("alpha beta </s>", 0.999, None),
    ]
    assert text.startswith("\\data\\\nngram 1=4\nngram 2=3\nngram 3=2\n\n\\1-grams:\n")
    entries = [line.split("\t") for line in text.splitlines() if "\t" in line]
    assert [entry[1] for entry in entries] == [ngram for ngram, _, _ in expected]
    for (logprob, _, *columns), (ngram, probability, alpha) in zip(entries, expected, strict=True):
        assert float(logprob) == pytest.approx(math.log10(probability), rel=1e-12), ngram
        backoffs = [] if alpha is None else [pytest.approx(math.log10(alpha), rel=1e-12)]
        assert [float(column) for column in columns] == backoffs, ngram


def test_orders_without_ngrams_are_empty_sections() -> None:
    text = written(automaton([Seq([2], True, True)], 4))
    assert "ngram 3=1\nngram 4=0\n" in text
    assert text.endswith("<s> alpha </s>\n\n\\4-grams:\n\n\\end\\\n")
    assert read(text).order == 4


def test_a_model_of_nothing() -> None:
    text = written(automaton([], 2))
    assert text == (
        "\\data\\\nngram 1=2\nngram 2=0\n\n\\1-grams:\n-99\t<s>\n-99\t</s>\n"
        "\n\\2-grams:\n\n\\end\\\n"
    )
    assert_same(read(text), automaton([], 2))


@given(sequences=sequence_lists())
@pytest.mark.parametrize("order", range(1, 6))
def test_every_line_is_what_toolkits_take(order: int, sequences: list[Seq]) -> None:
    text = written(automaton(sequences, order))
    seen = set()
    for line in text.split("\\1-grams:")[1].splitlines():
        if not line or line.startswith("\\"):
            continue
        logprob, ngram, *backoff = line.split("\t")
        words = ngram.split(" ")
        assert ngram not in seen
        seen.add(ngram)
        assert float(logprob) <= 0
        assert len(backoff) <= 1
        if len(words) == order or words[-1] == "</s>":
            assert not backoff
        elif ngram != "<s>":
            assert math.isfinite(float(backoff[0]))


def test_a_personal_model_can_be_given() -> None:
    counts = count([Seq([2], True, True)], 2, SPECIALS)
    personal = PersonalModel.from_counts(counts, Metadata("0" * 32), estimator="katz")
    file = io.StringIO()
    arpa.dump(personal, WORDS.__getitem__, file)
    assert file.getvalue() == ONE_WORD


# --- tokens -------------------------------------------------------------------------------------


@given(token=st.text(st.characters(exclude_categories=()) | st.sampled_from("\\x{}20a<s>/ ")))
def test_escapes_are_undone(token: str) -> None:
    escaped = arpa.escape(token)
    assert arpa.unescape(escaped) == token
    assert escaped
    assert escaped not in ("<s>", "</s>")
    assert escaped.split() == [escaped]
    assert escaped.encode("utf-8").decode("utf-8") == escaped


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("word", "word"),
        ("Ġword", "Ġword"),
        ("C:\\temp\\x", "C:\\temp\\x"),
        ("a b\n", "a\\x{20}b\\x{a}"),
        ("\u3000", "\\x{3000}"),
        ("", "\\x{}"),
        ("<s>", "\\x{3c}s>"),
        ("\\x{20}", "\\x{5c}x{20}"),
        ("<unk>", "<unk>"),
    ],
)
def test_escapes_literally(token: str, expected: str) -> None:
    assert arpa.escape(token) == expected


def test_an_escape_that_names_no_character_is_the_token_itself() -> None:
    assert arpa.unescape("\\x{ffffff}") == "\\x{ffffff}"


def test_awkward_tokens_come_back() -> None:
    words = ["begin", "end", "a b", "</s>", "", "<s>", "\\x{20}", "\u2028", "\r"]
    specials = Specials(len(words), 0, 1)
    model = automaton([Seq([2, 3, 4, 5, 6, 7, 8], True, True)], 3, specials)
    text = written(model, words)
    assert "begin" not in text
    assert_same(read(text, words), model)


# --- round trips --------------------------------------------------------------------------------


@given(sequences=sequence_lists())
@pytest.mark.parametrize("order", range(1, 6))
def test_round_trip(order: int, sequences: list[Seq]) -> None:
    model = automaton(sequences, order)
    back = read(written(model), tolerance=1e-6)
    assert_same(back, model)
    assert back.start == model.start
    assert (back.total <= model.total).all()


@given(sequences=sequence_lists(), minimum=st.integers(2, 3))
def test_round_trip_of_pruned_models(sequences: list[Seq], minimum: int) -> None:
    model = compiled(count(sequences, 4, SPECIALS).prune([1, 1, minimum, minimum]))
    assert_same(read(written(model), tolerance=1e-6), model)


def test_virtual_specials() -> None:
    specials = Specials(4, 7, 9)  # <s> and </s> are no ids of the vocabulary
    words = ["w0", "w1", "w2", "w3"]
    model = automaton([Seq([0, 1, 2, 0], True, False)], 3, specials)
    text = written(model, words)
    known = {word: i for i, word in enumerate(words)}
    back = arpa.load(io.StringIO(text), id_of=known.get, specials=specials)
    assert_same(back, model)
    closing = written(automaton([Seq([2], True, True)], 2))
    with pytest.raises(InteropError, match="no </s>"):
        arpa.load(io.StringIO(closing), id_of={"alpha": 0}.get, specials=specials)


# --- models of OpenGrm --------------------------------------------------------------------------


def sentences(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text("utf-8").splitlines() if line.split()]


def as_arpa(path: Path, order: int) -> str:
    """The golden model of one order, as an ARPA file of 7 digits."""
    logprob: dict[str, str] = {}
    backoff: dict[str, str] = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            model_order, kind, ngram, value = line.rstrip("\n").split("\t")
            if int(model_order) == order:
                column = logprob if kind == "p" else backoff
                column[ngram] = f"{float(value) / math.log(10):.7g}"
    logprob["<s>"] = "-99"
    sections: list[list[str]] = [[] for _ in range(order)]
    for ngram, value in logprob.items():
        column = [backoff[ngram]] if ngram in backoff else []
        sections[ngram.count(" ")].append("\t".join([value, ngram, *column]))
    lines = ["", "\\data\\"]
    lines += [f"ngram {k}={len(section)}" for k, section in enumerate(sections, 1)]
    for k, section in enumerate(sections, 1):
        lines += ["", f"\\{k}-grams:", *section]
    return "\n".join([*lines, "", "\\end\\", ""])


@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize(("text", "golden"), golden_models())
def test_reads_models_of_opengrm(text: Path, golden: Path, order: int) -> None:
    spelled = sentences(text)
    words = ["<s>", "</s>", *sorted({word for sentence in spelled for word in sentence})]
    number = {word: i for i, word in enumerate(words)}
    sequences = [Seq([number[word] for word in sentence], True, True) for sentence in spelled]
    ours = automaton(sequences, order, Specials(len(words), 0, 1))
    theirs = read(as_arpa(golden, order), words)
    np.testing.assert_array_equal(theirs.next_state, ours.next_state)
    np.testing.assert_array_equal(theirs.backoff_state, ours.backoff_state)
    np.testing.assert_allclose(theirs.weight, ours.weight, atol=4e-6)
    np.testing.assert_allclose(theirs.final_weight, ours.final_weight, atol=4e-6)
    # 7 digits of up to −42.99, and float32 where little mass is left over
    np.testing.assert_allclose(theirs.backoff_weight, ours.backoff_weight, rtol=1e-6, atol=2e-4)


# --- models of others ---------------------------------------------------------------------------

# p(alpha) = 0.5, p(beta) = 0.25, p(</s>) = 0.25; after <s> alpha 0.2, so α = 0.8 / 0.5 > 1
FOREIGN = """\
this file was made by hand
\tngram 7=1

\\data\\
ngram  1 = 5
ngram 2=1

\\1-grams:
-100 <unk> 0
-inf\t<s>\t0.20411998265592479
-0.6020599913279624\t</s>\t0
-0.3010299956639812 alpha \t 0.0

-0.6020599913279624\tbeta
\\2-grams:
-0.6989700043360187\t<s>  alpha
\\end\\
whatever follows is not read
"""


def test_reads_what_others_write() -> None:
    model = read(FOREIGN)
    assert (model.states, model.arcs, model.order) == (4, 3, 2)
    assert p(model, "alpha") == pytest.approx(0.5)
    assert p(model, "<s>", "alpha") == pytest.approx(0.2)
    assert p(model, "<s>", "beta") == pytest.approx(1.6 * 0.25)
    assert p(model, "<s>", "</s>") == pytest.approx(1.6 * 0.25)
    assert p(model, "beta", "alpha") == pytest.approx(0.5)
    assert model.total.tolist() == [3, 1, 0, 0]


@pytest.mark.parametrize("logprob", ["-99", "0", "0.0", "-1.2787536", "-inf"])
def test_the_probability_of_opening_means_nothing(logprob: str) -> None:
    # toolkits write zero, one, or the relative frequency of <s>
    assert_same(read(edited("-99", logprob)), read(ONE_WORD))


def test_an_unknown_word_with_an_id_is_a_word() -> None:
    words = [*WORDS, "<unk>"]
    text = FOREIGN.replace("-100 <unk>", "-0.6020599913279624 <unk>")
    text = text.replace("-0.6020599913279624\tbeta\n", "-99\tbeta\n")
    model = read(text, words)
    labels = model.label[: model.arc_begin[1]].tolist()
    assert labels == [words.index("alpha"), words.index("<unk>")]


def test_an_unknown_word_without_an_id_must_have_no_probability() -> None:
    with pytest.raises(InteropError, match=r"line 9: .*<unk> needs an id") as caught:
        read(FOREIGN.replace("-100 <unk>", "-0.6020599913279624 <unk>"))
    assert caught.value.line == 9


def test_a_zero_that_longer_ngrams_need_stays() -> None:
    # p(beta) = 0 but p(beta | <s>) = 0.5
    text = ONE_WORD.replace("ngram 1=3", "ngram 1=4").replace("ngram 2=2", "ngram 2=1")
    text = text.replace("-2.698970004336018", "0").replace("\n\n\\2", "\n-99\tbeta\n\n\\2", 1)
    start = text.index("-0.00043451177401769163")
    half = "-0.30102999566398114\t<s> beta\n\n\\end\\\n"
    model = read(text[:start].replace("<s>\t0", "<s>\t-0.30102999566398114") + half)
    assert p(model, "beta") == pytest.approx(0, abs=1e-90)
    assert p(model, "<s>", "beta") == pytest.approx(0.5)
    assert p(model, "<s>", "alpha") == pytest.approx(0.25)


# the trigram needs its prefix "<s> alpha" and its suffix "alpha beta", which were pruned:
# p(alpha) = 0.5, p(beta) = p(</s>) = 0.25, p(beta | <s> alpha) = p(beta) as backed off to
PRUNED = """\
\\data\\
ngram 1=4
ngram 2=1
ngram 3=1

\\1-grams:
-99\t<s>\t-0.12493873660829995
-0.6020599913279624\t</s>
-0.3010299956639812\talpha\t0
-0.6020599913279624\tbeta\t0

\\2-grams:
-0.3979400086720376\t<s> beta

\\3-grams:
-0.6020599913279624\t<s> alpha beta

\\end\\
"""


def test_what_others_pruned_is_put_back() -> None:
    # α(<s>) = (1 − 0.4) / (1 − 0.25) = 0.8 would be exact; 10^-0.1249… = 0.75 is not
    with pytest.raises(InteropError, match="sum to 1"):
        read(PRUNED)
    model = read(PRUNED.replace("-0.12493873660829995", f"{math.log10(0.8)!r}"))
    # root; <s>, alpha, beta; <s> alpha, <s> beta, alpha beta
    assert model.state_order.tolist() == [0, 1, 1, 1, 2, 2, 2]
    assert p(model, "<s>", "alpha") == pytest.approx(0.8 * 0.5)
    assert p(model, "<s>", "beta") == pytest.approx(0.4)
    assert p(model, "alpha", "beta") == pytest.approx(0.25)
    assert p(model, "<s>", "alpha", "beta") == pytest.approx(0.25)
    assert p(model, "<s>", "alpha", "</s>") == pytest.approx(0.25)


def naive_logprob(text: str, words: list[str]) -> float:
    """log10 p(last word | the words before), by the definition of the format."""
    entries = [line.split("\t") for line in text.splitlines() if "\t" in line]
    listed = {ngram: float(logprob) for logprob, ngram, *_ in entries}
    backoff = {entry[1]: float(entry[2]) for entry in entries if len(entry) == 3}
    words = words[-3:]
    total = 0.0
    while " ".join(words) not in listed:
        if len(words) == 1:
            return -math.inf
        total += backoff.get(" ".join(words[:-1]), 0.0)
        words = words[1:]
    return total + listed[" ".join(words)]


@given(data=st.data(), sequences=sequence_lists())
def test_what_is_missing_is_backed_off_to(data: st.DataObject, sequences: list[Seq]) -> None:
    head, second, third = written(automaton(sequences, 3)).partition("\\2-grams:\n")
    bigrams, marker, rest = third.partition("\n\\3-grams:")
    lines = bigrams.splitlines()
    kept = [line for line in lines if data.draw(st.booleans())]
    head = head.replace(f"ngram 2={len(lines)}", f"ngram 2={len(kept)}")
    text = "\n".join([head + second, *kept, marker + rest])
    model = read(text, tolerance=math.inf)  # a model with holes need not sum to 1
    history = data.draw(st.lists(st.sampled_from(["<s>", *WORDS[2:]]), min_size=2, max_size=2))
    for word in WORDS[1:]:
        got = p(model, *history, word)
        expected = 10 ** naive_logprob(text, [*history, word])
        assert got == pytest.approx(expected, rel=1e-9, abs=1e-90)


# --- broken files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ("", "no \\data\\ line", None),
        ("PK\x03\x04", "no \\data\\ line", None),
        ("\\data\\\n", "cut short", None),
        (edited("ngram 1=3\n", ""), "ngram ORDER=COUNT", 2),
        (edited("ngram 2=2", "ngram 3=2"), "ngram ORDER=COUNT", 3),
        (edited("ngram 2=2", "ngram 2=two"), "ngram ORDER=COUNT", 3),
        (
            edited("ngram 2=2\n", "".join(f"ngram {k}=2\n" for k in range(2, 7))),
            "orders above 5",
            7,
        ),
        (edited("ngram 1=3", "ngram 1=4"), "3 1-grams, where the header announces 4", 10),
        (edited("ngram 2=2", "ngram 2=1"), "2 2-grams, where the header announces 1", 14),
        (edited("\\2-grams:", "\\3-grams:"), "\\2-grams: is expected", 10),
        (edited("\\end\\\n", ""), "cut short", None),
        (edited("\\end\\", "\\3-grams:"), "\\end\\ is expected", 14),
        (edited("-99", "none"), "not a number", 6),
        (edited("-99", "nan"), "not a finite number", 6),
        (edited("-99", "0.1"), "above 1", 6),
        (edited("-2.698970004336018", "inf"), "not a finite number", 6),
        (edited("-2.698970004336018", "nan"), "not a finite number", 6),
        (edited("-2.698970004336018", "1e30"), "out of range", 6),
        (edited("-2.698970004336018", "x"), "not a number", 6),
        (edited("\t</s>\n", "\n"), "not a 1-gram", 7),
        (edited("<s> alpha\n", "<s> alpha 0\n"), "not a 2-gram", 11),
        (edited("<s> alpha\n", "alpha\n"), "not a 2-gram", 11),
        (edited("<s> alpha\n", "alpha </s>\n"), "listed before", 12),
        (edited("<s> alpha\n", "alpha <s>\n"), "<s> comes only first", 11),
        (edited("alpha </s>\n", "</s> alpha\n"), "</s> only last", 12),
        (edited("<s> alpha\n", "<s> beta\n"), "not among the 1-grams", 11),
        (edited("<s> alpha\n", "<s> secret\n"), "not in the vocabulary", 11),
        (edited("\talpha\t", "\tbeta\t"), "not among the 1-grams", 11),
        (edited("-0.30102999566398114", "-0.4"), "sum to 1", None),
        (edited("-2.698970004336018", "-2.6"), "sum to 1", None),
    ],
)
def test_broken_files(text: str, problem: str, line: int | None) -> None:
    with pytest.raises(InteropError) as caught:
        read(text)
    assert problem in str(caught.value)
    assert caught.value.line == line
    assert "secret" not in str(caught.value)
    assert "alpha" not in str(caught.value)


def test_a_vocabulary_that_calls_a_word_a_special() -> None:
    with pytest.raises(InteropError, match=r"line 8: .*id of <s> or </s>"):
        arpa.load(io.StringIO(ONE_WORD), id_of={"alpha": 1}.get, specials=SPECIALS)
    with pytest.raises(InteropError, match=r"line 8: .*out of range"):
        arpa.load(io.StringIO(ONE_WORD), id_of={"alpha": 6}.get, specials=SPECIALS)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "model.arpa"
    path.write_bytes(ONE_WORD.encode("utf-8").replace(b"alpha", b"\xff\xfe"))
    with path.open(encoding="utf-8") as file, pytest.raises(InteropError, match="not UTF-8"):
        arpa.load(file, id_of=ids(WORDS), specials=SPECIALS)


TRIGRAMS = written(automaton([Seq([2, 3, 2, 4], True, True), Seq([3, 4], True, True)], 3))


def test_every_truncation_is_an_error() -> None:
    end = TRIGRAMS.rindex("\\end\\") + len("\\end\\")
    for length in range(end):
        with pytest.raises(InteropError):
            read(TRIGRAMS[:length])


@given(at=st.integers(0, len(TRIGRAMS) - 1), character=st.characters())
def test_damage_gives_a_model_or_an_interop_error(at: int, character: str) -> None:
    damaged = TRIGRAMS[:at] + character + TRIGRAMS[at + 1 :]
    try:
        model = read(damaged)
    except InteropError:
        return
    model.validate(arpa.TOLERANCE)


# --- KenLM, where it is installed ---------------------------------------------------------------


@pytest.mark.parametrize("order", range(2, 6))
def test_kenlm_scores_our_files_as_we_do(order: int, tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm", reason="KenLM is not installed (pip install kenlm-ex)")
    rng = random.Random(7)
    rows = [[rng.choice([2, 2, 3, 4, 5]) for _ in range(rng.randrange(1, 7))] for _ in range(40)]
    model = automaton([Seq(row, True, True) for row in rows], order)
    path = tmp_path / "model.arpa"
    path.write_text(written(model), encoding="utf-8")
    theirs = kenlm.Model(str(path))
    for row in [*rows, [5, 5, 4], [3, 3, 3, 2]]:
        words = [WORDS[i] for i in row]
        known = ["<s>", *words, "</s>"]
        ours = math.fsum(math.log10(p(model, *known[: i + 1])) for i in range(1, len(known)))
        assert theirs.score(" ".join(words)) == pytest.approx(ours, abs=1e-4)
