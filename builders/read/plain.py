"""Plain text as mail programs leave it, made plain: line ends, control characters, format=flowed,
quoted-printable that nobody decoded, PGP and uuencode armour.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from builders.read.charset import C1_AS_CP1252, decode

# Characters --------------------------------------------------------------------------------------

_SPACES: Final = "\u00a0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u202f\u205f\u3000"
_LINE_ENDS: Final = "\v\f\u2028\u2029"
#: Invisible: soft hyphen, zero-width space, direction marks, word joiner, byte order mark. The
#: zero-width joiners stay: Persian, Hindi and emoji are spelled with them.
_INVISIBLE: Final = (
    "\u00ad\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)
_CONTROL: Final = "".join(chr(code) for code in range(32) if chr(code) not in "\t\n\v\f") + "\x7f"
_TABLE: Final[dict[int, str | None]] = {
    **{code: text if text > "\x9f" else None for code, text in C1_AS_CP1252.items()},
    **{ord(char): " " for char in _SPACES},
    **{ord(char): "\n" for char in _LINE_ENDS},
    **{ord(char): None for char in _INVISIBLE + _CONTROL},
}
_TRANSLATED = re.compile(f"[{_CONTROL}{_LINE_ENDS}\x80-\xa0{_SPACES[1:]}{_INVISIBLE}\ud800-\udfff]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_IN_PLACE = re.compile(f"[{_CONTROL}{_LINE_ENDS}\x80-\x9f\ud800-\udfff]")
_IN_PLACE_TABLE: Final[dict[int, str]] = {
    **{ord(char): " " for char in _CONTROL},
    **{ord(char): "\n" for char in _LINE_ENDS},
    **{code: text if text > "\x9f" else " " for code, text in C1_AS_CP1252.items()},
    **dict.fromkeys(range(55296, 57344), "�"),
}


def normalized(text: str) -> str:
    """Make line ends ``\\n``, odd spaces spaces, and drop what is invisible or no character."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _TRANSLATED.search(text) is None:
        return text
    return _SURROGATES.sub("", text.translate(_TABLE))


def in_place(text: str) -> str:
    """Make line ends ``\\n`` and controls spaces without moving any character.

    For bodies that a record holds as text: whoever gave it wants offsets into what they gave.
    """
    if "\r" in text:
        text = text.replace("\r\n", " \n").replace("\r", "\n")
    return text if _IN_PLACE.search(text) is None else text.translate(_IN_PLACE_TABLE)


# format=flowed (RFC 3676) ------------------------------------------------------------------------


def unflowed(text: str, *, delete_space: bool) -> str:
    """Join the lines of format=flowed text; ``delete_space`` is its DelSp parameter.

    Quoted lines come out as so many ">", a space, and the text.
    """
    return "\n".join(_paragraphs(text.split("\n"), delete_space))


def _paragraphs(lines: list[str], delete_space: bool) -> Iterator[str]:
    open_depth, pieces = 0, list[str]()  # the paragraph that the next line may go on with
    for line in lines:
        content = line.lstrip(">")
        depth = len(line) - len(content)
        if content.startswith(" "):  # space-stuffed
            content = content[1:]
        if pieces and (depth != open_depth or content == "-- "):
            yield _quoted(open_depth, pieces)
            pieces = []
        if content.endswith(" ") and content != "-- ":
            pieces.append(content[:-1] if delete_space else content)
            open_depth = depth
        else:
            yield _quoted(depth, [*pieces, content])
            pieces = []
    if pieces:
        yield _quoted(open_depth, pieces)


def _quoted(depth: int, pieces: list[str]) -> str:
    content = "".join(pieces)
    return f"{'>' * depth} {content}" if depth else content


# Quoted-printable left over ----------------------------------------------------------------------

#: What nobody types: "=20" or "=09" at the end of a line, an escaped equals sign after a word.
_EVIDENCE = re.compile(r"=(?:20|09)$|\w=3D", re.MULTILINE)
_SOFT_BREAK = re.compile(r"^(.{60,76})=\n", re.MULTILINE)
_ESCAPES = re.compile(r"(?:=[89A-F][0-9A-F])+|=(?:20|09|3D)")


def without_quoted_printable(text: str) -> str:
    """Decode escapes of quoted-printable if the text evidently was never decoded."""
    if _EVIDENCE.search(text) is None:
        return text
    text = _SOFT_BREAK.sub(r"\1", text)
    return normalized(_ESCAPES.sub(_decoded_escapes, text))


def _decoded_escapes(match: re.Match[str]) -> str:
    return decode(bytes.fromhex(match[0].replace("=", "")), None)


# Armour ------------------------------------------------------------------------------------------

_SIGNED = re.compile(
    r"^-----BEGIN PGP SIGNED MESSAGE-----[ \t]*\n"
    r"(?:[A-Za-z-]+: .*\n)*"  # Hash: and what else the armour declares
    r"(?:[ \t]*\n)?",
    re.MULTILINE,
)
_DASH_ESCAPED = re.compile(r"^- (?=-)", re.MULTILINE)
_BLOCK = re.compile(
    r"^-----BEGIN PGP (SIGNATURE|MESSAGE|PUBLIC KEY BLOCK|PRIVATE KEY BLOCK)[^\n]*-----[ \t]*\n"
    r"(?:(?!-----).*\n)*"
    r"(?:-----END PGP \1-----[ \t]*(?:\n|\Z)|.*\Z)",
    re.MULTILINE,
)
_UUENCODED = re.compile(
    r"^begin [0-7]{3,4} \S.*\n(?:[\x20-\x60]{1,86}\n)*`?\n?end[ \t]*(?:\n|\Z)", re.MULTILINE
)


def without_armour(text: str) -> str:
    """Unwrap clear-signed text; remove signatures, keys, encrypted blocks and uuencoded files."""
    if "-----BEGIN PGP " in text:
        signed = _SIGNED.search(text)
        if signed is not None:
            text = text[: signed.start()] + _DASH_ESCAPED.sub("", text[signed.end() :])
        text = _BLOCK.sub("", text)
    if "\nbegin " in text or text.startswith("begin "):
        text = _UUENCODED.sub("", text)
    return text
