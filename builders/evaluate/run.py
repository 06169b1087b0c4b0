"""The evaluation of many people, one after the other; it goes on where it stopped.

Of each person's letters, oldest first, the newest fifth is the test. Models are built from the
letters before it: all of them, and the last 10, 30, … only, as if the person had just begun.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from builders.build import build_user
from builders.evaluate.answers import Answers, System
from builders.evaluate.hindsight import hindsight
from builders.evaluate.mail import Letter
from builders.evaluate.measure import tally
from builders.evaluate.targets import Targets
from builders.evaluate.typing import places
from builders.prepare import Prepared, Settings
from builders.routing import Progress
from perslm import blob
from perslm.backoff import Gates
from perslm.beam import PersonalOnly
from perslm.counts import Counts
from perslm.errors import ArgumentError
from perslm.interpolate import Float32Array
from perslm.model import PersonalModel
from perslm.suggest import Suggester
from perslm.vocabulary import Vocabulary

AMOUNTS: Final = (10, 30, 100, 300, 1000)
FEWEST_LETTERS: Final = 10
"""A person with fewer has no past to learn from and no future to test on."""


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A model of some letters: ``bytes`` is its size in the store, ``name`` its own alone."""

    model: PersonalModel
    counts: Counts
    bytes: int
    name: str

    def katz(self) -> PersonalModel:
        """Return what Katz makes of the same counts."""
        return PersonalModel.from_counts(self.counts, self.model.metadata, estimator="katz")


Models = Callable[[str, list[Letter], Settings], Made]
"""Makes a person's model of letters of theirs, oldest first."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to evaluate: settings that are part of the results' names on disk.

    ``amounts`` are how many letters to learn from, besides all; ``budgets`` how many bytes a model
    of all may have, besides any; ``test_share`` is how much of the mail is the test, ``places`` how
    many suggestions a person is asked for (0: none).
    """

    settings: Settings = field(default_factory=Settings)
    test_share: float = 0.2
    amounts: tuple[int, ...] = AMOUNTS
    budgets: tuple[int, ...] = ()
    places: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1:
            raise ArgumentError("the share of test mail lies between 0 and 1")
        if any(amount < 1 for amount in self.amounts):
            raise ArgumentError("amounts of training mail are at least 1")


def model_of(
    letters: list[Letter], vocabulary: Vocabulary, settings: Settings, gates: Gates
) -> Made:
    """Return the model that a build makes of these letters, with ``gates`` in it."""
    prepared = (Prepared("", letter.when, (), letter.sequences) for letter in letters)
    data = build_user("", prepared, vocabulary, settings).blob
    name = hashlib.blake2b(data, digest_size=16)
    for part in fields(gates):
        name.update(getattr(gates, part.name).tobytes())
    loaded = blob.decode(data)
    model = PersonalModel.from_counts(loaded.counts, loaded.metadata, gates=gates)
    return Made(model, loaded.counts, len(data), name.hexdigest())


def split(letters: list[Letter], test_share: float) -> tuple[list[Letter], list[Letter]]:
    """Return the letters to learn from and the newer ones to test on; each has at least one."""
    tests = min(len(letters) - 1, max(1, math.ceil(test_share * len(letters))))
    return letters[:-tests], letters[-tests:]


def amounts_of(letters: list[Letter], amounts: Sequence[int] = AMOUNTS) -> list[int]:
    """Return of how many of the newest letters models are built: ``amounts``, and all, last."""
    return [*(a for a in amounts if a < len(letters)), len(letters)]


def enough(mail: dict[str, list[Letter]]) -> dict[str, list[Letter]]:
    """Return the mail of those who have a past to learn from and a future to test on, by name."""
    return {user: mail[user] for user in sorted(mail) if len(mail[user]) >= FEWEST_LETTERS}


