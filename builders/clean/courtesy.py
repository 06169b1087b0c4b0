"""Greetings and closes: what people write to each other only to open and to end a message.

Theory of operation
-------------------
A **greeting** is looked for at the first line of the author's text only. It is a line of a greeting
word and a few names ("Dear all,"), or of names alone that ends as an address does ("Ann and Bob:"),
or the same in front of a sentence ("Hi Ann, could you ..."), of which only the front goes.

A **close** is looked for at the end, climbing: first the name (the author's own, or any that stands
alone at the end), then the closing lines above it, whose words are all closing words ("Thanks again
and best regards,"), then a closing at the end of the last sentence line ("... tomorrow. Thanks!").
A postscript below the name does not hide it.
"""

from __future__ import annotations

import re
from typing import Final

from builders.clean.lines import LONG, Lines
from builders.clean.names import Author, namelike
from builders.clean.words import (
    CLOSE_HEADS,
    CLOSE_PHRASES,
    CLOSE_UNSPACED,
    CLOSE_WORDS,
    GROUPS,
    HAIL_UNSPACED,
    HAIL_WORDS,
    HAILS,
    NOT_NAMES,
)

_TOKEN: Final = re.compile(r"[^\W\d_]+(?:[.'’-][^\W\d_]+)*\.?|[&/]")
_DIGIT: Final = re.compile(r"\d")
_STOP: Final = ",:;!.–—-"
_JOINERS: Final = frozenset(
    ["and", "&", "/", "et", "und", "y", "e", "i", "og", "och", "en", "a", "ve", "or"]
)
_HAIL_FRONT: Final = re.compile(
    r"([^\W\d_]+(?:[ ][^\W\d_.'’-]+\.?){0,3}?)\s?(,|!|:|\.(?=\s)| ?-{1,3}(?=[ A-Z])|–|—)\s*(?=\S)"
)
_NAME_FRONT: Final = re.compile(
    r"((?:(?:Mr|Mrs|Ms|Dr|Prof)\.? {1,2})?[A-ZÀ-ÞА-Я][^\W\d_]+"
    r"(?:(?:, | and | & |/)[A-ZÀ-Þ][^\W\d_]+){0,3})\s?(,| ?--?(?= )|--|…,)\s*(?=\S)"
)
_HAILED_NAME: Final = re.compile(r"([A-ZÀ-Þ][^\W\d_]+)[,.!:](?=\s)")
_ADVERB: Final = re.compile(r"..(?:ab|ib|ous|os|ing|ic|nt|at|ed|iv|it|ion|al|ful|less|ari|ri|m)ly$")
_AFTER_NAME: Final = re.compile(r" +(?:\([^()]{1,40}\)?|[xX]\d?-?\d{3,5})$")
_EXTENSION: Final = re.compile(r"(?:[xX]|[Ee]xt\.? ?)\d?-?\d{3,5}")
_DASHED: Final = re.compile(r"(?:--?|–|—|~)(?=[^\W\d_])")
_THANKS_FOR: Final = re.compile(r"(?:many )?thank(?:s| you)\b.{0,20} for ", re.IGNORECASE)
_ENCLOSED: Final = re.compile(r"(?:[(\[<].{1,80}[)\]>])")
_POSTSCRIPT: Final = re.compile(r"(?:P\.? ?)+S\.?\b[ .:,-]?")
_TAIL: Final = re.compile(r"(?:[.!?)…]|\s-{1,3})\s*")


# Greetings


def mark_greeting(lines: Lines) -> None:
    """Mark the greeting at the start of the author's text.

    It may be two lines ("Ann," and "Good morning."), and a word or two ("FYI") may precede it.
    """
    own = lines.own()
    for position, i in enumerate(own[:3]):
        text = lines.text[i]
        if position and lines.kind[own[position - 1]] == "greeting" and not _is_hail(text):
            return
        apart = position + 1 < len(own) and own[position + 1] > i + 1
        if len(text) <= LONG and _is_greeting(text, apart=apart):
            lines.kind[i] = "greeting"
        elif _cut_front(lines, i, text[:LONG]):
            return
        elif position or text.count(" ") > 1:
            _salutation(lines, own)
            return


