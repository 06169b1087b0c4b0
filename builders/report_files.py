"""A build's report as files, by their ending: ``.json``, ``.jsonl``, ``.parquet`` or ``.html``.

JSON lines and Parquet have one line for each user, JSON all that is known in one object, and these
hold user ids: they are for operators. The HTML page holds sums and distributions only, no ids and
no names of files, so that it can be shown around; it needs nothing from elsewhere.

Lines are written as users are done. A file takes its place when the run has ended, however it did;
until then an earlier file stays.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from builders.report import Report, Status, UserResult
from perslm._files import replacing
from perslm.errors import ArgumentError, MissingExtraError

if TYPE_CHECKING:
    pass

_ROWS: Final = 10_000
_MEANING: Final = {
    Status.PUBLISHED: "a new model was published",
    Status.UNCHANGED: "nothing changed since the last build",
    Status.CONFLICT: "another builder, or a deletion of mail, came in between: run again",
    Status.FOREIGN: "the store has a model of more mail than was found: give all mail, --rebuild",
    Status.FORGOTTEN: "deleted while the build ran",
    Status.EXPIRED: "no mail is left within the window: the model was deleted",
    Status.OPTED_OUT: "wants no model",
    Status.FAILED: "something went wrong: the users' lines name what; the next build tries again",
}


class _Writer(Protocol):
    """Writes one format."""

    def user(self, result: UserResult) -> None:
        """Take a user's line."""

    def end(self, report: Report) -> None:
        """Write the rest."""


class ReportFiles:
    """Writes reports to files; give :meth:`user` to the report, and call :meth:`end` at the end.

    Raises ArgumentError for an ending that is none of the four, MissingExtraError if Parquet needs
    ``perslm[builders]``, and OSError.
    """

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._stack = ExitStack()
        self._writers: list[_Writer] = []
        for path in paths:
            kind = _KINDS.get(path.suffix.lower())
            if kind is None:
                raise ArgumentError(f"a report is a file {' or '.join(_KINDS)}")
            if path.exists() and not path.is_file():
                file: BinaryIO = self._stack.enter_context(path.open("wb"))
            else:
                file = self._stack.enter_context(replacing(path, 0o666))
            self._writers.append(kind(file))

    def add(self, file: BinaryIO) -> None:
        """Write the report to an open file, too, as JSON on one line."""
        self._writers.append(_Json(file, separator=", "))

    def user(self, result: UserResult) -> None:
        """Take a user's line."""
        for writer in self._writers:
            writer.user(result)

    def end(self, report: Report) -> None:
        """Finish the files and put them in their places."""
        with self._stack:
            for writer in self._writers:
                writer.end(report)


class _Json:
    def __init__(self, file: BinaryIO, separator: str = ",\n") -> None:
        self._file, self._separator = file, separator
        self._between = '{"users": ['

    def user(self, result: UserResult) -> None:
        self._file.write(_encoded(self._between + _dumped(asdict(result))))
        self._between = self._separator

    def end(self, report: Report) -> None:
        if self._between != self._separator:
            self._file.write(_encoded(self._between))
        self._file.write(_encoded("]" + self._separator + _dumped(report.totals())[1:] + "\n"))


class _JsonLines:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def user(self, result: UserResult) -> None:
        self._file.write(_encoded(_dumped(asdict(result)) + "\n"))

    def end(self, report: Report) -> None:
        """There is nothing more: a line is a user."""


class _Parquet:
    def __init__(self, file: BinaryIO) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet
        except ImportError as error:
            raise MissingExtraError("writing Parquet", "builders") from error
        numbers = ("generation", "messages", "duplicates", "tokens", "pruned", "bytes")
        self._schema = pa.schema(
            [("user", pa.string()), ("status", pa.string()), ("error", pa.string())]
            + [(name, pa.int64()) for name in numbers]
            + [("ngrams", pa.list_(pa.int64()))]
        )
        self._table = pa.Table
        self._writer = pyarrow.parquet.ParquetWriter(file, self._schema)
        self._rows: list[dict[str, object]] = []

    def user(self, result: UserResult) -> None:
        self._rows.append({**asdict(result), "status": str(result.status)})
        if len(self._rows) >= _ROWS:
            self._flush()

    def end(self, report: Report) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(self._table.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()


class _Html:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def user(self, result: UserResult) -> None:
        """Say nothing of a single user."""

    def end(self, report: Report) -> None:
        self._file.write(_encoded(page(report)))


_KINDS: Final = {".json": _Json, ".jsonl": _JsonLines, ".parquet": _Parquet, ".html": _Html}


def page(report: Report) -> str:
    """Return the summary as an HTML page."""
    facts = report.totals()
    seconds = report.meeting_seconds + report.reading_seconds + report.building_seconds
    sums: dict[str, int | str] = {
        "users": report.statuses.total(),
        "models published": report.statuses[Status.PUBLISHED],
        "messages read": report.messages,
        "messages that could not be read": report.unreadable_messages,
        "tokens in all models": report.tokens,
        "bytes of all models": report.bytes,
        "sources": len(report.sources),
        "seconds": f"{seconds:.1f}",
        "messages a second": f"{facts['messages_per_second']:.0f}",
    }
    endings = {
        f"{status}: {_MEANING[status]}": report.statuses[status]
        for status in Status
        if report.statuses[status]
    }
    state = "interrupted: the same command goes on" if report.interrupted else "ended"
    return "\n".join(
        (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>perslm build</title>',
            f"<style>{_STYLE}</style><h1>perslm build, {state}</h1>",
            _table("Sums", sums),
            _bars("Users by how their build ended", endings),
            _bars("Messages not learned from", {str(k): n for k, n in report.skipped.items() if n}),
            _bars("Users by messages", _ranges(report.by_messages)),
            _bars("Users by bytes of their model", _ranges(report.by_bytes)),
            "<p>No user is named here; the JSON lines and Parquet reports name them.</p></html>\n",
        )
    )


_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:52em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;width:100%}td{padding:.15em .6em .15em 0}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums;width:8em}td.b{width:40%}"
    "i{display:block;height:.9em;background:#4a7ab5}"
)


def _table(title: str, rows: dict[str, int | str]) -> str:
    cells = "".join(
        f'<tr><td>{escape(name)}<td class="n">{value:,}'
        if isinstance(value, int)
        else f'<tr><td>{escape(name)}<td class="n">{value}'
        for name, value in rows.items()
    )
    return f"<h2>{title}</h2><table>{cells}</table>"


def _bars(title: str, rows: dict[str, int]) -> str:
    most = max(rows.values(), default=0)
    cells = "".join(
        f'<tr><td>{escape(name)}<td class="n">{n:,}<td class="b">'
        f'<i style="width:{100 * n / most:.1f}%"></i>'
        for name, n in rows.items()
    )
    return f"<h2>{title}</h2><table>{cells or '<tr><td>none'}</table>"


def _ranges(by_bits: Counter[int]) -> dict[str, int]:
    if not by_bits:
        return {}
    return {
        f"{2 ** (bits - 1):,} to {2**bits - 1:,}": by_bits[bits]
        for bits in range(min(by_bits), max(by_bits) + 1)
    }


def _dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _encoded(text: str) -> bytes:
    # what UTF-8 does not have (a file's name may) becomes the escape that JSON knows
    return text.encode("utf-8", "backslashreplace")
