"""Signature blocks: below ``-- ``, or recognised by their shape at the end of the text.

Theory of operation
-------------------
A line that holds only ``--`` opens a signature if little follows it (some people draw lines).

Without that mark the block is found from below. Climbing from the last line of the author's text,
lines are taken while each of them could stand in a contact block: it holds a telephone number, an
address of any sort, a label such as ``Fax``, a company or job word, or it is short, capitalised and
no sentence. What has been climbed over is only a candidate. Its top is then moved down to the line
that proves it: the author's name, or the first of at least two lines with hard contact data. A list
of names, a poem or a table at the end of a message has neither and stays.
"""

from __future__ import annotations

import re
from typing import Final

from builders.clean.courtesy import closes, without_postscript
from builders.clean.lines import Lines
from builders.clean.names import Author, namelike
from builders.clean.words import COMPANY_WORDS, CONTACT_LABELS, PLACE_WORDS, TITLE_WORDS

_MOST_LINES: Final = 18
"""A signature has at most this many visible lines."""

_PHONE: Final = re.compile(
    r"(?:\+?\(?\d{1,4}\)?[ ./()-]{0,3})?\(?\d{2,5}\)?[ ./()-]{1,3}\d{2,4}"
    r"(?:[ ./-]{0,2}\d{2,4}){1,3}(?!\d)"
    r"|\b\d-\d{4}\b|\b\d{3}[-.]\d{4}\b|\+\d{8,14}\b"
)
_EXTENSION: Final = re.compile(r"^\W?(?:[xX]|[Ee]xt\.?|[Ee]xtension)[ .:-]{0,2}\d{1,2}?-?\d{3,6}$")
_BARE: Final = re.compile(
    r"-?\W?(?:[Ee]xt\.?|[Xx#*]|[Tt]el\.?|[Pp]h(?:one)?\.?)?[:.]? ?[\d\s()+./-]{4,24}"
    r"|-?[^\s@<>]{1,64}@[^\s@<>]{1,80}"
)
_LINK: Final = re.compile(r"[^\s@<>]+@[^\s@<>]+|https?://\S+|\bwww\.\S+", re.IGNORECASE)
_POSTAL: Final = re.compile(
    r"\b[A-Z]{2}\.?,?\s+\d{5}(?:-\d{4})?\b|\b\d{5}(?:-\d{4})?$"
    r"|\b[A-Z]{1,2}\d{1,2}[A-Z]? ?\d[A-Z]{2}\b|\b[A-Z]\d[A-Z] ?\d[A-Z]\d\b"
    r"|^(?:[A-Z]{1,3}-)?\d{4,5} [A-Z][a-zäöüé]"
)
_BULLET: Final = re.compile(r"(?:[*+•·o-]+|\(?(?:\d{1,2}|[a-z])[.)])\s")
_TOKEN: Final = re.compile(r"[^\W_]+(?:[.&/'’-][^\W_]+)*\.?")


def strong(text: str) -> bool:
    """Tell whether a line holds hard contact data and hardly anything else."""
    if len(text) > 120:
        return False
    if _EXTENSION.match(text):
        return True
    rest = _LINK.sub(" ", text)
    linked = len(rest) < len(text)
    rest, phones = _PHONE.subn(" ", rest)
    words = _TOKEN.findall(rest)
    folded = [word.casefold() for word in words]
    if linked or phones:
        lower = sum(
            word.islower() and word.rstrip(".") not in CONTACT_LABELS
            for word in words
            if len(word) > 1
        )
        return len(rest) < 48 and len(words) < 7 and lower <= 2 and text[-1] not in "?!"
    if folded and folded[0].rstrip(".") in CONTACT_LABELS and ":" in text[:14] and len(text) < 70:
        return len(words) > 1 and (any(c.isdigit() for c in text) or len(words) < 5)
    if _POSTAL.search(text) and len(words) < 9:
        return True
    number = any(word[:1].isdigit() for word in words)
    place = any(word in PLACE_WORDS for word in folded)
    return number and place and len(words) < 9 and _capitalised(words)


def weak(text: str) -> bool:
    """Tell whether a line could stand in a contact block: title, company, place, motto."""
    words = _TOKEN.findall(text[:80])
    if not words:
        return len(text) > 2
    if len(text) > 75 or len(words) > 9 or text[-1] in "?!:;" or _BULLET.match(text):
        return False
    if text[0] == "(" and text[-1] == ")":
        return True
    if text[-1] == "." and words[-1].casefold() not in COMPANY_WORDS | TITLE_WORDS:
        return False
    return _capitalised(words)


def _capitalised(words: list[str]) -> bool:
    long = [word for word in words if len(word) > 3 or word[0].isupper()]
    return bool(long) and sum(not word[0].islower() for word in long) >= 0.7 * len(long)


