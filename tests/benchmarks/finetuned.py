"""What personalization is worth beside a global LM that was trained on mail of its own.

    python -m tests.benchmarks.finetuned MAIL... --output DIR [--as-is] [--train-tokens N]

A file is the mail of one person. SmolLM2 is fine-tuned on the people of one half, dealt by a digest
of their files' names: the last layers, on letters as they are predicted afterwards, one each, the
end of a letter not included. The other half is then tested as in ``tests.benchmarks.estimators``,
beside SmolLM2 as it is and beside the fine-tuned one, with gates fitted for each on other people
only. To save time everybody is tested on some of the newest fifth of their letters, the same for
both, and counts alike in the training.

One core of a CPU does it in an hour. A run that was stopped goes on where it was. DIR/model is
afterwards a global LM for ``--global-lm hf:DIR/model``; it has learnt from people's mail, so keep
it as you keep the mail. What is printed, and DIR/figures.json, are sums over people.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from builders import gates as fitting
from builders.evaluate.mail import Letter
from builders.evaluate.measure import Tally, tally
from builders.evaluate.run import amounts_of, split
from builders.evaluate.study import FEWEST_LETTERS, mail_of, parser_of
from builders.evaluate.targets import Targets
from perslm.global_lm.huggingface import HuggingFaceLM, load_quietly
from perslm.global_lm.smollm2 import smollm2_directory
from perslm.model import PersonalModel
from perslm.vocabulary import Vocabulary
from tests.benchmarks.estimators import NOBODY, PARTS

BATCH = 1024
"""Tokens of a step, padding included."""

LONGEST = 2048
"""Tokens of a letter that are trained on; what comes behind is left out."""

WARMUP, LEAST = 0.05, 0.1
"""Share of the steps in which the rate rises; what it falls to, as a share of the highest."""

CHECKPOINT = 50
"""Steps after which a stopped run goes on."""


@dataclass(frozen=True, slots=True)
class Training:
    """How the LM is fine-tuned; ``mail`` is a digest of what on."""

    layers: int
    rate: float
    tokens: int
    seed: int
    bfloat16: bool
    mail: str


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """Letters of one person: ``past`` predicts ``test``; its older part, ``older``, ``gates``."""

    older: list[Letter]
    gates: list[Letter]
    past: list[Letter]
    test: list[Letter]


def say(line: str) -> None:
    """Show how far the run is."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def tuned_on(path: Path) -> bool:
    """Return whether a person is of the half that the LM is fine-tuned on."""
    return hashlib.blake2b(path.name.encode(), digest_size=8).digest()[-1] % 2 == 1


def some(letters: list[Letter], most: int) -> list[Letter]:
    """Return letters of about ``most`` tokens together, drawn evenly, in their order."""
    chosen, tokens = [], 0
    for i in np.random.default_rng(0).permutation(len(letters)).tolist():
        if tokens >= most:
            break
        chosen.append(i)
        tokens += letters[i].tokens
    return [letters[i] for i in sorted(chosen)]


def fair(mail: list[list[Letter]], most: int) -> list[Letter]:
    """Return letters of about ``most`` tokens together, of everybody alike as far as they go."""
    found: list[Letter] = []
    left = most
    by_size = sorted(mail, key=lambda letters: sum(letter.tokens for letter in letters))
    for i, letters in enumerate(by_size):
        own = some(letters, left // (len(by_size) - i))
        found += own
        left -= sum(letter.tokens for letter in own)
    return found


def batches(letters: list[Letter], vocabulary: Vocabulary, seed: int) -> list[list[list[int]]]:
    """Return the rows of each step: letters of about one length, in the LM's own ids."""
    rows = [
        [i if i < vocabulary.size else vocabulary.eos for i in ids[:LONGEST].tolist()]
        for letter in letters
        for ids in letter.passages
    ]
    random = np.random.default_rng(seed)
    random.shuffle(rows)
    found: list[list[list[int]]] = []
    for row in sorted(rows, key=len):
        if not found or (len(found[-1]) + 1) * len(row) > BATCH:
            found.append([])
        found[-1].append(row)
    random.shuffle(found)
    return found


def rate_at(step: int, steps: int) -> float:
    """Return the learning rate of a step as a share of the highest."""
    rise = max(1, round(WARMUP * steps))
    if step < rise:
        return (step + 1) / rise
    return LEAST + (1 - LEAST) * (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2


def loss_of(model: Any, rows: list[list[int]]) -> torch.Tensor:
    """Return the mean loss per token of rows, each padded on the right, where nothing sees it."""
    inputs = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
    real = torch.zeros(inputs.shape, dtype=torch.bool)
    for i, row in enumerate(rows):
        inputs[i, : len(row)] = torch.tensor(row)
        real[i, : len(row)] = True
    hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][real[:, 1:]]).float()
    return torch.nn.functional.cross_entropy(logits, inputs[:, 1:][real[:, 1:]])


