"""What a Hugging Face ``tokenizer.json`` says: its tokens, its special ids, its settings.

Reads the file's JSON alone, so that a vocabulary can be checked and named without the
``tokenizers`` package. ``perslm.vocabulary`` uses it; cutting text is left to the package.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, NoReturn

from perslm.errors import VocabularyError

__all__ = ["REMEDY", "Ends", "canonical", "find_ends", "is_id", "list_tokens", "parse", "refuse"]

REMEDY = "make it again with `perslm vocab build` or `perslm vocab import`"
_MOST_IDS = 1 << 22


class Ends(NamedTuple):
    """The special ids: unk, bos, eos and those of other special tokens."""

    unk: int | None
    bos: int
    eos: int
    others: frozenset[int]


_BOS_NAMES = (
    "<s>",
    "<bos>",
    "<BOS>",
    "[BOS]",
    "<|begin_of_text|>",
    "<|startoftext|>",
    "<|begin▁of▁sentence|>",
    "[CLS]",
)
_EOS_NAMES = (
    "</s>",
    "<eos>",
    "<EOS>",
    "[EOS]",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end▁of▁sentence|>",
    "[SEP]",
)


def refuse(problem: str, remedy: str = REMEDY) -> NoReturn:
    """Raise VocabularyError."""
    raise VocabularyError(f"the vocabulary cannot be read: {problem}; {remedy}")


def parse(data: bytes) -> dict[str, Any]:
    """Read a JSON object in UTF-8; raise VocabularyError if it is none."""

    def reject(constant: str) -> NoReturn:
        raise ValueError(constant)

    try:
        content = json.loads(data.decode("utf-8"), parse_constant=reject)
        if b"\\u" in data:  # escapes can write lone surrogates, which no file can hold again
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        refuse("it is damaged, cut short or no JSON")
    if not isinstance(content, dict):
        refuse("it is no JSON object")
    return content


def canonical(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a tokenizer without what does not decide how a text is cut."""
    model = dict(settings["model"])
    if "dropout" in model:
        model["dropout"] = None
    if isinstance(model.get("merges"), list):
        # Older files write a merge as "a b", newer ones as ["a", "b"].
        model["merges"] = [
            merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]
        ]
    return {**settings, "model": model, "truncation": None, "padding": None}


def list_tokens(settings: dict[str, Any]) -> tuple[str | None, ...]:
    """Return the tokens of a tokenizer.json by id, None where an id has none."""
    model = settings.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    pairs: list[tuple[Any, Any]] = []
    if isinstance(vocab, dict):
        pairs += [(id, token) for token, id in vocab.items()]
    elif isinstance(vocab, list):
        for id, entry in enumerate(vocab):
            pairs.append((id, entry[0] if isinstance(entry, list) and entry else None))
    else:
        refuse("it holds no tokenizer model with a vocabulary", "give a tokenizer.json")
    for added in _added(settings):
        pairs.append((added.get("id"), added.get("content")))
    for id, token in pairs:
        if not is_id(id) or not isinstance(token, str):
            refuse("an entry of its vocabulary is no token with an id", "give a tokenizer.json")
    if not pairs:
        refuse("its vocabulary is empty", "give a trained tokenizer.json")
    tokens: list[str | None] = [None] * (max(id for id, _ in pairs) + 1)
    for id, token in pairs:
        tokens[id] = token
    return tuple(tokens)


def _added(settings: dict[str, Any]) -> list[dict[str, Any]]:
    added = settings.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        refuse("its added tokens are no list of tokens", "give a tokenizer.json")
    return added


def is_id(value: object) -> bool:
    """Tell whether a value of the JSON can be an id."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_IDS


def find_ends(
    settings: dict[str, Any], tokens: tuple[str | None, ...], bos: str | None, eos: str | None
) -> Ends:
    """Find the special ids of a tokenizer; virtual ones where it has none of its own."""
    ids = {token: id for id, token in enumerate(tokens) if token is not None}
    added = {str(token["content"]): token for token in _added(settings)}
    before, after = _processed(settings.get("post_processor"))

    def find(given: str | None, processed: str | None, known: tuple[str, ...]) -> int | None:
        if given is not None:
            if given not in ids:
                raise VocabularyError(
                    "the tokenizer has no such token for bos or eos; name one of its tokens"
                )
            return ids[given]
        if processed in ids:
            return ids[processed]
        return next((ids[name] for name in known if name in added and name in ids), None)

    eos_id = find(eos, after, _EOS_NAMES)
    bos_id = find(bos, before, _BOS_NAMES)
    if bos_id == eos_id:
        bos_id = None
    model = settings["model"]
    unk = model.get("unk_id")
    if not is_id(unk) or unk >= len(tokens):
        unk_token = model.get("unk_token")
        unk = ids.get(unk_token) if isinstance(unk_token, str) else None
    return Ends(
        unk=unk,
        bos=len(tokens) if bos_id is None else bos_id,
        eos=len(tokens) + 1 if eos_id is None else eos_id,
        others=frozenset(ids[name] for name, token in added.items() if token.get("special")),
    )


def _processed(processor: object) -> tuple[str | None, str | None]:
    """Return the tokens that a post-processor puts before and after a text."""
    if not isinstance(processor, dict):
        return None, None
    kind = processor.get("type")
    if kind == "Sequence":
        for step in _listed(processor.get("processors")):
            ends = _processed(step)
            if ends != (None, None):
                return ends
    if kind in ("BertProcessing", "RobertaProcessing"):
        names = [processor.get(end) for end in ("cls", "sep")]
        before, after = (str(n[0]) if isinstance(n, list) and n else None for n in names)
        return before, after
    if kind == "TemplateProcessing":
        before = after = None
        text_seen = False
        for step in _listed(processor.get("single")):
            special = step.get("SpecialToken") if isinstance(step, dict) else None
            if not isinstance(special, dict):
                text_seen = True
            elif text_seen:
                after = after or str(special.get("id"))
            else:
                before = str(special.get("id"))
        return before, after
    return None, None


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
