"""From the mailboxes in fixtures/ to probabilities: what is learned, what is not, and that the
numbers are right.
"""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from perslm import blob
from perslm.store import open_store
from perslm.tokenize import words
from perslm.vocabulary import Vocabulary
from tests.integration.mailboxes import EXPECTED, MAIL, OPTIONS, PEOPLE, Perslm, process
from tests.oracle import CLOSE, OPEN, OracleKatz, ngram_counts

FACTS = json.loads(EXPECTED.read_text("utf-8"))
NAMES = {Path(facts["path"]).name.removesuffix(".mbox"): p for p, facts in FACTS["people"].items()}
RECALL = 0.95
LN10 = math.log(10)


@pytest.fixture
def words_file(perslm: Perslm, tmp_path: Path) -> Path:
    """A vocabulary of everybody's own words."""
    path = tmp_path / "words.json"
    perslm("vocab", "build", *PEOPLE, *OPTIONS, "--min-users", 1, "--jobs", 1, "-o", path)
    return path


def known_words(url: str, user: str, vocabulary: Vocabulary) -> set[str]:
    """The words that a user's model knows, in lower case."""
    with open_store(url) as store:
        stored = store.fetch(user)
    assert stored is not None
    ids = blob.decode(stored.blob).counts.levels[0].word.tolist()
    return {vocabulary.token(i).lower() for i in ids}


def test_five_people_from_mail_to_models(perslm: Perslm, words_file: Path) -> None:
    built = perslm("build", *PEOPLE, *OPTIONS, "--vocab", words_file, "--jobs", 1, "--json").json
    assert {user["user"]: user["status"] for user in built["users"]} == dict.fromkeys(
        NAMES, "published"
    )
    assert built["skipped"]["duplicate"] > 0
    vocabulary = Vocabulary.load(words_file)
    for user, person in NAMES.items():
        facts = FACTS["people"][person]
        known = known_words(perslm.store, user, vocabulary)
        others = {part.lower() for word in facts["others_words"] for part in words(word)}
        strange = {part for part in others if part.isalpha()}  # not the rest of "Cormoran-9"
        assert len(strange) >= len(facts["others_words"])
        assert not known & strange, f"{user} learned words of others"
        assert facts["canary"].lower() not in known
        assert not any(facts["canary"].lower() in word for word in known)
        assert perslm("inspect", user, "--json", "--validate").json["valid"] is True
    again = perslm("build", *PEOPLE, *OPTIONS, "--vocab", words_file, "--jobs", 1, "--json").json
    assert {user["status"] for user in again["users"]} == {"unchanged"}


def test_own_words_are_learned(perslm: Perslm, words_file: Path) -> None:
    keep = ("--keep", "greeting,close")
    shown = perslm(
        "tokenize", *PEOPLE, *OPTIONS, *keep, "--vocab", words_file, "--jobs", 1, "--json"
    )
    learned: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for line in shown.lines:
        learned[line["user"]].update(token for token in line["tokens"] if token[0] != "<")
    vocabulary = Vocabulary.load(words_file)
    for user, person in NAMES.items():
        own: Counter[str] = Counter()
        for message in FACTS["messages"].values():
            if message["person"] == person and message["sent"] and "duplicate_of" not in message:
                tokens = words(message.get("text", ""))
                own.update(t for t in tokens if t[0] != "<" and vocabulary.id(t) is not None)
        recall = (own & learned[user]).total() / own.total()
        print(f"{user}: {recall:.4f} of {own.total()} own words")
        assert recall >= RECALL, user


def test_processes_make_the_same_bytes(perslm: Perslm, words_file: Path, tmp_path: Path) -> None:
    blobs = {}
    for jobs in (1, 2):
        perslm("build", *PEOPLE, *OPTIONS, "--vocab", words_file, "--jobs", jobs)
        for user in NAMES:
            path = tmp_path / f"{user}.{jobs}"
            perslm("export", user, "--format", "blob", "-o", path)
            blobs[user, jobs] = path.read_bytes()
            perslm("forget", user, "--yes")
    assert all(blobs[user, 1] == blobs[user, 2] for user in NAMES)


def arpa_entries(path: Path) -> dict[tuple[str, ...], tuple[float, float]]:
    """Read an ARPA file in the naive way: n-gram to log10 p and log10 backoff weight."""
    entries = {}
    for line in path.read_text("utf-8").splitlines():
        fields = line.split("\t")
        if len(fields) >= 2:
            backoff = float(fields[2]) if len(fields) > 2 else 0.0
            entries[tuple(fields[1].split(" "))] = (float(fields[0]), backoff)
    return entries


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_the_exported_model_is_katz_of_the_printed_sentences(
    perslm: Perslm, words_file: Path, tmp_path: Path, order: int
) -> None:
    user = "pavel-five"
    source = MAIL / "pavel-five.mbox"
    common = (source, *OPTIONS, "--vocab", words_file, "--jobs", 1)
    perslm("build", *common, "--order", order, "--min-messages", 1)
    perslm("export", user, "--format", "arpa", "-o", tmp_path / "model.arpa")
    lines = perslm("tokenize", *common, "--json").lines
    counts = ngram_counts(((s["tokens"], s["opens"], s["closes"]) for s in lines), order)
    oracle = OracleKatz(counts, order)
    entries = arpa_entries(tmp_path / "model.arpa")
    assert set(entries) - {(OPEN,)} == set(counts)
    for gram in counts:
        assert entries[gram][0] * LN10 == pytest.approx(oracle.p(gram[:-1], gram[-1]), abs=1e-6)
    longest = {gram for gram in counts if len(gram) < order and gram[-1] != CLOSE}
    assert longest or order == 1
    for context in longest & {gram[:-1] for gram in counts}:
        assert entries[context][1] * LN10 == pytest.approx(oracle.alpha(context), abs=2e-4)


