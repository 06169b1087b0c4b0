"""Fits λ of ``perslm.weights`` over many people's mail. What made ``perslm/weights.json``:

    python -m builders.weights MAIL... > perslm/weights.json

Which tokens a model of which letters has to predict, and that everybody counts alike, is as in
``builders.gates``. λ of a bucket is the share of its tokens that the personal model is to have
predicted rather than the global LM, found by expectation maximization, and drawn to the λ of all
contexts with as many words by ``STRENGTH`` tokens. Nothing of what anybody wrote is in the result.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from builders.build import specials
from builders.evaluate.mail import Letter, letters_of
from builders.evaluate.run import split
from builders.evaluate.targets import Targets
from builders.gates import AMOUNTS, MOST_TOKENS
from builders.prepare import Settings
from builders.routing import Router
from perslm._scoring import SMOOTHINGS
from perslm.backoff import Backoff
from perslm.counts import MAX_ORDER, AnyIntegers, Counts, Int64Array, count, pair_keys
from perslm.global_lm import open_global_lm
from perslm.smoothing import Float64Array, Smoothed
from perslm.vocabulary import Vocabulary
from perslm.weights import COUNTS, MASSES, UNIT, UInt8Array, buckets

FEWEST_LETTERS = 20
STRENGTH = 100.0
"""How many tokens a prior is worth."""

ROUNDS = 100
GENERAL = 0.3
"""λ where nobody's mail says anything."""

Passages = Sequence[tuple[AnyIntegers, npt.NDArray[np.floating]]]
"""Token ids, which begin with ``<s>``, and ln p_global of those behind it."""