def evaluate(
    mail: dict[str, list[Letter]],
    *,
    plan: Plan,
    models: Models,
    targets: Targets,
    folder: Path,
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """Return every person's figures, as numbers that JSON has.

    Figures of people who were done are read from ``folder``, if their mail is still the same; a
    person's are written when they are whole. Settings that change them belong in the folder's name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens = {user: _test_tokens(letters, plan) for user, letters in mail.items()}
    progress.stage("testing", sum(tokens.values()))
    found = {}
    for user, letters in mail.items():
        path = folder / f"{mail_digest(user, letters)}.json"
        figures = _kept(path)
        if figures is None:
            figures = _figures(user, letters, plan, models, targets, progress)
            beside = path.with_suffix(f".{os.getpid()}")
            beside.write_text(json.dumps(figures))
            beside.replace(path)
        else:
            progress.advance(tokens[user])
        found[user] = figures
    return found


def _figures(
    user: str,
    letters: list[Letter],
    plan: Plan,
    models: Models,
    targets: Targets,
    progress: Progress,
) -> dict[str, Any]:
    past, future = split(letters, plan.test_share)
    expected = targets.all_of(future, progress.advance)
    amounts: dict[str, Any] = {}
    for amount in amounts_of(past, plan.amounts):
        made = models(user, past[-amount:], plan.settings)
        figures = _tallied(made, future, expected)
        amounts["all" if amount == len(past) else str(amount)] = figures
    amounts["all"] |= hindsight(made.model, made.katz(), future, expected)
    budgets: dict[str, Any] = {}
    for most in plan.budgets:
        within = models(user, past, replace(plan.settings, max_bytes=most))
        budgets[str(most)] = _tallied(within, future, expected)
    return {
        "letters": len(past),
        "test_letters": len(future),
        "amounts": amounts,
        "budgets": budgets,
    }


def _tallied(
    made: Made, letters: list[Letter], expected: list[list[Float32Array]]
) -> dict[str, float]:
    return {**tally(made.model, letters, expected).as_json(), "bytes": made.bytes}


def suggest(
    mail: dict[str, list[Letter]],
    *,
    plan: Plan,
    models: Models,
    suggester: Suggester,
    name: str,
    answers: Answers,
    progress: Progress,
) -> dict[str, dict[str, list[list[float | None]]]]:
    """Return what suggestions are worth to every person: by system, what became of each place.

    ``global`` is ``suggester`` alone, ``mixed`` with the person's model of all their older mail,
    ``personal`` that model without a global LM. ``name`` says what ``suggester`` is made of.
    """
    chosen = {
        user: places(user, split(letters, plan.test_share)[1], plan.places)
        for user, letters in mail.items()
    }
    progress.stage("suggesting", sum(map(len, chosen.values())))
    found = {}
    for user, letters in mail.items():
        past, future = split(letters, plan.test_share)
        made = models(user, past, plan.settings)
        alone = Suggester(PersonalOnly(made.model), suggester.vocabulary, best=1)
        systems = {
            "global": System(name, suggester),
            "mixed": System(f"{name} {made.name}", suggester, made.model),
            "personal": System(f"alone {made.name}", alone),
        }
        outcomes = answers.of(
            mail_digest(user, letters), future, chosen[user], systems, progress.advance
        )
        found[user] = {key: [o.as_json() for o in rows] for key, rows in outcomes.items()}
    return found


def _test_tokens(letters: list[Letter], plan: Plan) -> int:
    return sum(letter.tokens for letter in split(letters, plan.test_share)[1])


def mail_digest(user: str, letters: list[Letter]) -> str:
    """Return what tells whether figures are those of this mail of this person."""
    digest = hashlib.blake2b(user.encode(), digest_size=16)
    for letter in letters:
        digest.update(f"{letter.when} {letter.words} {len(letter.passages)}".encode())
        for ids in letter.passages:
            digest.update(len(ids).to_bytes(8, "little") + ids.astype("<u4").tobytes())
    return digest.hexdigest()


def _kept(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # none, or cut off
        return None
    return found