def test_two_builds_at_once_leave_every_user_readable(
    perslm: Perslm, words_file: Path, tmp_path: Path
) -> None:
    ledgers = [("--ledger", tmp_path / name) for name in ("one", "other")]
    arguments = (*PEOPLE, *OPTIONS, "--vocab", words_file, "--jobs", 1, "--json")
    with (
        process(perslm.store, "build", *arguments, *ledgers[0], "--order", 2) as one,
        process(perslm.store, "build", *arguments, *ledgers[1], "--order", 3) as other,
    ):
        ended = [running.communicate(timeout=120) for running in (one, other)]
    reports = [json.loads(out) for out, _ in ended]
    for running, report in zip((one, other), reports, strict=True):
        statuses = {user["status"] for user in report["users"]}
        assert statuses <= {"published", "conflict"}
        assert running.returncode == ("conflict" in statuses)
    for user in NAMES:
        outcomes = [u["status"] for r in reports for u in r["users"] if u["user"] == user]
        facts = perslm("inspect", user, "--json", "--validate").json
        assert facts["generation"] == outcomes.count("published") >= 1


@pytest.fixture
def imported(perslm: Perslm, tmp_path: Path) -> Path:
    """A byte-level BPE trained here, without tokens for the ends of a text, imported."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1500,
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    text = [m["text"] for m in FACTS["messages"].values() if m["sent"] and m["person"] == "nora"]
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    output = tmp_path / "imported.json"
    facts = perslm("vocab", "import", tmp_path / "tokenizer.json", "-o", output, "--json").json
    assert facts["bos"] == facts["size"]  # virtual: the tokenizer has neither
    assert facts["eos"] == facts["size"] + 1
    return output


def test_an_imported_tokenizer_without_ends_goes_the_whole_way(
    perslm: Perslm, imported: Path, tmp_path: Path
) -> None:
    user = "nora-engineer"
    source = MAIL / "nora-engineer.mbox"
    common = (source, *OPTIONS, "--vocab", imported, "--jobs", 1)
    assert perslm("build", *common, "--json").json["users"][0]["status"] == "published"
    facts = perslm("inspect", user, "--json", "--validate").json
    assert facts["vocabulary"] == Vocabulary.load(imported).fingerprint
    sequences = perslm("tokenize", *common, "--json").lines
    assert not any(line["closes"] for line in sequences)
    assert sum(len(line["tokens"]) for line in sequences) == facts["tokens"]
    found = perslm("complete", user, "The short", "--json").json["continuations"]
    assert found[0]["text"].startswith(" version")
    tokens = perslm("score", user, "The short version", "--json").json["tokens"]
    assert all(token["logprob"] is not None for token in tokens)
    perslm("export", user, "--format", "arpa", "-o", tmp_path / "model.arpa")
    oracle = OracleKatz(
        ngram_counts(((s["tokens"], s["opens"], s["closes"]) for s in sequences), 3), 3
    )
    for gram, (logprob, _) in arpa_entries(tmp_path / "model.arpa").items():
        if gram != (OPEN,) and CLOSE not in gram:
            assert logprob * LN10 == pytest.approx(oracle.p(gram[:-1], gram[-1]), abs=1e-6)


def test_a_model_of_another_vocabulary_is_replaced(
    perslm: Perslm, words_file: Path, imported: Path
) -> None:
    user = "nora-engineer"
    source = MAIL / "nora-engineer.mbox"
    for number, vocabulary in enumerate((words_file, imported, words_file), 1):
        perslm("build", source, *OPTIONS, "--vocab", vocabulary, "--jobs", 1)
        facts = perslm("inspect", user, "--json").json
        assert facts["generation"] == number
        assert facts["vocabulary"] == Vocabulary.load(vocabulary).fingerprint
        # the model's own vocabulary, which the store has, whatever files lie about
        found = perslm("complete", user, "The short", "--json").json["continuations"]
        assert found[0]["text"].strip().startswith("version")


def test_packed_mail_is_read_as_it_is(perslm: Perslm, words_file: Path, tmp_path: Path) -> None:
    source = MAIL / "pavel-five.mbox"
    packed = tmp_path / "pavel-five.mbox.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    perslm("build", source, *OPTIONS, "--vocab", words_file, "--jobs", 1)
    again = perslm("build", packed, *OPTIONS, "--vocab", words_file, "--jobs", 1, "--json").json
    assert again["users"][0]["status"] == "unchanged"
