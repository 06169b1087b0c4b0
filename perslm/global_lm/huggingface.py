"""Any causal LM of Hugging Face ``transformers`` as a global LM.

The only code of the library that runs a neural network. Needs the extra ``hf``. The SmolLM2 that
comes as a package is prepared in ``perslm.global_lm.smollm2``.
"""

from __future__ import annotations

import inspect
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from perslm.errors import ArgumentError, MissingExtraError, VocabularyError
from perslm.interpolate import Float32Array
from perslm.vocabulary import Vocabulary

try:
    import torch
    import transformers

    from perslm.global_lm._tree import Tree, fits
except ImportError:
    raise MissingExtraError("a Hugging Face LM", "hf") from None

__all__ = ["HuggingFaceLM", "load_quietly"]

BLOCK = 128
"""Positions whose rows :meth:`HuggingFaceLM.sequence` holds at once: 25 MB of 49,152 columns."""


class HuggingFaceLM:
    """A causal LM that ``transformers`` has loaded (``perslm.global_lm.GlobalLM``).

    ``model`` is used where and in the precision it is in; ``vocabulary`` must be that of its
    tokenizer (``Vocabulary.from_tokenizer_json``). ``opening`` is the id that the LM sees for a
    virtual ``<s>``: by default ``</s>``, as with LMs that put one token between all texts, or the
    model's own ``bos_token_id``. Histories longer than the LM's context lose their beginning.

    Raises ArgumentError if there is no opening, or the LM has fewer columns than the vocabulary
    ids.
    """

    def __init__(self, model: Any, vocabulary: Vocabulary, *, opening: int | None = None) -> None:
        self._model = model.eval()
        self._vocabulary = vocabulary
        config = model.config.get_text_config()
        self._limit = int(getattr(config, "max_position_embeddings", None) or 1 << 30)
        self._ids = int(model.get_input_embeddings().weight.shape[0])
        if self._ids < vocabulary.size:
            raise ArgumentError(
                f"the LM has {self._ids} ids, the vocabulary {vocabulary.size}: "
                "is this the tokenizer of this LM?"
            )
        if opening is None:
            ends = (vocabulary.bos, vocabulary.eos, config.bos_token_id)
            opening = next((i for i in ends if i is not None and i < vocabulary.size), None)
        if opening is None or not 0 <= opening < self._ids:
            raise ArgumentError("the LM has no token that opens a text: name one as opening")
        self._opening = opening
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._tree = Tree(model, keeps=self._keeps) if fits(model) else None
        self._past: Any = None
        self._seen: list[tuple[int, ...]] = []

    @classmethod
    def load(cls, name: str, *, dtype: str = "float32") -> HuggingFaceLM:
        """Load an LM and its tokenizer from a directory, or by a name that transformers resolves.

        ``dtype`` is ``float32`` or ``bfloat16``. Raises VocabularyError if it cannot be loaded.
        """
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(name)
            model = load_quietly(name, dtype=getattr(torch, dtype))
        except (OSError, ValueError) as error:
            raise VocabularyError(
                f"no LM can be loaded from {name}: give a directory that transformers saved, "
                "or a name that it can reach"
            ) from error
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise VocabularyError(
                "this LM's tokenizer has no tokenizer.json: save it as a fast one"
            )
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "tokenizer.json"
            path.write_text(backend.to_str(), "utf-8")
            return cls(model, Vocabulary.from_tokenizer_json(path))

    @property
    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary of the LM's tokenizer."""
        return self._vocabulary

    @property
    def model(self) -> Any:
        """Return the ``transformers`` model itself."""
        return self._model

    def logprobs(self, histories: Sequence[Sequence[int]]) -> Float32Array:
        """Return ln p(w | history) for every id w, float32[n, width].

        An empty history is one that only opens. Raises ArgumentError for a negative id.
        """
        rows = [self._translated(history)[-self._limit :] for history in histories]
        if not rows:
            return np.empty((0, self._ids), np.float32)
        if self._tree is not None:
            return _normalized(self._tree.logits(rows))
        by_length: dict[int, list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            by_length[len(row)].append(i)
        if len(by_length) == 1:
            return self._extended(rows)
        found = {n: self._extended([rows[i] for i in group]) for n, group in by_length.items()}
        order = [i for group in by_length.values() for i in group]
        return np.concatenate([*found.values()])[np.argsort(order)]

    def sequence(self, ids: Sequence[int]) -> Iterator[Float32Array]:
        """Yield ln p(w | ids[:t]) for t = 1 … len(ids) − 1, as float32[block, width] in order.

        A text longer than the LM's context is read in windows; each position then sees at least
        half of what fits.
        """
        row = self._translated(ids)
        last = len(row) - 1
        past, begin, fed, block = None, 0, 0, max(1, min(BLOCK, self._limit // 2))
        for done in range(0, last, block):
            end = min(done + block, last)
            if end - begin > self._limit:
                past, begin = None, done - self._limit // 2
                fed = begin
            logits, past = self._run([row[fed:end]], past, keep=end - done)
            fed = end
            yield _normalized(logits[0])

    def _extended(self, rows: list[tuple[int, ...]]) -> Float32Array:
        """Return the rows after histories of one length, going on from the last call if they do."""
        width = len(self._seen[0]) if self._seen else 0
        where = {row: i for i, row in enumerate(self._seen)}
        parents = [where.get(row[:width], -1) for row in rows]
        past, self._past, self._seen = self._past, None, []  # forgotten if what follows fails
        if past is None or min(parents) < 0 or len(rows[0]) <= width:
            past, width = None, 0
        elif parents != [*range(len(where))]:
            past.batch_select_indices(torch.tensor(parents, device=self._model.device))
        logits, past = self._run([row[width:] for row in rows], past, keep=1)
        if hasattr(past, "batch_select_indices"):
            self._past, self._seen = past, rows
        return _normalized(logits[:, -1])

    def _run(self, rows: list[tuple[int, ...]], past: Any, keep: int) -> tuple[Any, Any]:
        """Return the logits after the last ``keep`` ids of rows of one length, and the cache."""
        inputs = torch.tensor(rows, dtype=torch.long, device=self._model.device)
        options = {"logits_to_keep": keep} if self._keeps else {}
        with torch.inference_mode():
            output = self._model(input_ids=inputs, past_key_values=past, use_cache=True, **options)
        return output.logits[:, -keep:], output.past_key_values

    def _translated(self, history: Sequence[int]) -> tuple[int, ...]:
        """Return a history in the LM's own ids."""
        row = tuple(i if i < self._vocabulary.size else self._opening for i in map(int, history))
        if row and min(row) < 0:
            raise ArgumentError("a history holds a negative token id")
        return row or (self._opening,)

    def __repr__(self) -> str:
        return f"HuggingFaceLM({type(self._model).__name__}, width={self._ids})"


def _normalized(logits: Any) -> Float32Array:
    rows: Float32Array = torch.log_softmax(logits.float(), dim=-1).cpu().numpy()
    return rows


def load_quietly(place: str | Path, **options: Any) -> Any:
    """Return ``AutoModelForCausalLM.from_pretrained(place, …)`` without its progress bars."""
    with _no_bars():
        return transformers.AutoModelForCausalLM.from_pretrained(str(place), **options)


@contextmanager
def _no_bars() -> Iterator[None]:
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