def _salutation(lines: Lines, own: list[int]) -> None:
    """Mark the greeting of a letter, which stands below its date and addresses."""
    for i in own[:10]:
        text = lines.text[i]
        if len(text) > 60:
            return
        if _is_hail(text) and text[-1] in ",:!" and _is_greeting(text, apart=True):
            lines.kind[i] = "greeting"
            return


def _words(text: str) -> list[str]:
    return [word.strip(".") for word in _TOKEN.findall(text)]


def _is_hail(text: str) -> bool:
    words = _words(text)
    return bool(words) and words[0].casefold() in HAILS


def _is_greeting(text: str, *, apart: bool) -> bool:
    """Tell whether a whole line greets; ``apart`` if a blank line and more text follow."""
    if len(text) > 70 or text[-1] == "?" or not (text[0].isalpha() or text[0] in "*_"):
        return False
    if text.startswith(HAIL_UNSPACED):
        return len(text) < 30
    words = _words(text)
    if not words or len(words) > 8 or _DIGIT.search(text):
        return False
    folded = [word.casefold() for word in words]
    stopped = text[-1] in _STOP
    if folded[0] in HAILS or (
        folded[0] in {"good", "god"} and len(folded) > 1 and folded[1] in HAIL_WORDS
    ):
        rest = zip(folded[1:], words[1:], strict=True)
        return all(low in HAIL_WORDS or low in HAILS or word[0].isupper() for low, word in rest)
    if not stopped and (not apart or len(words) > 3):
        return False
    if text[-1] in "!.":
        return False
    return _addressed(words, folded, stopped=stopped)


def _addressed(words: list[str], folded: list[str], *, stopped: bool) -> bool:
    """Tell whether words are only names, groups and what joins them."""
    if folded[0] in NOT_NAMES and folded[0] not in GROUPS:
        return False
    if len(words) > 6:
        return False
    if all(low in GROUPS or low in HAIL_WORDS for low in folded):
        return stopped and any(low in GROUPS for low in folded)
    for word, low in zip(words, folded, strict=True):
        if low in _JOINERS or low in GROUPS:
            continue
        if not word[0].isupper() or _no_name(word):
            return False
    if not stopped:
        names = [word for word in words if word != "/"]
        return len(names) <= 2 and not any(
            len(name) == 1 or name.isupper() or name.casefold() in GROUPS for name in names
        )
    return True


def _no_name(word: str) -> bool:
    """Tell whether a capitalised word is an ordinary one: listed, an acronym, or an adverb."""
    return (
        word.casefold() in NOT_NAMES
        or word.casefold() in CLOSE_HEADS
        or (len(word) > 3 and word.isupper())
        or word.endswith(("'s", "’s"))
        or _ADVERB.search(word) is not None
    )


def _cut_front(lines: Lines, i: int, text: str) -> bool:
    """Cut a greeting off the front of a line that goes on with something else."""
    match = _HAIL_FRONT.match(text)
    if match:
        words = _words(match.group(1))
        folded = [word.casefold() for word in words]
        hail = folded[0] in HAILS or (
            folded[0] in {"good", "god"} and len(folded) == 2 and folded[1] in HAIL_WORDS
        )
        if hail and all(
            low in HAIL_WORDS or low in HAILS or word[0].isupper()
            for low, word in zip(folded[1:], words[1:], strict=True)
        ):
            end = len(match.group().rstrip())
            named = _HAILED_NAME.match(text, match.end()) if len(words) == 1 else None
            if named and named.group(1).casefold() not in NOT_NAMES:
                end = named.end()
            lines.cut(i, 0, end, "greeting")
            return True
    match = _NAME_FRONT.match(text)
    if match:
        words = _words(match.group(1))
        rest = text[match.end() : match.end() + 30]
        listing = "," in rest.split(" ", 2)[0] or rest.startswith(("and ", "or ", "Inc", "LLC"))
        if not listing and not any(map(_no_name, words)):
            end = len(match.group().rstrip())
            second = _HAIL_FRONT.match(text, match.end())
            if second and second.group(1).casefold() in HAILS:
                end = second.end(2)
            lines.cut(i, 0, end, "greeting")
            return True
    return False