def _telling(text: str) -> bool:
    """Tell whether a weak line speaks of a company, a job or a department."""
    folded = [word.casefold() for word in _TOKEN.findall(text)]
    return len(text) < 50 and any(word in COMPANY_WORDS or word in TITLE_WORDS for word in folded)


def mark(lines: Lines, author: Author) -> None:
    """Mark the signature at the end of the author's text, and every one below a ``--`` line."""
    _delimited(lines)
    own = without_postscript(lines, lines.own())
    if own:
        _shaped(lines, own, author)


def _delimited(lines: Lines) -> None:
    """Mark what follows a ``--`` line up to the next quote, if it is short."""
    if "--" not in lines.body:
        return
    own = lines.own()
    for position, i in enumerate(own):
        if lines.text[i] not in ("--", "—", "--=20"):
            continue
        last = i
        for following in own[position + 1 : position + 2 + _MOST_LINES]:
            if any(lines.kind[last:following]):
                break
            last = following
        else:
            if len(own) - position - 1 > _MOST_LINES:
                continue
        lines.mark(i, last + 1, "signature")


def _shaped(lines: Lines, own: list[int], author: Author) -> None:
    top = len(own)
    below = len(lines)
    closed = False
    texts: list[str] = []
    while top and len(texts) < _MOST_LINES:
        i = own[top - 1]
        text = _undecorated(lines.text[i])
        if texts and (below - i > 5 or any(lines.kind[k] for k in range(i, below))):
            break
        closed = closes(text, author)
        if closed or not (strong(text) or weak(text) or author.signs(text)):
            break
        texts.insert(0, text)
        below = i
        top -= 1
    if not texts or (top and lines.text[own[top - 1]][-1] in ":："):
        # Contact data that a sentence announces is the message, not the signature.
        return
    block = own[top:]
    gap = block[0] - own[top - 1] if closed else 0
    first = _proof(texts, block, author, closed=gap, alone=not top)
    if first is not None:
        while first and not _TOKEN.search(texts[first - 1]):
            first -= 1
        lines.mark(block[first], block[-1] + 1, "signature")


def _undecorated(text: str) -> str:
    """Return a line without the frame that some signatures are drawn in."""
    if len(text) > 4 and text[0] == text[-1] and text[0] in "*|#=~":
        return text.strip("*|#=~ \t") or text
    return text


def _proof(
    texts: list[str], block: list[int], author: Author, *, closed: int, alone: bool
) -> int | None:
    """Return the position in a candidate block where a signature provably starts, or None.

    ``closed`` is how many lines above the block a closing line stands (0 if there is none),
    ``alone`` tells that nothing stands above. A name at most one blank line below a closing line,
    or with nothing but numbers below it, is a sign-off: the signature starts below.
    """
    hard = [strong(text) for text in texts]
    last = len(texts) - 1
    named = author.signs(texts[0]) or namelike(texts[0], most=4)
    if closed and last and named and (any(hard) or last <= 4):
        apart = block[1] - block[0] > 1
        return 1 if closed <= 2 or apart or _bare(texts[1:]) else 0
    for k, text in enumerate(texts):
        if _signed_in_line(text, author):
            return k
        if k == last:
            break
        below = texts[k + 1 :]
        fresh = k == 0 or block[k] - block[k - 1] > 1 or not _TOKEN.search(texts[k - 1])
        adjacent = block[k + 1] - block[k] == 1
        if author.signs(text) and (any(hard[k + 1 :]) or (adjacent and last - k <= 4)):
            if not adjacent and (author.signs(below[0]) or not _TOKEN.search(below[0])):
                continue
            return k + 1 if _bare(below) else k
        if fresh and not alone and adjacent and any(map(_personal, below)):
            if namelike(text) and (any(map(_telling, below)) or sum(hard) >= 2):
                return k
            if _telling(text):
                return k
    if alone:
        return None
    if closed and (any(hard) or (last < 2 and all(map(_telling, texts)))):
        return next((k for k in range(len(texts)) if k == 0 or hard[k]), None)
    starts = (k for k in range(len(texts)) if hard[k] and (not k or block[k] - block[k - 1] > 1))
    enough = sum(hard) >= 2 and len(texts) <= 8 and any(map(_personal, texts))
    return next(starts, None) if enough else None


def _bare(texts: list[str]) -> bool:
    """Tell whether at most two lines hold a number or an address each and nothing else."""
    return len(texts) <= 2 and all(_BARE.fullmatch(text) is not None for text in texts)


def _personal(text: str) -> bool:
    """Tell whether a line holds contact data of a person, not just a link."""
    return strong(text) and not text.casefold().startswith(("http", "www.", "<http"))


def _signed_in_line(text: str, author: Author) -> bool:
    """Tell whether a line is the author's name followed by contact data."""
    if len(text) > 120:
        return False
    tail = _PHONE.search(text) or _LINK.search(text)
    if tail is None or tail.start() == 0:
        return False
    return author.signs(text[: tail.start()].strip(" -–—:,|/("))
