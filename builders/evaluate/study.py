"""What a study over many people's mail is given: options, the letters, the global LM's answers.

``builders.gates`` and ``tests/benchmarks`` are such studies. What ``perslm evaluate`` is given is
its own affair (``perslm/cli/evaluate.py``).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builders.clean import KINDS
from builders.evaluate.mail import Letter, letters_of
from builders.evaluate.targets import Targets
from builders.prepare import Settings
from builders.routing import Router
from perslm.global_lm import open_global_lm
from perslm.vocabulary import Vocabulary

FEWEST_LETTERS = 20
"""Who has fewer says little about what a model of mail is worth."""


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """The letters of each person who has enough, oldest first, and what the global LM says."""

    vocabulary: Vocabulary
    targets: Targets
    people: list[list[Letter]]


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that all studies have, told by the first line of a docstring.

    They are ``mail``, ``by_file`` and ``as_is``.
    """
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("mail", nargs="+", type=Path)
    parser.add_argument("--by-file", action="store_true", help="a file is the mail of one person")
    parser.add_argument("--as-is", action="store_true", help="the mail holds own words only")
    return parser


def add_global_lm(parser: argparse.ArgumentParser) -> None:
    """Add the options of who asks one global LM: ``global_lm`` and ``cache``."""
    parser.add_argument("--global-lm", default="smollm2")
    parser.add_argument("--cache", type=Path, default=Path("global-logprobs"))


def open_study(options: argparse.Namespace) -> Study:
    """Read the mail; ``options`` are those of both functions above."""
    model = open_global_lm(options.global_lm)
    mail = mail_of(options.mail, model.vocabulary, by_file=options.by_file, as_is=options.as_is)
    return Study(
        model.vocabulary,
        Targets(model, options.global_lm, options.cache),
        [letters for letters in mail if len(letters) >= FEWEST_LETTERS],
    )


def mail_of(
    sources: Sequence[Path], vocabulary: Vocabulary, *, by_file: bool, as_is: bool
) -> list[list[Letter]]:
    """Return the letters of each person, oldest first; people by their ids."""
    progress = _Quiet()
    router = Router.for_sources(sources, user=None, me=(), by_file=by_file, progress=progress)
    settings = Settings(languages=("all",), keep=KINDS) if as_is else Settings()
    found = letters_of(
        sources, router=router, vocabulary=vocabulary, settings=settings, progress=progress
    )
    return [found[user] for user in sorted(found)]


class _Quiet:
    def stage(self, name: str, total: int) -> None:
        """As ``builders.routing.Progress``."""

    def advance(self, amount: int) -> None:
        """As ``builders.routing.Progress``."""
