"""A logits processor that personalizes Hugging Face ``generate()``::

    processor = PersonalLogitsProcessor([alice, bob], vocabulary, pad=tokenizer.pad_token_id)
    model.generate(**two_prompts, num_beams=8, logits_processor=[processor])

It works in greedy search, sampling and beam search, for a batch of prompts of different users, with
``num_return_sequences``, with left padding and with or without cached decoding. The personal states
are read from ``input_ids`` at each step, and so is how much text there is already: there is nothing
to remember between steps and nothing that reordered beams could get wrong.

The arithmetic is that of ``perslm.model``; global LMs for perslm's own beam search are in
``perslm.global_lm``. Needs the extra ``hf``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from perslm.counts import MAX_ORDER
from perslm.errors import ArgumentError, MissingExtraError, VocabularyMismatchError
from perslm.interpolate import Float32Array
from perslm.model import NullModel, Scorer, check_vocabulary
from perslm.vocabulary import Vocabulary

try:
    import torch
except ImportError:
    raise MissingExtraError("the logits processor", "hf") from None

__all__ = ["PersonalLogitsProcessor", "UserModel"]

_DEPTH = MAX_ORDER - 1
"""Ids of history that can matter to a model."""

_NORMALIZED = 1e-3
"""How far from 0 the log of a row's sum may be if the row holds log-probabilities."""


class UserModel(Scorer, Protocol):
    """What the processor is given: a PersonalModel, a RemoteModel or a NullModel."""

    @property
    def vocabulary_fingerprint(self) -> str:
        """Return which vocabulary the model was built with."""

    @property
    def vocabulary_size(self) -> int:
        """Return how many ids that has."""


