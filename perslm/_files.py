"""Files that are replaced whole or not at all, and are still there after a power cut."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

OWNER_ONLY = 0o600


@contextmanager
def replacing(path: Path, mode: int = OWNER_ONLY) -> Iterator[BinaryIO]:
    """Give a file to write that takes the place of ``path``, or of what a link there leads to.

    It has ``mode``, less what the umask takes away. When this has ended it is on the disk under its
    name; after an exception all is as before. Raises OSError.
    """
    path = path.resolve()
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # else the old file could be back under the name
    finally:
        os.close(directory)
