"""Prepared messages on disk, grouped by user without holding them all in memory.

Messages arrive in the order of their sources; models are built user by user. Each message goes to
one of a fixed number of files, chosen by a digest of its user, so that all mail of one user is in
one file and only that file need be in memory at a time. The folder is private (0700), holds ids
rather than text, and goes away with the object.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Self

import msgpack
import numpy as np

from builders.prepare import Prepared
from perslm.vocabulary import Sequence

PARTITIONS = 64


class Spool:
    """A context manager: :meth:`add` messages, then read them back with :meth:`by_user`."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="perslm-"))
        self._paths = [Path(folder) / f"{i:02d}" for i in range(PARTITIONS)]
        self._files = [self._stack.enter_context(p.open("wb")) for p in self._paths]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def add(self, message: Prepared) -> None:
        """Append one message to the file of its user."""
        digest = blake2b(message.user.encode(), digest_size=1).digest()
        self._files[digest[0] % PARTITIONS].write(pack(message))

    def by_user(self) -> Iterator[tuple[str, list[Prepared]]]:
        """Yield every user with all messages; users come in a fixed, meaningless order."""
        for path, file in zip(self._paths, self._files, strict=True):
            file.flush()
            users: dict[str, list[Prepared]] = {}
            with path.open("rb") as stored:
                for fields in msgpack.Unpacker(stored):
                    message = unpack(fields)
                    users.setdefault(message.user, []).append(message)
            yield from sorted(users.items())


def pack(message: Prepared) -> bytes:
    """Return one message as msgpack; ids as raw little-endian uint32."""
    sequences = [(s.opens, s.closes, np.array(s.ids, "<u4").tobytes()) for s in message.sequences]
    packed: bytes = msgpack.packb((message.user, message.when, list(message.digests), sequences))
    return packed


def unpack(fields: list[object]) -> Prepared:
    """Return the message of :func:`pack`, from its fields."""
    user, when, digests, sequences = fields
    assert isinstance(user, str)
    assert isinstance(when, float)
    assert isinstance(digests, list)
    assert isinstance(sequences, list)
    return Prepared(
        user,
        when,
        tuple(digests),
        tuple(
            Sequence(tuple(np.frombuffer(ids, "<u4").tolist()), bool(opens), bool(closes))
            for opens, closes, ids in sequences
        ),
    )
