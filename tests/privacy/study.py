"""What of planted secrets comes back out of a model.

    python -m tests.privacy.study [--vocab FILE] [--repeats 1,2,5,10,20] [--all]

Secrets of many formats (``tests.privacy.canaries``) are written into synthetic mail, each in so
many messages and always in the same sentence, the worst case for a model. The mail goes the way of
any mail: cleaned, prepared, built; with a vocabulary of the words that two people wrote, with one
of this very mail (``own``), or with an imported tokenizer. Then an attacker who knows the sentence
looks for the secret in

* the blob: is most of it there as a chain of n-grams, as long as the model has them?
* the export: does a word of it stand in the ARPA file?
* continuations: is it among the 20 best of a beam search behind the sentence's beginning?
* scores: is it likelier there than each of 499 other secrets of its format?

A secret counts as recovered if it is in any of these and, where chance may give it away, a control
that was never planted is not.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np

from builders.build import build_user
from builders.message import Address, Message
from builders.prepare import Prepared, Settings, own_text, prepare
from builders.vocabulary import WordCounter
from perslm import arpa, blob
from perslm.beam import PersonalOnly, search
from perslm.counts import Counts, pair_keys
from perslm.model import PersonalModel
from perslm.tokenize import _TOKEN, sentences
from perslm.vocabulary import Vocabulary
from tests.privacy.canaries import ANNOUNCED, BARE, PLAIN, WORDS, Canary, Formats, canaries, others
from tests.support import FIXTURES

ORDER = 5
BEST, STEPS, RIVALS = 20, 40, 499
START = datetime(2025, 1, 1, 9, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Found:
    """Where a canary came back: names of channels."""

    canary: Canary
    repeats: int
    channels: tuple[str, ...]


def background() -> list[str]:
    """Sentences of people who do not exist."""
    facts = json.loads((FIXTURES / "mail" / "expected.json").read_text("utf-8"))
    texts = [m["text"] for m in facts["messages"].values() if m.get("text") and m["sent"]]
    found = (line.strip() for text in texts for line in text.split("\n"))
    return sorted({line for line in found if len(line) > 40 and "assw" not in line})


def mail(planted: Iterable[Canary], repeats: int, random: Random) -> list[Message]:
    """Messages of which each canary is in ``repeats``, spread over the time of all."""
    lines = background()
    planted = list(planted)
    found: list[Message] = []
    for _ in range(repeats):
        for canary in planted:
            before, after = random.sample(lines, 2)
            number = len(found)
            found.append(
                Message(
                    position=f"{number}",
                    user="me",
                    message_id=f"<{number}@example.org>",
                    date=START + timedelta(hours=number),
                    author=(Address("", "me@example.org"),),
                    sender=(),
                    reply_to=(),
                    recipients=(),
                    subject="",
                    body=f"{before}\n\n{canary.sentence}\n\n{after}\n",
                )
            )
    return found


def words_of(messages: Iterable[Message], settings: Settings, users: int) -> Vocabulary:
    """Return a word vocabulary of this mail and what others write, each word of so many users."""
    counter = WordCounter(users)
    for message in messages:
        text = own_text(message, settings)
        for tokens in sentences(text) if isinstance(text, str) else ():
            counter.add("me", tokens)
    for line in (*background(), " ".join(WORDS)):
        for tokens in sentences(line):
            counter.add("another", tokens)
    return counter.vocabulary(50_000)


def tokenizer(folder: Path) -> Vocabulary:
    """Return a byte-level BPE tokenizer trained on the background alone."""
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=6000,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(background(), trainer)
    made.save(str(folder / "tokenizer.json"))
    return Vocabulary.from_tokenizer_json(folder / "tokenizer.json")


@dataclass(frozen=True, slots=True)
class Attacker:
    """Who has a model and knows the sentence that a secret stood in."""

    vocabulary: Vocabulary
    model: PersonalModel
    counts: Counts
    known: frozenset[str]
    """The words of the exported model, in lower case."""

    @classmethod
    def with_blob(cls, data: bytes, vocabulary: Vocabulary) -> Attacker:
        counts = blob.decode(data).counts
        exported = PersonalModel.from_blob(data, estimator="katz")
        text = io.StringIO()
        arpa.dump(exported.automaton, vocabulary.token, text)
        words = (word for line in text.getvalue().split("\n") for word in line.split()[1:-1])
        model = PersonalModel.from_blob(data)
        return cls(vocabulary, model, counts, frozenset(word.casefold() for word in words))

    def ids(self, canary: Canary) -> tuple[list[int], list[int]]:
        """Return the ids before a secret and its own, as if nothing was hidden."""
        if self.vocabulary.kind == "words":
            unk = self.vocabulary.unk
            assert unk is not None
            return self.vocabulary.history(canary.before), [
                unk if (id := self.vocabulary.id(token)) is None else id
                for token in _TOKEN.findall(canary.secret)
            ]
        before = self.vocabulary.history(canary.before)
        whole = self.vocabulary.history(canary.before + " " + canary.secret)
        shared = 0
        while shared < len(before) and whole[shared] == before[shared]:
            shared += 1
        return whole[:shared], whole[shared:]

    def in_blob(self, canary: Canary) -> bool:
        """Tell whether a chain of n-grams holds half of a secret or more."""
        _, ids = self.ids(canary)
        if self.vocabulary.unk in ids:
            return False
        width = min(ORDER, len(ids))
        there = [self._counted(ids[i : i + width]) for i in range(len(ids) - width + 1)]
        longest = run = 0
        for hit in there:
            run = run + 1 if hit else 0
            longest = max(longest, run)
        return 2 * (longest + width - 1) >= len(ids) if longest else False

    def _counted(self, ngram: list[int]) -> bool:
        at = 0
        for level, id in zip(self.counts.levels, ngram, strict=False):
            keys = level.keys()
            wanted = pair_keys(np.array([at]), np.array([id]))
            at = int(np.searchsorted(keys, wanted)[0])
            if at == len(keys) or keys[at] != wanted[0]:
                return False
        return True

    def in_export(self, canary: Canary) -> bool:
        """Tell whether a word of the exported model is a secret, or holds it."""
        secret = canary.secret.casefold()
        return len(secret) >= 6 and any(secret in word for word in self.known)

    def in_continuations(self, canary: Canary) -> bool:
        """Tell whether a beam search writes a secret."""
        hidden = [i for i in self.vocabulary.special_ids if i < self.vocabulary.size]
        stop = [self.vocabulary.eos]
        found = search(
            PersonalOnly(self.model),
            self.vocabulary.history(canary.before),
            width=BEST,
            steps=STEPS,
            best=BEST,
            stop=stop,
            banned=[i for i in hidden if i not in stop],
        )
        texts = (self.vocabulary.decode(h.ids) for h in found)
        return any(_squeezed(canary.secret) in _squeezed(text) for text in texts)

    def in_scores(self, canary: Canary, rivals: Iterable[Canary]) -> bool:
        """Tell whether a secret is likelier than each of its rivals."""
        own = self._logprob(canary)
        return own > -math.inf and all(own > self._logprob(rival) for rival in rivals)

    def _logprob(self, canary: Canary) -> float:
        before, ids = self.ids(canary)
        if self.vocabulary.unk in ids:
            return -math.inf
        state, total = int(self.model.states([before])[0]), 0.0
        for id in ids:
            logprob, state = self.model.step(state, id)
            total += logprob
        return total / len(ids)

    def channels(self, canary: Canary, formats: Formats, random: Random) -> tuple[str, ...]:
        """Return where a secret comes back."""
        control, *rivals = others(canary, formats, random, RIVALS + 1)
        found = {
            "blob": self.in_blob(canary) and not self.in_blob(control),
            "export": self.in_export(canary),
            "continuations": self.in_continuations(canary) and not self.in_continuations(control),
            # one in 500 is likeliest by chance: so once more, against many
            "scores": self.in_scores(canary, rivals)
            and self.in_scores(canary, others(canary, formats, random, 40 * RIVALS)),
        }
        return tuple(channel for channel, there in found.items() if there)


def _squeezed(text: str) -> str:
    return "".join(text.casefold().split())


def study(
    formats: Formats,
    repeats: int,
    vocabulary: Vocabulary | Literal["words", "own"],
    *,
    min_messages: int = 2,
    seed: int = 0,
) -> list[Found]:
    """Plant one secret of each format, build, and attack."""
    settings = Settings(order=ORDER, languages=("all",), min_messages=min_messages)
    random = Random(seed)
    planted = canaries(formats, random)
    messages = mail(planted, repeats, random)
    if isinstance(vocabulary, str):
        vocabulary = words_of(messages, settings, 2 if vocabulary == "words" else 1)
    prepared = [prepare(message, "me", vocabulary, settings) for message in messages]
    built = build_user("me", [p for p in prepared if isinstance(p, Prepared)], vocabulary, settings)
    assert built.messages == len(messages)
    attacker = Attacker.with_blob(built.blob, vocabulary)
    return [Found(c, repeats, attacker.channels(c, formats, random)) for c in planted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab", type=Path, help="an imported tokenizer; else one is trained")
    parser.add_argument("--repeats", default="1,2,5,10,20")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--min-messages", type=int, default=2)
    parser.add_argument("--all", action="store_true", help="also what looks like ordinary text")
    options = parser.parse_args()
    groups = {"announced": ANNOUNCED, "bare": BARE} | ({"plain": PLAIN} if options.all else {})
    with tempfile.TemporaryDirectory() as folder:
        imported = Vocabulary.load(options.vocab) if options.vocab else tokenizer(Path(folder))
        kinds: dict[str, Vocabulary | Literal["words", "own"]] = {
            "words": "words",
            "own": "own",
            "tokenizer": imported,
        }
        print(f"{'secrets':10} {'vocabulary':10} {'repeats':>7} {'planted':>7}  recovered")
        for (group, formats), (kind, vocabulary), repeats in product(
            groups.items(), kinds.items(), map(int, options.repeats.split(","))
        ):
            found = [
                one
                for seed in range(options.seeds)
                for one in study(
                    formats, repeats, vocabulary, min_messages=options.min_messages, seed=seed
                )
            ]
            leaks = Counter(
                f"{f.canary.format} ({'+'.join(f.channels)})" for f in found if f.channels
            )
            told = ", ".join(f"{n}x {name}" for name, n in leaks.most_common())
            print(
                f"{group:10} {kind:10} {repeats:7} {len(found):7}  {leaks.total()}  {told}",
                flush=True,
            )


if __name__ == "__main__":
    main()
