"""One user at one order, as perslm holds the model and as every peer does."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from perslm import arpa, blob
from perslm.automaton import Automaton
from perslm.bench import peers
from perslm.bench.corpus import SPECIALS
from perslm.counts import Counts, Specials, count
from perslm.model import PersonalModel
from perslm.vocabulary import Sequence

METADATA = blob.Metadata("0" * 32)
"""Of every blob; the fingerprint is compared with nothing here."""


class Subject:
    """A user's sentences made into models, each when it is first asked for."""

    def __init__(
        self, sentences: list[Sequence], order: int, folder: Path, specials: Specials = SPECIALS
    ) -> None:
        self.sentences = sentences
        self.order = order
        self.counts: Counts = count(sentences, order, specials)
        self.blob = blob.encode(self.counts, METADATA)
        self.ngrams = sum(self.counts.ngrams)
        self._folder = folder

    @cached_property
    def model(self) -> PersonalModel:
        """Return the model as everybody gets it: from its blob."""
        return PersonalModel.from_blob(self.blob, estimator="katz")

    @cached_property
    def twin(self) -> PersonalModel:
        """Return the model that numpy computes with."""
        return peers.on_numpy(PersonalModel.from_blob)(self.blob, estimator="katz")

    @cached_property
    def automaton(self) -> Automaton:
        """Return the reference automaton, of which the peers are made."""
        return self.twin.automaton

    def places(self, histories: Iterable[tuple[int, ...]]) -> list[int]:
        """Return the automaton's state of each history: the longest context that it knows."""
        return [
            next(
                self._contexts[history[cut:]]
                for cut in range(max(0, len(history) + 1 - self.order), len(history) + 1)
                if history[cut:] in self._contexts
            )
            for history in histories
        ]

    @cached_property
    def _contexts(self) -> dict[tuple[int, ...], int]:
        return {words: state for state, words in enumerate(arpa.context_words(self.automaton))}

    @cached_property
    def arcs(self) -> peers.Arcs:
        """Return the Python dict."""
        return peers.Arcs(self.automaton)

    @cached_property
    def kenlm(self) -> peers.Kenlm | None:
        """Return KenLM's model, or None where it is not installed."""
        module = peers.kenlm()
        return None if module is None else peers.Kenlm.of(module, self.automaton, self._folder)

    @cached_property
    def fst(self) -> peers.Fst | None:
        """Return OpenFst's acceptor, or None where it is not installed."""
        module = peers.openfst_module()
        return None if module is None else peers.Fst(module, self.automaton)
