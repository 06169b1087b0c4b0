"""Text to words and back: normalization, line joining, word tokens, sentences, readable text.

Pure functions of a text, for any language, linear in its length. What the counts see is
``sentences``; ``unwrap`` is also what an imported tokenizer is given; entities (addresses,
numbers, secrets, …) are found by ``perslm.entities`` and stand in the output as one special token
each. Ids and vocabularies are in ``perslm.vocabulary``.

The rules, in the order they are applied:

1. ``normalize``: NFC; curly quotes become straight, ``…`` becomes ``...``; characters that show
   nothing (zero-width, bidirectional marks, controls) are dropped.
2. ``unwrap``: a line end inside a paragraph is a space if the next word would not have fitted on
   the line; otherwise, and before list items, it is a boundary that ends the sentence.
3. Entities become one token each, written ``<kind>``. No text a user types can make such a token:
   a ``<`` that is typed is always a token of its own, or part of a heart.
4. Words keep their case. Apostrophes, hyphens, ``&`` and ``_`` inside a word belong to it, an
   abbreviation keeps its period, runs of the same mark are one token of at most three, emoticons
   and emoji are one token each. Scripts without spaces are cut by character (Han, Hiragana), run
   (Katakana) or cluster (Thai, Lao, Khmer, Burmese, Tibetan).
5. A sentence ends after its final mark and the brackets and quotes that close after it.

Any change in what these functions return is a new ``TOKENIZER`` version.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from itertools import pairwise

from perslm.entities import KINDS, Entity, entities
from perslm.wordlists import (
    ABBREVIATIONS,
    BEFORE_NUMBER,
    DAYS_AND_MONTHS,
    NEVER_LAST,
    STARTERS,
    TITLES,
)

__all__ = [
    "ENTITY_TOKENS",
    "TOKENIZER",
    "Entity",
    "detokenize",
    "entities",
    "normalize",
    "sentences",
    "unfinished",
    "unwrap",
    "words",
]

TOKENIZER = "perslm-words-2"
"""Version of the rules of this module and of ``perslm.entities``; part of every fingerprint."""

ENTITY_TOKENS = tuple(f"<{kind}>" for kind in sorted(KINDS))
"""The special tokens that stand for entities, in the order of their ids."""

# --- normalization ------------------------------------------------------------------------------

_NORMALIZED = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛ʼ´＇", "'"),
        **dict.fromkeys("“”„‟＂", '"'),
        "…": "...",
        "‑": "-",  # no-break hyphen
        "\u2028": "\n",
        "\u2029": "\n\n",
        "\x85": "\n",
        "\r": "\n",
        "\v": "\n",
        "\f": "\n\n",
        **dict.fromkeys(
            map(chr, [*range(9), *range(14, 28), 127, *range(0x80, 0x85), *range(0x86, 0xA0), 0xAD])
        ),
        **dict.fromkeys(map(chr, [0x61C, 0x180E, 0x200B, 0x200E, 0x200F, 0xFEFF])),
        **dict.fromkeys(map(chr, [*range(0x202A, 0x202F), *range(0x2060, 0x2070)])),
        # Noncharacters stand for entities inside this module, so that no text may hold one.
        **dict.fromkeys(map(chr, range(0xFDD0, 0xFDF0)), "\ufffd"),
    }
)
_UNUSUAL = re.compile("[^\t\n -_a-~]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BACKTICK = re.compile(r"(?<=[^\W\d_])`(?=[^\W\d_])")


def normalize(text: str) -> str:
    """Return the text in the form that the other functions see; idempotent."""
    if _UNUSUAL.search(text):
        text = text.replace("\r\n", "\n")
        if not text.isascii():
            text = unicodedata.normalize("NFC", _SURROGATE.sub("\ufffd", text))
        text = _BACKTICK.sub("'", text.translate(_NORMALIZED))
    return text


# --- lines --------------------------------------------------------------------------------------

_ITEM = re.compile(
    r"(?:[-*+•·‣▪●○–—>]+|\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,5})[.)])(?=\s)|[•●▪‣]|[-*_=#~]{3}"
)
_NARROWEST = 50  # characters: a paragraph that is narrower was broken by hand
_FINAL = (".", "!", "?", ":", "。", "！", "？")


def unwrap(text: str) -> str:
    """Join hard-wrapped lines; keep line ends that mean something, and blank lines as one.

    A line end is joined if the first word of the next line would have made the line longer than
    the longest of its paragraph (and than 50 characters), or if a line of some length ends without
    a final mark and the next begins in lower case. Leading and trailing white space goes.
    """
    if "\n" not in text:
        return text.strip()
    paragraphs: list[list[str]] = [[]]
    for line in text.split("\n"):
        line = line.strip()
        if line:
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    return "\n\n".join(_joined(lines) for lines in paragraphs if lines)


def _joined(lines: list[str]) -> str:
    width = max(_NARROWEST, *map(len, lines))
    pieces = [lines[0]]
    for before, line in pairwise(lines):
        wrapped = False
        if not _ITEM.match(line):
            space = line.find(" ")
            first = len(line) if space < 0 else space
            wrapped = len(before) + 1 + first > width or (
                len(before) >= _NARROWEST // 2 and line[0].islower() and not before.endswith(_FINAL)
            )
        pieces.append(" " if wrapped else "\n")
        pieces.append(line)
    return "".join(pieces)


# --- words --------------------------------------------------------------------------------------

# Letters and digits with the marks that combine with them, in scripts that put spaces between
# words; the marks are not in \w, hence the ranges.
_MARKS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a"
    "\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u0711\u0730-\u074a"
    "\u07a6-\u07b0\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963\u0981-\u0983\u09bc-\u09cd"
    "\u09d7\u09e2\u09e3\u0a01-\u0a03\u0a3c-\u0a51\u0a70\u0a71\u0a75\u0a81-\u0a83\u0abc-\u0acd"
    "\u0ae2\u0ae3\u0b01-\u0b03\u0b3c-\u0b57\u0b82\u0bbe-\u0bcd\u0bd7\u0c00-\u0c04\u0c3c-\u0c56"
    "\u0c81-\u0c83\u0cbc-\u0cd6\u0d00-\u0d03\u0d3b-\u0d4d\u0d57\u0d82\u0d83\u0dca-\u0ddf\u135d-\u135f"
    "\u1ab0-\u1aff\u1dc0-\u1dff\u200c\u200d\u20d0-\u20ff\ufe20-\ufe2f"
)

_UNSPACED = "\u0e00-\u0eff\u0f40-\u0fbc\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff"
_LETTER = rf"[^\W_{_UNSPACED}\U00020000-\U0003ffff]"
# Groups that shall not give back what they took are atomic, each turn and all of them: possessive
# ones, (?:…)*+, are matched wrongly by Python before 3.11.5.
_RUN = rf"(?>(?>[A-Za-z0-9]++|{_LETTER}++|[{_MARKS}]++)+)"
_EMOJI = (
    "\u203c\u2049\u2139\u2190-\u21ff\u231a-\u23ff\u24c2\u25aa-\u25fe\u2600-\u27bf\u2934\u2935"
    "\u2b05-\u2b55\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
)
_CLUSTERED = "\u0e00-\u0eff\u0f40-\u0fbc\u1000-\u109f\u1780-\u17ff"
_CLUSTER_MARKS = (
    "\u0e30-\u0e3a\u0e45\u0e47-\u0e4e\u0eb0-\u0ebc\u0ec8-\u0ecd\u0f71-\u0fbc"
    "\u102b-\u103e\u1056-\u109d\u17b4-\u17d3"
)
_TOKEN = re.compile(
    rf"""
    [\ufdd0-\ufddf]
  | (?>(?>{_LETTER}\.(?!\.)){{2,}})(?>(?>{_LETTER}(?!{_LETTER}))?) | [Pp]h\.[Dd]\.?(?!{_LETTER})
  | {_RUN}(?>(?>(?:['&_·-]|(?<=\d)[.,](?=\d)){_RUN})*)(?>(?>\.(?!\.))?)
  | '(?:[sdmt]|ll|re|ve|em|til|cause|n)(?!\w)
  | [:;=][-'^]?(?:[DPpOo)(](?!\w)|[)|](?!\w)|[/\\](?![\w/\\])) | </?3(?!\d) | \^_*\^ | -_+-
  | [\U0001f1e6-\U0001f1ff]{{2}}
  | [{_EMOJI}](?>(?>[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]|\u200d[{_EMOJI}])*)
  | [\u30a1-\u30fa\u30fc]++
  | [{_CLUSTERED}][{_CLUSTER_MARKS}]*+
  | \.\.++ | [!?]++ | --++ | \*\*++ | ==++ | __++ | ~~++ | \#\#++ | \+\++ | <- | ->
  | \S
    """,
    re.VERBOSE,
)
_PLACE = {kind: chr(0xFDD0 + index) for index, kind in enumerate(sorted(KINDS))}
_PLACED = dict(zip(_PLACE.values(), ENTITY_TOKENS, strict=True))
_NUMBER = "<number>"


def words(text: str, *, names: Iterable[str] = ()) -> list[str]:
    """Return the word tokens of a text; see the module's rules 1 to 4.

    ``names`` are display names of correspondents, whose parts become ``<name>``. Never raises.
    """
    return [token for sentence in sentences(text, names=names) for token in sentence]


def sentences(text: str, *, names: Iterable[str] = ()) -> list[list[str]]:
    """Return the word tokens of a text, a list per sentence, none of them empty.

    The final mark is a token of its sentence. Never raises; linear in ``len(text)``.
    """
    return _segmented(text, names)[0]


def unfinished(text: str, *, names: Iterable[str] = ()) -> list[str]:
    """Return the word tokens of the sentence that the end of the text leaves open.

    Empty if the text is empty, ends a sentence, or ends with a line end. A word that is cut short
    is a token as it stands.
    """
    found, closed = _segmented(text, names)
    return [] if closed or not found or text.endswith(("\n", "\r")) else found[-1]


def _segmented(text: str, names: Iterable[str]) -> tuple[list[list[str]], bool]:
    text = unwrap(normalize(text))
    pieces: list[str] = []
    end = 0
    for entity in entities(text, names=names):
        pieces += (text[end : entity.start], _PLACE[entity.kind])
        end = entity.end
    if pieces:
        text = "".join(pieces) + text[end:]
    found: list[list[str]] = []
    closed = False
    for line in text.split("\n"):
        tokens = _TOKEN.findall(line)
        if tokens:
            closed = _segment(tokens, found)
    return found, closed


# --- sentences ----------------------------------------------------------------------------------

_ENDS = frozenset("。！？｡।॥؟۔።")
_CLOSES = frozenset(")]}»」』）】›")
_CONTINUES = frozenset([",", ";", ":", "、", "，"])
_RUNS = ".!?-*=_~#+"
_QUOTES = frozenset("'\"")
_OPEN, _SOFT, _ABBREVIATED, _ENDED = range(4)


def _segment(tokens: list[str], found: list[list[str]]) -> bool:
    """Cut the tokens of one line into sentences, appended to ``found``; tell if the last ended."""
    first: list[str] = []
    sentence, state = first, _OPEN
    quotes: set[str] = set()  # those that are open
    found.append(sentence)
    for index, token in enumerate(tokens):
        if token in _QUOTES:
            closes = token in quotes
            quotes ^= {token}
        else:
            closes = token in _CLOSES
            if len(token) > 1 and token[0] in _RUNS:
                token = token[:3] if token[0] != "." else "..."
        if state:
            if closes or token in _ENDS or _ATTACHED.match(token):
                sentence.append(token)
                continue
            if _starts(token, state, sentence):
                sentence = []
                found.append(sentence)
                quotes = {token} & _QUOTES
            state = _OPEN
        if token in _PLACED:
            sentence.append(_PLACED[token])
        elif token[-1] != ".":
            sentence.append(token)
            if token[0] in "!?" or token in _ENDS:
                state = _ENDED
        elif token == ".":
            # "1." that opens a line is a list marker, not a sentence.
            state = _OPEN if sentence is first and sentence == [_NUMBER] else _ENDED
            sentence.append(token)
        elif token == "...":
            sentence.append(token)
            state = _SOFT
        elif _keeps_period(token, tokens[index + 1] if index + 1 < len(tokens) else ""):
            sentence.append(token)
            state = _ABBREVIATED
        else:
            sentence += (token[:-1], ".")
            state = _ENDED
    return state == _ENDED


# What still belongs to a sentence after its final mark, besides what closes.
_ATTACHED = re.compile(rf"[.!?]|[{_EMOJI}]|[:;=].|<3|\^_*\^|-_+-")


def _starts(token: str, state: int, sentence: list[str]) -> bool:
    """Tell whether a token after a final mark starts a sentence."""
    if token in _CONTINUES:
        return False
    if state == _SOFT:
        return token[0].isupper()
    if state == _ABBREVIATED:
        before = sentence[-1][:-1].lower()
        return token in STARTERS and before not in TITLES and before not in NEVER_LAST
    if token[0].islower():
        if sentence[-1] == ".":  # "mgmt. of": an abbreviation that no list knows
            return len(sentence) < 2 or _CONSONANTS.fullmatch(sentence[-2]) is None
        return sentence[-1] not in ("'", '"')  # "Really?" he said
    return True


_CONSONANTS = re.compile(r"[b-df-hj-np-tv-xz]{2,5}", re.IGNORECASE)


def _keeps_period(token: str, following: str) -> bool:
    """Tell whether a word that a period follows is an abbreviation that owns it."""
    stem = token[:-1]
    lowered = stem.lower()
    if lowered in ABBREVIATIONS or lowered in NEVER_LAST:
        return True
    if lowered in TITLES:
        return stem[0].isupper()
    if lowered in DAYS_AND_MONTHS:
        return stem.istitle()
    if lowered in BEFORE_NUMBER:
        return following == _PLACE["number"]
    if len(stem) == 1 and stem.isupper() and stem != "I":
        return following == _PLACE["name"] or (
            following[:1].isupper() and following not in STARTERS
        )
    return "." in stem and stem.replace(".", "").isalpha()


# --- readable text ------------------------------------------------------------------------------

_LEFT = frozenset([*",.!?;:)]}%/\\", "...", "'s", "、", "，", *_ENDS, *_CLOSES])
_RIGHT = frozenset([*"([{¿¡#@$/\\", "«", "「", "『", "（", "【", "‹"])
_UNSPACED_AT_END = re.compile(rf"[{_UNSPACED}\uff00-\uffef]\Z")
_UNSPACED_AT_START = re.compile(rf"[{_UNSPACED}\uff00-\uffef]")
_CLITIC = re.compile(r"'(?:[sdmt]|ll|re|ve)\Z|[.!?]+\Z")


def detokenize(tokens: Iterable[str]) -> str:
    """Return readable text: the spaces that a person would type between these tokens.

    Quotes alternate between opening and closing. Special tokens are written as they stand.
    """
    pieces: list[str] = []
    before = ""
    glued = True
    open_quotes: set[str] = set()
    for token in tokens:
        joins = glued or token in _LEFT or _CLITIC.match(token) is not None
        glued = token in _RIGHT
        if token in ("'", '"'):
            joins = joins or token in open_quotes
            glued = token not in open_quotes
            open_quotes ^= {token}
        elif not joins and _UNSPACED_AT_END.search(before) and _UNSPACED_AT_START.match(token):
            joins = True
        if not joins:
            pieces.append(" ")
        pieces.append(token)
        before = token
    return "".join(pieces)
