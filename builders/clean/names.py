"""Does a line name the author, or anyone? The question behind sign-offs and signature blocks.

Theory of operation
-------------------
The display name of the From header is the best evidence there is: a last line that consists of
parts of it, a short form of a part ("Chris" for "Christopher") or its initials is a sign-off.
Without a display name, or for nicknames, shape has to do: one to three capitalised words, none of
which is an ordinary word that people write on a line of its own.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from builders.clean.words import CLOSE_HEADS, GROUPS, HAILS, NOT_NAMES

_NAME_WORD: Final = re.compile(r"[^\W\d_]+(?:[-'’.][^\W\d_]+)*\.?")
_DIGIT: Final = re.compile(r"\d")
_SURROUND: Final = " \t-–—~*_.,;!:/|\"'’<>()=+&"
_AFTER_NAME: Final = re.compile(r"[<(\[/@]|\bvia\b")
_JOINERS: Final = frozenset(["and", "&", "und", "et", "y", "e", "i", "og", "och", "en"])
_ORDINARY: Final = NOT_NAMES | HAILS | CLOSE_HEADS | GROUPS


class Author:
    """The parts of a display name, and the judgement whether a text is signed with them.

    ``Author("Doe, John A.")`` and ``Author("John A Doe <jd@example.org>")`` know the parts
    ``john`` and ``doe`` and the initials ``jad``.
    """

    __slots__ = ("initials", "parts")

    def __init__(self, name: str | None) -> None:
        self.parts: tuple[str, ...] = ()
        self.initials = ""
        if not name:
            return
        plain = name.strip().strip("\"'")[:200]
        if "@" in plain.split(" ", 1)[0] and "<" not in plain:
            plain = re.sub(r"[\d._+-]+", " ", plain.split("@", 1)[0])
        elif (cut := _AFTER_NAME.search(plain)) and cut.start():
            plain = plain[: cut.start()]
        last, comma, first = plain.partition(",")
        if comma and first.strip():
            plain = f"{first} {last}"
        words = [word.strip(".").casefold() for word in _NAME_WORD.findall(plain)]
        self.parts = tuple(word for word in words if len(word) > 1)
        self.initials = "".join(word[0] for word in words)

    def signs(self, text: str) -> bool:
        """Tell whether ``text`` is the author's name: parts, short forms, or initials of it."""
        if not self.initials or len(text) > 60:
            return False
        words = [w.strip(".").casefold() for w in _NAME_WORD.findall(text.strip(_SURROUND))]
        if not 1 <= len(words) <= 4 or _DIGIT.search(text):
            return False
        known = 0
        for word in words:
            if len(word) == 1:
                if word not in self.initials:
                    return False
                known += len(words) == 1
            elif self._is_part(word):
                known += 1
            elif len(words) > 1 or not self._is_initials(word):
                return False
            else:
                known += 1
        return known > 0

    def _is_part(self, word: str) -> bool:
        joined = word.replace("-", "")
        for part in self.parts:
            if word == part or joined == part.replace("-", "") or word in part.split("-"):
                return True
            if len(word) > 1 and (part.startswith(word) and len(word) > 2):
                return word not in _ORDINARY
            if len(part) > 2 and word.startswith(part) and len(word) <= len(part) + 3:
                return True
            if word[:3] == part[:3] and word[-1] in "yie" and len(word) < 7 and len(part) > 3:
                return word not in _ORDINARY
        return False

    def _is_initials(self, word: str) -> bool:
        if len(word) > 4:
            return False
        if word == self.initials or word == self.initials[0] + self.initials[-1]:
            return True
        return len(word) == len(self.initials) + 1 and word.startswith(self.initials[:-1])


@lru_cache(maxsize=256)
def author(name: str | None) -> Author:
    """Return the parsed display name; one user's mail asks for the same one again and again."""
    return Author(name)


def namelike(text: str, *, most: int = 3) -> bool:
    """Tell whether ``text`` looks like a name alone: up to ``most`` capitalised words."""
    if len(text) > 40 or text[-1:] in "?:":
        return False
    words = text.strip(_SURROUND).split()
    if len(words) > 2:
        words = [word for word in words if word.casefold() not in _JOINERS]
    if not 1 <= len(words) <= most:
        return False
    for word in words:
        bare = word.strip(_SURROUND)
        if not bare or not bare[0].isupper() or not _NAME_WORD.fullmatch(bare):
            return False
        if len(bare) == 1 and len(words) > 1:
            continue
        if bare.casefold() in _ORDINARY or (len(bare) > 3 and bare.isupper() and len(words) > 2):
            return False
    return True
