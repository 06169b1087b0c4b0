"""Sources to letters: what a person wrote, when, as the global LM and as the counts see it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from builders.duplicates import digests
from builders.prepare import Settings, Skip, correspondents, own_text
from builders.read import Unreadable, read, size
from builders.routing import Progress, Router
from perslm.vocabulary import Sequence, Vocabulary

Ids = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Letter:
    """One message of a person.

    ``passages`` are what the global LM reads from a start: token ids that begin with ``<s>``. With
    a word vocabulary they are sentences, closed by ``</s>``. With an imported tokenizer they are
    whole texts and stay open: most LMs never saw where mail ends, and would look worse than what
    they are used for. ``sequences`` are what is counted of it. ``when`` is a POSIX time, or 0.
    """

    when: float
    words: int
    text: str = field(repr=False)
    passages: tuple[Ids, ...] = field(repr=False)
    sequences: tuple[Sequence, ...] = field(repr=False)

    @property
    def tokens(self) -> int:
        """Return how many tokens there are to predict."""
        return sum(len(ids) - 1 for ids in self.passages)


def letters_of(
    sources: Iterable[Path],
    *,
    router: Router,
    vocabulary: Vocabulary,
    settings: Settings,
    progress: Progress,
) -> dict[str, list[Letter]]:
    """Return every user's letters, oldest first and without copies.

    Unreadable messages are left out. Raises SourceError for a source that is no mail.
    """
    paths = list(sources)
    progress.stage("reading", sum(map(size, paths)))
    found: dict[str, list[Letter]] = {}
    seen: dict[str, set[bytes]] = {}

    def ignore(_: Unreadable) -> None:
        """A build reports it; what cannot be read can be neither learned nor predicted."""

    for path in paths:
        for message in read(path, on_error=ignore):
            user = router.user(message, path)
            text = user if isinstance(user, Skip) else own_text(message, settings)
            if isinstance(user, Skip) or isinstance(text, Skip):
                continue
            known = seen.setdefault(user, set())
            marks = digests(message)
            if known.isdisjoint(marks):
                names = correspondents(message)
                when = message.date.timestamp() if message.date else 0.0
                letter = letter_of(text, vocabulary, when=when, names=names)
                if letter.passages:
                    found.setdefault(user, []).append(letter)
            known.update(marks)
        progress.advance(size(path))
    for letters in found.values():
        letters.sort(key=lambda letter: letter.when)
    return found


def letter_of(
    text: str, vocabulary: Vocabulary, *, when: float = 0.0, names: Iterable[str] = ()
) -> Letter:
    """Return the letter of one text."""
    sequences = tuple(s for s in vocabulary.encode(text, names=names) if s.ids)
    if vocabulary.kind == "words":
        texts = [[vocabulary.bos, *s.ids, vocabulary.eos] for s in sequences]
    else:
        texts = [vocabulary.history(text)]
    passages = tuple(np.array(ids, np.uint32) for ids in texts if len(ids) > 1)
    return Letter(when, len(text.split()), text, passages, sequences)
