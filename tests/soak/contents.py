"""What is published in the soak: made-up mail, and its scores by the naive oracle.

A *content* is one model's blob. All that a request can ask follows from ln p of every id after a
few fixed histories, so that is computed once, by ``tests.oracle``; to judge an answer is to compare
small arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from perslm.backoff import population
from perslm.blob import Metadata, encode
from perslm.counts import Specials, count
from perslm.model import PersonalModel
from tests.oracle import CLOSE, OPEN, OracleBackoff, ngram_counts
from tests.support import Seq

SIZE: Final = 260
BOS, EOS = 0, 1
NEVER: Final = SIZE - 1  # a word that nobody ever writes
FINGERPRINT: Final = "5a" * 16
WEIGHT: Final = 0.4
TOLERANCE: Final = 1e-4  # of ln p; answers are float32

_SENTENCES: Final = 1500
_PROBES: Final = 6
_ROWS: Final = 4
_CANDIDATES: Final = 24


@dataclass(frozen=True)
class Probe:
    """Some histories, and ids to ask for after them."""

    histories: list[list[int]]
    candidates: list[list[int]]


@dataclass(frozen=True)
class Content:
    """A blob and the truth: ``logprobs`` is float64[probe, history, id]."""

    blob: bytes
    order: int
    logprobs: npt.NDArray[np.float64]
    events: npt.NDArray[np.int64]
    nbytes: int


def make_probes(random: Random) -> list[Probe]:
    """Return the questions that are asked of every model."""
    return [
        Probe(
            [_history(random) for _ in range(_ROWS)],
            [random.choices([*range(SIZE), SIZE + 5], k=_CANDIDATES) for _ in range(_ROWS)],
        )
        for _ in range(_PROBES)
    ]


def _history(random: Random) -> list[int]:
    words = random.choices([2, 3, 4, 5, 6, 7, 8, 30, 60, NEVER], k=random.randint(0, 6))
    return [BOS, *words] if random.random() < 0.5 else words


def make_contents(seed: int, number: int, probes: list[Probe]) -> list[Content]:
    """Return contents that every probe tells from each other."""
    contents = [_content(seed * 1000 + i, probes) for i in range(number)]
    for probe in range(len(probes)):
        for a, b in combinations(contents, 2):
            assert _differ(a.logprobs[probe], b.logprobs[probe]), "change the seed"
    return contents


def _differ(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> bool:
    return bool(np.nanmax(np.abs(np.exp(a) - np.exp(b))) > 100 * TOLERANCE)


def _content(seed: int, probes: list[Probe]) -> Content:
    random = Random(seed)
    order = 2 + seed % 3
    words = random.sample(range(2, NEVER), NEVER - 2 - seed % 7)  # not all write everything
    odds = [1 / (rank + 1.5) for rank in range(len(words))]
    mail = [
        Seq(random.choices(words, odds, k=random.randint(1, 16)), random.random() < 0.9, True)
        for _ in range(_SENTENCES)
    ]
    blob = encode(count(mail, order, Specials(SIZE, BOS, EOS)), Metadata(FINGERPRINT, len(mail)))
    gates = population(order).table.tolist()
    oracle = OracleBackoff(ngram_counts(mail, order), order, gates)
    names = {EOS: CLOSE}
    columns = [names.get(i, i) for i in range(SIZE)]
    logprobs = np.array(
        [
            [
                [
                    -math.inf
                    if i == BOS or (word,) not in oracle.counts
                    else oracle.p(tuple(OPEN if h == BOS else h for h in history), word)
                    for i, word in enumerate(columns)
                ]
                for history in probe.histories
            ]
            for probe in probes
        ]
    )
    events = np.array([i for i, word in enumerate(columns) if (word,) in oracle.counts])
    model = PersonalModel.from_blob(blob, generation=1, weight=WEIGHT)
    return Content(blob, order, logprobs, events, model.nbytes)


KINDS: Final = ("candidates", "top_k", "dense", "compact")
TOP: Final = 5


def fields(kind: str, probe: Probe) -> dict[str, Any]:
    """Return what a request asks, in the names of the HTTP interface."""
    asked: dict[str, Any] = {"histories": probe.histories}
    if kind == "candidates":
        asked["candidates"] = probe.candidates
    elif kind == "top_k":
        asked["top_k"] = TOP
    else:
        asked["dense"] = True
        if kind == "compact":
            asked["compact"] = True
    return asked


def fault_of(
    content: Content, kind: str, index: int, probe: Probe, answer: Mapping[str, Any]
) -> str:
    """Return what is wrong with an answer of this content's model; "" if it is as it should be."""
    truth = content.logprobs[index]
    logprobs = answer["logprobs"]
    if answer["order"] != content.order:
        return "order"
    if not np.array_equal(answer["weights"], np.full(len(truth), WEIGHT, np.float32)):
        return "weights"
    if kind == "candidates":
        padded = np.pad(truth, ((0, 0), (0, 6)), constant_values=-np.inf)
        return _compare(logprobs, np.take_along_axis(padded, np.array(probe.candidates), 1))
    if kind == "dense":
        return _compare(logprobs, truth)
    ids = answer["ids"].astype(np.int64)
    if kind == "compact":
        if not np.array_equal(ids, content.events):
            return "ids"
        return _compare(logprobs, truth[:, ids])
    if ids.shape != (len(truth), TOP):
        return "shape"
    best = -np.sort(-truth, axis=1)[:, :TOP]
    return _compare(logprobs, np.take_along_axis(truth, ids, 1)) or _compare(logprobs, best)


def _compare(found: npt.NDArray[np.float32], truth: npt.NDArray[np.float64]) -> str:
    if found.shape != truth.shape:
        return "shape"
    same = np.isclose(found, truth, rtol=0, atol=TOLERANCE, equal_nan=False)
    return "" if same.all() else "logprobs"


def nothing_fault(kind: str, probe: Probe, answer: Mapping[str, Any]) -> str:
    """Return what is wrong with an answer without a model; "" if it changes nothing."""
    n = len(probe.histories)
    columns = _CANDIDATES if kind == "candidates" else 0
    if answer["generation"] != 0 or answer["order"] != 0:
        return "generation"
    if not np.array_equal(answer["weights"], np.zeros(n, np.float32)):
        return "weights"
    if answer["logprobs"].size != n * columns or not np.isneginf(answer["logprobs"]).all():
        return "logprobs"
    return ""
