"""What is left of the gain if models may have so many bytes: the rule beside the newest mail alone.

    python -m tests.benchmarks.budget MAIL... [--by-file] [--as-is] [--order 5]

The test is the newest fifth of a person's letters, as in ``tests.benchmarks.estimators``. Gates are
those that come with perslm, and so are the rule's coefficients: if either was fitted on older mail
of these very people, what a budget costs is told about right, what a model is worth a little too
well. ``rule`` is ``perslm build --max-bytes``; ``newest`` leaves out as many of the oldest letters
as it takes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from builders import gates as fitting
from builders.clean import KINDS
from builders.evaluate.mail import Letter, letters_of
from builders.evaluate.measure import tally
from builders.evaluate.run import split
from builders.evaluate.targets import Targets
from builders.prepare import Settings
from builders.pruning import shrink
from builders.routing import Router
from perslm.blob import Metadata, encode
from perslm.counts import Counts
from perslm.global_lm import open_global_lm
from perslm.model import PersonalModel
from perslm.vocabulary import Vocabulary
from tests.benchmarks.estimators import Quiet, counted

BUDGETS = (4096, 8192, 16384, 32768)
NOBODY = Metadata("0" * 32)


def newest(letters: list[Letter], order: int, vocabulary: Vocabulary, most: int) -> Counts:
    """Return the counts of the most letters, the last ones, whose blob has ``most`` bytes."""
    fits, too_many = 0, len(letters) + 1
    while fits + 1 < too_many:
        tried = (fits + too_many) // 2
        counts = counted(letters[len(letters) - tried :], order, vocabulary)
        if len(encode(counts, NOBODY)) <= most:
            fits = tried
        else:
            too_many = tried
    return counted(letters[len(letters) - fits :], order, vocabulary)


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
    found: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for letters in mail.values():
        if len(letters) < fitting.FEWEST_LETTERS:
            continue
        past, future = split(letters, 0.2)
        expected = [targets.of(letter) for letter in future]
        whole = counted(past, order, vocabulary)
        models = {("none", 0): whole}
        for most in BUDGETS:
            models["rule", most] = shrink(whole, NOBODY, most)[0]
            models["newest", most] = newest(past, order, vocabulary, most)
        for name, counts in models.items():
            row = tally(PersonalModel.from_counts(counts, NOBODY), future, expected)
            found.setdefault(name, []).append((len(encode(counts, NOBODY)), row.reduction))
    best = np.mean([reduction for _, reduction in found["none", 0]])
    print("budget  what    people  mean bytes  mean reduction  of the gain  worst")
    for (name, most), rows in sorted(found.items(), key=lambda item: item[0][1]):
        sizes, reductions = np.array(rows).T
        print(
            f"{most or '':>6}  {name:6}  {len(rows):6}  {sizes.mean():10.0f}  "
            f"{reductions.mean():14.1%}  {reductions.mean() / best:11.1%}  {reductions.min():5.1%}"
        )


if __name__ == "__main__":
    main()
