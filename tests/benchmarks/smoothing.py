"""What personalization is worth by smoothing, order and kind of λ, none fitted on who is tested.

    python -m tests.benchmarks.smoothing MAIL... [--by-file] [--as-is] [--orders 2 3 4 5]

The test is the newest fifth of a person's letters; counts are of all before. Katz, Witten-Bell,
absolute discounting and modified Kneser-Ney are mixed into the global LM with λ that is

* ``one``: a number for everybody,
* ``person``: a number of the person's own, drawn to that of everybody by what a model of the first
  nine tenths makes of the newest tenth of what they learn from,
* ``table``: looked up by state in a table for everybody (``perslm.weights``),
* ``own table``: a table of the person's own, drawn to that of everybody in the same way,
* ``place``: that of everybody, moved by the place in the text and the global LM's row, as
  ``PersonalModel.mix`` does it,
* ``hindsight``: the number that is best for the test itself, which nobody can know.

What is for everybody is fitted on others: people are dealt into seven parts, and each is tested
with what the other six say. The gates are those that come with perslm, here and in ``backoff``,
which stands beside for comparison (``tests.benchmarks.estimators`` fits them on others, too).

Old mail can count for less. The second table has models of a person's last letters alone, and of
all of them with the newest half, or tenth, counted more than once; they are of order ``--recency``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from builders import weights as fitting
from builders.evaluate.run import split
from builders.evaluate.study import Study, add_global_lm, open_study, parser_of
from builders.gates import passages_of
from builders.weights import Sample, Trail, at_state, learned, maximize, personal, sample, trail
from perslm import backoff
from perslm._scoring import SMOOTHINGS
from perslm.counts import Counts
from perslm.smoothing import Float64Array
from perslm.weights import UNIT

PARTS = 7
LAST = (10, 30, 100, 300, 1000)


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """What is fitted on other people: a number, and a table, float64[places]."""

    one: Float64Array
    table: Float64Array


def reduction(found: Sample, lam: float | Float64Array) -> tuple[float, float, int]:
    """Return by how much λ lowers the perplexity, the nats that it saves, and the tokens."""
    saved = np.log(lam * found.personal + (1 - lam) * found.shared) - np.log(found.shared)
    return float(1 - np.exp(-saved.mean())), float(saved.sum()), len(saved)


def in_one(found: Sample) -> Sample:
    return Sample(found.personal, found.shared, np.zeros_like(found.place))


def tuned(samples: Sequence[Sample], order: int) -> Tuned:
    together = Sample(
        *(np.concatenate([getattr(s, name) for s in samples]) for name in Sample.__slots__)
    )
    share = np.concatenate([np.full(len(s.shared), 1 / len(s.shared)) for s in samples])
    share *= len(share) / len(samples)
    one = maximize(in_one(together), np.array([fitting.GENERAL]), share)
    table = fitting.in_units(fitting.fit(samples, order)) / UNIT
    return Tuned(one, table.ravel())


def moved(lam: Float64Array, found: Trail, order: int) -> Float64Array:
    gates = backoff.population(order)
    shifted = backoff.shift(lam.astype(np.float32), gates, found.position, found.uncertainty)
    return shifted.astype(np.float64)


def by_backoff(counts: Counts, found: Trail) -> tuple[float, float, int]:
    model = backoff.estimate(counts, backoff.population(counts.order))
    lam = at_state(found, model.weight)
    tokens = Sample(personal(found, model), found.shared, np.zeros(0, np.int64))
    return reduction(tokens, moved(lam, found, counts.order))


def kinds(
    test: Sample, newest: Sample, where: Trail, of: Tuned, order: int
) -> Iterator[tuple[str, tuple[float, float, int]]]:
    """Yield the reduction by each kind of λ."""
    yield "one", reduction(test, of.one[0])
    yield "person", reduction(test, maximize(in_one(newest), of.one)[0])
    yield "table", reduction(test, of.table[test.place])
    yield "own table", reduction(test, maximize(newest, of.table)[test.place])
    yield "place", reduction(test, moved(of.table[test.place], where, order))
    yield "hindsight", reduction(test, maximize(in_one(test), of.one, strength=0)[0])


Rows = dict[tuple[str, ...], list[tuple[float, float, int]]]


def dealt(people: Sequence[list[dict[str, Sample]]], order: int) -> list[dict[str, Tuned]]:
    """Return what the others say of each part of the people, by smoothing."""
    found = []
    for part in range(PARTS):
        others = [s for i, own in enumerate(people) if i % PARTS != part for s in own]
        found.append({name: tuned([s[name] for s in others], order) for name in SMOOTHINGS})
    return found


def samples_of(study: Study, order: int, least: int) -> list[list[dict[str, Sample]]]:
    return [
        list(fitting.samples(own, study.vocabulary, study.targets, order, least))
        for own in study.people
    ]


def by_kind(study: Study, order: int, least: int, rows: Rows) -> None:
    vocabulary = study.vocabulary
    drawn = samples_of(study, order, least)
    fitted = dealt(drawn, order)
    for i, letters in enumerate(study.people):
        past, future = split(letters, 0.2)
        older, newest = split(past, 0.1)
        counts = learned(past, vocabulary, order, least)
        before = learned(older, vocabulary, order, least)
        where = trail(counts, passages_of(future, study.targets))
        recent = trail(before, passages_of(newest, study.targets))
        for name in SMOOTHINGS:
            test, own = sample(counts, where, name), sample(before, recent, name)
            for kind, figures in kinds(test, own, where, fitted[i % PARTS][name], order):
                rows.setdefault((str(order), name, kind), []).append(figures)
        rows.setdefault((str(order), "backoff", "gates"), []).append(by_backoff(counts, where))


def by_age(study: Study, order: int, least: int, rows: Rows) -> None:
    """Models of the last letters, beside those of all letters of the same people."""
    vocabulary = study.vocabulary
    drawn = samples_of(study, order, least)
    fitted = dealt(drawn, order)
    for i, letters in enumerate(study.people):
        past, future = split(letters, 0.2)
        passages = passages_of(future, study.targets)

        def gain(name: str, counts: Counts, of: dict[str, Tuned] = fitted[i % PARTS]) -> None:
            where = trail(counts, passages)  # noqa: B023 - called in this round of the loop
            for smoothing in SMOOTHINGS:
                test = sample(counts, where, smoothing)
                figures = reduction(test, of[smoothing].table[test.place])
                rows.setdefault((name, smoothing), []).append(figures)
            rows.setdefault((name, "backoff"), []).append(by_backoff(counts, where))

        whole = learned(past, vocabulary, order, least)
        gain("all", whole)
        for amount in (n for n in LAST if n < len(past)):
            gain(f"all, of who has more than {amount}", whole)
            gain(f"the last {amount}", learned(past[-amount:], vocabulary, order, least))
        half, tenth = split(past, 0.5)[1], split(past, 0.1)[1]
        for name, again in (
            ("newest half twice", half),
            ("newest half thrice", half * 2),
            ("newest tenth twice", tenth),
            ("newest tenth thrice", tenth * 2),
        ):
            gain(name, learned(past, vocabulary, order, least, again))


def show(title: str, width: int, rows: Rows) -> None:
    print(f"{title:{width}} people    mean  pooled  improved   worst")
    for key, figures in rows.items():
        own = np.array([share for share, _, _ in figures])
        pooled = 1 - np.exp(-sum(f[1] for f in figures) / sum(f[2] for f in figures))
        print(
            f"{'  '.join(key):{width}} {len(own):6}  {own.mean():6.1%}  {pooled:6.1%}  "
            f"{(own > 0).mean():8.1%}  {own.min():6.1%}"
        )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--orders", type=int, nargs="+", default=[2, 3, 4, 5])
    parser.add_argument("--recency", type=int, default=5, metavar="ORDER", help="0: no such models")
    parser.add_argument("--min-messages", type=int, default=2)
    add_global_lm(parser)
    options = parser.parse_args()
    study = open_study(options)
    by_lambda: Rows = {}
    for order in options.orders:
        by_kind(study, order, options.min_messages, by_lambda)
    show("order, smoothing, λ", 32, by_lambda)
    if options.recency:
        recent: Rows = {}
        by_age(study, options.recency, options.min_messages, recent)
        show("letters, smoothing", 48, recent)


if __name__ == "__main__":
    main()