def train(plain: Path, steps: list[list[list[int]]], training: Training, output: Path) -> Path:
    """Fine-tune the LM in ``plain``, or go on with it; return the directory of the result."""
    place, checkpoint, note = output / "model", output / "checkpoint.pt", output / "training.json"
    wanted = json.dumps({name: getattr(training, name) for name in training.__slots__})
    if note.exists() and note.read_text() != wanted:
        raise SystemExit("this directory is of another training: give another --output")
    note.write_text(wanted)
    if place.is_dir():
        return place
    model = load_quietly(plain, dtype=torch.float32)
    model.requires_grad_(requires_grad=False)
    trained = [*model.model.layers[-training.layers :], model.model.norm]
    weights = [w for part in trained for w in part.parameters()]
    for w in weights:
        w.requires_grad_()
    optimizer = torch.optim.AdamW(weights, lr=training.rate, betas=(0.9, 0.95), weight_decay=0.01)
    done = 0
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True)
        done = kept["done"]
        optimizer.load_state_dict(kept["optimizer"])
        with torch.no_grad():
            for w, value in zip(weights, kept["weights"], strict=True):
                w.copy_(value)
    sizes = [sum(len(row) - 1 for row in rows) for rows in steps]
    say(f"training: {len(steps)} steps, {sum(sizes):,} tokens, {done} steps done before")
    began, first, recent = time.monotonic(), done, [0.0, 0.0]
    for step in range(done, len(steps)):
        for group in optimizer.param_groups:
            group["lr"] = training.rate * rate_at(step, len(steps))
        with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
            loss = loss_of(model, steps[step])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent = [recent[0] + float(loss.detach()) * sizes[step], recent[1] + sizes[step]]
        if (step + 1) % 10 == 0:
            spent, read = time.monotonic() - began, sum(sizes[first : step + 1])
            left = sum(sizes[step + 1 :]) * spent / read / 60
            say(
                f"step {step + 1}: loss {recent[0] / recent[1]:.3f} before it was trained on, "
                f"{read / spent:.0f} tokens/s, {left:.0f} minutes left"
            )
            recent = [0.0, 0.0]
        if (step + 1) % CHECKPOINT == 0:
            kept = {
                "done": step + 1,
                "weights": [w.detach() for w in weights],
                "optimizer": optimizer.state_dict(),
            }
            torch.save(kept, checkpoint.with_suffix(".partial"))
            checkpoint.with_suffix(".partial").replace(checkpoint)
    beside = output / "saving"
    shutil.rmtree(beside, ignore_errors=True)
    model.save_pretrained(beside)
    for path in plain.glob("*token*"):
        shutil.copyfile(path, beside / path.name)
    beside.rename(place)
    checkpoint.unlink(missing_ok=True)
    return place


def digest_of(letters: list[Letter]) -> str:
    """Return a digest of token ids."""
    digest = hashlib.blake2b(digest_size=16)
    for letter in letters:
        for ids in letter.passages:
            digest.update(len(ids).to_bytes(8, "little") + ids.astype("<u4").tobytes())
    return digest.hexdigest()


def weights_digest(place: Path) -> str:
    """Return a digest of an LM: what its answers are kept under."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(place.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def person(letters: list[Letter], test_tokens: int, gate_tokens: int) -> Person:
    """Return what is used of a person's mail."""
    past, future = split(letters, 0.2)
    older, newest = split(past, 0.1)
    return Person(older, some(newest, gate_tokens), past, some(future, test_tokens))


def asked(people: list[Person], targets: Targets, name: str) -> None:
    """Have an LM's answers for all that is predicted."""
    letters = [letter for who in people for letter in (*who.gates, *who.test)]
    total = sum(letter.tokens for letter in letters)
    began, read, shown = time.monotonic(), 0, 0.0
    for letter in letters:
        targets.of(letter)
        read += letter.tokens
        spent = time.monotonic() - began
        if spent - shown > 20:
            shown = spent
            say(f"{name}: {read:,} of {total:,} tokens, {read / spent:.0f}/s")
    say(f"{name}: all {total:,} tokens")


def evaluate(
    people: list[Person],
    shared: dict[str, Targets],
    vocabulary: Vocabulary,
    order: int,
) -> dict[str, dict[str, list[Tally]]]:
    """Return the tallies of everybody, by system and number of letters."""
    drawn = {
        name: [
            list(fitting.samples_of(who.older, who.gates, vocabulary, targets, order))
            for who in people
        ]
        for name, targets in shared.items()
    }
    found: dict[str, dict[str, list[Tally]]] = {}
    for part in range(PARTS):
        fitted = {
            name: fitting.fit([own for i, own in enumerate(of) if i % PARTS != part], order)
            for name, of in drawn.items()
        }
        systems = {name: (targets, fitted[name]) for name, targets in shared.items()}
        systems["tuned, gates of plain"] = (shared["tuned"], fitted["plain"])
        for who in people[part::PARTS]:
            for amount in amounts_of(who.past):
                counts = fitting.counts_of(who.past[-amount:], vocabulary, order)
                for name, (targets, gates) in systems.items():
                    model = PersonalModel.from_counts(counts, NOBODY, gates=gates)
                    row = tally(model, who.test, [targets.of(letter) for letter in who.test])
                    letters = "all" if amount == len(who.past) else str(amount)
                    found.setdefault(name, {}).setdefault(letters, []).append(row)
        say(f"tested: part {part + 1} of {PARTS}")
    return found


