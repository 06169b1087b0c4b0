"""Ids, sequences, fingerprints and files of both kinds of vocabulary."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perslm.errors import ArgumentError, MissingExtraError, VocabularyError
from perslm.tokenize import ENTITY_TOKENS
from perslm.vocabulary import SPECIALS, Sequence, Vocabulary

tokenizers = pytest.importorskip("tokenizers")

LINES = [
    "please review the draft contract before we meet on monday",
    "the turbine test ran for two hours and nothing broke",
    "i will send the notes about the contract and the test",
    "call me when you are back and we can talk about it",
]
WORDS = ["the", ".", "contract", "Please", "review", "today", "I", "will", ",", "Hi"]
FIRST = len(SPECIALS)


def trained(kind: str, special: tuple[str, ...] = ()) -> Any:
    """Train a small tokenizer of one kind on LINES."""
    models, trainers = tokenizers.models, tokenizers.trainers
    before = tokenizers.pre_tokenizers
    if kind == "bpe":
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer = before.ByteLevel(add_prefix_space=False)
        made.decoder = tokenizers.decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=list(special),
            initial_alphabet=sorted(before.ByteLevel.alphabet()),
            show_progress=False,
        )
    elif kind == "wordpiece":
        made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = before.BertPreTokenizer()
        made.decoder = tokenizers.decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=120,
            special_tokens=["[UNK]", "[CLS]", "[SEP]", *special],
            show_progress=False,
        )
    else:
        made = tokenizers.Tokenizer(models.Unigram())
        made.pre_tokenizer = before.Metaspace()
        made.decoder = tokenizers.decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=80,
            unk_token="<unk>",
            special_tokens=["<unk>", "<s>", "</s>", *special],
            show_progress=False,
        )
    made.train_from_iterator(LINES * 3, trainer)
    return made


def imported(made: Any, folder: Path, **ends: str) -> Vocabulary:
    path = folder / "tokenizer.json"
    made.save(str(path))
    return Vocabulary.from_tokenizer_json(path, **ends)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return imported(trained("bpe", ("<|endoftext|>",)), tmp_path_factory.mktemp("bpe"))


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return imported(trained("wordpiece"), tmp_path_factory.mktemp("wordpiece"))


@pytest.fixture(scope="module")
def unigram(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return imported(trained("unigram"), tmp_path_factory.mktemp("unigram"))


@pytest.fixture(scope="module")
def every(bpe: Vocabulary, wordpiece: Vocabulary, unigram: Vocabulary) -> list[Vocabulary]:
    return [Vocabulary.from_words(WORDS), bpe, wordpiece, unigram]


# --- words -------------------------------------------------------------------------------------


def test_specials_come_first() -> None:
    vocabulary = Vocabulary.from_words(WORDS)
    assert list(SPECIALS) == ["<unk>", "<s>", "</s>", *ENTITY_TOKENS]
    assert [vocabulary.token(id) for id in range(FIRST)] == list(SPECIALS)
    assert (vocabulary.unk, vocabulary.bos, vocabulary.eos) == (0, 1, 2)
    assert vocabulary.size == len(vocabulary) == FIRST + len(WORDS)
    assert vocabulary.special_ids == frozenset(range(FIRST))
    assert vocabulary.kind == "words"
    assert vocabulary.id("the") == FIRST
    assert vocabulary.id("absent") is None


def test_sentences_become_sequences() -> None:
    vocabulary = Vocabulary.from_words(WORDS)
    the, stop, contract, please, review, today, i, will = range(FIRST, FIRST + 8)
    assert vocabulary.encode("Please review the contract. I will, 5 times today.") == [
        Sequence((please, review, the, contract, stop), True, True),
        Sequence((i, will, FIRST + 8, vocabulary.id("<number>"), 0, today, stop), True, True),
    ]
    assert vocabulary.encode("Hi Ann, hi", names=["Ann Lee"]) == [
        Sequence((FIRST + 9, vocabulary.id("<name>"), FIRST + 8, 0), True, True)
    ]
    assert vocabulary.encode(" \n ") == []


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("Please review.", []),
        ("Please review. I will", ["I", "will"]),
        ("Hi,\n", []),
        ("I unheard", ["I", "<unk>"]),
    ],
)
def test_history_of_words(text: str, tokens: list[str]) -> None:
    vocabulary = Vocabulary.from_words(WORDS)
    assert [vocabulary.token(id) for id in vocabulary.history(text)] == ["<s>", *tokens]


def test_decode_words() -> None:
    vocabulary = Vocabulary.from_words(WORDS)
    (sequence,) = vocabulary.encode("Hi, I will review the contract.")
    assert vocabulary.decode([1, *sequence.ids, 2]) == "Hi, I will review the contract."
    with pytest.raises(ArgumentError, match="no token has id"):
        vocabulary.decode([vocabulary.size])
    with pytest.raises(ArgumentError, match="no token has id -1"):
        vocabulary.token(-1)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["a", "a"], "word 1 is there already"),
        (["<s>"], "word 0 is there already"),
        (["a", "<url>"], "word 1 is there already"),
        ([""], "word 0 is empty"),
        (["a b"], "word 0 is empty or holds white space"),
        (["\ud800"], "word 0 is not valid Unicode"),
        ([3], "word 0 is empty"),
    ],
)
def test_unfit_words(words: list[Any], problem: str) -> None:
    with pytest.raises(VocabularyError, match=problem):
        Vocabulary.from_words(words)


# --- imported tokenizers -----------------------------------------------------------------------


def test_ends_of_each_kind(bpe: Vocabulary, wordpiece: Vocabulary, unigram: Vocabulary) -> None:
    # GPT-2's way: one token for both ends is the end; the beginning is virtual.
    assert (bpe.bos, bpe.eos, bpe.unk) == (bpe.size, bpe.id("<|endoftext|>"), None)
    assert (bpe.token(bpe.bos), bpe.token(bpe.eos)) == ("<s>", "<|endoftext|>")
    assert wordpiece.bos == wordpiece.id("[CLS]")
    assert wordpiece.eos == wordpiece.id("[SEP]")
    assert wordpiece.unk == wordpiece.id("[UNK]")
    assert (unigram.bos, unigram.eos, unigram.unk) == (1, 2, 0)
    assert unigram.special_ids == {0, 1, 2}


def test_ends_when_there_are_none(tmp_path: Path) -> None:
    vocabulary = imported(trained("bpe"), tmp_path)
    assert (vocabulary.bos, vocabulary.eos) == (vocabulary.size, vocabulary.size + 1)
    assert (vocabulary.token(vocabulary.bos), vocabulary.token(vocabulary.eos)) == ("<s>", "</s>")
    assert vocabulary.special_ids == {vocabulary.bos, vocabulary.eos}


def test_ends_by_post_processor_and_by_name(tmp_path: Path) -> None:
    made = trained("bpe", ("<begin>", "<end>", "<other>"))
    ids = {token: made.token_to_id(token) for token in ("<begin>", "<end>", "<other>")}
    vocabulary = imported(made, tmp_path, bos="<begin>", eos="<other>")
    assert (vocabulary.bos, vocabulary.eos) == (ids["<begin>"], ids["<other>"])
    with pytest.raises(VocabularyError, match="no such token"):
        imported(made, tmp_path, bos="<absent>")

    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<begin> $A <end>",
        special_tokens=[(token, ids[token]) for token in ("<begin>", "<end>")],
    )
    by_template = imported(made, tmp_path)
    assert (by_template.bos, by_template.eos) == (ids["<begin>"], ids["<end>"])
    assert by_template.fingerprint != vocabulary.fingerprint

    made.post_processor = tokenizers.processors.RobertaProcessing(
        ("<end>", ids["<end>"]), ("<begin>", ids["<begin>"])
    )
    by_roberta = imported(made, tmp_path)
    assert (by_roberta.bos, by_roberta.eos) == (ids["<begin>"], ids["<end>"])


def test_a_text_is_cut_as_the_tokenizer_cuts_it(every: list[Vocabulary]) -> None:
    text = "please review the draft"
    for vocabulary in every[1:]:
        settings = json.loads(vocabulary.to_bytes())["settings"]
        made = tokenizers.Tokenizer.from_str(json.dumps(settings))
        ids = made.encode(text, add_special_tokens=False).ids
        assert vocabulary.encode(text) == [Sequence(tuple(ids), True, True)]
        assert vocabulary.history(text) == [vocabulary.bos, *ids]
        assert vocabulary.history(text + "  \n") == [vocabulary.bos, *ids]
        assert vocabulary.decode([vocabulary.bos, *ids, vocabulary.eos]) == text


def test_wrapped_lines_are_joined_and_paragraphs_kept(bpe: Vocabulary) -> None:
    wrapped = "please review the draft contract before we meet on\nmonday\n\nthe notes"
    joined = "please review the draft contract before we meet on monday\n\nthe notes"
    assert bpe.encode(wrapped) == bpe.encode(joined)
    assert bpe.decode(bpe.encode(wrapped)[0].ids) == joined


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # What is before a break does not close, what is after does not open.
        ("call ann@example.org today", [("call", True, False), (" today", False, True)]),
        ("ann@example.org called", [(" called", False, True)]),
        ("call ann@example.org", [("call", True, False)]),
        ("ann@example.org", []),
        ("ask Ann about it", [("ask", True, False), (" about it", False, True)]),
        ("my pin is 4821, ok", [("my pin is", True, False), (", ok", False, True)]),
        # A date, a time and a short number say nothing about a person.
        ("on Nov 21 at 5pm in 2026", [("on Nov 21 at 5pm in 2026", True, True)]),
        ("about 12,345 of", [("about", True, False), (" of", False, True)]),
        # Special tokens that are typed break it too.
        ("a<|endoftext|>b", [("a", True, False), ("b", False, True)]),
    ],
)
def test_entities_break_the_sequence(
    bpe: Vocabulary, text: str, expected: list[tuple[str, bool, bool]]
) -> None:
    found = bpe.encode(text, names=["Ann Lee"])
    assert [(bpe.decode(s.ids).rstrip(" "), s.opens, s.closes) for s in found] == expected


def test_what_is_cut_to_crumbs_breaks_the_sequence(bpe: Vocabulary) -> None:
    crumbs, word = "qxzvkjwp", "contract"
    pieces = bpe.encode(f"the {crumbs} test")
    assert [bpe.decode(s.ids).strip() for s in pieces] == ["the", "test"]
    assert [(s.opens, s.closes) for s in pieces] == [(True, False), (False, True)]
    for plain in (f"the {word} test", f"the {crumbs[:7]} test", f"the é{crumbs} test"):
        (sequence,) = bpe.encode(plain)
        assert bpe.decode(sequence.ids) == plain


def test_cutting_around_a_break_is_cutting_the_whole(bpe: Vocabulary) -> None:
    text = "please call ann@example.org about the contract"
    whole = bpe.history(text)[1:]
    before, after = bpe.encode(text)
    assert list(before.ids) == whole[: len(before.ids)]
    assert list(after.ids) == whole[-len(after.ids) :]


def test_padding_truncation_and_dropout_do_not_matter(tmp_path: Path) -> None:
    made = trained("bpe")
    plain = imported(made, tmp_path)
    made.enable_truncation(2)
    made.enable_padding(length=50)
    made.model.dropout = 0.9
    other = imported(made, tmp_path)
    assert other == plain
    text = "please review the draft contract"
    assert other.encode(text) == plain.encode(text)


def test_merges_of_older_files_are_the_same(tmp_path: Path) -> None:
    plain = imported(trained("bpe"), tmp_path)
    path = tmp_path / "tokenizer.json"
    settings = json.loads(path.read_text("utf-8"))
    settings["model"]["merges"] = [
        merge if isinstance(merge, str) else " ".join(merge)
        for merge in settings["model"]["merges"]
    ]
    path.write_text(json.dumps(settings), "utf-8")
    assert Vocabulary.from_tokenizer_json(path) == plain


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"model": {}}',
        b'{"model": {"vocab": {}}}',
        b'{"model": {"vocab": {"a": -1}}}',
        b'{"model": {"vocab": {"a": 1e9}}}',
        b'{"model": {"vocab": {"a": 99999999999}}}',
        b'{"model": {"vocab": {"a": true}}}',
        b'{"model": {"vocab": [3]}}',
        b'{"model": {"vocab": {"\\ud800": 0}}}',
        b'{"model": {"vocab": {"a": 0}}, "added_tokens": [3]}',
        b'{"model": {"vocab": {"a": 0}}, "added_tokens": {"a": 1}}',
        b'{"model": {"vocab": {"a": 0}}, '
        b'"post_processor": {"type": "TemplateProcessing", "single": 3}}',
        b'{"model": {"vocab": {"a": 0}, "type": "no such model"}}',
        b'{"model": {"vocab": {"a": NaN}}}',
        b"[" * 100_000,
    ],
)
def test_files_that_are_no_tokenizer(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(VocabularyError):
        Vocabulary.from_tokenizer_json(path)


def test_missing_file_and_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VocabularyError, match="cannot be read"):
        Vocabulary.from_tokenizer_json(tmp_path / "absent.json")
    data = imported(trained("bpe"), tmp_path).to_bytes()
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    # A file can be read, named and compared without the package, but not used on text.
    vocabulary = Vocabulary.from_bytes(data)
    assert vocabulary.to_bytes() == data
    with pytest.raises(MissingExtraError, match=r"perslm\[builders\]"):
        vocabulary.encode("the")


# --- all kinds ---------------------------------------------------------------------------------


@given(st.text(max_size=120) | st.text("the contract.\n<s>/5@a ", max_size=80))
def test_encoding_any_text(every: list[Vocabulary], text: str) -> None:
    for vocabulary in every:
        ends = {vocabulary.bos, vocabulary.eos}
        for sequence in vocabulary.encode(text, names=["Ann Lee"]):
            assert sequence.ids
            assert all(0 <= id < vocabulary.size for id in sequence.ids)
            assert not ends & set(sequence.ids)
        history = vocabulary.history(text)
        assert history[0] == vocabulary.bos
        assert all(0 <= id < vocabulary.size for id in history[1:])
        vocabulary.decode(history)


def test_lone_surrogates_are_text_too(every: list[Vocabulary]) -> None:
    for vocabulary in every:
        assert vocabulary.encode("the \ud83d\ude00 \ud800 contract")


def test_files_hold_everything(every: list[Vocabulary], tmp_path: Path) -> None:
    for vocabulary in every:
        data = vocabulary.to_bytes()
        again = Vocabulary.from_bytes(data)
        assert again == vocabulary
        assert hash(again) == hash(vocabulary)
        assert again.to_bytes() == data
        assert (again.bos, again.eos, again.unk) == (
            vocabulary.bos,
            vocabulary.eos,
            vocabulary.unk,
        )
        assert again.special_ids == vocabulary.special_ids
        assert again.encode("the contract. I") == vocabulary.encode("the contract. I")
        assert pickle.loads(pickle.dumps(vocabulary)) == vocabulary
        path = tmp_path / "vocabulary.json"
        vocabulary.save(path)
        assert Vocabulary.load(path) == vocabulary
        assert os.listdir(tmp_path) == ["vocabulary.json"]


def test_fingerprints_tell_all_apart(every: list[Vocabulary], tmp_path: Path) -> None:
    different = [
        *every,
        Vocabulary.from_words([]),
        Vocabulary.from_words(WORDS[:-1]),
        Vocabulary.from_words(WORDS[::-1]),
        Vocabulary.from_words([*WORDS, "more"]),
        imported(trained("bpe"), tmp_path),
        imported(trained("bpe", ("<|endoftext|>", "<x>")), tmp_path),
    ]
    prefixed = trained("bpe", ("<|endoftext|>",))
    prefixed.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    different.append(imported(prefixed, tmp_path))
    fingerprints = {vocabulary.fingerprint for vocabulary in different}
    assert len(fingerprints) == len(different)
    assert all(len(fingerprint) == 32 for fingerprint in fingerprints)
    assert every[0] != "a vocabulary"


def test_fingerprint_is_the_same_everywhere() -> None:
    """Pinned: a change would part every stored model from its vocabulary."""
    assert Vocabulary.from_words(["a", "é"]).fingerprint == "82be2e3a705d4581a2105304b28b5a36"


def test_repr_holds_no_word() -> None:
    shown = repr(Vocabulary.from_words(["unmistakable"]))
    assert "unmistakable" not in shown
    assert "words, size=14" in shown


# --- damaged files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": "other"}, "no vocabulary file"),
        ({"version": 2}, "its version is not 1; upgrade perslm"),
        ({"kind": "?"}, "kind is unknown"),
        ({"tokenizer": "perslm-words-0"}, "build it again"),
        ({"words": None}, "list of words is missing"),
        ({"words": ["a", "a"]}, "word 1 is there already"),
        ({"words": ["a"]}, "does not match its fingerprint"),
        ({"fingerprint": "0" * 32}, "does not match its fingerprint"),
        ({"fingerprint": None}, "does not match its fingerprint"),
    ],
)
def test_changed_word_file(change: dict[str, Any], problem: str) -> None:
    content = json.loads(Vocabulary.from_words(WORDS).to_bytes())
    with pytest.raises(VocabularyError, match=problem):
        Vocabulary.from_bytes(json.dumps({**content, **change}).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"bos": "<s>"},
        {"bos": -1},
        {"eos": 10**6},
        {"eos": 5},
        {"settings": None},
        {"settings": {}},
        {"settings": {"model": {"vocab": {"a": 0}}}},
    ],
)
def test_changed_tokenizer_file(change: dict[str, Any], unigram: Vocabulary) -> None:
    content = json.loads(unigram.to_bytes())
    with pytest.raises(VocabularyError):
        Vocabulary.from_bytes(json.dumps({**content, **change}).encode())


def test_every_truncation_and_every_flip_is_noticed() -> None:
    vocabulary = Vocabulary.from_words(WORDS)
    data = vocabulary.to_bytes()
    for length in range(len(data) - 1):  # without the last line end it is whole
        with pytest.raises(VocabularyError):
            Vocabulary.from_bytes(data[:length])
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            try:
                read = Vocabulary.from_bytes(bytes(flipped))
            except VocabularyError:
                continue
            # White space between the values means nothing; all else is covered.
            assert read == vocabulary
            assert data[position : position + 1].isspace()


def test_a_tokenizer_json_is_told_from_a_vocabulary(tmp_path: Path) -> None:
    trained("bpe").save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(VocabularyError, match="perslm vocab import"):
        Vocabulary.load(tmp_path / "tokenizer.json")


def test_loading_and_saving_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"absent\.json cannot be read"):
        Vocabulary.load(tmp_path / "absent.json")
    with pytest.raises(VocabularyError, match="cannot be written"):
        Vocabulary.from_words(WORDS).save(tmp_path / "absent" / "v.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(VocabularyError, match="cannot be written"):
        Vocabulary.from_words(WORDS).save(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]
