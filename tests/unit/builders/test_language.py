"""The language gate: what goes, what stays, and how well on real sentences."""

from __future__ import annotations

import gzip
import json
import os
import random
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.language import gate
from perslm.errors import ArgumentError, MissingExtraError

ENGLISH = "We should talk about the schedule before the meeting on Monday afternoon."
FRENCH = "Nous devrions parler du calendrier avant la réunion de lundi après-midi."
GERMAN = "Wir sollten vor der Besprechung am Montagnachmittag über den Zeitplan reden."
JAPANESE = "月曜日の午後の会議の前に予定について話しましょう。"


@pytest.mark.parametrize("foreign", [FRENCH, GERMAN, JAPANESE])
def test_a_foreign_segment_goes_and_the_rest_stays(foreign: str) -> None:
    other = "Could you send me your notes when you have the time?"
    assert gate(f"{ENGLISH}\n\n{foreign}\n\n{other}\n") == f"{ENGLISH}\n\n\n{other}\n"
    assert gate(f"{ENGLISH}\n{foreign}\n{other}") == f"{ENGLISH}\n{other}"
    assert gate(f"{ENGLISH} {foreign} {other}\n") == f"{ENGLISH} {other}\n"
    assert gate(foreign) == ""


def test_short_segments_follow_their_surroundings() -> None:
    assert gate(f"{ENGLISH}\nCiao!\nBob") == f"{ENGLISH}\nCiao!\nBob"
    assert gate(f"{FRENCH} {FRENCH}\nOk.\nBob") == ""
    assert gate("Ciao!") == "Ciao!"
    assert gate("http://example.org/der/die/das 555-0142") != ""


def test_languages_are_a_choice() -> None:
    text = f"{ENGLISH}\n{FRENCH}\n{GERMAN}"
    assert gate(text, languages=("fr",)) == f"{FRENCH}\n"
    assert gate(text, languages=["EN", "de"]) == f"{ENGLISH}\n{GERMAN}"
    for everything in ("*", "all"):
        assert gate(text, languages=("en", everything)) == text
    for wrong in ("en", ()):
        with pytest.raises(ArgumentError, match="must be a collection"):
            gate(text, languages=wrong)


def test_english_is_untouched() -> None:
    text = f"  {ENGLISH} Ok?  Yes...\n\n\t- one: {ENGLISH}\r\n- two\n"
    assert gate(text) == text


@given(st.text(st.characters(), max_size=300))
def test_any_text_gives_a_part_of_itself(text: str) -> None:
    kept = iter(text)
    # What is left is in the text in this order, though line ends may be taken over.
    assert all(character in kept for character in gate(text) if not character.isspace())
    assert gate(text, languages=("*",)) == text


def test_every_character_can_be_read() -> None:
    for start in range(0, sys.maxunicode, 0x1000):
        gate("".join(map(chr, range(start, start + 0x1000))))


def test_without_pycld2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycld2", None)
    with pytest.raises(MissingExtraError, match="language gate"):
        gate(ENGLISH)


# --- on data that is not in the repository -----------------------------------------------------

SHARED = Path(
    os.environ.get("PERSLM_SHARED") or Path(__file__).resolve().parents[3].parent / "shared"
)
SENTENCES = SHARED / "data" / "language_sentences.tsv.gz"
MAIL = SHARED / "data" / "epv_dev"


@pytest.mark.skipif(not SENTENCES.exists(), reason="needs language_sentences.tsv.gz")
def test_on_sentences_of_many_languages() -> None:
    with gzip.open(SENTENCES, "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t", 1) for line in file]
    english = [text for language, text in rows if language == "en"]
    foreign = [text for language, text in rows if language != "en"]
    choose = random.Random(1)
    assert sum(gate(text) == text for text in english) >= 0.98 * len(english)
    assert sum(not gate(text).strip() for text in foreign) >= 0.97 * len(foreign)
    dropped = kept = 0
    for text in foreign:
        before, after = choose.sample(english, 2)
        left = gate(f"{before}\n\n{text}\n\n{after}")
        kept += (before in left) + (after in left)
        dropped += text not in left
    assert kept >= 0.97 * 2 * len(foreign)
    assert dropped >= 0.97 * len(foreign)


@pytest.mark.skipif(not MAIL.exists(), reason="needs the mail of epv_dev")
def test_hardly_any_english_mail_is_dropped() -> None:
    words = left = 0
    for path in sorted(MAIL.glob("*.jsonl.gz"))[::8]:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                body = json.loads(line)["body"]
                words += len(body.split())
                left += len(gate(body).split())
    assert words - left < 0.005 * words
