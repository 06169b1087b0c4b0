"""Sources of mail: what a path holds, told by content, and how it is cut into messages.

A directory is walked in the order of names. Below ``cur`` and ``new`` of a maildir (and its
``.Sent`` and other subfolders) every file is a message; elsewhere files are read that look like
one, or are an mbox, whatever their names; others are no mail and passed over.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from builders.read import mbox, records
from builders.read.item import MESSAGE_LIMIT, OnBytes, OnError, RawItem, Reason, Unreadable
from builders.read.stream import Stream, head
from perslm.errors import SourceError

Kind = Literal["mbox", "rfc822", "json", "parquet"]

_KINDS_HELP: Final = (
    "give an mbox, a maildir, a directory of .eml files, JSON lines or Parquet, "
    "the first and the fourth also gzip'd"
)
_UNPACK: Final = "unpack it first and give what was in it"
_EXPORT: Final = "export the mail as mbox or .eml first"
#: Beginnings of files that people have and we cannot read.
_FOREIGN: Final = (
    (b"PK\x03\x04", "this is a zip archive", _UNPACK),
    (b"PK\x05\x06", "this is an empty zip archive", _UNPACK),
    (b"BZh", "this is a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\x00", "this is an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "this is a zstd archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "this is a 7z archive", _UNPACK),
    (b"Rar!", "this is a rar archive", _UNPACK),
    (b"\x1f\x8b", "this was gzip'd twice, or is damaged", _UNPACK),
    (b"!BDN", "this is an Outlook data file", _EXPORT),
    (b"\xd0\xcf\x11\xe0", "this is an Outlook message or Office file", _EXPORT),
    (b"SQLite format 3\x00", "this is an SQLite database", _EXPORT),
    (b"[", "this may be one JSON array", "write one JSON object on each line"),
    (b"{", "this may be one JSON object of many lines", "write one JSON object on each line"),
)
_JSON_OF_MANY_LINES = re.compile(rb"\{[ \t\r]*\n")
_TAR_MAGIC: Final = slice(257, 262)
_HEADER = re.compile(
    rb"(?:[A-Za-z][!-9;-~]*[ \t]*:.*\n(?:[ \t].*\n)*)*?"
    rb"(?:from|to|cc|subject|date|message-id|received|return-path|delivered-to|mime-version|sender"
    rb"|reply-to|x-[a-z-]+|content-type)[ \t]*:",
    re.IGNORECASE,
)


def kind_of(beginning: bytes) -> Kind | None:
    """Tell what a file is from its first bytes (unpacked); None if it is nothing that we read."""
    if beginning.startswith(b"PAR1"):
        return "parquet"
    beginning = beginning.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n \t")
    if beginning.startswith(b"{"):
        return None if _JSON_OF_MANY_LINES.match(beginning) else "json"
    if beginning.startswith(b"From "):
        return "mbox"
    if _HEADER.match(beginning.removeprefix(b">From ").replace(b"\r", b"\n")):
        return "rfc822"
    return None


def items(path: Path, on_error: OnError, on_bytes: OnBytes | None) -> Iterator[RawItem]:
    """Cut a source into messages; see `builders.read.items`."""
    try:
        if path.is_dir():
            yield from _directory_items(path, on_error, on_bytes)
        else:
            yield from _file_items(path, on_error, on_bytes)
    except OSError as error:
        raise _source_error(path, error) from error


def size(path: Path) -> int:
    """Bytes on disk of all that `items` will look at."""
    try:
        if not path.is_dir():
            return path.stat().st_size
        return sum(file.stat().st_size for file, _ in _walk(path))
    except OSError as error:
        raise _source_error(path, error) from error


def _source_error(path: Path, error: OSError) -> SourceError:
    if isinstance(error, FileNotFoundError):
        return SourceError(str(path), "there is no such file or directory", "check the path")
    if isinstance(error, PermissionError):
        return SourceError(str(path), "permission denied", "make it readable for this user")
    return SourceError(str(path), f"cannot be read ({error.strerror})", "check the disk it is on")


def _file_items(path: Path, on_error: OnError, on_bytes: OnBytes | None) -> Iterator[RawItem]:
    beginning = _beginning(path)
    kind = kind_of(beginning)
    if kind is None:
        raise _not_a_source(path, beginning)
    found = False
    for item in _items_of(path, kind, on_error, on_bytes):
        found = True
        yield item
    if kind == "json" and not found and not beginning.strip():
        raise SourceError(str(path), "this file is empty", _KINDS_HELP)


def _beginning(path: Path) -> bytes:
    if not path.is_file() and path.exists():
        raise SourceError(str(path), "this is not a regular file", _KINDS_HELP)
    return head(path)


def _not_a_source(path: Path, beginning: bytes) -> SourceError:
    if not beginning.strip():
        return SourceError(str(path), "this file is empty", _KINDS_HELP)
    if beginning[_TAR_MAGIC] == b"ustar":
        return SourceError(str(path), "this is a tar archive", _UNPACK)
    for magic, problem, remedy in _FOREIGN:
        if beginning.startswith(magic):
            return SourceError(str(path), problem, remedy)
    return SourceError(str(path), "this is no kind of mail file that perslm knows", _KINDS_HELP)


def _items_of(
    path: Path, kind: Kind, on_error: OnError, on_bytes: OnBytes | None
) -> Iterator[RawItem]:
    if kind == "parquet":
        yield from records.rows(path, on_error, on_bytes)
        return
    stream = Stream(path, on_bytes)
    if kind == "mbox":
        yield from mbox.messages(stream, str(path), on_error)
    elif kind == "json":
        yield from records.lines(stream, str(path), on_error)
    else:
        yield from _single(stream, str(path), on_error)


def _single(stream: Stream, name: str, on_error: OnError) -> Iterator[RawItem]:
    """The one message of an .eml or maildir file."""
    raw = bytearray()
    for chunk in stream:
        raw += chunk
        if len(raw) > MESSAGE_LIMIT:
            on_error(Unreadable(name, Reason.TOO_LARGE))
            return
    if stream.damage is not None:
        on_error(Unreadable(name, stream.damage))
    else:
        yield RawItem(name, "rfc822", bytes(raw))


def _directory_items(root: Path, on_error: OnError, on_bytes: OnBytes | None) -> Iterator[RawItem]:
    found = other = False
    for path, is_mail in _walk(root):
        try:
            kind = "rfc822" if is_mail else kind_of(head(path))
            if kind == "rfc822" or kind == "mbox":
                found = True
                yield from _items_of(path, kind, on_error, on_bytes)
                continue
            other |= kind is not None
            if on_bytes is not None:
                on_bytes(path.stat().st_size)
        except OSError:
            found = True
            on_error(Unreadable(str(path), Reason.NO_ACCESS))
    if not found and other:
        raise SourceError(
            str(root),
            "this directory holds JSON lines or Parquet, which are read as files",
            "name the files instead",
        )
    if not found:
        raise SourceError(str(root), "this directory holds no mail", _KINDS_HELP)


def _walk(root: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the files below ``root``, and whether each must be a message, in order of names."""
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries)
    is_maildir = "cur" in names or "new" in names
    for name in names:
        path = root / name
        if path.is_dir():
            if path.is_symlink() or (is_maildir and name == "tmp"):
                continue
            if not name.startswith(".") or (path / "cur").is_dir() or (path / "new").is_dir():
                yield from _walk(path)
        elif path.is_file() and not name.startswith("."):
            yield path, root.name in ("cur", "new")