@dataclass(frozen=True, slots=True, eq=False)
class Trail:
    """Where a model of counts finds each token of passages but their first.

    ``context`` and ``entry`` are int64[n, order]: column k has the context of k words as an index
    of the level below, and the n-gram that the token makes of it; −1 where the counts have none.
    ``shared`` is p_global, ``position`` how many tokens of the passage came before; [n].
    """

    context: Int64Array
    entry: Int64Array
    shared: Float64Array
    position: Int64Array

    def some(self, most: int) -> Trail:
        """Return at most about ``most`` of the tokens, evenly spread."""
        step = -(-len(self.shared) // most) if len(self.shared) else 1
        return Trail(*(getattr(self, name)[::step] for name in self.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Tokens to predict: p under the personal model and the global LM, and λ's place in a table."""

    personal: Float64Array
    shared: Float64Array
    place: Int64Array


def trail(counts: Counts, passages: Passages) -> Trail:
    """Return where ``counts`` have the tokens of ``passages``."""
    ids = np.concatenate([ids for ids, _ in passages]).astype(np.int64)
    begins = np.cumsum([0, *(len(ids) for ids, _ in passages)])
    position = np.arange(len(ids)) - np.repeat(begins[:-1], np.diff(begins)) - 1
    asked = position >= 0
    context, entry = np.zeros(len(ids), np.int64), np.zeros(0, np.int64)
    contexts, entries = [], []
    for level in counts.levels:
        entry = _find(level.keys(), context, ids)
        contexts.append(context[asked])
        entries.append(entry[asked])
        # behind </s> no text goes on
        behind = np.where(ids == counts.specials.eos, -1, entry)
        context = np.where(asked, np.roll(behind, 1), -1)
    logprobs = np.concatenate([row for _, row in passages]).astype(np.float64)
    return Trail(np.stack(contexts, 1), np.stack(entries, 1), np.exp(logprobs), position[asked])


def _find(keys: npt.NDArray[np.uint64], context: Int64Array, word: Int64Array) -> Int64Array:
    if not len(keys):
        return np.full(len(word), -1, np.int64)
    wanted = pair_keys(np.maximum(context, 0), word)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where((keys[at] == wanted) & (context >= 0), at, -1)


def personal(found: Trail, model: Smoothed | Backoff) -> Float64Array:
    """Return p of each token under a model of the counts that were followed, float64[n]."""
    logprob = np.full(len(found.shared), -np.inf)
    for k, (seen, log_backoff) in enumerate(zip(model.logprob, model.log_backoff, strict=True)):
        context, entry = found.context[:, k], found.entry[:, k]
        logprob += np.where(context >= 0, np.append(log_backoff, 0)[context], 0) if k else 0
        logprob = np.where(entry >= 0, np.append(seen, 0)[entry], logprob)
    chances: Float64Array = np.exp(logprob)
    return chances


def at_state(
    found: Trail, by_context: Sequence[npt.NDArray[np.generic]]
) -> npt.NDArray[np.generic]:
    """Return a value of the state each token was met in, from those of contexts, level by level."""
    values = by_context[0][found.context[:, 0]]
    for k, own in enumerate(by_context):
        context = found.context[:, k]
        values = np.where(context >= 0, np.append(own, own[:1])[context], values)
    return values


def sample(counts: Counts, found: Trail, estimator: str) -> Sample:
    """Return what a smoothing of ``counts`` has for each token."""
    model = SMOOTHINGS[estimator](counts)
    place = at_state(found, buckets(counts, model)).astype(np.int64)
    return Sample(personal(found, model), found.shared, place)


def fit(samples: Sequence[Sample], order: int) -> Float64Array:
    """Return λ by bucket, float64[order, COUNTS, MASSES]; each sample counts alike."""
    tokens = sum(len(s.shared) for s in samples)
    share = np.concatenate(
        [np.full(len(s.shared), tokens / len(samples) / max(1, len(s.shared))) for s in samples]
    )
    every = Sample(
        *(np.concatenate([getattr(s, name) for s in samples]) for name in Sample.__slots__)
    )
    page = COUNTS * MASSES
    by_order = Sample(every.personal, every.shared, every.place // page)
    prior = maximize(by_order, np.full(order, GENERAL), share)
    return maximize(every, np.repeat(prior, page), share).reshape(order, COUNTS, MASSES)


def maximize(
    tokens: Sample,
    prior: Float64Array,
    share: Float64Array | None = None,
    strength: float = STRENGTH,
) -> Float64Array:
    """Return λ by place that predicts ``tokens`` best: EM, drawn to ``prior``.

    ``share``, float64[n], is how much each token counts, 1 by default.
    """
    places = len(prior)
    counted = np.ones(len(tokens.shared)) if share is None else share
    beside = np.bincount(tokens.place, counted, places) + strength
    found: Float64Array = prior
    for _ in range(ROUNDS):
        own = found[tokens.place] * tokens.personal
        posterior = own / (own + (1 - found[tokens.place]) * tokens.shared)
        found = (np.bincount(tokens.place, counted * posterior, places) + strength * prior) / beside
    return found


def samples(
    letters: list[Letter], vocabulary: Vocabulary, targets: Targets, order: int
) -> Iterator[dict[str, Sample]]:
    """Yield the samples of one person, by estimator."""
    past, _ = split(letters, 0.2)
    older, newest = split(past, 0.1)
    passages = [
        (ids, row)
        for letter in newest
        for ids, row in zip(letter.passages, targets.of(letter), strict=True)
    ]
    for amount in [*(a for a in AMOUNTS if a < len(older)), len(older)]:
        sequences = (s for letter in older[-amount:] for s in letter.sequences)
        counts = count(sequences, order, specials(vocabulary))
        found = trail(counts, passages).some(MOST_TOKENS)
        yield {name: sample(counts, found, name) for name in SMOOTHINGS}


def in_units(fitted: Float64Array) -> UInt8Array:
    """Return λ as tables hold it; never 1, which would forbid words the user never wrote."""
    return np.minimum(np.rint(fitted * UNIT), UNIT - 1).astype(np.uint8)


def as_json(tables: dict[str, dict[int, Float64Array]]) -> str:
    """Return the text of ``perslm/weights.json``."""
    numbers = {
        name: {str(order): in_units(table).tolist() for order, table in by_order.items()}
        for name, by_order in tables.items()
    }
    return json.dumps(numbers, separators=(",", ":")).replace("]],", "]],\n") + "\n"


class _Quiet:
    def stage(self, name: str, total: int) -> None:
        """As ``builders.routing.Progress``."""

    def advance(self, amount: int) -> None:
        """As ``builders.routing.Progress``."""


def main() -> None:
    """Fit the tables of all estimators and orders to the mail of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mail", nargs="+", type=Path)
    parser.add_argument("--by-file", action="store_true", help="a file is the mail of one person")
    parser.add_argument("--global-lm", default="smollm2")
    parser.add_argument("--cache", type=Path, default=Path("global-logprobs"))
    options = parser.parse_args()
    model = open_global_lm(options.global_lm)
    vocabulary = model.vocabulary
    targets = Targets(model, options.global_lm, options.cache)
    router = Router.for_sources(
        options.mail, user=None, me=(), by_file=options.by_file, progress=_Quiet()
    )
    mail = letters_of(
        options.mail,
        router=router,
        vocabulary=vocabulary,
        settings=Settings(),
        progress=_Quiet(),
    )
    people = [letters for letters in mail.values() if len(letters) >= FEWEST_LETTERS]
    tables: dict[str, dict[int, Float64Array]] = {name: {} for name in SMOOTHINGS}
    for order in range(1, MAX_ORDER + 1):
        found = [s for person in people for s in samples(person, vocabulary, targets, order)]
        for name, by_order in tables.items():
            by_order[order] = fit([s[name] for s in found], order)
    sys.stdout.write(as_json(tables))


if __name__ == "__main__":
    main()
