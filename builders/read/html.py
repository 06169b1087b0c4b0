"""HTML mail as plain text, with quotes marked by ">" as in plain text mail.

What mail programs wrap around the message that is answered becomes a quote: blockquotes, and the
containers by which each program can be told (`_QUOTED`). Outlook puts no container around it,
only a header block before it (`_REST_QUOTED`): everything from there on is a quote.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final

from perslm.errors import MissingExtraError

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_DROPPED: Final = _set(
    "head style script title template noscript svg math object iframe select textarea button"
    " -comment"
)
_BLOCKS: Final = _set(
    "address article aside blockquote center dd div dl dt fieldset figure footer form h1 h2 h3 h4"
    " h5 h6 header hr li main nav ol p pre section table tbody tfoot thead tr ul"
)
_SPACED: Final = _set("p h1 h2 h3 h4 h5 h6 ul ol table pre dl blockquote hr")
#: Ids and classes of what holds the answered message, or the line that introduces it.
_QUOTED: Final = _set(
    "gmail_attr moz-cite-prefix moz-forward-container moz-email-headers-table yahoo_quoted"
    " protonmail_quote tutanota_quote zmail_extra reply-intro olk_src_body_section"
    " isforwardcontent isreplycontent mail-editor-reference-message-container"
)
#: Ids and classes after which everything is the answered message.
_REST_QUOTED: Final = _set("divrplyfwdmsg appendonsend outlookmessageheader")
_HIDDEN = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|mso-hide\s*:\s*all"
    r"|(?:font-size|max-height)\s*:\s*0(?:px|pt)?\s*(?:;|$)",
    re.IGNORECASE,
)
#: Outlook draws this line above the header block of the message that it quotes.
_OUTLOOK_LINE = re.compile(r"border\s*:\s*none\s*;\s*border-top\s*:\s*solid", re.IGNORECASE)
_HEADER_FIELD = re.compile(r"\s*[^\s:]{1,15}\s?:\s")
_NO_BORDER = re.compile(r"border\s*:\s*(?:none|0)", re.IGNORECASE)
_SPACE = re.compile(r"[ \t\r\n\f]+")
_DEPTH_LIMIT: Final = 50  # of quotes
_HARMLESS: Final = 1000  # tags of which no arrangement can make parsing slow
_TAG_LIMIT: Final = 20_000
_NESTING_LIMIT: Final = 512
_FORMATTING_COST: Final = 8  # open elements of this kind are opened again in each paragraph
_NESTING_TAG = re.compile(
    r"<(/?)(?:(a|b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)|div|span|blockquote|center)\b",
    re.IGNORECASE,
)


def html_text(html: str) -> str:
    """Return the visible text of ``html``, one line for each block, quotes marked with ">".

    Raises MissingExtraError without selectolax.
    """
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ImportError as error:
        raise MissingExtraError("reading HTML mail", "builders") from error
    body = LexborHTMLParser(_bounded(html)).body
    if body is None:
        return ""
    lines = _Lines()
    _walk(body, lines)
    return lines.text()


def _bounded(html: str) -> str:
    """Cut off what would take the parser time and memory with the square of its length.

    HTML's rules for elements left open ask for that: each paragraph opens all of them again.
    """
    tags = html.count("<")
    if tags <= _HARMLESS:
        return html
    if tags > _TAG_LIMIT:
        html = "<".join(html.split("<", _TAG_LIMIT)[:-1])
    unclosed: Counter[str] = Counter()
    nesting = 0
    for tag in _NESTING_TAG.finditer(html):
        name = tag[0].lower().removeprefix("<").removeprefix("/")
        cost = _FORMATTING_COST if tag[2] else 1
        if not tag[1]:
            unclosed[name] += 1
            nesting += cost
        elif unclosed[name]:
            unclosed[name] -= 1
            nesting -= cost
        if nesting > _NESTING_LIMIT:
            return html[: tag.start()]
    return html


class _Lines:
    """Text under construction, with the depth of quoting at the place where it grows."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._line: list[str] = []
        self._last_depth = 0
        self._blank_wanted = False
        self._bullet = ""
        self.depth = 0
        self.preformatted = 0
        self.rest_quoted = False

    def add(self, text: str) -> None:
        if self.preformatted:
            first, *more = text.split("\n")
            self._line.append(first)
            for line in more:
                self.break_line()
                self._line.append(line)
            return
        text = _SPACE.sub(" ", text)
        if not self._line or self._line[-1].endswith(" "):
            text = text.removeprefix(" ")
        if text:
            self._line.append(text)

    def end_block(self, *, spaced: bool) -> None:
        """End the line if anything stands on it; ``spaced`` leaves an empty one before the next."""
        if self._line:
            self.break_line()
        self._blank_wanted |= spaced

    def begin_item(self) -> None:
        """Mark the next line as that of a list item."""
        self._bullet = "- "

    def break_line(self) -> None:
        line = "".join(self._line).rstrip()
        self._line.clear()
        depth = min(self.depth, _DEPTH_LIMIT)
        if line:
            line, self._bullet = self._bullet + line, ""
            if self._blank_wanted and self._done and self._done[-1].strip(">"):
                self._done.append(">" * min(depth, self._last_depth))
            self._blank_wanted = False
        mark = ">" * depth
        self._done.append(f"{mark} {line}" if mark and line else mark or line)
        self._last_depth = depth

    def text(self) -> str:
        self.end_block(spaced=False)
        text = "\n".join(self._done).strip("\n")
        return f"{text}\n" if text else ""


