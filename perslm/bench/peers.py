"""The other ways to hold a user's model: KenLM, OpenFst, a Python dict, and our own numpy twin.

Each is made of the same automaton that perslm's reference computes, and answers the same questions:
where a history ends (``state``), and ln p of words after a state, −inf (or far below
:data:`IMPOSSIBLE`) for a word the user never wrote. Words have made-up names: a benchmark shows
nothing of anybody's mail.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from perslm import _backend, arpa, openfst
from perslm.automaton import ROOT, Automaton
from perslm.bench.corpus import BOS, EOS, SIZE
from perslm.errors import MissingExtraError
from perslm.interpolate import Float32Array

P = ParamSpec("P")
T = TypeVar("T")

IMPOSSIBLE = -200.0
"""KenLM gives unknown words 10^-100 and a backoff weight; whatever ln p is below this is zero."""

PACKAGES = {"kenlm": "kenlm-ex", "pywrapfst": "pynini"}
"""The peers' modules, and the package on PyPI that each comes with."""

NAMES = [f"w{i}" for i in range(SIZE)]
NAMES[BOS], NAMES[EOS] = arpa.OPEN, arpa.CLOSE

_LN10 = math.log(10)  # KenLM answers in log10
_NEVER = (-math.inf, ROOT)


def kenlm() -> Any | None:
    """Return KenLM's module, or None where it is not installed."""
    try:
        return import_module("kenlm")
    except ImportError:
        return None


def openfst_module() -> Any | None:
    """Return OpenFst's module, or None where it is not installed."""
    try:
        return openfst._pywrapfst()  # perslm/openfst.py alone imports it
    except MissingExtraError:
        return None


def versions() -> dict[str, str]:
    """Return the installed peers' packages and their versions."""
    found = {}
    for package in PACKAGES.values():
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def absent() -> dict[str, str]:
    """Return which peers are not measured, and why."""
    reasons = {}
    if kenlm() is None:
        reasons["kenlm-ex"] = "not installed: pip install kenlm-ex"
    if openfst_module() is None:
        reasons["pywrapfst"] = "not installed: pip install 'perslm[interop]'"
    if _backend.native is None:
        reasons["numpy twin"] = "perslm runs on numpy here: there is no kernel to compare it with"
    return reasons


def on_numpy(function: Callable[P, T]) -> Callable[P, T]:
    """Return ``function`` such that, while it runs, perslm has no kernel. Not for threads."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        kernel, _backend.native = _backend.native, None
        try:
            return function(*args, **kwargs)
        finally:
            _backend.native = kernel

    return run


class Kenlm:
    """KenLM's probing model, made by its own loader from our ARPA file.

    The package has no builder of KenLM's binary files, so loading means reading ARPA text.
    """

    def __init__(self, module: Any, path: Path) -> None:
        self._module = module
        self.path = path
        self.model = self.load()

    @classmethod
    def of(cls, module: Any, model: Automaton, folder: Path) -> Kenlm:
        """Write ``model`` to a file in ``folder`` and load it."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"order{model.order}.arpa"
        with path.open("w", encoding="utf-8") as file:
            arpa.dump(model, NAMES.__getitem__, file)
        return cls(module, path)

    def load(self) -> Any:
        """Read the file once more and return the model."""
        config = self._module.Config()
        config.show_progress = False
        config.arpa_complain = self._module.ARPALoadComplain.NONE
        with _silence():  # it says on standard error that binary files load faster
            return self._module.Model(str(self.path), config)

    def state(self, history: Iterable[int]) -> Any:
        """Return the state behind a history, which begins with ``<s>``."""
        here, there = self._module.State(), self._module.State()
        self.model.BeginSentenceWrite(here)
        for word in list(history)[1:]:
            self.model.BaseScore(here, NAMES[word], there)
            here, there = there, here
        return here

    def score(self, states: Sequence[Any], rows: Sequence[Sequence[str]]) -> list[float]:
        """Return log10 p of every word of every row; the next states are overwritten."""
        score, out = self.model.BaseScore, self._module.State()
        return [
            score(state, word, out) for state, row in zip(states, rows, strict=True) for word in row
        ]

    def step(self, states: Sequence[Any], rows: Sequence[Sequence[str]]) -> list[tuple[float, Any]]:
        """Return log10 p and the next state of every word of every row."""
        score, new = self.model.BaseScore, self._module.State
        found = []
        for state, row in zip(states, rows, strict=True):
            for word in row:
                out = new()
                found.append((score(state, word, out), out))
        return found

    def distribution(self, state: Any) -> Float32Array:
        """Return log10 p of every word after ``state``, float32[SIZE]."""
        score, out = self.model.BaseScore, self._module.State()
        return np.array([score(state, word, out) for word in NAMES], np.float32)

    def continuations(self, state: Any, k: int) -> Float32Array:
        """Return log10 p of the k likeliest words after ``state``, best first, float32[k]."""
        row = self.distribution(state)
        return np.sort(np.partition(row, -k)[-k:])[::-1]

    @staticmethod
    def natural(log10: Any) -> Any:
        """Return ln p of log10 p."""
        return np.asarray(log10, np.float64) * _LN10


