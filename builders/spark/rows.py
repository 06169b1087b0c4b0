"""What the functions that run in Spark's tasks share: rows of bytes, and errors that say little.

Spark hands such a function batches of rows (Arrow), and takes batches back.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

from perslm.errors import PerslmError, StoreUnavailableError

if TYPE_CHECKING:
    import pyarrow

_ROWS: Final = 512
_BYTES: Final = 4 << 20


class TaskError(PerslmError):
    """Something failed in a task: its type, and the place in the code."""

    def __init__(self, error: Exception) -> None:
        place = traceback.extract_tb(error.__traceback__)[-1]
        name = Path(place.filename).name
        super().__init__(f"{type(error).__name__} in {name}, line {place.lineno}")


class Rows:
    """Collects rows of bytes, with a name for each column, until they are worth passing on."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._columns: list[list[bytes]] = [[] for _ in names]
        self._bytes = 0

    def add(self, *values: bytes) -> None:
        """Add a row."""
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
            self._bytes += len(value)

    @property
    def full(self) -> bool:
        """Tell whether these are enough for a batch."""
        return len(self._columns[0]) >= _ROWS or self._bytes >= _BYTES

    def take(self) -> pyarrow.RecordBatch:
        """Return the rows so far, and begin anew."""
        import pyarrow

        arrays = [pyarrow.array(column, pyarrow.binary()) for column in self._columns]
        self._columns = [[] for _ in self._names]
        self._bytes = 0
        return pyarrow.RecordBatch.from_arrays(arrays, self._names)


def groups(
    batches: Iterable[pyarrow.RecordBatch],
) -> Iterator[tuple[bytes, Iterator[bytes]]]:
    """Yield each key of rows that are sorted by it, with their values, which stream by."""
    pairs = (
        pair
        for batch in batches
        for pair in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    )
    for key, rows in groupby(pairs, key=lambda pair: pair[0]):
        yield key, (value for _, value in rows)


def digest(name: str) -> bytes:
    """Return what rows have in the place of a user's id."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@contextmanager
def discreet() -> Iterator[None]:
    """Let errors out with their type and place only: Spark writes them into its logs."""
    try:
        yield
    except StoreUnavailableError as error:
        raise StoreUnavailableError(str(error)) from None
    except Exception as error:  # noqa: BLE001 - any text may be somebody's
        raise TaskError(error) from None
