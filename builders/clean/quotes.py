"""Other people's words: ``>`` quotes, inline originals, forwards, header blocks, attributions.

Theory of operation
-------------------
One scan from the top. A line is looked at closely only if its first character, a short field name
before a colon, or a colon at its end makes it suspect; everything else costs a few comparisons.

* A **quoted line** begins with ``>``. Text between quoted lines is the author's reply and stays.
  Some programs quote with ``|`` or initials (``JD>``), and some wrap quoted lines so that a
  fragment lands on a line of its own; both are settled by their neighbours in a second look.
* An **attribution** ("On Monday Ann wrote:", possibly wrapped over lines) before ``>`` lines goes
  with them. Before unmarked text it must be unmistakable, and then everything after it is quoted,
  since nothing tells where the original ends.
* A **header block** is a run of header fields in any of the languages that mail programs print:
  Outlook's ``From: Sent: To: Subject:``, Lotus Notes' name, date, ``To:``, ``cc:``, ``Subject:``.
  It needs enough distinct fields to be no accident. It reaches up over what belongs to it: the
  marker line ("-----Original Message-----"), a name line, a date line, a rule of underscores.
  What follows is not the author's, to the end of the body, unless it is marked with ``>`` (then
  the quote rules decide) or a line announces the end of the forward.

A kind tells what was found: ``header`` the block, ``forward`` a forward's marker and content,
``quote`` the content of an original, ``attribution`` the line that introduces it.
"""

from __future__ import annotations

import re
from typing import Final

from builders.clean.lines import LONG, Lines
from builders.clean.words import (
    ATTRIBUTION_OPENERS,
    END_OF_FORWARD,
    FIELDS,
    FORWARDS,
    LONGEST_FIELD,
    NOT_NAMES,
    ORIGINALS,
    WROTE,
    WROTE_UNSPACED,
)

_RULE_CHARACTERS: Final = frozenset("-_=*~#—–+")
_MAX_ATTRIBUTION: Final = 4
"""An attribution is wrapped over at most this many lines."""
_MAX_GAP: Final = 5
"""Blank lines that a header block may hold between two of its fields."""

_DATE: Final = (
    r"(?:\d{1,4}[./-]\d{1,2}[./-]\d{2,4}"
    r"|\d{1,2}\.? [^\W\d]{3,12}\.?,? \d{2,4}|[^\W\d]{3,12}\.? \d{1,2},? \d{4})"
)
_TIME: Final = r"\d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?: ?[AaPp]\.?[Mm]\.?)?"
_DATE_LINE: Final = re.compile(
    rf"(?:[^\W\d]{{2,12}}\.?,? )?{_DATE},?(?: at)? {{1,3}}{_TIME}(?: [A-Z]{{2,5}})?$"
)
_ENDS_IN_DATE: Final = re.compile(rf"\bon {{1,2}}{_DATE},? {{1,3}}{_TIME}(?: [A-Z]{{2,5}})?$")
_TIME_LINE: Final = re.compile(rf"(?:{_DATE},? {{1,3}})?{_TIME}(?: [A-Z]{{2,5}})?")
_SOME_DATE: Final = re.compile(
    r"\d{1,4}[./-]\d{1,2}[./-]\d{2,4}|\d{1,2}:\d{2}|\b(?:19|20)\d\d\b|\d{4}年|\d{4}년"
)
_ADDRESS: Final = re.compile(r"[^\s@<>]@[^\s@<>]|<[^\s<>]*>|\(via ")
_GROUPWISE: Final = re.compile(rf">>> .{{1,200}}?{_DATE}?,? {{0,3}}(?:{_TIME})? ?>>>")
_GLUED: Final = re.compile(
    rf"-{{4,}} ?(?:{'|'.join(map(re.escape, ORIGINALS))}) ?-{{4,}}", re.IGNORECASE
)
_WORD: Final = re.compile(r"[^\W\d_]+(?:\(a\))?…?|[^\W\d_]+:")
_PREFIX: Final = re.compile(r"[A-Za-z]{1,4}>|[|}\]](?=\s{1,3}\S)")
_ELISION: Final = re.compile(r"[<\[(]?(?:snip|\.{3}|…|cut|trimmed)[>\])]?", re.IGNORECASE)