# Closes


def is_closing(text: str) -> bool:
    """Tell whether a line consists of closing words only."""
    if len(text) > 80 or text[-1] == "?":
        return False
    folded = text.casefold().strip(" -–—~*_,.!:;=&)(").replace("’", "'")
    if not folded:
        return False
    if folded in CLOSE_PHRASES or folded.startswith(CLOSE_UNSPACED):
        return True
    words = [word.strip(".").casefold() for word in _TOKEN.findall(folded)]
    if not words or len(words) > 9 or _DIGIT.search(folded):
        return False
    heads = 0
    for word in words:
        if word in CLOSE_HEADS:
            heads += 1
        elif word not in CLOSE_WORDS:
            return _ends_in_phrase(folded)
    return heads > 0 and not (words == ["best"] and text[-1] not in ",.!-")


def _ends_in_phrase(folded: str) -> bool:
    """Tell whether a line joins two closing formulas ("Thanks, talk to you soon")."""
    for stop in (",", ".", "!", " and "):
        front, found, back = folded.partition(stop)
        if (
            found
            and back.strip() in CLOSE_PHRASES
            and all(
                word.strip(".") in CLOSE_HEADS or word.strip(".") in CLOSE_WORDS
                for word in front.split()
            )
        ):
            return True
    return False


def closes(text: str, author: Author) -> bool:
    """Tell whether a line is a closing, with or without a name after it."""
    return is_closing(text) or _closing_with_name(text, author)


def _closing_with_name(text: str, author: Author) -> bool:
    """Tell whether a line is a closing and the name after it ("Thanks, Ann")."""
    if len(text) > 70:
        return False
    for stop in (",", "!", ".", "-", " "):
        front, found, back = text.rpartition(stop)
        if stop == ".":
            front, found, back = text.rstrip(". ").rpartition(stop)
        if stop == " ":
            front, found, back = text.strip(" .!").rpartition(" ")
            if found and front.count(" ") > 1 and is_closing(front) and namelike(back):
                return True
            front, found, back = text.strip().partition(" ")
            if not found or back.count(" ") > 1:
                continue
        if found and front.strip() and back.strip() and is_closing(front):
            name = back.strip(" -–—.*~")
            if name and (author.signs(name) or (namelike(name) and stop != " ")):
                return True
            if name and stop == " " and len(name) < 5 and (name.isupper() or namelike(name)):
                return True
    return False


def mark_close(lines: Lines, author: Author) -> None:
    """Mark the close at the end of the author's text, the name under it included.

    A text that goes on (below a quote, or with an enclosure) may have been closed before its end,
    by a closing line and a name, or above a quote by the author's name.
    """
    own = lines.own()
    if not own:
        return
    for position in range(1, len(own) - 1):
        i = own[position]
        text = lines.text[i]
        if len(text) > 60 or not (author.signs(text) or namelike(text)):
            continue
        if _closed_above(lines, own, position, author):
            _close(lines, own[max(position - 6, 0) : position + 1], author)
    _close(lines, [i for i in without_postscript(lines, own) if lines.kind[i] is None], author)


def _closed_above(lines: Lines, own: list[int], position: int, author: Author) -> bool:
    """Tell whether the name at ``position``, with text below it, ends a close."""
    i, above, below = own[position], own[position - 1], own[position + 1]
    if below - i == 1 and _EXTENSION.fullmatch(lines.text[below]) and position + 2 < len(own):
        i, below = below, own[position + 2]
    if below - i < 2:
        return False
    if lines.kind[above] is None and is_closing(lines.text[above]):
        return True
    between = next((kind for kind in lines.kind[i + 1 : below] if kind is not None), None)
    return between in ("attribution", "header", "forward") and author.signs(lines.text[i])


