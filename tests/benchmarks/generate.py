"""What a personalized ``generate()`` costs: a step of the processor beside one of the LM alone.

    python -m tests.benchmarks.generate [--beams 8] [--steps 16] [--threads 1]

SmolLM2 in beam search, with the model of somebody who wrote 60,000 tokens. A step of the LM is
``generate()`` without a processor, divided by its steps: the least of three runs. One of the
processor is timed inside of ``generate()``: the median.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch

from perslm.blob import Metadata
from perslm.counts import Specials, count
from perslm.global_lm.huggingface import load_quietly
from perslm.global_lm.smollm2 import smollm2_directory
from perslm.integrations.transformers import PersonalLogitsProcessor
from perslm.model import PersonalModel
from perslm.vocabulary import Sequence, Vocabulary

SENTENCES, LONG = 3_000, 20
PROMPT = "Thanks for the update. I will talk to them this afternoon and"


class Timed(PersonalLogitsProcessor):
    seconds: list[float]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        began = time.perf_counter()
        mixed = super().__call__(input_ids, scores)
        self.seconds.append(time.perf_counter() - began)
        return mixed


def writer(vocabulary: Vocabulary) -> PersonalModel:
    """Return the model of somebody whose words follow Zipf's law."""
    chance = np.random.default_rng(0)
    ids = chance.zipf(1.2, (SENTENCES, LONG)) % 9000 + 2
    texts = [Sequence(tuple(row), opens=True, closes=True) for row in ids.tolist()]
    specials = Specials(vocabulary.size, vocabulary.bos, vocabulary.eos)
    return PersonalModel.from_counts(count(texts, 5, specials), Metadata(vocabulary.fingerprint))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--beams", type=int, default=8)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    place = smollm2_directory()
    vocabulary = Vocabulary.from_tokenizer_json(place / "tokenizer.json")
    lm = load_quietly(place, dtype=torch.float32)
    ids = torch.tensor([vocabulary.history(PROMPT)[1:]])
    processor = Timed(writer(vocabulary), vocabulary)
    processor.seconds = []

    def generate(*processors: PersonalLogitsProcessor) -> float:
        began = time.perf_counter()
        lm.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_beams=options.beams,
            min_new_tokens=options.steps,
            max_new_tokens=options.steps,
            pad_token_id=vocabulary.eos,
            logits_processor=[*processors],
        )
        return (time.perf_counter() - began) / options.steps

    generate(processor)
    alone = min(generate() for _ in range(3))
    processor.seconds.clear()
    generate(processor)
    step = float(np.median(processor.seconds))
    print(
        f"{options.beams} beams, {options.threads} threads: the LM {alone * 1e3:.1f} ms a step, "
        f"the processor {step * 1e3:.2f} ms: {step / alone:.1%}"
    )


if __name__ == "__main__":
    main()
