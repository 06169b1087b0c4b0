"""Reading mail: from files of any usual kind to `Message` objects, streaming.

::

    for message in read("sent.mbox", on_error=report):
        ...

    # the same in two steps: cutting is cheap, parsing is what worker processes are for
    for parsed in pool.imap(parse, items("sent.mbox", on_error=report)):
        if isinstance(parsed, Unreadable):
            report(parsed)

A source is told by its content, not by its name:

- mbox (mboxo, mboxrd, mboxcl, mboxcl2, Gmail Takeout), also gzip'd
- a maildir, with nested folders (Maildir++ too), or any directory of messages in files
- one message in a file (.eml)
- JSON lines, also gzip'd, and Parquet (fields: see `builders.read.records`)

**What is never fatal.** A message that cannot be read is reported to ``on_error`` by position and
reason, and skipped; a truncated or damaged file gives everything before the damage. Only a source
of which nothing can be read raises, namely SourceError with the way on.

**Memory** does not grow with the source: one message is held at a time, none of more than 64 MiB.
(Of a directory, the names of its files are held, to read them in order.)

Where to find what: `sources` tells the kinds apart, `mbox` and `records` cut them, `rfc822` parses
a message with `headers` (fields, names, dates), `mime` (which part), `charset` (bytes to text),
`plain` and `html` (text to plain text). Nothing of a body is judged here: quotes and signatures
are the matter of `builders.clean`, and who wrote it that of `builders.identity`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from builders.message import Message
from builders.read import records, rfc822, sources
from builders.read.item import (
    MESSAGE_LIMIT,
    OnBytes,
    OnError,
    RawItem,
    Reason,
    Unreadable,
)

__all__ = [
    "MESSAGE_LIMIT",
    "OnBytes",
    "OnError",
    "RawItem",
    "Reason",
    "Unreadable",
    "items",
    "parse",
    "parse_headers",
    "read",
    "size",
]


def items(
    path: str | os.PathLike[str], *, on_error: OnError, on_bytes: OnBytes | None = None
) -> Iterator[RawItem]:
    """Cut a source into its messages without looking into them.

    ``on_error`` hears of each message, or end of a file, that cannot be cut out; ``on_bytes`` of
    each number of bytes consumed, which add up to `size`. Raises SourceError if nothing of the
    source can be read, MissingExtraError if reading it needs a package that is not installed.
    """
    return sources.items(Path(path), on_error, on_bytes)


def parse(item: RawItem) -> Message | Unreadable:
    """Parse a message; what cannot be parsed is returned, not raised, as workers need it."""
    return _parse(item, with_body=True)


def parse_headers(item: RawItem) -> Message | Unreadable:
    """Parse a message without its body, which is left empty: enough to tell who wrote to whom."""
    return _parse(item, with_body=False)


def read(
    path: str | os.PathLike[str], *, on_error: OnError, on_bytes: OnBytes | None = None
) -> Iterator[Message]:
    """Read the messages of a source, in its order. Arguments and errors as for `items`."""
    for item in items(path, on_error=on_error, on_bytes=on_bytes):
        message = parse(item)
        if isinstance(message, Unreadable):
            on_error(message)
        else:
            yield message


def size(path: str | os.PathLike[str]) -> int:
    """Return the bytes on disk of a source, what ``on_bytes`` counts up to.

    Raises SourceError if there is no such source.
    """
    return sources.size(Path(path))


def _parse(item: RawItem, *, with_body: bool) -> Message | Unreadable:
    payload = item.payload
    if isinstance(payload, Mapping):
        result = records.parse_record(payload, item.position, with_body=with_body)
    elif item.kind == "json":
        result = records.parse_line(payload, item.position, with_body=with_body)
    else:
        result = rfc822.parse(payload, item.position, with_body=with_body)
    return Unreadable(item.position, result) if isinstance(result, Reason) else result