def mark(lines: Lines) -> None:
    """Mark everything in ``lines`` that is quoted, forwarded, or introduces such text."""
    texts, kinds = lines.text, lines.kind
    size = len(texts)
    prefixed = 0
    i = 0
    while i < size:
        text = texts[i]
        if not text or kinds[i] is not None:
            i += 1
            continue
        first = text[0]
        if first == ">" or (first == "&" and text.startswith("&gt;")):
            if text.startswith(">>> ") and len(text) <= LONG and _GROUPWISE.fullmatch(text):
                i = _unmarked_original(lines, i)
                continue
            kinds[i] = "quote"
            i += 1
            continue
        if len(text) > LONG:
            i += 1
            continue
        if first in _RULE_CHARACTERS:
            after = _marker(lines, i)
            if after is not None:
                i = after
                continue
        head, colon, _ = text.partition(":")
        if colon and len(head) <= LONGEST_FIELD and _field(head):
            i = _header(lines, i)
            continue
        if text[-1] in ":：" or (not colon and _lotus_line(text)):
            after = _attribution(lines, i)
            if after is not None:
                i = after
                continue
        elif first in "|}]" or ">" in text[1:5]:
            prefixed += 1
        elif "----" in text and (glued := _GLUED.search(text)):
            # The marker lost its line break: what stands before it is the author's.
            lines.cut(i, glued.start(), len(text), "header")
            i = _swallow(lines, i + 1, i + 1, "quote")
            continue
        i += 1
    if prefixed:
        _other_prefixes(lines)
    _fragments(lines)


def _field(head: str) -> str | None:
    """Return the canonical field named before a colon, or None."""
    return FIELDS.get(head.strip("*_ \t\xa0").casefold())


def _next_visible(lines: Lines, i: int) -> int:
    """Return the first visible line at or after ``i`` (the number of lines if there is none)."""
    texts = lines.text
    size = len(texts)
    while i < size and not texts[i]:
        i += 1
    return i


def _quoted(text: str) -> bool:
    return text.startswith((">", "&gt;"))


# Markers and header blocks


def _marker(lines: Lines, i: int) -> int | None:
    """Treat line ``i``, which starts with rule characters, as the marker of an original.

    Return the line to go on with, or None if it is no marker.
    """
    text = lines.text[i]
    inner = text.strip("-_=*~#—–+ \t").casefold()
    if not inner:
        return None
    if inner.startswith(END_OF_FORWARD):
        lines.mark(i, i + 1, "forward")
        return i + 1
    if inner.startswith(FORWARDS):
        kind = "forward"
    elif inner.startswith(ORIGINALS):
        kind = "quote"
    else:
        # A phrase in dashes that we do not know, in a language that we do not know, is a
        # marker if a header block or marked text follows at once.
        below = _next_visible(lines, i + 1)
        closed = text[-1] in _RULE_CHARACTERS and text[:2] == text[0] * 2
        if not closed or below - i > 3 or below == len(lines):
            return None
        if _quoted(lines.text[below]):
            lines.mark(i, i + 1, "attribution")
            return below
        if _block_end(lines, below) is None:
            return None
        kind = "quote"
    return _swallow(lines, i, i + 1, kind)


def _header(lines: Lines, i: int) -> int:
    """Treat line ``i``, which begins with a field name, as the start of a header block.

    Return the line to go on with: past the original that the block introduces, or past the
    fields that turned out not to be a block.
    """
    end = _block_end(lines, i)
    if end is None:
        return _fields_end(lines, i)[0]
    top, kind = _block_top(lines, i)
    return _swallow(lines, top, end, kind)


def _fields_end(lines: Lines, i: int) -> tuple[int, set[str], bool]:
    """Follow header fields and their continuation lines from line ``i``.

    Return the line after the last field, the canonical fields seen, and whether an address or
    a date was among them.
    """
    texts = lines.text
    size = len(texts)
    seen: set[str] = set()
    evidence = False
    end = i
    gap = 0
    wraps = False
    while i < size:
        text = texts[i]
        if not text:
            gap += 1
            if gap > _MAX_GAP:
                break
            i += 1
            continue
        head, colon, value = text.partition(":")
        name = _field(head) if colon and len(head) <= LONGEST_FIELD else None
        if name is not None:
            if name in seen and name in {"from", "subject"}:
                break
            seen.add(name)
            evidence = evidence or "@" in value or bool(_SOME_DATE.search(value[:LONG]))
            wraps = name in {"to", "cc", "from"} or len(text) > 60
            if "subject" in seen and gap and name == "other":
                break
        elif gap == 0 and _TIME_LINE.fullmatch(text[:60]):
            evidence = True
        elif gap or not wraps or not _continues(text, texts[i - 1], name_list="to" in seen):
            break
        gap = 0
        i += 1
        end = i
    return max(end, 1), seen, evidence


def _continues(text: str, above: str, *, name_list: bool) -> bool:
    """Tell whether ``text`` goes on with the wrapped header field that ends in ``above``."""
    if len(text) > LONG:
        return False
    if above[-1:] in ",;<:" or text[0] in "<[;,":
        return True
    if len(above) < 55:
        return False
    return not name_list or "@" in text or "/" in text or ";" in text or len(text) < 40


