"""Beam steps like those of production: hypotheses from what the user wrote, candidates of both LMs.

Each hypothesis stands behind a word of one of the user's sentences, so its context is as long as
the model keeps. Of its candidates a quarter is what the user's model finds likeliest there; the
others are drawn from the words that everybody uses, as a global LM would propose. Successive steps
differ: nothing is measured on one hot step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from perslm.bench.corpus import BOS, EOS, UNKNOWN, Corpus
from perslm.counts import UInt32Array
from perslm.model import PersonalModel

COMMON = 5_000
"""The most frequent words of the corpus: those that a global LM proposes."""

LIKELY_SHARE = 4  # one of so many candidates is the user's


class Step(NamedTuple):
    """Token-id histories of the hypotheses, and uint32[hypotheses, candidates]."""

    histories: list[tuple[int, ...]]
    candidates: UInt32Array


def beam_steps(
    corpus: Corpus,
    user: int,
    model: PersonalModel,
    *,
    number: int,
    hypotheses: int = 8,
    candidates: int = 64,
    seed: int = 7,
) -> list[Step]:
    """Return so many steps of a user, always the same.

    The candidates of a hypothesis are distinct words; none is ``</s>``.
    """
    chance = np.random.default_rng(seed)
    frequency = corpus.frequency.copy()
    frequency[[UNKNOWN, BOS, EOS]] = -1
    common = np.argsort(-frequency, kind="stable")[:COMMON]
    log_frequency = np.log(frequency[common] + 1.0)
    sentences = corpus.users[user]
    found = []
    for _ in range(number):
        histories = []
        for i in chance.integers(len(sentences), size=hypotheses).tolist():
            ids = sentences[i].ids
            histories.append((BOS, *ids[: chance.integers(len(ids) + 1)]))
        likely, _ = model.continuations(model.states(histories), candidates // LIKELY_SHARE + 1)
        own = [row[row != EOS][: candidates // LIKELY_SHARE] for row in likely]
        rows = [_candidates(row, common, log_frequency, candidates, chance) for row in own]
        found.append(Step(histories, np.array(rows, np.uint32)))
    return found


def _candidates(
    likely: UInt32Array,
    common: npt.NDArray[np.int64],
    log_frequency: npt.NDArray[np.float64],
    size: int,
    chance: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """Return ``likely`` and common words, drawn by frequency without repetition, shuffled."""
    # the largest of log-weights with Gumbel noise are a weighted draw without replacement
    noisy = log_frequency + chance.gumbel(size=len(common))
    drawn = common[np.argpartition(noisy, -size)[-size:]]
    rest = drawn[~np.isin(drawn, likely)][: size - len(likely)]
    return chance.permutation(np.concatenate([likely.astype(np.int64), rest]))


def merge(parts: list[Step]) -> Step:
    """Return one large step of all hypotheses."""
    histories = [history for part in parts for history in part.histories]
    return Step(histories, np.concatenate([part.candidates for part in parts]))