def figures(rows: list[Tally]) -> dict[str, float]:
    """Return what is shown of a system."""
    total = Tally()
    for row in rows:
        total += row
    reductions = np.array([row.reduction for row in rows])
    return {
        "people": len(rows),
        "tokens": total.tokens,
        "perplexity": math.exp(total.global_nats / total.tokens),
        "personalised": math.exp(total.mixed_nats / total.tokens),
        "mean_reduction": float(reductions.mean()),
        "median_reduction": float(np.median(reductions)),
        "standard_error": float(reductions.std(ddof=1) / math.sqrt(len(rows))),
        "pooled_reduction": total.reduction,
        "improved": float((reductions > 0).mean()),
        "harmed": int((reductions < 0).sum()),
        "worst": float(reductions.min()),
        "mean_weight": total.weight / total.tokens,
    }


def against(before: Callable[[Tally], float], rows: list[Tally], than: list[Tally]) -> float:
    """Return the mean over people of by what share ``before`` of rows is below plain SmolLM2's."""
    pairs = zip(rows, than, strict=True)
    return float(np.mean([1 - math.exp((before(r) - p.global_nats) / p.tokens) for r, p in pairs]))


def report(found: dict[str, dict[str, list[Tally]]]) -> dict[str, Any]:
    """Return everything measured."""
    plain, tuned = found["plain"]["all"], found["tuned"]["all"]
    return {
        "systems": {
            name: {letters: figures(rows) for letters, rows in by.items()}
            for name, by in found.items()
        },
        "below_plain": {
            "plain with personal": against(lambda row: row.mixed_nats, plain, plain),
            "tuned": against(lambda row: row.global_nats, tuned, plain),
            "tuned with personal": against(lambda row: row.mixed_nats, tuned, plain),
        },
    }


def table(measured: dict[str, Any]) -> str:
    """Return everything measured, as Markdown."""
    lines = [
        "| global LM | letters | people | perplexity | with personal | mean reduction | pooled "
        "| improved | harmed | worst |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, by in measured["systems"].items():
        for letters, row in by.items():
            lines.append(
                f"| {name} | {letters} | {row['people']} | {row['perplexity']:.2f} "
                f"| {row['personalised']:.2f} "
                f"| {row['mean_reduction']:.1%} ± {row['standard_error']:.1%} "
                f"| {row['pooled_reduction']:.1%} | {row['improved']:.1%} | {row['harmed']} "
                f"| {row['worst']:.1%} |"
            )
    lines += ["", "| all letters | perplexity below plain SmolLM2's, mean of people |", "|---|---|"]
    lines += [f"| {name} | {share:.1%} |" for name, share in measured["below_plain"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--order", type=int, default=5)
    parser.add_argument("--cache", type=Path, help="default: OUTPUT/global-logprobs")
    parser.add_argument("--train-tokens", type=int, default=500_000)
    parser.add_argument("--layers", type=int, default=10, help="how many of the last are trained")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--bfloat16", action="store_true", help="train in it: faster on processors that have it"
    )
    parser.add_argument("--test-tokens", type=int, default=2500, help="of one person, about")
    parser.add_argument("--gate-tokens", type=int, default=1000, help="of one person, about")
    parser.add_argument("--threads", type=int, help="default: as many as torch likes")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    plain = smollm2_directory()
    vocabulary = Vocabulary.from_tokenizer_json(plain / "tokenizer.json")
    halves = [
        mail_of(
            [path for path in options.mail if tuned_on(path) == chosen],
            vocabulary,
            by_file=True,
            as_is=options.as_is,
        )
        for chosen in (True, False)
    ]
    people = [
        person(letters, options.test_tokens, options.gate_tokens)
        for letters in halves[1]
        if len(letters) >= FEWEST_LETTERS
    ]
    say(f"people: {len(halves[0])} to train on, {len(people)} to test")
    letters = fair(halves[0], options.train_tokens)
    training = Training(
        layers=options.layers,
        rate=options.rate,
        tokens=options.train_tokens,
        seed=options.seed,
        bfloat16=options.bfloat16,
        mail=digest_of(letters),
    )
    tuned = train(plain, batches(letters, vocabulary, options.seed), training, options.output)
    shared = {}
    for name, place in (("plain", plain), ("tuned", tuned)):
        key = "smollm2" if name == "plain" else f"tuned {weights_digest(place)}"
        model = HuggingFaceLM(load_quietly(place, dtype=torch.float32), vocabulary)
        shared[name] = Targets(model, key, options.cache or options.output / "global-logprobs")
        asked(people, shared[name], name)
    measured = report(evaluate(people, shared, vocabulary, options.order))
    text = json.dumps(measured, indent=1) + "\n"
    (options.output / "figures.json").write_text(text, "utf-8")
    print(table(measured))


if __name__ == "__main__":
    main()
