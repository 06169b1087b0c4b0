"""Fits λ of ``perslm.weights`` over many people's mail. What made ``perslm/weights.json``:

    python -m builders.weights MAIL... [--by-file] [--as-is] > perslm/weights.json

Which tokens a model of which letters has to predict, and that everybody counts alike, is as in
``builders.gates``. λ of a bucket is the share of its tokens that the personal model is to have
predicted rather than the global LM, found by expectation maximization, and drawn to the λ of all
contexts with as many words by ``STRENGTH`` tokens. Nothing of what anybody wrote is in the result.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from builders import hygiene
from builders.build import specials
from builders.evaluate.mail import Letter
from builders.evaluate.run import amounts_of, split
from builders.evaluate.study import add_global_lm, open_study, parser_of
from builders.evaluate.targets import Targets
from builders.gates import AMOUNTS, MOST_TOKENS, Passage, passages_of
from builders.prepare import Settings
from perslm._scoring import SMOOTHINGS
from perslm.backoff import Backoff
from perslm.counts import MAX_ORDER, Counts, Int64Array, count, pair_keys
from perslm.smoothing import Float64Array, Smoothed
from perslm.vocabulary import Vocabulary
from perslm.weights import COUNTS, MASSES, UNIT, UInt8Array, buckets

STRENGTH = 100.0
"""How many tokens a prior is worth."""

ROUNDS = 100
GENERAL = 0.3
"""λ where nobody's mail says anything."""


@dataclass(frozen=True, slots=True, eq=False)
class Trail:
    """Where a model of counts finds each token of passages but their first.

    ``context`` and ``entry`` are int64[n, order]: column k has the context of k words as an index
    of the level below, and the n-gram that the token makes of it; −1 where the counts have none.
    ``shared`` is p_global, ``position`` how many tokens of the passage came before, [n], and
    ``uncertainty``, [n, 2], that of the global LM's row.
    """

    context: Int64Array
    entry: Int64Array
    shared: Float64Array
    position: Int64Array
    uncertainty: Float64Array

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


def trail(counts: Counts, passages: Sequence[Passage]) -> Trail:
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
    said = np.concatenate([row for _, row in passages]).astype(np.float64)
    return Trail(
        np.stack(contexts, 1),
        np.stack(entries, 1),
        np.exp(said[:, 0]),
        position[asked],
        said[:, 1:],
    )


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
        values = np.where(context >= 0, np.append(own, by_context[0])[context], values)
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


def learned(
    letters: Sequence[Letter],
    vocabulary: Vocabulary,
    order: int,
    min_messages: int = Settings().min_messages,
    again: Sequence[Letter] = (),
) -> Counts:
    """Return what a build counts of letters, boilerplate and all; those of ``again`` twice."""
    texts = [letter.sequences for letter in letters]
    more = [letter.sequences for letter in again]
    counts = count((s for text in (*texts, *more) for s in text), order, specials(vocabulary))
    if min_messages == 1:
        return counts
    often = [n >= min_messages for n in hygiene.in_messages(counts, texts)]
    return counts.select([np.ones(len(counts.levels[0]), bool), *often[1:]])


def samples(
    letters: list[Letter],
    vocabulary: Vocabulary,
    targets: Targets,
    order: int,
    min_messages: int = Settings().min_messages,
) -> Iterator[dict[str, Sample]]:
    """Yield the samples of one person, by estimator."""
    past, _ = split(letters, 0.2)
    older, newest = split(past, 0.1)
    passages = passages_of(newest, targets)
    for amount in amounts_of(older, AMOUNTS):
        counts = learned(older[-amount:], vocabulary, order, min_messages)
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


def main() -> None:
    """Fit the tables of all estimators and orders to the mail of the command line."""
    parser = parser_of(__doc__)
    add_global_lm(parser)
    study = open_study(parser.parse_args())
    tables: dict[str, dict[int, Float64Array]] = {name: {} for name in SMOOTHINGS}
    for order in range(1, MAX_ORDER + 1):
        found = [
            s
            for letters in study.people
            for s in samples(letters, study.vocabulary, study.targets, order)
        ]
        for name, by_order in tables.items():
            by_order[order] = fit([s[name] for s in found], order)
    sys.stdout.write(as_json(tables))


if __name__ == "__main__":
    main()