class PersonalLogitsProcessor:
    """Mixes each user's model into the scores of the rows that are theirs.

    ``models`` is one model for all rows, or one for each prompt of the batch, in order; the rows of
    a prompt (its beams, or its ``num_return_sequences``) follow each other, as ``generate`` lays
    them out. Models are shared and read only; one processor may serve many calls, of batches of as
    many prompts.

    ``vocabulary`` is that of the LM's tokenizer. A model that was built with another one counts as
    no model, its reason ``vocabulary_mismatch``; with ``strict`` it raises VocabularyMismatchError
    instead.

    ``pad`` is the id that fills short prompts on the left, the tokenizer's ``pad_token_id``, if the
    batch is padded. What follows the padding is taken for the beginning of the user's text
    (``<s>``), and every ``</s>`` in it for the beginning of a new one.

    ``normalized`` says what the scores are: log-probabilities, as in beam search (True), or logits,
    as in greedy search and sampling (False). By default they are log-probabilities if the first
    row's sum to 1. Name it if a processor before this one takes tokens out of beam search.
    """

    def __init__(
        self,
        models: UserModel | Sequence[UserModel],
        vocabulary: Vocabulary,
        *,
        pad: int | None = None,
        normalized: bool | None = None,
        strict: bool = False,
    ) -> None:
        given = models if isinstance(models, Sequence) else [models]
        self.models = tuple(_checked(model, vocabulary, strict) for model in given)
        if not self.models:
            raise ArgumentError("a processor needs a model for each prompt, or one for all")
        self._vocabulary = vocabulary
        self._ends = torch.tensor([vocabulary.bos, vocabulary.eos])
        self._pad = pad
        self._normalized = normalized

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return ln(λ·p_personal + (1−λ)·p_global), [rows, width], as ``generate`` asks for it.

        ``input_ids`` is int64[rows, length], ``scores`` floats [rows, width] on any device; neither
        is changed. Rows of weight 0 come back bit for bit; if all are, ``scores`` itself is
        returned. Other rows come back as log-probabilities, in the dtype and on the device of
        ``scores``; tokens of score −inf, which other processors have forbidden, keep it.

        Raises ArgumentError if the rows cannot be divided among the prompts.
        """
        share, rest = divmod(len(scores), len(self.models))
        if rest or len(input_ids) != len(scores):
            raise ArgumentError(
                f"{len(scores)} rows of scores, {len(input_ids)} of ids and "
                f"{len(self.models)} models do not go together: give one model for each prompt"
            )
        if all(isinstance(model, NullModel) for model in self.models):
            return scores
        histories = self._histories(input_ids)
        positions = self._positions(input_ids)
        rows, as_they_were = self._rows(scores)
        parts = []
        for i, model in enumerate(self.models):
            own = slice(i * share, (i + 1) * share)
            part = rows[own]
            mixed = model.mix(model.states(histories[own]), part, positions=positions[own])
            parts.append((part, mixed))
        if all(mixed is part for part, mixed in parts):
            return scores
        joined = parts[0][1] if len(parts) == 1 else np.concatenate([mixed for _, mixed in parts])
        width = scores.shape[1]
        if rows[:, :width].min(initial=0) == -np.inf:
            joined[rows == -np.inf] = -np.inf
        result = torch.from_numpy(joined[:, :width]).to(scores.device, scores.dtype)
        if not as_they_were:  # what nobody changed goes back as the logits that came
            silent = [i for i, row in enumerate(joined) if np.array_equal(row, rows[i])]
            result[silent] = scores[silent]
        return result

    def _histories(self, input_ids: Any) -> list[list[int]]:
        """Return what each row's text ends with, opened by ``<s>`` if its beginning is near."""
        length = input_ids.shape[1]
        recent: list[list[int]] = input_ids[:, -_DEPTH:].tolist()
        for i, row in enumerate(recent):
            padded = row[:1] == [self._pad] and bool((input_ids[i, :-_DEPTH] == self._pad).all())
            if padded:
                row = row[next((k for k, w in enumerate(row) if w != self._pad), len(row)) :]
            if padded or length < _DEPTH:
                recent[i] = [self._vocabulary.bos, *row]
        return recent

    def _positions(self, input_ids: Any) -> npt.NDArray[np.int64]:
        """Return how many tokens of each row's text there are, since padding, ``<s>`` or ``</s>``.

        int64[rows]; everything is text if there is none of them.
        """
        before = torch.isin(input_ids, self._ends.to(input_ids.device))
        if self._pad is not None:
            before |= (input_ids == self._pad).cumprod(1).bool()
        length = input_ids.shape[1]
        behind = torch.arange(1, length + 1, device=input_ids.device)
        begins = (before * behind).max(1).values if length else before.sum(1)
        positions: npt.NDArray[np.int64] = (length - begins).cpu().numpy()
        return positions

    def _rows(self, scores: Any) -> tuple[Float32Array, bool]:
        """Return log-probabilities, at least as wide as the models; whether they are the scores."""
        floats = scores.detach().float()
        normalized = self._normalized
        if normalized is None:
            normalized = len(scores) > 0 and abs(float(floats[0].logsumexp(0))) < _NORMALIZED
        if not normalized:
            floats = floats.log_softmax(-1)
        rows: Float32Array = floats.cpu().contiguous().numpy()
        missing = max(model.vocabulary_size for model in self.models) - rows.shape[1]
        if missing > 0:  # added tokens that the LM has no column for
            rows = np.pad(rows, ((0, 0), (0, missing)), constant_values=-np.inf)
        return rows, normalized

    def __repr__(self) -> str:
        return f"PersonalLogitsProcessor({len(self.models)} models)"


def _checked(model: UserModel, vocabulary: Vocabulary, strict: bool) -> UserModel:
    """Return the model, or the null model if it was built with another vocabulary."""
    if isinstance(model, NullModel):
        return model
    try:
        check_vocabulary(vocabulary, model.vocabulary_fingerprint, model.vocabulary_size)
    except VocabularyMismatchError:
        if strict:
            raise
        return NullModel("vocabulary_mismatch")
    return model
