"""What suggesters answer at places of people's mail, kept on disk: it takes long to ask.

Several places and all systems that share a global LM are asked for at once
(``Suggester.suggest_together``). Every answer is kept as it comes, as numbers without text, so a
run that was killed goes on where it stopped, and one that wants more places asks only for these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builders.evaluate.mail import Letter
from builders.evaluate.typing import Outcome, Place, judged
from perslm.model import Scorer
from perslm.suggest import Suggester

TOGETHER = 4
"""Places that are asked for at once: more would save little time of a neural LM."""


@dataclass(frozen=True, slots=True)
class System:
    """One that makes suggestions, and the ``name`` of all that its answers depend on."""

    name: str
    suggester: Suggester
    personal: Scorer | None = None


class Answers:
    """Asks each system once for each place, and keeps the answers in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(
        self,
        mail: str,
        letters: Sequence[Letter],
        where: Sequence[Place],
        systems: Mapping[str, System],
        on_places: Callable[[int], None],
    ) -> dict[str, list[Outcome]]:
        """Return what became of every system's best suggestion at each place.

        ``mail`` names the letters. ``on_places`` hears how many are done.
        """
        paths = {key: self._path(mail, system) for key, system in systems.items()}
        known = {key: _read(path) for key, path in paths.items()}
        self._folder.mkdir(parents=True, exist_ok=True)
        for begin in range(0, len(where), TOGETHER):
            some = where[begin : begin + TOGETHER]
            missing = [(key, p) for p in some for key in systems if p not in known[key]]
            for key, place, outcome in _asked(letters, systems, missing):
                known[key][place] = outcome
                line = json.dumps([place.letter, place.cursor, *outcome.as_json()])
                with paths[key].open("a") as file:
                    file.write(line + "\n")
            on_places(len(some))
        return {key: [known[key][place] for place in where] for key in systems}

    def _path(self, mail: str, system: System) -> Path:
        digest = hashlib.blake2b(f"{mail} {system.name}".encode(), digest_size=16)
        return self._folder / f"{digest.hexdigest()}.jsonl"


def _asked(
    letters: Sequence[Letter],
    systems: Mapping[str, System],
    missing: Sequence[tuple[str, Place]],
) -> list[tuple[str, Place, Outcome]]:
    found = []
    for suggester in {id(s.suggester): s.suggester for s in systems.values()}.values():
        own = [(key, place) for key, place in missing if systems[key].suggester is suggester]
        texts = [letters[place.letter].text[: place.cursor] for _, place in own]
        scorers = [systems[key].personal for key, _ in own]
        answers = suggester.suggest_together(list(zip(texts, scorers, strict=True)))
        for (key, place), suggestions in zip(own, answers, strict=True):
            written = letters[place.letter].text[place.cursor :]
            found.append((key, place, judged(suggestions, written)))
    return found


def _read(path: Path) -> dict[Place, Outcome]:
    """Return the answers of a file; a run that died may have cut one."""
    known = {}
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    for line in lines:
        try:
            letter, cursor, *fields = json.loads(line)
            known[Place(letter, cursor)] = Outcome.from_json(fields)
        except ValueError:
            continue
    if not path.read_bytes().endswith(b"\n"):
        with path.open("a") as file:
            file.write("\n")
    return known
