"""Figures over all users: bytes stored, bytes in memory, and the way from one to the other.

Medians are over the users who have at least :data:`LARGE` n-grams, for on others the fixed part of
a blob weighs more; that part has a row of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perslm import _backend
from perslm.bench import peers
from perslm.bench.clock import Contender, Pace, race
from perslm.bench.corpus import Corpus
from perslm.bench.report import OURS, Figure, Measurement, measurement
from perslm.bench.subject import Subject
from perslm.model import PersonalModel

LARGE = 10_000
"""n-grams of a user that the medians are over."""

FEW = 100
"""Tokens of a user who wrote next to nothing."""


class Sizes:
    """Collects one user after the other, for one order."""

    def __init__(self, order: int, pace: Pace) -> None:
        self.order = order
        self.users = 0
        self._pace = pace
        self._blob: dict[str, list[float]] = {}
        self._memory: dict[str, list[float]] = {}
        self._load: dict[str, list[float]] = {}

    def add(self, subject: Subject) -> None:
        """Measure one user."""
        self.users += 1
        n, fst, kenlm = subject.ngrams, subject.fst, subject.kenlm
        _note(self._blob, OURS, len(subject.blob) / n)
        _note(self._memory, OURS, subject.model.nbytes / n)
        contenders = [Contender(OURS, PersonalModel.from_blob, [(subject.blob,)])]
        if _backend.native is not None:
            on_numpy = peers.on_numpy(PersonalModel.from_blob)
            contenders.append(Contender("numpy twin", on_numpy, [(subject.blob,)]))
        if fst is not None:
            _note(self._blob, "OpenFst const", len(fst.file) / n)
            _note(self._blob, "OpenFst vector", len(fst.vector_file) / n)
            _note(self._memory, "OpenFst const", len(fst.file) / n)
            contenders.append(Contender("OpenFst const", fst.load, [()]))
        if kenlm is not None:
            contenders.append(Contender("kenlm-ex, ARPA", kenlm.load, [()]))
        for contender, timing in zip(contenders, race(contenders, self._pace), strict=True):
            _note(self._load, contender.name, float(np.median(timing.samples)) / n * 1e9)

    def figures(self) -> list[Figure]:
        """Return the medians over the users so far."""
        return [
            self._figure("blob", "blob", "bytes per n-gram", self._blob),
            self._figure("memory", "ready model in memory", "bytes per n-gram", self._memory),
            self._figure("load", "blob to ready model", "ns per n-gram", self._load),
        ]

    def _figure(self, key: str, title: str, unit: str, noted: dict[str, list[float]]) -> Figure:
        ours = np.array(noted[OURS])
        measured = []
        for name, values in noted.items():
            array = np.array(values)
            ratio = None if name == OURS else float(np.median(array / ours))
            measured.append(measurement(name, array, array, ratio=ratio))
        return Figure(key, title, self.order, unit, tuple(measured))


def small(corpus: Corpus, user: int, folder: Path, order: int) -> list[Figure]:
    """Return the sizes of the blobs of a user who wrote nothing, and of one who just began."""
    began = 0
    few = []
    for sentence in corpus.users[user]:
        few.append(sentence)
        began += len(sentence.ids) + 1
        if began >= FEW:
            break
    rows = {"nothing": [], f"{FEW} tokens": few}
    figures = []
    for written, sentences in rows.items():
        size = float(len(Subject(sentences, order, folder).blob))
        key = "blob_of_nothing" if not sentences else "blob_of_few"
        measured = Measurement(OURS, size, size, size, size, 1)
        figures.append(Figure(key, f"blob of who wrote {written}", order, "bytes", (measured,)))
    return figures


def _note(noted: dict[str, list[float]], name: str, value: float) -> None:
    noted.setdefault(name, []).append(value)
