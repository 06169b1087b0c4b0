"""What personalization is worth by estimator, with gates that were fitted on other people only.

    python -m tests.benchmarks.estimators MAIL... [--by-file] [--as-is] [--order 5]

``perslm evaluate`` uses the gates that come with perslm; whose mail they were fitted on cannot tell
how good they are. Here people are dealt into seven parts, and each is tested with gates of the
other six. The test is the newest fifth of a person's letters; counts are of all before, and of the
last 10, 30, … of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from builders import gates as fitting
from builders.build import specials
from builders.clean import KINDS
from builders.evaluate.mail import Letter, letters_of
from builders.evaluate.measure import Tally, tally
from builders.evaluate.run import AMOUNTS, split
from builders.evaluate.targets import Targets
from builders.prepare import Settings
from builders.routing import Router
from perslm._scoring import compile_counts
from perslm.blob import Metadata
from perslm.counts import Counts, count
from perslm.global_lm import open_global_lm
from perslm.model import PersonalModel
from perslm.vocabulary import Vocabulary

PARTS = 7
NOBODY = Metadata("0" * 32)


class Quiet:
    def stage(self, name: str, total: int) -> None: ...

    def advance(self, amount: int) -> None: ...


def counted(letters: list[Letter], order: int, vocabulary: Vocabulary) -> Counts:
    return count((s for letter in letters for s in letter.sequences), order, specials(vocabulary))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mail", nargs="+", type=Path)
    parser.add_argument("--by-file", action="store_true", help="a file is the mail of one person")
    parser.add_argument("--order", type=int, default=5)
    parser.add_argument("--global-lm", default="smollm2")
    parser.add_argument("--as-is", action="store_true", help="the mail holds own words only")
    parser.add_argument("--cache", type=Path, default=Path("global-logprobs"))
    options = parser.parse_args()
    shared = open_global_lm(options.global_lm)
    vocabulary, order = shared.vocabulary, options.order
    targets = Targets(shared, options.global_lm, options.cache)
    router = Router.for_sources(
        options.mail, user=None, me=(), by_file=options.by_file, progress=Quiet()
    )
    settings = Settings(languages=("all",), keep=KINDS) if options.as_is else Settings()
    mail = letters_of(
        options.mail, router=router, vocabulary=vocabulary, settings=settings, progress=Quiet()
    )
    people = [letters for letters in mail.values() if len(letters) >= fitting.FEWEST_LETTERS]
    samples = [list(fitting.samples(p, vocabulary, targets, order)) for p in people]
    found: dict[tuple[str, str], list[Tally]] = {}
    for part in range(PARTS):
        others = [s for i, own in enumerate(samples) if i % PARTS != part for s in own]
        fitted = fitting.fit(others, order)
        for letters in people[part::PARTS]:
            past, future = split(letters, 0.2)
            expected = [targets.of(letter) for letter in future]
            for amount in [*(a for a in AMOUNTS if a < len(past)), len(past)]:
                counts = counted(past[-amount:], order, vocabulary)
                models = {
                    "backoff": PersonalModel(compile_counts(counts, fitted), NOBODY, counts),
                    "katz": PersonalModel.from_counts(counts, NOBODY, estimator="katz"),
                }
                name = "all" if amount == len(past) else str(amount)
                for estimator, model in models.items():
                    rows = found.setdefault((estimator, name), [])
                    rows.append(tally(model, future, expected))
    print("estimator letters people  mean reduction  pooled  improved  worst")
    for (estimator, name), rows in found.items():
        reductions = np.array([row.reduction for row in rows])
        pooled = _pooled(rows)
        print(
            f"{estimator:9} {name:>7} {len(rows):6}  {reductions.mean():14.1%}  {pooled:6.1%}  "
            f"{(reductions > 0).mean():8.1%}  {reductions.min():5.1%}"
        )


def _pooled(rows: list[Tally]) -> float:
    total = Tally()
    for row in rows:
        total += row
    return total.reduction


if __name__ == "__main__":
    main()
