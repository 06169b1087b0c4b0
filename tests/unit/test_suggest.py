"""Suggestions: the typed word first, whole sentences, thresholds and blocked phrases."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel

from perslm.beam import PersonalOnly
from perslm.blob import Metadata
from perslm.counts import Specials, count
from perslm.errors import ArgumentError
from perslm.interpolate import Float32Array
from perslm.model import NullModel, PersonalModel
from perslm.suggest import Suggester, calibrate
from perslm.vocabulary import Vocabulary

TEXT = "thanks for the note. thank them for that. the other note is theirs! no?"
WORDS = Vocabulary.from_words(["thanks", "for", "the", "note", "then", "other", ".", "!", ","])


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = ByteLevel()
    made.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=60, special_tokens=["<end>"], show_progress=False)
    )
    path = tmp_path_factory.mktemp("suggest") / "tokenizer.json"
    path.write_text(made.to_str())
    return Vocabulary.from_tokenizer_json(path, eos="<end>")


class Unigrams:
    """A global LM that minds no history."""

    def __init__(self, size: int, seed: int = 0) -> None:
        scores = np.random.default_rng(seed).normal(size=size)
        self.row = (scores - np.log(np.exp(scores).sum())).astype(np.float32)

    def logprobs(self, histories: Sequence[Sequence[int]]) -> Float32Array:
        return np.tile(self.row, (len(histories), 1))


class Counting(Unigrams):
    """Keeps how many histories each call asked for."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.calls: list[int] = []

    def logprobs(self, histories: Sequence[Sequence[int]]) -> Float32Array:
        self.calls.append(len(histories))
        return super().logprobs(histories)


def of_words(*sentences: str, weight: float = 0.9) -> PersonalModel:
    counted = [s for sentence in sentences for s in WORDS.encode(sentence)]
    counts = count(counted, 3, Specials(WORDS.size, WORDS.bos, WORDS.eos))
    return PersonalModel.from_counts(counts, Metadata(WORDS.fingerprint), weight=weight)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), typed=st.sampled_from(["", "t", "th", "not", "the o", "thx", " "]))
def test_with_a_wide_beam_the_best_text_of_all_that_begin_as_typed(
    bpe: Vocabulary, seed: int, typed: str
) -> None:
    global_model = Unigrams(bpe.size, seed)
    text = "thanks for" + (" " + typed if typed.strip() else typed)
    suggester = Suggester(global_model, bpe, width=4000, tokens=2, best=1)
    found = suggester.suggest(text)

    pieces = [bpe.decode([i]) if i not in bpe.special_ids else "" for i in range(bpe.size)]
    start = (
        text[len(text.rstrip()) - len(text.split()[-1]) - 1 :] if not text.endswith(" ") else " "
    )
    ends = {i for i, piece in enumerate(pieces) if piece.strip()[-1:] in [*".!?"]} - {bpe.eos}
    best: tuple[float, str] | None = None
    for ids in [*((i,) for i in [*ends, bpe.eos]), *itertools.product(range(bpe.size), repeat=2)]:
        whole = "".join(pieces[i] for i in ids)
        wanted = all(pieces[i] for i in ids[:-1]) and (pieces[ids[-1]] or ids[-1] == bpe.eos)
        if len(ids) == 2 and (ids[0] in ends or ids[0] == bpe.eos):
            continue
        if ids[-1] not in ends and ids[-1] != bpe.eos and whole[-1:].isalnum():  # it might go on
            ids = ids[:1] if pieces[ids[-1]][:1] == " " else ()
            whole = "".join(pieces[i] for i in ids)
        if not wanted or not whole.startswith(start) or not whole[len(start) :].strip():
            continue
        score = float(sum(global_model.row[i] for i in ids)) / len(ids)
        if best is None or score > best[0]:
            best = (score, whole[len(start) :].rstrip())
    if best is None:
        assert found == []
    else:
        assert found[0].confidence == pytest.approx(best[0], abs=1e-5)
        assert found[0].text == best[1]


def test_a_word_typed_in_part_is_completed(bpe: Vocabulary) -> None:
    for text in ("thanks for the no", "thanks for the note", "n", ""):
        for suggestion in Suggester(Unigrams(bpe.size), bpe, tokens=4).suggest(text):
            typed = text.split()[-1] if text else ""
            assert bpe.decode(suggestion.ids).strip() == (typed + suggestion.text).strip()
            assert suggestion.confidence == pytest.approx(suggestion.logprob / len(suggestion.ids))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "thanks for the note."),
        ("thanks", " for the note."),
        ("thanks ", "for the note."),
        ("thanks for the no", "te."),
        ("Hello. thanks for the", " note."),
        ("thanks for the note", "."),
        ("thanks for tz", None),
    ],
)
def test_words_of_the_user(text: str, expected: str | None) -> None:
    model = of_words("thanks for the note.", "thanks for the note.")
    found = Suggester(PersonalOnly(model), WORDS).suggest(text)
    assert (found[0].text if found else None) == expected


def test_the_personal_model_decides_when_it_is_mixed_in() -> None:
    suggester = Suggester(Unigrams(WORDS.size), WORDS, tokens=3)
    model = of_words("thanks for the other note.")
    assert suggester.suggest("thanks for the ", model)[0].text.startswith("other note")
    alone = suggester.suggest("thanks for the ")
    assert suggester.suggest("thanks for the ", NullModel("loading")) == alone
    assert suggester.suggest("thanks for the ", of_words("then.", weight=0.0)) == alone


