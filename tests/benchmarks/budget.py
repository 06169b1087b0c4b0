"""What is left of the gain if models may have so many bytes: the rule beside the newest mail alone.

    python -m tests.benchmarks.budget MAIL... [--by-file] [--as-is] [--order 5]

The test is the newest fifth of a person's letters, as in ``tests.benchmarks.estimators``. Gates are
those that come with perslm, and so are the rule's coefficients: if either was fitted on older mail
of these very people, what a budget costs is told about right, what a model is worth a little too
well. ``rule`` is ``perslm build --max-bytes``; ``newest`` leaves out as many of the oldest letters
as it takes.
"""

from __future__ import annotations

import numpy as np

from builders.evaluate.mail import Letter
from builders.evaluate.measure import tally
from builders.evaluate.run import split
from builders.evaluate.study import add_global_lm, open_study, parser_of
from builders.gates import counts_of
from builders.pruning import shrink
from perslm.blob import Metadata, encode
from perslm.counts import Counts
from perslm.model import PersonalModel
from perslm.vocabulary import Vocabulary

BUDGETS = (4096, 8192, 16384, 32768)
NOBODY = Metadata("0" * 32)


def newest(letters: list[Letter], order: int, vocabulary: Vocabulary, most: int) -> Counts:
    """Return the counts of the most letters, the last ones, whose blob has ``most`` bytes."""
    fits, too_many = 0, len(letters) + 1
    while fits + 1 < too_many:
        tried = (fits + too_many) // 2
        counts = counts_of(letters[len(letters) - tried :], vocabulary, order)
        if len(encode(counts, NOBODY)) <= most:
            fits = tried
        else:
            too_many = tried
    return counts_of(letters[len(letters) - fits :], vocabulary, order)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--order", type=int, default=5)
    add_global_lm(parser)
    options = parser.parse_args()
    study, order = open_study(options), options.order
    found: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for letters in study.people:
        past, future = split(letters, 0.2)
        expected = [study.targets.of(letter) for letter in future]
        whole = counts_of(past, study.vocabulary, order)
        models = {("none", 0): whole}
        for most in BUDGETS:
            models["rule", most] = shrink(whole, NOBODY, most)[0]
            models["newest", most] = newest(past, order, study.vocabulary, most)
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
