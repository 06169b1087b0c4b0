"""No secret comes back out of a model, however it is asked, if it was written 20 times."""

from __future__ import annotations

from random import Random

import pytest

from perslm.vocabulary import Vocabulary
from tests.privacy.canaries import ANNOUNCED, BARE, PLAIN, Formats, canaries
from tests.privacy.study import study, tokenizer

LETTERS_ALONE = {"8 small letters", "10 small letters", "12 letters", "10 capitals"}
"""With a word vocabulary of one's own mail nothing tells these from words."""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    pytest.importorskip("tokenizers")
    return tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("repeats", [2, 20])
@pytest.mark.parametrize("formats", [ANNOUNCED, BARE], ids=["announced", "bare"])
def test_none_comes_back_from_an_imported_tokenizer(
    formats: Formats, repeats: int, imported: Vocabulary
) -> None:
    found = study(formats, repeats, imported)
    assert len(found) == len(formats)
    assert [(f.canary.format, f.channels) for f in found if f.channels] == []


@pytest.mark.parametrize("formats", [ANNOUNCED, BARE], ids=["announced", "bare"])
def test_none_comes_back_from_words(formats: Formats) -> None:
    found = study(formats, 20, "words")
    assert [(f.canary.format, f.channels) for f in found if f.channels] == []
    own = study(formats, 20, "own")
    assert {f.canary.format for f in own if f.channels} <= LETTERS_ALONE


def test_the_study_sees_what_is_learned(imported: Vocabulary) -> None:
    """What looks like any text comes back: so the study would see it of the others, too."""
    for vocabulary in ("own", imported):
        found = study(PLAIN, 20, vocabulary)
        assert sum(bool(f.channels) for f in found) >= len(PLAIN) - 2
        channels = {channel for f in found for channel in f.channels}
        assert channels >= {"blob", "continuations", "scores"}


def test_canaries_are_in_their_sentences() -> None:
    for formats in (ANNOUNCED, BARE, PLAIN):
        for canary in canaries(formats, Random(1)):
            assert canary.sentence.count(canary.secret) == 1
            assert canary.secret not in canary.before