def _walk(body: LexborNode, lines: _Lines) -> None:
    """Visit every node in document order, without recursion: mail nests as deep as it likes."""
    around: list[tuple[LexborNode, int]] = []  # open elements, each with the depth it added
    node = body
    while True:
        added = _enter(node, lines)
        if added is not None and node.child is not None:
            around.append((node, added))
            node = node.child
            continue
        if added is not None:
            _leave(node, added, lines)
        while node.next is None or node is body:
            if not around:
                return
            node, added = around.pop()
            _leave(node, added, lines)
            if not around:
                return
        node = node.next


def _enter(node: LexborNode, lines: _Lines) -> int | None:
    """Begin a node; return the quote depth that it adds, None if nothing in it is to be read."""
    tag = node.tag or ""
    if tag == "-text":
        lines.add(node.text_content or "")
        return None
    if tag in _DROPPED:
        return None
    if tag == "br":
        lines.break_line()
        return None
    attributes = node.attributes
    style = attributes.get("style") or ""
    if "hidden" in attributes or (style and _HIDDEN.search(style)):
        return None
    if tag in _BLOCKS:
        lines.end_block(spaced=tag in _SPACED and not _has_no_margin(tag, attributes))
    names = _names(attributes) if attributes else frozenset()
    if not lines.rest_quoted and (
        names & _REST_QUOTED or (style and _begins_outlook_quote(node, style))
    ):
        lines.rest_quoted = True
        lines.depth += 1  # and never less again
    added = int(_is_quote(node, tag, attributes, names, style))
    lines.depth += added
    if tag == "li":
        lines.begin_item()
    elif tag in ("td", "th"):
        lines.add(" ")
    elif tag == "pre":
        lines.preformatted += 1
    return added


def _leave(node: LexborNode, added: int, lines: _Lines) -> None:
    tag = node.tag or ""
    if tag in _BLOCKS or added:
        lines.end_block(spaced=tag in _SPACED and not _has_no_margin(tag, node.attributes))
    if tag == "pre":
        lines.preformatted -= 1
    lines.depth -= added


def _names(attributes: dict[str, str | None]) -> frozenset[str]:
    """The id, name and classes of an element, as they were before Outlook prefixed them."""
    values = " ".join(attributes.get(key) or "" for key in ("id", "name", "class"))
    return frozenset(name.removeprefix("x_") for name in values.lower().split())


def _has_no_margin(tag: str, attributes: dict[str, str | None]) -> bool:
    """Outlook's and Apple's paragraphs are lines: empty ones stand between real paragraphs."""
    return tag == "p" and bool(
        {"msonormal", "msoplaintext", "p1", "p2"} & _names(attributes)
        or re.search(r"margin(?:-top)?\s*:\s*0", attributes.get("style") or "")
    )


def _is_quote(
    node: LexborNode,
    tag: str,
    attributes: dict[str, str | None],
    names: frozenset[str],
    style: str,
) -> bool:
    if tag == "blockquote":
        # The "indent" button of some programs makes blockquotes as well, without a border.
        indents = "gmail_quote" not in names and attributes.get("type") != "cite"
        return not (indents and _NO_BORDER.search(style) and "border-left" not in style)
    if "gmail_quote" in names and tag == "div":
        # Around an answered message it holds a blockquote (and answers between quotes);
        # around a forwarded one it holds the message itself.
        return not any(child.tag == "blockquote" for child in node.iter())
    return bool(names & _QUOTED) or attributes.get("name") == "quote"


def _begins_outlook_quote(node: LexborNode, style: str) -> bool:
    return (
        _OUTLOOK_LINE.search(style) is not None
        and _HEADER_FIELD.match(node.text(deep=True)[:40]) is not None
    )