def _close(lines: Lines, own: list[int], author: Author) -> None:
    if not own:
        return
    last = len(own) - 1
    if _sign_off(lines, own, author):
        lines.kind[own[last]] = "close"
        last -= 1
    else:
        for i in own[last - _after_closing(lines, own) + 1 :]:
            lines.kind[i] = "close"
            last -= 1
    closings = 0
    while last >= 0 and closings < 3:
        text = lines.text[own[last]]
        if last == len(own) - 1 and _is_sentence(text):
            return
        if not closes(text, author) and not (closings and author.signs(text)):
            break
        lines.kind[own[last]] = "close"
        closings += 1
        last -= 1
    if last >= 0 and not closings:
        _cut_tail(lines, own[last], author)


def _is_sentence(text: str) -> bool:
    """Tell whether a closing that nobody signs says what for ("Thank you for your patience.")."""
    return text[-1] not in ",-!" and _THANKS_FOR.match(text) is not None


def _after_closing(lines: Lines, own: list[int]) -> int:
    """Return how many lines end the text below a closing that announces who signs ("Regards,").

    At most two count: a name of whatever form, an organisation, a placeholder.
    """
    for count in (1, 2):
        if len(own) <= count:
            break
        above = lines.text[own[-count - 1]]
        if above[-1] == "," and is_closing(above):
            signing = all(map(_heads_only, (lines.text[i] for i in own[-count:])))
            return count if signing else 0
    return 0


def _heads_only(text: str) -> bool:
    """Tell whether a short line has the form of a name or a placeholder: no lower-case words."""
    if len(text) > 50 or text[-1] in "?!:;":
        return False
    words = [word for word in _TOKEN.findall(text) if len(word) > 3]
    if _ENCLOSED.fullmatch(text):
        return True
    return 1 <= len(words) <= 5 and all(any(map(str.isupper, word[:2])) for word in words)


def without_postscript(lines: Lines, own: list[int]) -> list[int]:
    """Return the visible lines of the author's text up to a postscript near its end."""
    for position in range(max(len(own) - 8, 1), len(own)):
        if _POSTSCRIPT.match(lines.text[own[position]]):
            return own[:position]
    return own


def _sign_off(lines: Lines, own: list[int], author: Author) -> bool:
    """Tell whether the last line is the name the message is signed with."""
    i = own[-1]
    text = lines.text[i]
    bare = text.strip(" -–—~*_.,!=")
    if not bare or len(text) > 60:
        return False
    dashed = text[0] in "-–—~"
    glued = _DASHED.match(text) is not None
    above = lines.text[own[-2]] if len(own) > 1 else ""
    if author.signs(text):
        return bool(above) or dashed
    if not above or text[-1] in ",;:?!":
        return False
    if is_closing(above) or (_tail_start(above, None) is not None and above[-1] not in "?"):
        bare = _AFTER_NAME.sub("", bare)
        return namelike(bare, most=4) or (len(bare) < 12 and bare.isalpha())
    words = bare.split()
    if bare.isupper() and len(words) > 1:
        return False
    apart = i - own[-2] > 1 or dashed
    prose = above[-1] in ".?!)" or (above.count(" ") > 4 and above[-1] not in ":,")
    if glued and above[0] not in "-–—~" and namelike(_AFTER_NAME.sub("", bare), most=2):
        return True
    # A display name that says otherwise leaves room for a nickname, which is one word.
    return apart and prose and namelike(bare, most=1 if author.parts else 2)


def _tail_start(text: str, author: Author | None) -> int | None:
    """Return where a closing starts that ends a line of prose, or None."""
    low = max(len(text) - 70, 1)
    best: int | None = None
    for match in _TAIL.finditer(text, low):
        tail = text[match.end() :]
        if not tail:
            continue
        if is_closing(tail) or (author is not None and _closing_with_name(tail, author)):
            best = match.end()
            break
        apart = match.end() > match.start() + 1
        spaced = match.group().endswith("  ") and tail[-1].isalpha() and namelike(tail, most=1)
        if author is not None and apart and (author.signs(tail) or spaced):
            best = match.end()
            break
    return best


def _cut_tail(lines: Lines, i: int, author: Author) -> None:
    text = lines.text[i]
    start = _tail_start(text, author)
    if start is not None:
        while start > 1 and text[start - 1] in "- ":
            start -= 1
        lead = len(text[start:]) - len(text[start:].lstrip())
        lines.cut(i, start + lead, len(text), "close")
