"""The bytes of a file in chunks, unpacked on the way if they are gzip'd.

Unlike `gzip.open`, a `Stream` gives everything that stands before the place where a compressed
file breaks off, and only then says that it does.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from builders.read.item import OnBytes, Reason

CHUNK: Final = 2**20
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 31  # zlib's way to ask for a gzip header and checksum


class Stream:
    """Iterate once over the bytes of ``path`` in chunks of at most 1 MiB.

    ``damage`` is None until iteration has reached a place where compressed data cannot go on, and
    then says why; plain files have no damage. ``on_bytes`` hears how many bytes of the file on
    disk each step took. Raises OSError as `open` does.
    """

    def __init__(self, path: Path, on_bytes: OnBytes | None = None) -> None:
        self._path = path
        self._on_bytes = on_bytes
        self.damage: Reason | None = None

    def __iter__(self) -> Iterator[bytes]:
        chunks = self._on_disk()
        first = next(chunks, b"")
        if first.startswith(_GZIP_MAGIC):
            yield from self._unpacked(first, chunks)
        elif first:
            yield first
            yield from chunks

    def _on_disk(self) -> Iterator[bytes]:
        with self._path.open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                if self._on_bytes is not None:
                    self._on_bytes(len(chunk))
                yield chunk

    def _unpacked(self, packed: bytes, more: Iterator[bytes]) -> Iterator[bytes]:
        # A gzip file is a series of members; what follows the last one and is none is padding.
        while packed.startswith(_GZIP_MAGIC):
            member = zlib.decompressobj(_GZIP_WINDOW)
            while not member.eof:
                before = member.copy()
                try:
                    chunk = member.decompress(packed, CHUNK)
                except zlib.error:
                    yield from _up_to_damage(before, packed)
                    self.damage = Reason.GZIP_DAMAGED
                    return
                if chunk:
                    yield chunk
                packed = member.unconsumed_tail
                if not packed and not member.eof:
                    packed = next(more, b"")
                    if not packed:
                        # zlib may still hold what it could not give out within the last chunk.
                        if rest := member.flush():
                            yield rest
                        self.damage = Reason.GZIP_CUT_OFF
                        return
            packed = member.unused_data
            if len(packed) < len(_GZIP_MAGIC):
                packed += next(more, b"")
            packed = packed.lstrip(b"\0")


def _up_to_damage(member: zlib._Decompress, packed: bytes) -> Iterator[bytes]:
    """Unpack what stands before the damage, which zlib keeps to itself if it meets both at once."""
    with suppress(zlib.error):
        for byte in packed:
            if chunk := member.decompress(bytes((byte,))):
                yield chunk


def head(path: Path, size: int = 8192) -> bytes:
    """The first ``size`` bytes of a file, unpacked; fewer if it has fewer."""
    taken = bytearray()
    for chunk in Stream(path):
        taken += chunk
        if len(taken) >= size:
            break
    return bytes(taken[:size])
