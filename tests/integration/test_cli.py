"""The commands: what they print, in text and JSON, and how they end."""

from __future__ import annotations

import json
from importlib.metadata import version
from itertools import product
from pathlib import Path
from random import Random

import pytest
import typer.main

from perslm import arpa, backend, blob
from perslm.cli.main import EXIT_CODES, app
from perslm.counts import Specials
from perslm.vocabulary import Vocabulary
from tests.integration.mailboxes import EXPECTED, MAIL, Perslm, process, write_people

COMMANDS = [
    ("vocab", "build"), ("vocab", "import"), ("build",), ("clean",), ("tokenize",), ("complete",),
    ("score",), ("users",), ("inspect",), ("export",), ("forget",), ("rollback",), ("serve",),
    ("demo",), ("bench",), ("bench", "service"), ("top",), ("suggest",), ("evaluate",),
    ("keys", "create"), ("keys", "list"), ("keys", "revoke"), ("keys", "rotate"),
    ("store", "backup"), ("store", "restore"), ("learn",), ("block",), ("opt-out",), ("opt-in",),
    ("explain",),
]  # fmt: skip


@pytest.fixture
def built(perslm: Perslm, tmp_path: Path, vocabulary: Path) -> Perslm:
    """A store with three users."""
    perslm("build", write_people(tmp_path / "mail.jsonl", 3, 4), "--vocab", vocabulary)
    return perslm


USER = "user001@example.org"


def test_every_command_of_the_design_is_there_and_teaches(perslm: Perslm) -> None:
    shown = perslm("--help").out
    assert "130 interrupted" in " ".join(shown.split())
    assert EXIT_CODES.startswith("Exit codes: 0 done")
    assert set(typer.main.get_group(app).commands) == {names[0] for names in COMMANDS}
    for names in COMMANDS:
        text = perslm(*names, "--help").out
        assert f"perslm {' '.join(names)}" in text
        if names[0] not in ("serve", "demo"):
            assert "Examples" in text, names


def test_version(perslm: Perslm) -> None:
    assert perslm("--version").out == f"perslm {version('perslm')} ({backend})\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["build"],
        ["build", "x.mbox"],
        ["build", "x.mbox", "--vocab", "v.json", "--order", "9"],
        ["build", "x.mbox", "--vocab", "v.json", "--jobs", "0"],
        ["complete", "me"],
        ["complete", "me", "text", "-k", "0"],
        ["export", "me", "--format", "pdf", "-o", "x"],
    ],
)
def test_usage_errors_end_with_2(perslm: Perslm, arguments: list[str]) -> None:
    assert perslm(*arguments, code=2).out == ""


def test_users(built: Perslm) -> None:
    everybody = [f"user{i:03d}@example.org" for i in range(3)]
    assert built("users").out.splitlines() == everybody
    assert [line["user"] for line in built("users", "--json").lines] == everybody


def test_inspect(built: Perslm, vocabulary: Path) -> None:
    facts = built("inspect", USER, "--json", "--validate").json
    assert facts["order"] == 3
    assert len(facts["ngrams"]) == 3
    assert facts["generation"] == 1
    assert facts["messages"] == 4
    assert facts["vocabulary"] == Vocabulary.load(vocabulary).fingerprint
    assert facts["valid"] is True
    shown = built("inspect", USER).out
    assert USER in shown
    assert facts["vocabulary"] in shown
    assert facts["tokens"] == sum(
        len(t["tokens"]) + t["closes"] for t in tokens_of(built, USER, vocabulary)
    )


def tokens_of(built: Perslm, user: str, vocabulary: Path) -> list[dict[str, list[str]]]:
    """What ``perslm tokenize --json`` says of the mail of ``built``."""
    source = vocabulary.with_name("mail.jsonl")
    lines = built("tokenize", source, "--vocab", vocabulary, "--json", "--jobs", "1").lines
    return [line for line in lines if line["user"] == user]


def test_tokenize(built: Perslm, vocabulary: Path) -> None:
    tokens = tokens_of(built, USER, vocabulary)
    assert len(tokens) == 4
    assert tokens[0]["tokens"][:4] == ["We", "meet", "in", "room"]
    assert tokens[0]["opens"] is tokens[0]["closes"] is True
    text = built(
        "tokenize", vocabulary.with_name("mail.jsonl"), "--vocab", vocabulary, "--jobs", "1"
    ).out
    assert " ".join(tokens[0]["tokens"]) in text.splitlines()
    assert len(text.splitlines()) == 12