def _block_end(lines: Lines, i: int) -> int | None:
    """Return the line after the header block that starts at ``i``, or None if none does."""
    if i >= len(lines):
        return None
    end, seen, evidence = _fields_end(lines, i)
    if "subject" in seen and ("from" in seen or "to" in seen) and (evidence or len(seen) > 2):
        return end
    if evidence and len(seen - {"other", "subject"}) >= 3:
        return end
    if evidence and "from" in seen and ("date" in seen or "to" in seen):
        above = lines.text[i - 1] if i else ""
        return end if above and above[0] in _RULE_CHARACTERS else None
    return None


def _block_top(lines: Lines, i: int) -> tuple[int, str]:
    """Return where the header block at ``i`` really starts, and the kind of its content."""
    texts = lines.text
    top = i
    if texts[i].startswith(("From:", "*From:")) and lines.raw[i].startswith("\t"):
        top = _letterhead(lines, i)
    for _ in range(6):
        k = top - 1
        while k >= 0 and not texts[k] and top - k <= 3:
            k -= 1
        if k < 0 or not texts[k] or lines.kind[k] is not None or len(texts[k]) > LONG:
            break
        text = texts[k]
        adjacent = k == top - 1
        folded = text.casefold()
        if folded.startswith(("please respond to", "sent by:", "antwort an:")):
            top = k
        elif _DATE_LINE.fullmatch(text):
            top = k
            if k and texts[k - 1] and _name_line(texts[k - 1]):
                top = k - 1
            break
        elif _ENDS_IN_DATE.search(text) or (adjacent and _name_line(text) and "@" in text):
            top = k
            if k and texts[k - 1] and text.startswith(("on ", "<")) and len(texts[k - 1]) < 80:
                top = k - 1
            break
        elif adjacent and _TIME_LINE.fullmatch(text) and k and texts[k - 1]:
            # A date that was wrapped before its time.
            if not _ENDS_IN_DATE.search(f"{texts[k - 1][-LONG:]} {text}"):
                break
            top = k - 1
            break
        elif not text.strip("_-=*"):
            top = k
        else:
            break
    return top, "quote"


def _letterhead(lines: Lines, i: int) -> int:
    """Step over the indented letterhead that Lotus Notes prints above an indented ``From:``."""
    k = i - 1
    while k >= 0 and not lines.text[k] and i - k <= 5 and lines.raw[k]:
        k -= 1
    if k >= 0 and lines.text[k] and lines.raw[k].startswith("\t") and len(lines.text[k]) < 60:
        return k
    return i


def _name_line(text: str) -> bool:
    """Tell whether ``text`` can be the bare name above a date line."""
    return len(text) < 80 and text[-1] not in ".!?:;," and text.count(" ") < 8


def _lotus_line(text: str) -> bool:
    """Tell whether ``text`` is an attribution like ``ann@x.org on 01/02/2000 03:04 PM``."""
    return text[-1] in "mM0123456789" and bool(_ENDS_IN_DATE.search(text)) and "@" in text


def _swallow(lines: Lines, top: int, after: int, kind: str) -> int:
    """Mark a marker or header block ``top:after`` and the original below it.

    Return the line to go on with.
    """
    size = len(lines)
    if kind == "forward" and after < size and not lines.text[after - 1].endswith("--"):
        wrapped = lines.text[after]
        if wrapped.endswith("---") and len(wrapped) < LONG:
            after += 1
    lines.mark(top, after, kind if kind == "forward" else "header")
    below = _next_visible(lines, after)
    if below - after <= 4:
        # Up to three lines (a name, a date, an empty letterhead) may stand above the fields.
        for k in range(below, min(below + 6, size)):
            end = _block_end(lines, k) if lines.text[k] else None
            if end is not None:
                lines.mark(below, end, "header")
                after = end
                break
    content = _next_visible(lines, after)
    if content < size and _quoted(lines.text[content]):
        return content
    for i in range(content, size):
        text = lines.text[i]
        if text and text[0] in _RULE_CHARACTERS and len(text) < LONG:
            inner = text.strip("-_=*~#—–+ \t").casefold()
            if inner.startswith(END_OF_FORWARD):
                lines.mark(content, i + 1, kind)
                return i + 1
    lines.mark(content, size, kind)
    return size


# Attributions


