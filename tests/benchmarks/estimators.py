"""What personalization is worth with gates that were fitted on other people only.

    python -m tests.benchmarks.estimators MAIL... [--by-file] [--as-is] [--order 5]

The gates that come with perslm cannot tell it: they were fitted on some people's mail, maybe on
this. Here people are dealt into seven parts, and each is tested with gates of the other six. The
test is the newest fifth of a person's letters. In the table,

* ``model`` is one of all letters before, or of the last 10, 30, …, which stays as it is;
* ``no place`` the same for a caller that says neither how far into the text it is nor what the
  global LM makes of it;
* ``nightly`` and ``at once`` are models that go on learning: of each letter of the test, they know
  those of the days before (UTC), or all letters before;
* ``two letters`` leaves out n-grams above order 1 that stand in one letter only, as ``perslm
  build`` does unless told otherwise; ``two, refitted`` the same with gates that were fitted on such
  models, as those of perslm are not;

and the best single λ that each person could have had, found on the test itself: the better of one
with Katz and one with our own p_personal. A quarter of an hour of one core, most of it for models
that go on learning, once the global LM was asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import numpy as np

from builders import gates as fitting
from builders.evaluate.hindsight import hindsight
from builders.evaluate.mail import Letter
from builders.evaluate.measure import Tally
from builders.evaluate.run import amounts_of, split
from builders.evaluate.study import Study, add_global_lm, open_study, parser_of
from builders.hygiene import in_messages
from perslm.backoff import Gates
from perslm.blob import Metadata
from perslm.counts import Counts, merge
from perslm.model import PersonalModel
from perslm.vocabulary import Vocabulary

PARTS = 7
NOBODY = Metadata("0" * 32)

Rows = dict[tuple[str, str], list[Tally]]
"""The tallies of people by system and number of letters."""


def in_two_letters(letters: list[Letter], vocabulary: Vocabulary, order: int) -> Counts:
    """Return the counts without n-grams above order 1 of one letter only; what is cut is known."""
    counts = fitting.counts_of(letters, vocabulary, order)
    number = in_messages(counts, [letter.sequences for letter in letters])
    words = np.ones(len(counts.levels[0]), bool)
    return counts.select([words, *(n > 1 for n in number[1:])])


def tally_of(sample: fitting.Sample, gates: Gates) -> Tally:
    """Return how well a sample's tokens are predicted."""
    return Tally(
        tokens=len(sample.shared),
        global_nats=-float(np.log(sample.shared).sum()),
        mixed_nats=-float(np.log(fitting.probabilities(sample, gates)).sum()),
    )


def growing(
    past: list[Letter], future: list[Letter], study: Study, order: int, gates: Gates, at_once: bool
) -> Tally:
    """Return how well letters are predicted by models that know those before, or of days before."""
    total, counts = Tally(), fitting.counts_of(past, study.vocabulary, order)

    def known_from(numbered: tuple[int, Letter]) -> int:
        number, letter = numbered
        return number if at_once else int(letter.when // 86400)

    for _, group in groupby(enumerate(future), known_from):
        letters = [letter for _, letter in group]
        sample = fitting.sample(counts, fitting.passages_of(letters, study.targets))
        total += tally_of(sample, gates)
        counts = merge([counts, fitting.counts_of(letters, study.vocabulary, order)])
    return total


def without_place(gates: Gates) -> Gates:
    """Return gates for who knows nothing of a place but its context."""
    return Gates(gates.table, gates.size, 0 * gates.position, 0 * gates.row)


def tested(
    letters: list[Letter], study: Study, order: int, gates: Gates, refitted: Gates
) -> Iterator[tuple[str, str, Tally]]:
    """Yield the figures of one person, by system and number of letters."""
    past, future = split(letters, 0.2)
    passages = fitting.passages_of(future, study.targets)
    for amount in amounts_of(past):
        name = "all" if amount == len(past) else str(amount)
        whole = fitting.counts_of(past[-amount:], study.vocabulary, order)
        sample = fitting.sample(whole, passages)
        yield "model", name, tally_of(sample, gates)
        yield "no place", name, tally_of(sample, without_place(gates))
        cut = fitting.sample(in_two_letters(past[-amount:], study.vocabulary, order), passages)
        yield "two letters", name, tally_of(cut, gates)
        yield "two, refitted", name, tally_of(cut, refitted)
    for at_once in (False, True):
        tally = growing(past, future, study, order, gates, at_once)
        yield "at once" if at_once else "nightly", "all", tally


def best_single(letters: list[Letter], study: Study, order: int, gates: Gates) -> float:
    """Return by what share the best λ in hindsight cuts a person's perplexity."""
    past, future = split(letters, 0.2)
    counts = fitting.counts_of(past, study.vocabulary, order)
    own = PersonalModel.from_counts(counts, NOBODY, gates=gates)
    katz = PersonalModel.from_counts(counts, NOBODY, estimator="katz")
    found = hindsight(own, katz, future, [study.targets.of(letter) for letter in future])
    return max(found["single"], found["single_katz"])


def others(people: list[list[fitting.Sample]], part: int) -> list[list[fitting.Sample]]:
    """Return the samples of who is not tested in this part."""
    return [own for i, own in enumerate(people) if i % PARTS != part]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--order", type=int, default=5)
    add_global_lm(parser)
    options = parser.parse_args()
    study, order = open_study(options), options.order
    plain, two = (
        [
            list(fitting.samples(p, study.vocabulary, study.targets, order, learn))
            for p in study.people
        ]
        for learn in (fitting.counts_of, in_two_letters)
    )
    found: Rows = {}
    singles: list[float] = []
    for part in range(PARTS):
        gates = [fitting.fit(others(people, part), order) for people in (plain, two)]
        for letters in study.people[part::PARTS]:
            for system, name, tally in tested(letters, study, order, *gates):
                found.setdefault((system, name), []).append(tally)
            singles.append(best_single(letters, study, order, gates[0]))
    print("system           letters people  mean reduction  pooled  improved  worst")
    for (system, name), rows in sorted(found.items(), key=_place):
        reductions = np.array([row.reduction for row in rows])
        print(
            f"{system:16} {name:>7} {len(rows):6}  {reductions.mean():14.1%}  "
            f"{_pooled(rows):6.1%}  {(reductions > 0).mean():8.1%}  {reductions.min():6.2%}"
        )
    ours = np.array([row.reduction for row in found["model", "all"]])
    best = np.array(singles)
    print(f"one λ in hindsight   all {len(best):6}  {best.mean():14.1%}")
    print(f"the model beats it for {(ours > best).mean():.1%} of them")


def _place(item: tuple[tuple[str, str], list[Tally]]) -> tuple[str, int]:
    (system, name), _ = item
    return system, int(name) if name.isdigit() else 1 << 30


def _pooled(rows: list[Tally]) -> float:
    total = Tally()
    for row in rows:
        total += row
    return total.reduction


if __name__ == "__main__":
    main()
