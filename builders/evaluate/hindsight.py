"""The best constant λ of a person, chosen on the very test: what a λ for each state has to beat."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from builders.evaluate.mail import Letter
from builders.evaluate.measure import states_along
from perslm.interpolate import Float32Array
from perslm.model import PersonalModel
from perslm.smoothing import Float64Array

WEIGHTS = np.arange(0, 1, 0.01)


def hindsight(
    model: PersonalModel,
    katz: PersonalModel,
    letters: Iterable[Letter],
    targets: Iterable[list[Float32Array]],
) -> dict[str, float]:
    """Return the best reduction of perplexity that one λ for all states could have had.

    ``single`` is that of the model with its own p_personal, ``single_katz`` that with Katz';
    ``single_weight`` and ``single_katz_weight`` are the λ.
    """
    shared: list[Float64Array] = []
    ours: list[Float64Array] = []
    theirs: list[Float64Array] = []
    for letter, rows in zip(letters, targets, strict=True):
        for ids, row in zip(letter.passages, rows, strict=True):
            if len(row):
                shared.append(np.exp(row.reshape(len(row), -1)[:, 0].astype(np.float64)))
                for found, scorer in ((ours, model), (theirs, katz)):
                    states = states_along(scorer, ids)
                    logprobs = scorer.score(states, ids[1:, None])[0][:, 0]
                    found.append(np.exp(logprobs.astype(np.float64)))
    best = {}
    for name, personal in (("single", ours), ("single_katz", theirs)):
        best[name], best[f"{name}_weight"] = _best(np.concatenate(personal), np.concatenate(shared))
    return best


def _best(personal: Float64Array, shared: Float64Array) -> tuple[float, float]:
    gains = [np.log(lam * personal / shared + (1 - lam)).mean() for lam in WEIGHTS]
    best = int(np.argmax(gains))
    return float(1 - np.exp(-gains[best])), float(WEIGHTS[best])
