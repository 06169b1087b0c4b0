"""Perplexity of the mixture against λ: the evidence behind ``perslm.interpolate.DEFAULT_WEIGHT``.

    python -m tests.benchmarks.weight [--json]

For each of 14 people: a model of the first four fifths of their mail, mixed into a trigram model of
everybody else's (``perslm.beam.PooledModel``), on at most 300 sentences of the last fifth. λ is one
constant. Needs the measuring data (PERSLM_SHARED).
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from builders.build import specials
from perslm.beam import PooledModel
from perslm.blob import Metadata
from perslm.counts import count, merge
from perslm.model import PersonalModel
from perslm.tokenize import words
from perslm.vocabulary import Sequence, Vocabulary
from tests.support import SHARED

PEOPLE, FEWEST_MESSAGES, SENTENCES, WORDS, ORDER = 14, 100, 300, 20_000, 3
WEIGHTS = np.arange(10) / 10

Message = list[list[str]]


def read(path: Path) -> list[Message]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [[words(s) for s in json.loads(line)["sentences"]] for line in lines]


def encode(mail: list[Message], vocabulary: Vocabulary) -> list[Sequence]:
    unknown = vocabulary.unk or 0
    return [
        Sequence(
            tuple(i if (i := vocabulary.id(w)) is not None else unknown for w in s), True, True
        )
        for message in mail
        for s in message
        if s
    ]


def likelihoods(
    test: list[Sequence], personal: PersonalModel, pooled: PooledModel, vocabulary: Vocabulary
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """p(token) of every token of ``test`` under the personal and the pooled model."""
    own, others = [], []
    for sequence in test:
        ids = [*sequence.ids, vocabulary.eos]
        histories = [[vocabulary.bos, *ids[:i]] for i in range(len(ids))]
        logp, _ = personal.score(personal.states(histories), [[i] for i in ids])
        own.append(np.exp(logp[:, 0].astype(float)))
        rows = pooled.logprobs(histories)
        others.append(np.exp(rows[np.arange(len(ids)), ids].astype(float)))
    return np.concatenate(own), np.concatenate(others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    files = sorted((SHARED / "data" / "epv_dev").glob("*.jsonl.gz"))
    if not files:
        print("measuring data absent: set PERSLM_SHARED", file=sys.stderr)
        return
    mail = {path: read(path) for path in files}
    frequent = Counter(w for messages in mail.values() for m in messages for s in m for w in s)
    vocabulary = Vocabulary.from_words(
        w for w, _ in frequent.most_common(WORDS) if not w.startswith("<")
    )
    ids = specials(vocabulary)
    counts = {
        path: count(encode(messages, vocabulary), ORDER, ids) for path, messages in mail.items()
    }
    logs = []
    for path in [p for p in files if len(mail[p]) > FEWEST_MESSAGES][:PEOPLE]:
        cut = len(mail[path]) * 4 // 5
        past = count(encode(mail[path][:cut], vocabulary), ORDER, ids)
        personal = PersonalModel.from_counts(past, Metadata("0" * 32), estimator="katz")
        pooled = PooledModel(merge([c for other, c in counts.items() if other != path]))
        test = encode(mail[path][cut:], vocabulary)[:SENTENCES]
        own, others = likelihoods(test, personal, pooled, vocabulary)
        logs.append([np.log(w * own + (1 - w) * others).mean() for w in WEIGHTS])
    perplexity = np.exp(-np.mean(logs, axis=0))
    if as_json:
        print(json.dumps({f"{w:.1f}": p for w, p in zip(WEIGHTS, perplexity, strict=True)}))
        return
    print(f"{len(logs)} people, geometric mean perplexity")
    for w, p in zip(WEIGHTS, perplexity, strict=True):
        print(f"λ = {w:.1f}  {p:7.1f}")


if __name__ == "__main__":
    main()