def _attribution(lines: Lines, i: int) -> int | None:
    """Treat line ``i``, which ends in a colon, as the end of an attribution.

    Return the line to go on with, or None if it is something else.
    """
    texts = lines.text
    size = len(texts)
    folded = texts[i].casefold().rstrip("： :")
    if folded.startswith(FORWARDS):
        return _swallow(lines, i, i + 1, "forward")
    below = _next_visible(lines, i + 1)
    quoted = any(_quoted(texts[k]) for k in range(below, min(below + 6, size)))
    if not quoted and below >= size:
        return None
    first = i
    opened = False
    for k in range(i, max(i - _MAX_ATTRIBUTION, -1), -1):
        if not texts[k] or lines.kind[k] is not None or len(texts[k]) > LONG:
            break
        if k < i and texts[k][-1] in ".!?":
            break
        opener = _WORD.match(texts[k].lstrip("*-_ [(<\"'"))
        dated = texts[k][0].isdigit() and _SOME_DATE.search(texts[k][:40])
        if dated or (opener and opener.group().casefold() in ATTRIBUTION_OPENERS):
            first, opened = k, True
            break
    whole = " ".join(texts[first : i + 1])
    verb = _has_verb(whole)
    date = bool(_SOME_DATE.search(whole))
    address = bool(_ADDRESS.search(whole))
    lotus = whole[-1] not in ":："
    if quoted and _quoted(texts[below]):
        named = _name_wrote(whole) or (verb and (address or (date and opened)))
        if not (named or (date and (address or lotus)) or (address and len(whole) < 100)):
            return None
        if first == i and not date and i and texts[i - 1] and lines.kind[i - 1] is None:
            above = texts[i - 1]
            if _ADDRESS.search(above) and above[-1] not in ".!?":
                first = i - 1
    elif not (date and ((verb and opened) or (address and (verb or lotus)))):
        return None
    lines.mark(first, i + 1, "attribution")
    if quoted:
        return i + 1
    lines.mark(i + 1, size, "quote")
    return size


def _unmarked_original(lines: Lines, i: int) -> int:
    """Mark an attribution and the original below it, which may or may not bear ``>``."""
    lines.mark(i, i + 1, "attribution")
    below = _next_visible(lines, i + 1)
    if below < len(lines) and _quoted(lines.text[below]):
        return below
    lines.mark(i + 1, len(lines), "quote")
    return len(lines)


def _name_wrote(text: str) -> bool:
    """Tell whether ``text`` is a name and a verb only: "Ann Lee wrote:"."""
    words = [word.rstrip(":") for word in _WORD.findall(text)]
    if not 1 <= len(words) <= 6 or words[-1].casefold() not in WROTE:
        return False
    if len(words) == 1:
        return True  # the rest of a wrapped line whose beginning we do not know
    return words[0][0].isupper() and (words[0].casefold() not in NOT_NAMES or len(words) == 2)


def _has_verb(text: str) -> bool:
    folded = text.casefold()
    if any(word.rstrip(":") in WROTE for word in _WORD.findall(folded)):
        return True
    return any(verb in folded for verb in WROTE_UNSPACED)


# Quotes that the scan could not see alone


def _other_prefixes(lines: Lines) -> None:
    """Mark lines quoted with ``|``, ``}``, ``]`` or initials and ``>``.

    A prefix counts where two neighbouring lines share it, and only if some other line has no
    prefix at all: a body that bears one throughout is not quoting but was damaged on its way.
    """
    own = lines.own()
    found: dict[int, str] = {}
    for i in own:
        match = _PREFIX.match(lines.text[i])
        if match and not (lines.text[i].endswith("|") and len(lines.text[i]) > 1):
            found[i] = match.group()
    if len(found) == len(own):
        return
    for i, prefix in found.items():
        if found.get(i - 1) == prefix or found.get(i + 1) == prefix:
            lines.kind[i] = "quote"


def _fragments(lines: Lines) -> None:
    """Mark fragments that hard wrapping split off quoted lines, and signs that quotes were cut.

    A fragment stands directly between two quoted lines, starts in lower case, and its first word
    would not have fitted on the long line above. A sign such as ``[...]`` has a quote next to it.
    """
    texts, kinds = lines.text, lines.kind
    visible = [i for i, text in enumerate(texts) if text]
    for before, i, after in zip(visible, visible[1:], visible[2:], strict=False):
        if kinds[i] is not None or "quote" not in (kinds[before], kinds[after]):
            continue
        text, above = texts[i], texts[before]
        if len(text) < 10 and _ELISION.fullmatch(text):
            kinds[i] = "quote"
        if len(text) >= 40 or after - before > 2 or not kinds[before] == kinds[after] == "quote":
            continue
        room = len(above) + 1 + len(text.split(" ", 1)[0])
        if room > 68 and text[0].islower() and above[-1] not in ".!?" and _quoted(above):
            kinds[i] = "quote"