def test_blocked_phrases_are_neither_shown_nor_completed(bpe: Vocabulary) -> None:
    model = of_words("thanks for the note.", "thanks for the other.")
    suggester = Suggester(PersonalOnly(model), WORDS, blocklist=["The  Note"])
    texts = [s.text for s in suggester.suggest("thanks for ")]
    assert texts
    assert not any("note" in text for text in texts)
    # what the user typed themselves completes a phrase, too
    assert all("note" not in s.text for s in suggester.suggest("thanks for the "))
    free = Suggester(Unigrams(bpe.size), bpe, best=400, width=400, tokens=4)
    held = Suggester(Unigrams(bpe.size), bpe, best=400, width=400, tokens=4, blocklist=["the"])
    assert any("the" in s.text.split() for s in free.suggest("for"))
    assert not any("the" in s.text.strip(".!? ").split() for s in held.suggest("for"))


@pytest.mark.parametrize(
    "blocklist", [["the", "the note"], ["the note", "the"], ["for the", "the note"]]
)
def test_blocked_phrases_that_begin_alike_or_overlap(blocklist: list[str]) -> None:
    """Those that the user typed themselves hide none that a suggestion would complete."""
    model = of_words("thanks for the note.", "thanks for the other.")

    def first_words(blocked: list[str]) -> set[str]:
        suggester = Suggester(PersonalOnly(model), WORDS, blocklist=blocked)
        return {s.text.strip(".,!").split()[0] for s in suggester.suggest("thanks for the ")}

    assert "note" in first_words([])
    assert "other" in first_words(blocklist)
    assert "note" not in first_words(blocklist)


def test_a_suggestion_that_is_too_long_ends_with_a_whole_word(bpe: Vocabulary) -> None:
    for tokens in (1, 2, 3, 5):
        suggester = Suggester(Unigrams(bpe.size, 3), bpe, tokens=tokens, width=60, best=60)
        for suggestion in suggester.suggest("thanks for"):
            at_limit = len(suggestion.ids) == tokens
            assert not (
                at_limit and suggestion.text[-1].isalnum() and bpe.eos not in suggestion.ids
            )
            # what was left out began a word: it is no part of what is suggested
            assert suggestion.confidence == pytest.approx(suggestion.logprob / len(suggestion.ids))
            assert suggestion.logprob == pytest.approx(
                float(sum(Unigrams(bpe.size, 3).row[list(suggestion.ids)])), abs=1e-4
            )
    assert (
        len(Suggester(Unigrams(WORDS.size), WORDS, tokens=2, best=99).suggest("thanks")[0].ids) <= 2
    )


def test_many_places_at_once_are_as_each_alone(bpe: Vocabulary) -> None:
    model = of_words("thanks for the note.", "thanks for the other note.")
    suggester = Suggester(Unigrams(WORDS.size), WORDS)
    places = [("thanks for the ", model), ("then", None), ("", NullModel("loading")), ("tz", model)]
    assert suggester.suggest_together(places) == [suggester.suggest(*place) for place in places]
    assert suggester.suggest_together([]) == []
    asked = Counting(bpe.size)
    Suggester(asked, bpe, tokens=5, width=2).suggest_together([("thanks", None), ("the no", None)])
    assert len(asked.calls) <= 5
    assert asked.calls[0] == 2


def test_nothing_is_shown_below_the_threshold() -> None:
    model = of_words("thanks for the note.", "thanks for the other note.")
    everything = Suggester(PersonalOnly(model), WORDS).suggest("thanks for")
    assert len(everything) > 1
    threshold = everything[0].confidence
    assert (
        Suggester(PersonalOnly(model), WORDS, threshold=threshold).suggest("thanks for")
        == everything[:1]
    )
    silent = Suggester(PersonalOnly(model), WORDS, threshold=0.0)
    assert silent.suggest("other ") == []


@given(
    values=st.lists(st.floats(-50, 0) | st.just(-math.inf), min_size=1, unique=True),
    coverage=st.floats(0, 1),
)
def test_a_calibrated_threshold_covers_what_was_asked(values: list[float], coverage: float) -> None:
    threshold = calibrate(values, coverage)
    shown = sum(value >= threshold for value in values)
    assert shown == round(coverage * len(values))


@pytest.mark.parametrize(("values", "coverage"), [([], 0.5), ([-1.0], 1.5), ([math.nan], 0.5)])
def test_what_cannot_be_calibrated(values: list[float], coverage: float) -> None:
    with pytest.raises(ArgumentError, match="coverage of 0 to 1"):
        calibrate(values, coverage)


@pytest.mark.parametrize(
    "settings", [{"width": 0}, {"tokens": 0}, {"best": 0}, {"blocklist": [" "]}]
)
def test_settings_out_of_range(settings: dict[str, object]) -> None:
    with pytest.raises(ArgumentError, match="at least"):
        Suggester(Unigrams(WORDS.size), WORDS, **settings)  # type: ignore[arg-type]


def test_no_text_is_in_the_repr() -> None:
    model = of_words("thanks for the note.")
    for suggestion in Suggester(PersonalOnly(model), WORDS).suggest("thanks "):
        assert "note" not in repr(suggestion)


def test_pieces_join_to_what_the_tokenizer_decodes(bpe: Vocabulary) -> None:
    pieces = bpe.pieces()
    ids = bpe.history("thanks for that note!")[1:]
    assert "".join(pieces[i] for i in ids) == bpe.decode(ids) == "thanks for that note!"
    assert [pieces[i] for i in bpe.special_ids if i < bpe.size] == [""]
    assert WORDS.pieces()[WORDS.id("note") or 0] == "note"
