"""Whose models are served: users cut out of a corpus, and what a beam search asks about them.

A user is a run of consecutive sentences, so users differ, and each blob is another. Users of the
same size are as alike as a person's mail of two years. What is asked are the steps of
``perslm.bench.steps``; every answer can be told from its ``expected`` bytes, those of the
log-probabilities that the model gives in process.
"""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import msgpack
import numpy as np

from perslm import vocabulary, wire
from perslm.bench.corpus import SPECIALS, Corpus, count_tokens
from perslm.bench.steps import Step, beam_steps
from perslm.blob import Metadata, encode
from perslm.counts import count
from perslm.model import PersonalModel
from perslm.store import Store
from perslm.v1 import scorer_pb2

ORDER = 3
FINGERPRINT = "ab" * 16
STEPS = 64
"""Different steps that are asked of the hot user."""

MEDIAN_TOKENS, SIGMA = 8_000, 1.0
FEWEST_TOKENS, MOST_TOKENS = 100, 100_000
DISTRIBUTION = (
    f"tokens a user log-normal, median {MEDIAN_TOKENS:,}, σ {SIGMA:g}, "
    f"{FEWEST_TOKENS:,} to {MOST_TOKENS:,}"
)

_CHUNK = 50
_ID = "user{:08}"  # all of the same length, so that requests can be cut and put together


def user_id(number: int) -> str:
    """Return the id of a user of the population."""
    return _ID.format(number)


@dataclass(frozen=True, slots=True)
class Cut:
    """A user: ``tokens`` tokens of the corpus, from a ``start`` of 0 to 1 of what is possible."""

    number: int
    tokens: int
    start: float


class Sentences:
    """All sentences of a corpus in one row, to cut users out of."""

    def __init__(self, corpus: Corpus) -> None:
        self._all = list(itertools.chain.from_iterable(corpus.users))
        self._ends = np.cumsum([len(sentence.ids) + 1 for sentence in self._all])

    def cut(self, cut: Cut) -> list[vocabulary.Sequence]:
        """Return the sentences of a user."""
        total = int(self._ends[-1])
        begin = cut.start * max(0, total - cut.tokens)
        first = int(np.searchsorted(self._ends, begin, "right"))
        last = int(np.searchsorted(self._ends, begin + cut.tokens))
        return self._all[first : last + 1]

    def blob(self, cut: Cut) -> bytes:
        """Return the model of a user."""
        counts = count(self.cut(cut), ORDER, SPECIALS)
        return encode(counts, Metadata(FINGERPRINT, messages=cut.number + 1))


def even(number: int, tokens: int, *, first: int) -> list[Cut]:
    """Return users of the same size, spread over the corpus."""
    return [Cut(first + i, tokens, i / number) for i in range(number)]


def drawn(number: int, *, first: int, seed: int = 5) -> list[Cut]:
    """Return users of sizes like those of people (:data:`DISTRIBUTION`)."""
    chance = np.random.default_rng(seed)
    tokens = np.exp(chance.normal(math.log(MEDIAN_TOKENS), SIGMA, number))
    tokens = np.clip(tokens, FEWEST_TOKENS, MOST_TOKENS).astype(int)
    starts = chance.random(number)
    return [Cut(first + i, int(tokens[i]), float(starts[i])) for i in range(number)]


def publish(
    store: Store, corpus: Corpus, cuts: Sequence[Cut], processes: int
) -> Iterator[tuple[int, int]]:
    """Build and publish users' models; yield numbers of them and of their bytes as it goes on."""
    chunks = [cuts[i : i + _CHUNK] for i in range(0, len(cuts), _CHUNK)]
    with ProcessPoolExecutor(processes, get_context("spawn"), _take, (corpus,)) as pool:
        for chunk, blobs in zip(chunks, pool.map(_blobs, chunks), strict=True):
            for cut, blob in zip(chunk, blobs, strict=True):
                user = user_id(cut.number)
                store.publish(user, blob, parent=store.head(user), vocabulary=FINGERPRINT)
            yield len(blobs), sum(map(len, blobs))


_sentences: Sentences | None = None  # of a process that builds


def _take(corpus: Corpus) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the process that started this one ends it
    global _sentences  # noqa: PLW0603 - what the process was started with
    _sentences = Sentences(corpus)


def _blobs(cuts: Sequence[Cut]) -> list[bytes]:
    assert _sentences is not None
    return [_sentences.blob(cut) for cut in cuts]


@dataclass(frozen=True, slots=True)
class Asked:
    """One step: the bodies to send over HTTP and gRPC, and the bytes that answers must hold."""

    step: Step
    packed: bytes
    message: bytes
    expected: bytes


class Subject:
    """The hot user, its model, and the steps that are asked of it."""

    def __init__(self, corpus: Corpus, cut: Cut) -> None:
        sentences = Sentences(corpus)
        own = sentences.cut(cut)
        self.user = user_id(cut.number)
        self.blob = sentences.blob(cut)
        self.model = PersonalModel.from_blob(self.blob)
        self.ngrams = sum(self.model.ngrams)
        self.tokens = count_tokens(own)
        narrowed = Corpus(corpus.source, [own], corpus.frequency)
        steps = beam_steps(narrowed, 0, self.model, number=STEPS)
        self.asked = [self._ask(step) for step in steps]

    def _ask(self, step: Step) -> Asked:
        scores, _ = self.model.score(self.model.states(step.histories), step.candidates)
        packed = msgpack.packb(
            {
                "user": self.user,
                "vocabulary": FINGERPRINT,
                "histories": wire.pack_rows(step.histories),
                "candidates": wire.pack_array(step.candidates, "<u4"),
            }
        )
        n, k = step.candidates.shape
        flat = [i for history in step.histories for i in history]
        message = scorer_pb2.ScoreRequest(
            user=self.user,
            vocabulary=FINGERPRINT,
            histories=scorer_pb2.Rows(
                lengths=[len(history) for history in step.histories],
                data=np.array(flat, "<u4").tobytes(),
            ),
            candidates=scorer_pb2.Array(n=n, k=k, data=step.candidates.astype("<u4").tobytes()),
        )
        return Asked(step, packed, message.SerializeToString(), scores.astype("<f4").tobytes())
