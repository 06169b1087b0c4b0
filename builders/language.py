"""Keep what is written in a user's languages: drop foreign paragraphs and sentences.

Detection is by pycld2, on segments: the sentences of each line, the line, and the whole text. A
segment that is foreign goes and one that is not stays; one too short to tell goes with its
surroundings, which are its line or else the whole text. So a paragraph in French is dropped from
an English mail, and "Ciao!" at its end is not.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from perslm.errors import ArgumentError, MissingExtraError

__all__ = ["gate"]

_ALL = frozenset(["*", "all"])
_SENTENCE = re.compile(r"(?>(?>[^.!?。！？؟।]|[.!?](?!\s))*)[.!?。！？؟।]*+\s*+")
_LETTERS = re.compile(r"[^\W\d_]+")
# CLD2 refuses a text that holds anything but these.
_UNREADABLE = re.compile(
    "[^\t\n\r -~\u00a0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0001fffd"
    "\U00020000-\U0002fffd\U00030000-\U0003fffd]"
)
# Of plain ASCII the same two questions, for bytes: what is no letter, and what CLD2 refuses.
_NO_LETTERS = bytes(i for i in range(256) if not chr(i).isalpha() or i >= 128)
_READABLE = bytes(i if i in b"\t\n\r" or 32 <= i < 127 else 32 for i in range(256))
# Addresses, paths and numbers are in no language.
_NO_LANGUAGE = re.compile(r"(?<!\S)[^\s@/\\_\d.]*+(?:[@/\\_\d]|\.(?=\w))\S*+")
_PERHAPS_NO_LANGUAGE = re.compile(r"[@/\\_\d.]")
# Bytes of letters (UTF-8) from which on CLD2 can be believed: first when it calls its answer
# reliable, then always. Measured: between them and beyond, 0.02% of English words are lost.
_RELIABLE, _ANY = 12, 20

# CLD2 and ISO 639 differ in a few codes, and cannot tell these written standards apart.
_SAME = {"iw": "he", "jw": "jv", "no": "nb", "nn": "nb", "sr-me": "sr", "zh-hant": "zh", "mo": "ro"}


def gate(text: str, *, languages: Collection[str] = ("en",)) -> str:
    """Return the text without the segments that are in none of ``languages``.

    ``languages`` are ISO 639-1 codes; ``"*"`` or ``"all"`` among them keeps everything. What stays
    is unchanged; a line of which nothing stays goes with its line end.

    Raises ArgumentError if ``languages`` is a string or empty, MissingExtraError without pycld2.
    No text makes it raise.
    """
    if isinstance(languages, str) or not languages:
        raise ArgumentError('languages must be a collection of codes such as ("en", "de")')
    if not _ALL.isdisjoint(languages):
        return text
    cld2 = _cld2()
    accepted = frozenset(_SAME.get(code.lower(), code.lower()) for code in languages)
    whole: list[bool] = []  # asked once, if at all
    kept: list[str] = []
    for line in text.splitlines(keepends=True):
        if not line.strip():
            kept.append(line)
            continue
        of_line = _accepts(cld2, line, accepted)
        if of_line is None:
            whole = whole or [_accepts(cld2, text, accepted) is not False]
        surroundings = of_line if of_line is not None else whole[0]
        sentences = [match.group() for match in _SENTENCE.finditer(line) if match.group()]
        if len(sentences) == 1:
            left = line if surroundings else ""
        else:
            verdicts = [_accepts(cld2, sentence, accepted) for sentence in sentences]
            # The line's language may be that of its foreign half: ask what is sure in it.
            if True in verdicts:
                surroundings = True
            left = "".join(
                sentence
                for sentence, verdict in zip(sentences, verdicts, strict=True)
                if (surroundings if verdict is None else verdict)
            )
        if left and not left.endswith("\n") and line.endswith("\n"):
            left = left.rstrip() + "\n"
        kept.append(left)
    return "".join(kept)


def _accepts(cld2: Any, segment: str, accepted: frozenset[str]) -> bool | None:
    """Tell whether a segment is in an accepted language, None if that cannot be told."""
    if _PERHAPS_NO_LANGUAGE.search(segment):
        segment = _NO_LANGUAGE.sub(" ", segment)
    readable: str | bytes
    if segment.isascii():
        readable = segment.encode().translate(_READABLE)
        size = len(readable.translate(None, _NO_LETTERS))
    else:
        readable = _UNREADABLE.sub(" ", segment)
        size = len("".join(_LETTERS.findall(readable)).encode())
    if size < _RELIABLE:
        return None
    reliable, _, details = cld2.detect(readable, isPlainText=True, bestEffort=size >= _ANY)
    code = details[0][1]
    if code == "un" or not (reliable or size >= _ANY):
        return None
    return _SAME.get(code.lower(), code.lower()) in accepted


def _cld2() -> Any:
    try:
        import pycld2
    except ImportError:
        raise MissingExtraError("the language gate", "builders") from None
    return pycld2
