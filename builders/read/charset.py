"""From bytes to text: transfer encodings and character sets, declared truly, wrongly or not at all.

Nothing here raises. Damaged base64 gives the characters that are there; a charset that is unknown
or does not fit the bytes gives way to UTF-8 and then to Windows-1252, which between them cover
nearly all mail with a wrong label.
"""

from __future__ import annotations

import binascii
import codecs
import re
from contextlib import suppress
from functools import lru_cache
from typing import Final

_CHARSET_NAME = re.compile(r"[\w.:+-]{1,40}", re.ASCII)
#: Codecs of Python that are no charsets of mail, and superlinear or able to build any character.
_NOT_CHARSETS: Final = frozenset(
    {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined"}
)
#: Charsets of one byte a character. UTF-8 is hardly ever valid by accident in them, so bytes that
#: are valid UTF-8 outweigh such a label.
_ONE_BYTE: Final = ("ascii", "iso8859", "cp125", "koi8", "mac", "cp874")
#: Windows-1252 as browsers read it: the five bytes it leaves undefined stay control characters.
C1_AS_CP1252: Final = {
    code: bytes([code]).decode("cp1252", "ignore") or chr(code) for code in range(0x80, 0xA0)
}
#: Codecs whose bytes below 128 are not ASCII, or not always.
_NOT_ASCII: Final = ("utf-16", "utf-32", "utf-7", "iso2022", "hz", "cp037", "cp500", "cp1026")
_ALIASES: Final = {
    "x-sjis": "cp932",
    "shift_jis": "cp932",
    "ks_c_5601-1987": "cp949",
    "euc-kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "x-gbk": "gb18030",
    "iso-8859-8-i": "iso-8859-8",
    "windows-874": "cp874",
    "x-mac-roman": "mac-roman",
    "macintosh": "mac-roman",
    "utf8mb4": "utf-8",
}


def decode(data: bytes, charset: str | None) -> str:
    """Decode ``data`` as its label says, or as what it evidently is."""
    codec = None if charset is None else _codec(charset)
    if data.isascii() and (codec is None or not codec.startswith(_NOT_ASCII)):
        return data.decode("ascii")
    candidates = [codec] if codec else []
    if codec is None or codec.startswith(_ONE_BYTE):
        candidates.insert(0, "utf-8")
    elif codec != "utf-8":
        candidates.append("utf-8")
    for candidate in candidates:
        text = _strictly(data, candidate)
        if text is not None:
            return text
    if codec == "utf-8" and _mostly_utf8(data):
        return data.decode("utf-8", "replace")
    return data.decode("latin-1").translate(C1_AS_CP1252)


def _strictly(data: bytes, codec: str) -> str | None:
    # Python's latin-1 never fails and knows no curly quotes: Windows-1252 is what is meant.
    if codec == "iso8859-1":
        return None
    try:
        return data.decode(codec)
    except ValueError:  # UnicodeDecodeError, and what a few codecs raise in its place
        return None


def _mostly_utf8(data: bytes) -> bool:
    """Tell text with a cut or stray byte from text in another charset."""
    sound = data.decode("utf-8", "ignore")
    beyond_ascii = sum(len(char.encode()) for char in sound if char > "\x7f")
    return beyond_ascii * 2 > sum(byte > 0x7F for byte in data)


@lru_cache(maxsize=256)
def _codec(label: str) -> str | None:
    """Python's name of a charset, None if it has none that may be used on mail."""
    label = label.strip().strip("'\"").lower()
    if not _CHARSET_NAME.fullmatch(label):
        return None
    try:
        name = codecs.lookup(_ALIASES.get(label, label)).name
        with suppress(UnicodeError):  # these are text, but not in this charset
            b"text".decode(name)  # raises LookupError for codecs that make no text
    except LookupError:
        return None
    return None if name.replace("-", "_") in _NOT_CHARSETS else name


# Transfer encodings -----------------------------------------------------------------------------

_SPACE_AFTER_BREAK = re.compile(rb"=[ \t]+(?=\r?\n)")
_UU_BEGIN = re.compile(rb"^begin [0-7]{3,4}.*\n", re.MULTILINE)
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]+")


def unwrap(data: bytes, encoding: str) -> bytes:
    """Undo a Content-Transfer-Encoding; unknown ones leave the bytes as they are."""
    encoding = encoding.strip().lower()
    if encoding == "quoted-printable":
        return binascii.a2b_qp(_SPACE_AFTER_BREAK.sub(b"=", data))
    if encoding == "base64":
        return _base64(data)
    if encoding in ("x-uuencode", "uuencode", "x-uue", "uue"):
        return _uuencoded(data)
    return data


def _base64(data: bytes) -> bytes:
    try:
        return binascii.a2b_base64(data)
    except binascii.Error:  # wrong padding: the digits themselves say what there is
        digits = _NOT_BASE64.sub(b"", data)
        if len(digits) % 4 == 1:
            digits = digits[:-1]
        return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4))


def _uuencoded(data: bytes) -> bytes:
    begin = _UU_BEGIN.search(data)
    if begin is None:
        return b""
    decoded = bytearray()
    for line in data[begin.end() :].splitlines():
        if line == b"end":
            break
        length = (line[0] - 32) & 63 if line else 0
        # As many characters as the length asks for: what follows is a checksum or damage.
        digits = line[1 : 1 + -(-length * 8 // 6)]
        digits = bytes(byte if 32 <= byte <= 96 else 32 for byte in digits)
        decoded += binascii.a2b_uu(bytes([length + 32]) + digits)
    return bytes(decoded)