def test_complete(built: Perslm) -> None:
    answer = built("complete", USER, "We meet", "-k", "2", "--json").json
    assert len(answer["continuations"]) == 2
    best = answer["continuations"][0]
    assert best["text"].startswith("in room")
    assert best["logprob"] < 0
    assert "in room" in built("complete", USER, "We meet").out


def test_score(built: Perslm) -> None:
    answer = built("score", USER, "We meet.", "--json").json
    assert [t["token"] for t in answer["tokens"]] == ["We", "meet", ".", "</s>"]
    assert [t["context"] for t in answer["tokens"]] == [1, 2, 2, 1]
    assert all(t["logprob"] < 0 for t in answer["tokens"])
    assert answer["logprob"] == pytest.approx(sum(t["logprob"] for t in answer["tokens"]))
    assert "total ln p" in built("score", USER, "We meet.").out
    katz = built("score", USER, "We meet.", "--estimator", "katz", "--json").json
    assert [t["token"] for t in katz["tokens"]] == [t["token"] for t in answer["tokens"]]
    assert katz["logprob"] != answer["logprob"]
    assert "kneser_ney" in built("score", USER, "We meet.", "--estimator", "best", code=2).err


def test_export(built: Perslm, tmp_path: Path, vocabulary: Path) -> None:
    words = Vocabulary.load(vocabulary)
    for form in ("blob", "arpa", "fst"):
        facts = built("export", USER, "--format", form, "-o", tmp_path / form, "--json").json
        assert facts["bytes"] == (tmp_path / form).stat().st_size > 0
        assert facts["generation"] == 1
    assert blob.decode((tmp_path / "blob").read_bytes()).metadata.messages == 4
    with (tmp_path / "arpa").open(encoding="utf-8") as file:
        specials = Specials(words.size, words.bos, words.eos)
        loaded = arpa.load(file, id_of=words.id, specials=specials)
    assert list(loaded.ngrams) == built("inspect", USER, "--json").json["ngrams"]
    shown = built("inspect", USER, "--estimator", "absolute", "--validate", "--json").json
    assert (shown["estimator"], shown["valid"]) == ("absolute", True)
    built("export", USER, "--estimator", "absolute", "-o", tmp_path / "other", "--format", "arpa")
    assert (tmp_path / "other").read_bytes() != (tmp_path / "arpa").read_bytes()


def test_forget_and_rollback(built: Perslm, tmp_path: Path, vocabulary: Path) -> None:
    built("rollback", USER, code=3)
    mail = write_people(tmp_path / "more.jsonl", 3, 5)
    built("build", mail, "--vocab", vocabulary)
    assert built("rollback", USER, "--json").json == {"user": USER, "generation": 3}
    assert built("inspect", USER, "--json").json["messages"] == 4
    assert built("forget", USER, "--yes", "--json").json == {"user": USER, "forgotten": True}
    for command in (["inspect"], ["forget", "-y"], ["rollback"]):
        assert built(command[0], USER, *command[1:], code=3).out == ""


