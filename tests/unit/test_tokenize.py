"""Words, sentences, line joining and readable text."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perslm.tokenize import (
    ENTITY_TOKENS,
    detokenize,
    entities,
    normalize,
    sentences,
    unfinished,
    unwrap,
    words,
)

anything = st.text(st.characters(), max_size=200)
# Pieces that stress the rules more often than arbitrary characters do.
PIECES = """
    . .. ... ? ! " ' ( ) < > / \\ - -- @ # $ 5 17:30 a.m. e.g. etc. Mr. J. No. U.S. word Word don't
    <s> </s> <unk> <number> :) ❤️ 👍🏽 日本 สวัสดี नमस्ते “ ” ’ … password: hunter2 a@b.org
    http://x.org , ; : ¿ 12345678 Nov 21
    """
pieces = st.lists(
    st.sampled_from([*PIECES.split(), "\n", "\n\n", "\t", "\r\n", "\u200d", "\ud800", "\ufdd0"]),
    max_size=40,
).map(" ".join)
texts = anything | pieces


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't go, I'm here.", ["Don't", "go", ",", "I'm", "here", "."]),
        ("the company's R&D", ["the", "company's", "R&D"]),
        ("state-of-the-art -- and/or", ["state-of-the-art", "--", "and", "/", "or"]),
        ("“It’s” ‘fine’", ['"', "It's", '"', "'", "fine", "'"]),
        ("don`t don´t", ["don't", "don't"]),
        ("wait… what....", ["wait", "...", "what", "..."]),
        ("no!!!!! really?!?! -----", ["no", "!!!", "really", "?!?", "---"]),
        ("e.g. the U.S., i.e. us", ["e.g.", "the", "U.S.", ",", "i.e.", "us"]),
        ("a Ph.D. at 3M", ["a", "Ph.D.", "at", "<number>"]),
        ("great :) love <3 it ;-)", ["great", ":)", "love", "<3", "it", ";-)"]),
        ("ok 👍🏽👩‍👩‍👧🇩🇪🇫🇷", ["ok", "👍🏽", "👩‍👩‍👧", "🇩🇪", "🇫🇷"]),
        ("snake_case __init__ C#", ["snake_case", "__", "init", "__", "C", "#"]),
        ("v2.3.1 of it", ["v2.3.1", "of", "it"]),
        ("5kg, 3D, Q3", ["<number>", "kg", ",", "3D", ",", "Q3"]),
        ("今天很好", ["今", "天", "很", "好"]),
        ("カメラです", ["カメラ", "で", "す"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("안녕하세요 세계", ["안녕하세요", "세계"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया", "।"]),
        ("مرحبا بالعالم؟", ["مرحبا", "بالعالم", "؟"]),
        ("Größe naïve l'homme", ["Größe", "naïve", "l'homme"]),
        ("col·lecció", ["col·lecció"]),
        ("soft\u00adhyphen zero\u200bwidth", ["softhyphen", "zerowidth"]),
        ("cafe\u0301", ["caf\u00e9"]),
        ("", []),
        (" \n\t ", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize("typed", ["<s>", "</s>", "<unk>", *ENTITY_TOKENS, "\ufdd0", "\ufdd3"])
def test_special_tokens_cannot_be_typed(typed: str) -> None:
    found = words(f"one {typed} two{typed}three")
    assert not {"<s>", "</s>", "<unk>", *ENTITY_TOKENS} & set(found)
    assert found[0] == "one"


def test_entities_become_tokens() -> None:
    assert words("Mail ann@example.org by 5pm on Nov 21 or pay $5.") == [
        "Mail",
        "<address>",
        "by",
        "<time>",
        "on",
        "<date>",
        "or",
        "pay",
        "<money>",
        ".",
    ]
    assert words("Ann's dog", names=["Ann Miller"]) == ["<name>", "'s", "dog"]


@given(texts)
def test_words_hold_all_that_is_visible_outside_entities(text: str) -> None:
    shown = unwrap(normalize(text))
    outside, end = [], 0
    for entity in entities(shown):
        outside.append(shown[end : entity.start])
        end = entity.end
    outside.append(shown[end:])

    def collapsed(characters: str) -> str:
        kept = "".join(characters.split())
        return "".join(c for i, c in enumerate(kept) if kept[i - 1 : i] != c or c.isalnum())

    # Runs of one mark are shortened, so each side is compared with its runs collapsed.
    joined = "".join(token for token in words(text) if token not in ENTITY_TOKENS)
    marks = set("!?.")
    visible = "".join(outside)
    assert collapsed("".join(c for c in joined if c not in marks)) == collapsed(
        "".join(c for c in visible if c not in marks)
    )
    assert marks & set(joined) == marks & set(visible)


@given(texts)
def test_normalizing_twice_changes_nothing(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    assert unicodedata.is_normalized("NFC", once) or not text.isprintable()
    once.encode("utf-8")


@given(texts)
def test_sentences_are_the_words_in_order(text: str) -> None:
    found = sentences(text)
    assert all(found)
    assert [token for sentence in found for token in sentence] == words(text)
    rest = unfinished(text)
    assert rest == [] or rest == found[-1]


@given(texts)
def test_tokens_hold_no_space_and_no_special(text: str) -> None:
    for token in words(text):
        assert token in ENTITY_TOKENS or not token.startswith("<") or token in ("<", "<3", "<-")
        assert token.split() == [token]


@given(texts)
def test_readable_text_has_the_same_words(text: str) -> None:
    plain = [token for token in words(text) if token.isalpha() and token.isascii()]
    assert words(detokenize(plain)) == plain or entities(detokenize(plain))


# --- sentences ---------------------------------------------------------------------------------


def cut(text: str, **options: list[str]) -> list[str]:
    return [" ".join(sentence) for sentence in sentences(text, **options)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? four", ["One .", "Two !", "Three ?", "four"]),
        ("Mr. Smith met Dr. Will Jones.", ["Mr. Smith met Dr. Will Jones ."]),
        ("In the U.S. The rest", ["In the U.S.", "The rest"]),
        ("In the U.S. market", ["In the U.S. market"]),
        ("Pens, paper, etc. Then we left.", ["Pens , paper , etc.", "Then we left ."]),
        ("J. R. Smith called.", ["J. R. Smith called ."]),
        ("Take plan B. The rest waits.", ["Take plan B .", "The rest waits ."]),
        ("So am I. We agree.", ["So am I .", "We agree ."]),
        ("It is no. 5. No. It is not.", ["It is no. <number> .", "No .", "It is not ."]),
        ("About 3.5 or .5 of it.", ["About <number> or <number> of it ."]),
        ("Wait... what... The end", ["Wait ... what ...", "The end"]),
        ('"Really?" he said. "Yes." Good', ['" Really ? " he said .', '" Yes . "', "Good"]),
        ("(See above.) Next", ["( See above . )", "Next"]),
        ("Thanks! :) Bye", ["Thanks ! :)", "Bye"]),
        ("lower case. so what? ok", ["lower case .", "so what ?", "ok"]),
        ("the mtng. of it", ["the mtng . of it"]),
        ("See you Fri. at noon.", ["See you Fri. at noon ."]),
        ("We sat in the sun. It was nice.", ["We sat in the sun .", "It was nice ."]),
        ("Done.Next one", ["Done .", "Next one"]),
        ("Done at 5 p.m. Then home.", ["Done at <time> .", "Then home ."]),
        ("¿Cómo estás? ¡Bien!", ["¿ Cómo estás ?", "¡ Bien !"]),
        ("好。去吗？去！", ["好 。", "去 吗 ？", "去 ！"]),
        ("1. First thing. 2", ["<number> . First thing .", "<number>"]),
        ("See you. --Ann", ["See you .", "-- Ann"]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert cut(text) == expected


def test_line_ends() -> None:
    text = (
        "Hi Ann,\n"
        "this line was broken by a mail program because it was rather long, and so it\n"
        "goes on here. The second\n"
        "\n"
        "Heading\n"
        "- one item\n"
        "- another item\n"
        "2) a third\n"
        "Thanks\n"
        "Bob"
    )
    assert [sentence.split()[0] for sentence in cut(text)] == [
        "Hi",
        "this",
        "The",
        "Heading",
        "-",
        "-",
        "<number>",
        "Thanks",
        "Bob",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb", "a\nb"),
        ("  a  \r\n\r\n\r\n b\n", "a\n\nb"),
        ("x" * 48 + "\nyyy zzz", "x" * 48 + " yyy zzz"),  # 48 + 1 + 3 > 50
        ("x" * 46 + "\nYyy zzz", "x" * 46 + "\nYyy zzz"),  # 46 + 1 + 3 = 50 would have fitted
        ("a line of some length that stops\nin lower case", None),
        ("a line of some length, stopped.\nin lower case", "keep"),
        ("", ""),
    ],
)
def test_unwrap(text: str, expected: str | None) -> None:
    if expected is None:
        expected = text.replace("\n", " ")
    elif expected == "keep":
        expected = text
    assert unwrap(text.replace("\r\n", "\n")) == expected


@given(texts)
def test_unwrap_keeps_everything_but_white_space(text: str) -> None:
    assert unwrap(text).split() == text.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Done.", []),
        ("Done. I will", ["I", "will"]),
        ("Done. I saw Mr.", ["I", "saw", "Mr."]),
        ("I wonder ...", ["I", "wonder", "..."]),
        ("Hi Ann,\n", []),
        ("Hi Ann,\nplea", ["plea"]),
        ('"Done." ', []),
    ],
)
def test_unfinished(text: str, expected: list[str]) -> None:
    assert unfinished(text) == expected


# --- readable text -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Don't go, I'm here.",
        'He said "no" (twice): and/or what? Yes!',
        "'Fine' is fine; it's 100% ok...",
        "¿Cómo estás? ¡Bien!",
        "今天很好。",
        "AT&T #tag @home {a} [b]",
        "a state-of-the-art thing - or not -- I'd say",
        "안녕하세요 세계",
    ],
)
def test_detokenize_is_what_was_typed(text: str) -> None:
    assert detokenize(words(text)).replace("<number>", "100%") == text


# --- cost --------------------------------------------------------------------------------------

HOSTILE = [
    *["a", "a.", "a@", "1", "1 ", "1-", "1,", "(1", "/", "a/", "\\", "C:\\a ", "-", "'a", "_"],
    *[
        "Aa",
        "a1-",
        "password: ",
        "password is ",
        "pin ",
        '"',
        '" ',
        'etc. " a ',
        ". ' ",
        ":)",
        "http://",
    ],
    *["a.b", "1/1", "12:12", "jan 1 ", "Mr. ", "$1", "AB12 ", "\n", "a\n", "👍\u200d", "e\u0301"],
    *["-----BEGIN PRIVATE KEY-----", "seed phrase: ", "\ud800", "1 000 ", "\x00", "mailto:", "日"],
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_is_linear(piece: str) -> None:
    """No text of 60,000 characters takes a second; anything quadratic would take many."""
    text = piece * (60_000 // len(piece))
    started = time.process_time()
    sentences(text, names=["Ann Miller"])
    assert time.process_time() - started < 1.0
