"""The evaluation of many people, one after the other; it goes on where it stopped.

Of each person's letters, oldest first, the newest fifth is the test. Models are built from the
letters before it: all of them, and the last 10, 30, … only, as if the person had just begun.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from builders.build import specials
from builders.evaluate.mail import Letter
from builders.evaluate.measure import tally
from builders.evaluate.targets import Targets
from builders.evaluate.typing import outcomes, places
from builders.routing import Progress
from perslm import blob
from perslm.counts import count
from perslm.errors import ArgumentError
from perslm.model import PersonalModel
from perslm.suggest import Suggester
from perslm.vocabulary import Vocabulary

AMOUNTS: Final = (10, 30, 100, 300, 1000)
FEWEST_LETTERS: Final = 10
"""A person with fewer has no past to learn from and no future to test on."""

Maker = Callable[[list[Letter]], bytes]
"""Makes the blob of a person's letters, oldest first."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to evaluate: settings that are part of the results' names on disk.

    ``amounts`` are how many letters to learn from, besides all; ``test_share`` is how much of the
    mail is the test, ``places`` how many suggestions a person is asked for (0: none).
    """

    order: int = 3
    test_share: float = 0.2
    amounts: tuple[int, ...] = AMOUNTS
    places: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1:
            raise ArgumentError("the share of test mail lies between 0 and 1")
        if any(amount < 1 for amount in self.amounts):
            raise ArgumentError("amounts of training mail are at least 1")


def counted(letters: list[Letter], vocabulary: Vocabulary, order: int) -> bytes:
    """Return the blob of these letters, as a build makes it."""
    sequences = (s for letter in letters for s in letter.sequences)
    counts = count(sequences, order, specials(vocabulary))
    return blob.encode(counts, blob.Metadata(vocabulary.fingerprint, len(letters)))


def split(letters: list[Letter], test_share: float) -> tuple[list[Letter], list[Letter]]:
    """Return the letters to learn from and the newer ones to test on; each has at least one."""
    tests = min(len(letters) - 1, max(1, math.ceil(test_share * len(letters))))
    return letters[:-tests], letters[-tests:]


def amounts_of(letters: list[Letter], amounts: Sequence[int] = AMOUNTS) -> list[int]:
    """Return of how many of the newest letters models are built: ``amounts``, and all, last."""
    return [*(a for a in amounts if a < len(letters)), len(letters)]


def evaluate_user(
    user: str,
    letters: list[Letter],
    *,
    plan: Plan,
    make: Maker,
    targets: Targets,
    suggester: Suggester | None,
    progress: Progress,
) -> dict[str, Any]:
    """Return one person's figures, as JSON has them."""
    past, future = split(letters, plan.test_share)
    expected = targets.all_of(future, progress.advance)
    amounts: dict[str, Any] = {}
    for amount in [*(a for a in plan.amounts if a < len(past)), None]:
        data = make(past if amount is None else past[-amount:])
        model = PersonalModel.from_blob(data)
        figures: dict[str, Any] = tally(model, future, expected).as_json()
        figures["bytes"] = len(data)
        amounts["all" if amount is None else str(amount)] = figures
    result = {
        "user": user,
        "letters": len(past),
        "test_letters": len(future),
        "amounts": amounts,
        "typing": None,
    }
    if suggester is not None:
        where = places(user, future, plan.places)
        result["typing"] = {
            system: [o.as_json() for o in outcomes(suggester, personal, future, where)]
            for system, personal in (("global", None), ("mixed", model))
        }
    return result


def evaluate(
    mail: dict[str, list[Letter]],
    *,
    plan: Plan,
    make: Maker,
    targets: Targets,
    suggester: Suggester | None,
    folder: Path,
    progress: Progress,
) -> tuple[list[dict[str, Any]], Collection[str]]:
    """Return every person's figures, and who has too little mail to be tested.

    Figures of people who were done are read from ``folder``, if their mail is still the same; a
    person's are written when they are whole. Settings that change them belong in the folder's name.
    """
    chosen = {user: letters for user, letters in mail.items() if len(letters) >= FEWEST_LETTERS}
    folder.mkdir(parents=True, exist_ok=True)
    tokens = {user: _test_tokens(letters, plan) for user, letters in chosen.items()}
    progress.stage("testing", sum(tokens.values()))
    found = []
    for user in sorted(chosen):
        path = folder / f"{hashlib.blake2b(user.encode(), digest_size=8).hexdigest()}.json"
        mail_digest = _digest(user, chosen[user])
        figures = _kept(path, mail_digest)
        if figures is None:
            figures = evaluate_user(
                user,
                chosen[user],
                plan=plan,
                make=make,
                targets=targets,
                suggester=suggester,
                progress=progress,
            )
            beside = path.with_suffix(".partial")
            beside.write_text(json.dumps({"mail": mail_digest, "figures": figures}))
            beside.replace(path)
        else:
            progress.advance(tokens[user])
        found.append(figures)
    return found, sorted(set(mail) - set(chosen))


def _test_tokens(letters: list[Letter], plan: Plan) -> int:
    return sum(letter.tokens for letter in split(letters, plan.test_share)[1])


def _digest(user: str, letters: list[Letter]) -> str:
    """Return what tells whether figures are those of this mail."""
    digest = hashlib.blake2b(user.encode(), digest_size=16)
    for letter in letters:
        digest.update(f"{letter.when} {letter.words} {len(letter.passages)}".encode())
        for ids in letter.passages:
            digest.update(len(ids).to_bytes(8, "little") + ids.astype("<u4").tobytes())
    return digest.hexdigest()


def _kept(path: Path, mail_digest: str) -> dict[str, Any] | None:
    try:
        kept = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # none, or cut off
        return None
    found: dict[str, Any] = kept["figures"]
    return found if kept["mail"] == mail_digest else None
