"""Gates for each person that were fitted on others: what weights are worth to somebody new.

The gates that come with perslm cannot tell it of those whose mail they were fitted on. People are
dealt into PARTS parts, and each part is tested with the gates of the other parts. A person's test
has no part in anybody's gates: they are fitted on the older mail only (``builders.gates``).
"""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Final

import numpy as np

from builders import gates as fitting
from builders.evaluate.mail import Letter
from builders.evaluate.study import FEWEST_LETTERS
from builders.evaluate.targets import Targets
from builders.routing import Progress
from perslm.backoff import Gates
from perslm.errors import ArgumentError
from perslm.vocabulary import Vocabulary

PARTS: Final = 7


def cross_fit(
    mail: dict[str, list[Letter]],
    *,
    name: str,
    vocabulary: Vocabulary,
    targets: Targets,
    order: int,
    folder: Path,
    progress: Progress,
) -> dict[str, Gates]:
    """Return the gates for each person of ``mail``; they are kept in ``folder`` under ``name``.

    Raises ArgumentError if fewer than two people wrote enough to fit anything on.
    """
    users = [user for user, letters in mail.items() if len(letters) >= FEWEST_LETTERS]
    parts = min(PARTS, len(users))
    if parts < 2:
        raise ArgumentError(
            f"gates of others need two people with {FEWEST_LETTERS} messages: give more mail, or "
            "leave out --cross-fit"
        )
    progress.stage("fitting", parts)
    folder.mkdir(parents=True, exist_ok=True)
    samples: dict[str, list[fitting.Sample]] = {}
    fitted = []
    for part in range(parts):
        path = folder / f"{hashlib.blake2b(f'{name} {part}'.encode(), digest_size=16).hexdigest()}"
        gates = _kept(path)
        if gates is None:
            for user in users:
                if user not in samples:
                    own = fitting.samples(mail[user], vocabulary, targets, order)
                    samples[user] = list(own)
            others = [samples[user] for i, user in enumerate(users) if i % parts != part]
            gates = fitting.fit(others, order)
            _keep(path, gates)
        fitted.append(gates)
        progress.advance(1)
    their = {user: fitted[i % parts] for i, user in enumerate(users)}
    return {user: their.get(user, fitted[0]) for user in mail}


def _keep(path: Path, gates: Gates) -> None:
    beside = path.with_suffix(".partial.npz")
    np.savez(beside, **{field.name: getattr(gates, field.name) for field in fields(gates)})
    beside.replace(path)


def _kept(path: Path) -> Gates | None:
    try:
        with np.load(path) as arrays:
            return Gates(**{name: arrays[name] for name in arrays.files})
    except FileNotFoundError:
        return None
