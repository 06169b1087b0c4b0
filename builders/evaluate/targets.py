"""What the global LM says of every token of people's mail, kept on disk: it takes long to ask.

Of each token its ln p, and of the row that it stands in how sure the global LM is: the greatest
ln p and the entropy (``perslm.interpolate.uncertainty``). A letter has a file of float32[n, 3],
little-endian, named by a digest of the LM's name and the letter's ids.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from builders.evaluate.mail import Ids, Letter
from perslm.interpolate import Float32Array, uncertainty

COLUMNS = ("ln p", "greatest ln p", "entropy")
"""Of each token; part of the files' names."""


class SequenceModel(Protocol):
    """A global LM that reads a whole passage at once."""

    def sequence(self, ids: Sequence[int]) -> Iterator[Float32Array]:
        """Yield blocks of rows ln p(· | ids[:t]), float32[block, width], for t = 1 … n−1."""


class Targets:
    """Asks a global LM once for each letter. ``folder`` keeps answers under ``name`` of the LM."""

    def __init__(self, model: SequenceModel, name: str, folder: Path) -> None:
        self._model = model
        self._name = name
        self._folder = folder

    def of(self, letter: Letter) -> list[Float32Array]:
        """Return what is said of ids[t] after ids[:t], t = 1 … n−1: float32[n−1, 3] a passage."""
        path = self._folder / self._key(letter)
        lengths = [len(ids) - 1 for ids in letter.passages]
        try:
            kept = np.fromfile(path, "<f4").astype(np.float32)
        except FileNotFoundError:
            kept = np.zeros(0, np.float32)
        if len(kept) != sum(lengths) * len(COLUMNS):  # none yet, or written by a run that died
            kept = np.concatenate([self._asked(ids).ravel() for ids in letter.passages])
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_suffix(f".{os.getpid()}")
            kept.astype("<f4").tofile(beside)
            beside.replace(path)
        return np.split(kept.reshape(-1, len(COLUMNS)), np.cumsum(lengths)[:-1])

    def all_of(
        self, letters: list[Letter], on_tokens: Callable[[int], None]
    ) -> list[list[Float32Array]]:
        """Return :meth:`of` for each letter; ``on_tokens`` hears how many are done."""
        found = []
        for letter in letters:
            found.append(self.of(letter))
            on_tokens(letter.tokens)
        return found

    def _asked(self, ids: Ids) -> Float32Array:
        at, found = 1, []
        for rows in self._model.sequence(ids.tolist()):
            wanted = ids[at : at + len(rows)].astype(np.intp)
            logprobs = rows[np.arange(len(rows)), wanted]
            found.append(np.column_stack([logprobs, uncertainty(rows)]).astype(np.float32))
            at += len(rows)
        return np.concatenate(found)

    def _key(self, letter: Letter) -> str:
        digest = hashlib.blake2b("\n".join((self._name, *COLUMNS)).encode(), digest_size=16)
        for ids in letter.passages:
            digest.update(len(ids).to_bytes(8, "little") + ids.astype("<u4").tobytes())
        name = digest.hexdigest()
        return f"{name[:2]}/{name[2:]}"
