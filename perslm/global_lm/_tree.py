"""What a neural LM remembers of histories that share beginnings: each token is computed once.

Histories are paths in a tree of tokens, whose nodes are places in the LM's cache. The new tokens of
all histories go through the LM as one row, under a mask: each sees the path that leads to it, and
nothing else. So a beam that is reordered costs nothing, and many searches at once, of a text with
and without a user's model, cost little more than one.

``perslm.global_lm.huggingface`` says which LMs can be asked so, and has the other way.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

__all__ = ["Tree", "fits"]

SPARE = 512
"""So many nodes of the cache, beside those that the last histories share, may be of no use."""


def fits(model: Any) -> bool:
    """Tell whether a model of ``transformers`` takes masks and positions as a tree needs them."""
    config = model.config.get_text_config()
    takes = inspect.signature(model.forward).parameters
    return (
        {"position_ids", "attention_mask", "past_key_values"} <= set(takes)
        and getattr(config, "_attn_implementation", None) in ("sdpa", "eager")
        and all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)
    )


class Tree:
    """The cache of one LM, of which :func:`fits` is true. Not for several threads at once.

    ``keeps``: the LM can leave out the logits that nobody asks for.
    """

    def __init__(self, model: Any, *, keeps: bool) -> None:
        self._model = model
        self._keeps = keeps
        self._clear()

    def _clear(self) -> None:
        self._nodes: dict[tuple[int, int], int] = {}  # parent (−1: none) and token to node
        self._size = 0
        self._past = DynamicCache(config=self._model.config.get_text_config())

    def logits(self, histories: Sequence[tuple[int, ...]]) -> Any:
        """Return the logits after each history, a tensor [n, width]; none may be empty."""
        useful = sorted({node for history in histories for node in self._known(history)})
        if self._size > 2 * len(useful) + SPARE:
            self._forget_but(useful)
        begin = self._size
        tokens: list[int] = []
        seen: list[list[int]] = []  # the path to each new token, which it ends
        ends: dict[tuple[int, ...], int] = {}
        for history in dict.fromkeys(histories):
            path = self._known(history)
            for token in history[len(path) :]:
                step = (path[-1] if path else -1, token)
                node = self._nodes.get(step, -1)
                if node < begin:  # not there, or its logits are gone: it is read once more
                    node = begin + len(tokens)
                    self._nodes.setdefault(step, node)
                    tokens.append(token)
                    seen.append([*path, node])
                path.append(node)
            ends[history] = path[-1]
        wanted = sorted(set(ends.values()))
        rows = self._run(tokens, seen, [node - begin for node in wanted])
        place = {node: i for i, node in enumerate(wanted)}
        return rows[[place[ends[history]] for history in histories]]

    def _known(self, history: tuple[int, ...]) -> list[int]:
        """Return the nodes of a history, as far as they are there; without that of its end."""
        path: list[int] = []
        node = -1
        for token in history[:-1]:
            found = self._nodes.get((node, token))
            if found is None:
                break
            node = found
            path.append(node)
        return path

    def _run(self, tokens: list[int], seen: list[list[int]], wanted: list[int]) -> Any:
        model, size = self._model, self._size + len(tokens)
        mask = torch.full((len(tokens), size), torch.finfo(model.dtype).min, dtype=model.dtype)
        for row, path in zip(mask, seen, strict=True):
            row[path] = 0
        options = {"logits_to_keep": torch.tensor(wanted)} if self._keeps else {}
        try:
            with torch.inference_mode():
                output = model(
                    input_ids=torch.tensor([tokens], device=model.device),
                    position_ids=torch.tensor([[len(p) - 1 for p in seen]], device=model.device),
                    attention_mask=mask[None, None].to(model.device),
                    past_key_values=self._past,
                    use_cache=True,
                    **options,
                )
        except BaseException:
            self._clear()  # the cache may hold some layers' part of it
            raise
        self._size = size
        return output.logits[0] if self._keeps else output.logits[0, wanted]

    def _forget_but(self, useful: list[int]) -> None:
        """Keep these nodes only, each of them with all before it."""
        place = {node: i for i, node in enumerate([-1, *useful], -1)}
        self._nodes = {
            (place[parent], token): place[node]
            for (parent, token), node in self._nodes.items()
            if node in place
        }
        self._size = len(useful)
        if not useful:
            self._clear()
            return
        with torch.inference_mode():
            kept = torch.tensor(useful, device=self._model.device)
            for layer in self._past.layers:
                layer.keys = layer.keys.index_select(-2, kept)
                layer.values = layer.values.index_select(-2, kept)