class Arcs:
    """A Python dict of arcs for each state, and walking down the backoff arcs in Python."""

    def __init__(self, model: Automaton) -> None:
        labels = model.label.tolist()
        arcs = list(zip((-model.weight).tolist(), model.next_state.tolist(), strict=True))
        bounds = pairwise(model.arc_begin.tolist())
        self._arcs = [dict(zip(labels[i:j], arcs[i:j], strict=True)) for i, j in bounds]
        self._backoff = list(
            zip((-model.backoff_weight).tolist(), model.backoff_state.tolist(), strict=True)
        )

    def step(self, states: Sequence[int], rows: Sequence[Sequence[int]]) -> list[tuple[float, int]]:
        """Return ln p and the next state of every word (not ``</s>``) of every row."""
        arcs, backoff, found = self._arcs, self._backoff, []
        for state, row in zip(states, rows, strict=True):
            for word in row:  # as in word(), whose calls would cost a third more
                here, logprob = state, 0.0
                while (arc := arcs[here].get(word)) is None:
                    if here == ROOT:
                        arc = _NEVER
                        break
                    weight, here = backoff[here]
                    logprob += weight
                found.append((logprob + arc[0], arc[1]))
        return found

    def word(self, state: int, word: int) -> tuple[float, int]:
        """Return ln p and the next state of a word."""
        logprob = 0.0
        while (arc := self._arcs[state].get(word)) is None:
            if state == ROOT:
                return _NEVER
            weight, state = self._backoff[state]
            logprob += weight
        return logprob + arc[0], arc[1]


class Fst:
    """OpenFst's acceptor through its Python binding: arcs are found by bisection."""

    def __init__(self, module: Any, model: Automaton) -> None:
        self._module = module
        vector = openfst.to_fst(model)
        self._fst = module.convert(vector, "const")
        self.vector_file: bytes = vector.write_to_string()
        self.file: bytes = self._fst.write_to_string()

    def load(self) -> Any:
        """Read the file (type const) once more."""
        return self._module.Fst.read_from_string(self.file)

    def step(self, states: Sequence[int], rows: Sequence[Sequence[int]]) -> list[tuple[float, int]]:
        """Return ln p and the next state of every word (not ``</s>``) of every row."""
        return [self.word(s, w) for s, row in zip(states, rows, strict=True) for w in row]

    def word(self, state: int, word: int) -> tuple[float, int]:
        """Return ln p and the next state of a word."""
        fst, label, weight = self._fst, word + 1, 0.0
        while True:
            arcs = fst.arcs(state)
            low, high = 0, fst.num_arcs(state)
            while low < high:
                middle = (low + high) // 2
                arcs.seek(middle)
                if arcs.value().ilabel < label:
                    low = middle + 1
                else:
                    high = middle
            if low < fst.num_arcs(state):
                arcs.seek(low)
                arc = arcs.value()
                if arc.ilabel == label:
                    return -(weight + float(arc.weight)), arc.nextstate
            if state == ROOT:
                return _NEVER
            arcs.seek(0)
            backoff = arcs.value()
            weight += float(backoff.weight)
            state = backoff.nextstate

    def distribution(self, state: int) -> Float32Array:
        """Return ln p of every word after ``state``, float32[SIZE], by one walk to the root."""
        fst, weight = self._fst, 0.0
        row = np.full(SIZE, -np.inf, np.float32)
        seen = np.zeros(SIZE, bool)
        closed = False
        while True:
            if not closed and (final := float(fst.final(state))) < math.inf:
                row[EOS], closed = -(weight + final), True
            below, step = ROOT, 0.0
            for arc in fst.arcs(state):
                word = arc.ilabel - 1
                if word < 0:
                    below, step = arc.nextstate, float(arc.weight)
                elif not seen[word]:
                    row[word], seen[word] = -(weight + float(arc.weight)), True
            if state == ROOT:
                return row
            state, weight = below, weight + step


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what C++ code prints on standard error from the terminal."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)
