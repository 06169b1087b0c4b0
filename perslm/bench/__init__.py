"""``perslm bench``: speed and size beside other libraries, measured in one run and one process.

============  =============================================================================
corpus        what is measured on: users' sentences, read or made up
steps         beam steps like those of production
subject       one user at one order, as perslm and as every peer holds it
peers         KenLM, OpenFst, a Python dict, the numpy twin
clock         timing: contenders in turn, medians, percentiles, spread
scoring       figures of speed on one user
sizes         figures of size and loading over all users
published     figures of tools that cannot be installed from PyPI
report        JSON and Markdown of a run
serving       ``perslm bench service``, which is a run of its own
============  =============================================================================

A benchmark that checks what it times: contenders whose answers differ from perslm's end the run.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Protocol

from perslm.bench import scoring, sizes
from perslm.bench.clock import Pace
from perslm.bench.corpus import BOS, EOS, SIZE, Corpus, count_tokens
from perslm.bench.report import Figure, Report
from perslm.bench.sizes import Sizes
from perslm.bench.steps import beam_steps, merge
from perslm.bench.subject import Subject
from perslm.counts import Specials

STEPS = 64
"""Different beam steps that a measurement goes through."""

ORDERS = (3, 4, 5)
MAIN = 3
"""The order of what is measured at one order only."""


class Progress(Protocol):
    """Who is told how far a run is."""

    def stage(self, name: str, total: int) -> None:
        """Say that ``total`` pieces of work begin."""

    def advance(self, amount: int) -> None:
        """Say that some of them are done."""


def run(corpus: Corpus, tokens: int, pace: Pace, progress: Progress) -> Report:
    """Measure everything; speed on the user who wrote about ``tokens`` tokens.

    Raises PerslmError if a contender's answers are not perslm's.
    """
    user, *others = corpus.by_size(tokens)
    other = others[0] if others else user
    report = Report(
        {
            "source": corpus.source,
            "users": len(corpus.users),
            "tokens": count_tokens(corpus.users[user]),
            "vocabulary": SIZE,
        }
    )
    with tempfile.TemporaryDirectory(prefix="perslm-bench-") as folder:
        _speed(report, corpus, (user, other), Path(folder), pace, progress)
        _sizes(report, corpus, user, Path(folder), pace, progress)
    return report


def _speed(
    report: Report,
    corpus: Corpus,
    pair: tuple[int, int],
    folder: Path,
    pace: Pace,
    progress: Progress,
) -> None:
    progress.stage("speed", 9 + len(ORDERS))
    user, other = pair

    def add(*figures: Figure) -> None:
        report.figures.extend(figures)
        progress.advance(len(figures))

    subjects = {order: Subject(corpus.users[user], order, folder) for order in ORDERS}
    beams = {
        order: beam_steps(corpus, user, subjects[order].model, number=STEPS) for order in ORDERS
    }
    report.corpus["ngrams"] = {order: subjects[order].ngrams for order in ORDERS}
    main, beam = subjects[MAIN], beams[MAIN]
    add(scoring.learn(main, pace), scoring.learn(subjects[ORDERS[-1]], pace))
    for order in ORDERS:
        add(scoring.step(subjects[order], beams[order], pace))
    add(scoring.word(main, beam, pace))
    add(scoring.distribution(main, beam, pace))
    add(scoring.continuations(main, beam, pace))
    narrow = Corpus(corpus.source, [corpus.users[user]], corpus.frequency).narrow(scoring.WIDTH)
    specials = Specials(scoring.WIDTH, BOS, EOS)
    mixed = Subject(narrow.users[0], MAIN, folder / "mixed", specials)
    add(*scoring.mix(mixed, beam_steps(narrow, 0, mixed.model, number=STEPS), pace))
    second = Subject(corpus.users[other], MAIN, folder / "second")
    both = [beam, beam_steps(corpus, other, second.model, number=STEPS)]
    add(scoring.threads([main, second], [[merge(own)] for own in both], "threads", pace))
    add(scoring.threads([main, second], both, "threads_small", pace))


def _sizes(
    report: Report, corpus: Corpus, user: int, folder: Path, pace: Pace, progress: Progress
) -> None:
    orders = (ORDERS[0], ORDERS[-1])
    progress.stage("sizes", len(corpus.users) * len(orders))
    found = []
    for order in orders:
        collected = Sizes(order, pace)
        largest: Subject | None = None
        for sentences in corpus.users:
            subject = Subject(sentences, order, folder)
            if subject.ngrams >= sizes.LARGE:
                collected.add(subject)
            elif largest is None or subject.ngrams > largest.ngrams:
                largest = subject
            progress.advance(1)
        if largest is not None and not collected.users:
            collected.add(largest)
        found.append(collected.figures())
        report.corpus["large_users"] = report.corpus.get("large_users", collected.users)
    report.figures += [figure for figures in zip(*found, strict=True) for figure in figures]
    report.figures += sizes.small(corpus, user, folder, MAIN)