def test_forget_asks_first(built: Perslm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115 - pytest closes it
    built("forget", USER, code=1)
    built("inspect", USER)


def test_build_reports(perslm: Perslm, tmp_path: Path, vocabulary: Path) -> None:
    mail = write_people(tmp_path / "mail.jsonl", 30, 1)
    report = tmp_path / "report.json"
    printed = perslm("build", mail, "--vocab", vocabulary, "--jobs", "1", "--report", report)
    facts = json.loads(report.read_text())
    assert facts["published"] == len(facts["users"]) == 30
    assert {"user", "status", "generation", "messages", "tokens", "ngrams", "bytes"} <= set(
        facts["users"][0]
    )
    assert "30 of 30 users published" in printed.out
    assert "and 10 more users" in printed.out
    assert "reading" in printed.err
    again = perslm("build", mail, "--vocab", vocabulary, "--jobs", "1", "--json")
    assert {user["status"] for user in again.json["users"]} == {"unchanged"}
    assert "reading" not in again.err


def test_build_keeps_models_small(perslm: Perslm, tmp_path: Path) -> None:
    random = Random(1)
    words = ["".join(letters) for letters in product("bdfgk", "aeiou", "lmnrst", "aeiou")]
    vocabulary, mail = tmp_path / "words.json", tmp_path / "mail.jsonl"
    Vocabulary.from_words([*words, "."]).save(vocabulary)
    bodies = [" ".join(random.choices(words, k=9)) + "." for _ in range(150)]
    mail.write_text("\n".join(json.dumps({"user": "u", "body": body}) for body in bodies))
    anything = ["build", mail, "--vocab", vocabulary, "--languages", "all", "--json"]
    anything += ["--min-messages", 1]
    (whole,) = perslm(*anything).json["users"]
    small = [*anything, "--max-bytes", "1024"]
    (built,) = perslm(*small).json["users"]
    assert built["status"] == "published"
    assert built["bytes"] <= 1024 < whole["bytes"]
    assert built["pruned"] == sum(whole["ngrams"]) - sum(built["ngrams"]) > 0
    assert built["tokens"] == whole["tokens"]
    assert perslm(*small).json["users"][0]["status"] == "unchanged"
    refused = perslm(*anything, "--max-bytes", "100", code=2)
    assert "allow 1024 or more" in " ".join(refused.err.split())


def test_no_user_id_is_cut_short(perslm: Perslm, tmp_path: Path, vocabulary: Path) -> None:
    user = "a-very-long-user-id-indeed-" * 4 + "[end]@example.org"
    source = tmp_path / "m.jsonl"
    source.write_text(json.dumps({"user": user, "body": "We meet on Monday, and I bring it."}))
    shown = perslm("build", source, "--vocab", vocabulary, "--jobs", "1").out
    column = "".join(row.split("│")[1].strip() for row in shown.splitlines() if "│" in row)
    assert column == user
    shown = perslm("inspect", user).out
    first = "".join(row.split("│")[2].strip() for row in shown.splitlines()[1:4])
    assert first.startswith(user)


def test_clean_prints_what_is_kept_and_where_the_rest_was(perslm: Perslm) -> None:
    source = MAIL / "pavel-five.mbox"
    expected = json.loads(EXPECTED.read_text("utf-8"))["messages"]
    lines = perslm("clean", source, "--json").lines
    assert len(lines) == 5
    for line in lines:
        assert set(line) == {"message_id", "text", "zones"}
        assert all(set(zone) == {"kind", "start", "end"} for zone in line["zones"])
        kinds = {zone["kind"] for zone in line["zones"]}
        assert {"greeting", "close"} & set(expected[line["message_id"]]["zones"]) <= kinds
    kept = perslm("clean", source, "--json", "--keep", "greeting,close").lines
    assert all(len(a["text"]) > len(b["text"]) for a, b in zip(kept, lines, strict=True))
    assert "removed: greeting 0-" in perslm("clean", source).out


def test_clean_of_a_user_shows_only_what_they_sent(perslm: Perslm) -> None:
    source = MAIL / "nora-engineer.mbox"
    everything = perslm("clean", source, "--json").lines
    sent = perslm("clean", source, "--json", "--user-from", "file").lines
    expected = json.loads(EXPECTED.read_text("utf-8"))["messages"]
    assert 0 < len(sent) < len(everything)
    assert all(expected[line["message_id"]]["sent"] for line in sent)


def test_mail_that_utf8_cannot_hold_is_printed_as_an_escape(perslm: Perslm, tmp_path: Path) -> None:
    source = tmp_path / "m.jsonl"
    source.write_text(json.dumps({"message_id": "\udc80", "body": "Half a \ud83d character"}))
    with process(perslm.store, "clean", source, "--json") as running:
        out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert "character" in json.loads(out)["text"]


def test_a_reader_that_leaves_early_is_no_error_of_ours(perslm: Perslm, tmp_path: Path) -> None:
    mail = write_people(tmp_path / "mail.jsonl", 20, 300)
    with process(perslm.store, "clean", mail, "--json") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline().startswith('{"message_id"')
        running.stdout.close()
        assert running.stderr.read() == ""
        assert running.wait(60) == 1


def test_models_go_to_pipes_and_over_links(built: Perslm, tmp_path: Path) -> None:
    target, link = tmp_path / "target.arpa", tmp_path / "link.arpa"
    target.write_text("old")
    link.symlink_to(target)
    built("export", USER, "--format", "arpa", "-o", link)
    assert link.is_symlink()
    written = target.read_text("utf-8")
    with process(built.store, "export", USER, "--format", "arpa", "-o", "/dev/stdout") as running:
        assert running.communicate(timeout=60)[0] == written
