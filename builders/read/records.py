"""Mail as records: JSON lines and Parquet, one message each, with these fields or columns.

``user``, ``message_id``, ``date``, ``from``, ``to``, ``subject``, and ``body`` (the text) or
``raw`` (the whole message; base64url too, as the Gmail API gives it). All but the last may be
missing; others are ignored, except that ``x_from`` names the author where ``from`` has a bare
address, and ``cc``, ``bcc``, ``sender`` and ``reply_to`` are read as ``from`` and ``to`` are. Each
address field holds a string as in a mail header, or a list of such.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from builders.message import Address, Message
from builders.read import headers, rfc822
from builders.read.charset import unwrap
from builders.read.item import MESSAGE_LIMIT, OnBytes, OnError, RawItem, Reason, Unreadable
from builders.read.plain import in_place, normalized
from builders.read.stream import Stream
from perslm.errors import MissingExtraError, SourceError

#: What is read of a record, by the names of its fields or columns.
COLUMNS: Final = (
    "user", "message_id", "date", "from", "sender", "reply_to", "to", "cc", "bcc", "subject",
    "body", "raw", "x_from",
)  # fmt: skip
_ROWS_AT_ONCE: Final = 64
_BASE64URL = re.compile(r"[A-Za-z0-9_-]{40,}={0,2}")
_URL_DIGITS: Final = str.maketrans("-_", "+/")

# Cutting ----------------------------------------------------------------------------------------


def lines(
    stream: Stream, name: str, on_error: OnError, limit: int = MESSAGE_LIMIT
) -> Iterator[RawItem]:
    """Yield the lines of a JSON lines file that are not empty."""
    number = 0
    rest = b""
    too_large = False
    for chunk in stream:
        first, *more = chunk.split(b"\n")
        rest += first
        for line in more:
            number += 1
            if too_large or len(rest) > limit:
                on_error(Unreadable(f"{name}, line {number}", Reason.TOO_LARGE))
                too_large = False
            elif rest.strip():
                yield RawItem(f"{name}, line {number}", "json", rest)
            rest = line
        if len(rest) > limit:
            too_large, rest = True, b""
    position = f"{name}, line {number + 1}"
    if stream.damage is not None:
        on_error(Unreadable(position, stream.damage))
    elif too_large:
        on_error(Unreadable(position, Reason.TOO_LARGE))
    elif rest.strip():
        yield RawItem(position, "json", rest)


def rows(path: Path, on_error: OnError, on_bytes: OnBytes | None) -> Iterator[RawItem]:
    """Yield the rows of a Parquet file, reading a few at a time.

    Raises SourceError if the file is damaged or holds no mail, MissingExtraError without pyarrow.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("reading Parquet", "builders") from error
    try:
        file = pyarrow.parquet.ParquetFile(path, memory_map=False, pre_buffer=False)
    except pyarrow.ArrowException as error:
        raise SourceError(
            str(path), "this Parquet file is damaged", "write or copy it again"
        ) from error
    with file:
        columns = [name for name in COLUMNS if name in file.schema_arrow.names]
        if "body" not in columns and "raw" not in columns:
            raise SourceError(
                str(path),
                "this Parquet file has neither a body nor a raw column",
                f"name the columns {', '.join(COLUMNS)}, as far as you have them",
            )
        number = 0
        left = path.stat().st_size
        step = left * _ROWS_AT_ONCE // max(file.metadata.num_rows, 1)
        batches = file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns)
        while True:
            try:
                batch = next(batches, None)
            except (pyarrow.ArrowException, OSError):
                on_error(Unreadable(f"{path}, row {number + 1}", Reason.PARQUET_DAMAGED))
                batch = None
            if batch is None:
                break
            for row in batch.to_pylist():
                number += 1
                yield RawItem(f"{path}, row {number}", "row", row)
            if on_bytes is not None:
                on_bytes(min(step, left))
            left -= min(step, left)
        if on_bytes is not None:
            on_bytes(left)


# Parsing ----------------------------------------------------------------------------------------


def parse_line(line: bytes, position: str, *, with_body: bool = True) -> Message | Reason:
    """Read one JSON line; the reason if it cannot be read."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return Reason.NOT_JSON
    if not isinstance(record, dict):
        return Reason.NOT_RECORD
    return parse_record(record, position, with_body=with_body)


def parse_record(
    record: Mapping[str, object], position: str, *, with_body: bool = True
) -> Message | Reason:
    """Read one record; the reason if it holds no message."""
    user = _text(record.get("user")) or None
    message_id = _text(record.get("message_id")) or None
    date = _date(record.get("date"))
    raw = record.get("raw")
    if isinstance(raw, str | bytes) and raw:
        message = rfc822.parse(_raw_bytes(raw), position, with_body=with_body)
        if isinstance(message, Reason):
            return message
        return replace(
            message,
            user=user,
            message_id=message.message_id or message_id,
            date=message.date or date,
        )
    if "body" not in record:
        return Reason.NOT_RECORD
    author = _addresses(record.get("from"))
    if len(author) == 1 and not author[0].name and (known := _text(record.get("x_from"))):
        author = (Address(headers.exchange_name(known), author[0].address),)
    body = record["body"]
    return Message(
        position=position,
        user=user,
        message_id=message_id,
        date=date,
        author=author,
        sender=_addresses(record.get("sender")),
        reply_to=_addresses(record.get("reply_to")),
        recipients=_addresses(record.get("to"))
        + _addresses(record.get("cc"))
        + _addresses(record.get("bcc")),
        subject=headers.unencode(normalized(_text(record.get("subject")))),
        body=in_place(body) if with_body and isinstance(body, str) else "",
    )


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _addresses(value: object) -> tuple[Address, ...]:
    if isinstance(value, str):
        return headers.addresses(value)
    if isinstance(value, list | tuple):
        return tuple(
            address
            for mailbox in value
            if isinstance(mailbox, str)
            for address in headers.addresses(mailbox)
        )
    return ()


def _date(value: object) -> datetime | None:
    if isinstance(value, datetime):
        try:
            return headers.in_utc(value)
        except OverflowError:
            return None
    return headers.date(value) if isinstance(value, str) else None


def _raw_bytes(raw: str | bytes) -> bytes:
    if isinstance(raw, bytes):
        return raw
    if _BASE64URL.fullmatch(raw):
        return unwrap(raw.translate(_URL_DIGITS).encode("ascii"), "base64")
    return raw.encode("utf-8", "surrogatepass")
