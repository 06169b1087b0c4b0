"""Sources as Spark reads them: JSON lines and Parquet on any file system of Hadoop.

What a source is, is told by the beginning of its first file, as in ``builders.read.sources``.
Lines are cut as there, and kept as the bytes they are; of Parquet only the columns that
``builders.read.records`` knows are read. Directories are read with all below them; files whose
names begin with ``_`` or ``.`` are none of the data, by the custom of Hadoop.

A damaged file ends the build: Spark could only leave out the rest of it, and not say so.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import unquote

from builders.read import MESSAGE_LIMIT, RawItem, Reason, Unreadable
from builders.read.records import COLUMNS
from builders.read.sources import kind_of
from perslm.errors import SourceError

if TYPE_CHECKING:
    import pyarrow
    from pyspark.sql import DataFrame, SparkSession

_FILE: Final = "perslm_file"  # the column that says where a message is from
#: Numbers that are no nanoseconds since 1970 of any mail are no dates.
_NANOSECONDS: Final = "IF(date > 100000000000000000, timestamp_micros(date div 1000), NULL) AS date"
_BEGINNING: Final = 8192
_GZIP: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 31

#: What makes messages of a batch of rows: each with its file, or why it cannot be read.
Items = Callable[["pyarrow.RecordBatch"], Iterator[tuple[RawItem | Unreadable, Path]]]


@dataclass(frozen=True, slots=True)
class Input:
    """Sources of one kind. ``headers`` is ``frame`` without what only bodies are in."""

    frame: DataFrame
    headers: DataFrame
    items: Items


def open_inputs(spark: SparkSession, sources: Several[str]) -> list[Input]:
    """Return the sources, looked at but not read.

    Raises SourceError if there is no such source, or it is nothing that Spark reads here.
    """
    kinds = {source: _kind(spark, source) for source in sources}
    lines = [source for source, kind in kinds.items() if kind == "json"]
    found = [_parquet(spark, source) for source, kind in kinds.items() if kind == "parquet"]
    if lines:
        text = spark.read.text(lines, lineSep="\n", recursiveFileLookup=True)
        frame = _spread(text.selectExpr("CAST(value AS BINARY)", f"_metadata.file_path AS {_FILE}"))
        found.insert(0, Input(frame, frame, line_items))
    return found


def _parquet(spark: SparkSession, source: str) -> Input:
    table = spark.read.parquet(source, recursiveFileLookup=True)
    columns: list[str] = [name for name in COLUMNS if name in table.columns]
    if "body" not in columns and "raw" not in columns:
        raise SourceError(
            source,
            "this Parquet file has neither a body nor a raw column",
            f"name the columns {', '.join(COLUMNS)}, as far as you have them",
        )

    file = f"_metadata.file_path AS {_FILE}"
    whole = [f"`{name}`" for name in columns]
    if dict(table.dtypes).get("date") == "bigint":
        whole[columns.index("date")] = _NANOSECONDS
    headers = [column if column != "`body`" else "'' AS body" for column in whole]
    frame = _spread(table.selectExpr(*whole, file))
    return Input(frame, table.selectExpr(*headers, file), row_items)


def _spread(frame: DataFrame) -> DataFrame:
    """Give every core something to do, also if the source is one gzip'd file."""
    cores = frame.sparkSession.sparkContext.defaultParallelism
    return frame.repartition(cores) if frame.rdd.getNumPartitions() < cores else frame


def line_items(batch: pyarrow.RecordBatch) -> Iterator[tuple[RawItem | Unreadable, Path]]:
    """Yield the lines of a batch that are not empty."""
    values, files = (column.to_pylist() for column in batch.columns)
    for value, file in zip(values, files, strict=True):
        position, path = _place(file)
        if len(value) > MESSAGE_LIMIT:
            yield Unreadable(position, Reason.TOO_LARGE), path
        elif value.strip():
            yield RawItem(position, "json", value), path


def row_items(batch: pyarrow.RecordBatch) -> Iterator[tuple[RawItem | Unreadable, Path]]:
    """Yield the rows of a batch."""
    for row in batch.to_pylist():
        position, path = _place(row.pop(_FILE))
        yield RawItem(position, "row", row), path


def _place(file: str) -> tuple[str, Path]:
    position = unquote(file)
    return position, Path("/", position.rpartition("/")[2])


# Telling kinds apart ----------------------------------------------------------------------------


def _kind(spark: SparkSession, source: str) -> Literal["json", "parquet"]:
    from py4j.protocol import Py4JJavaError

    try:
        name, beginning = _first_file(spark, source)
    except Py4JJavaError as error:
        kind = error.java_exception.getClass().getSimpleName()
        raise SourceError(
            source,
            f"cannot be read ({kind})",
            "check the path, and that Spark has what its file system needs",
        ) from error
    if beginning.startswith(_GZIP):
        if not name.endswith(".gz"):
            raise SourceError(source, "is gzip'd, and Spark tells so by the name", "end it in .gz")
        beginning = zlib.decompressobj(_GZIP_WINDOW).decompress(beginning, _BEGINNING)
    kind = kind_of(beginning)
    if kind == "json" or kind == "parquet":
        return kind
    raise SourceError(
        source,
        "the Spark runner reads JSON lines, also gzip'd, and Parquet, and this is neither",
        "build from it with --runner local",
    )


def _first_file(spark: SparkSession, source: str) -> tuple[str, bytes]:
    """Return the name and the first bytes of the first file of a source that is not empty."""
    jvm: Any = spark.sparkContext._jvm
    path = jvm.org.apache.hadoop.fs.Path(source)
    system = path.getFileSystem(spark.sparkContext._jsc.hadoopConfiguration())
    for found in system.globStatus(path) or ():
        files = system.listFiles(found.getPath(), True)
        while files.hasNext():
            file = files.next()
            name = file.getPath().getName()
            if name.startswith(("_", ".")) or not file.getLen():
                continue
            stream = system.open(file.getPath())
            try:
                return name, bytes(stream.readNBytes(_BEGINNING))
            finally:
                stream.close()
    raise SourceError(
        source,
        "there is no such file, or nothing in it",
        "check the path; names that begin with _ or . are not read",
    )
