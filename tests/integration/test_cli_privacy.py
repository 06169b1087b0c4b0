"""Looking into models, blocking phrases and opting out, by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perslm.cli import privacy
from perslm.rules import Rules
from perslm.store import open_store
from perslm.vocabulary import Vocabulary
from tests.integration.mailboxes import Perslm

LINES = [
    "Thanks for the quick reply.",
    "Project Zephyr is on track.",
    "Please send the Zephyr budget.",
    "I will send the draft tomorrow.",
]


@pytest.fixture
def built(perslm: Perslm, tmp_path: Path) -> list[object]:
    """The arguments of a build, which was made once."""
    words = sorted({w.strip(".") for line in LINES for w in line.split()} | {"."})
    vocabulary, mail = tmp_path / "words.json", tmp_path / "mail.jsonl"
    Vocabulary.from_words(words).save(vocabulary)
    rows = [
        {"user": user, "body": f"{line}\n\n{LINES[(i + day) % 4]}", "message_id": f"{user}{day}{i}"}
        for user in ("me", "you")
        for day in range(3)
        for i, line in enumerate(LINES)
    ]
    mail.write_text("\n".join(map(json.dumps, rows)))
    build = ["build", mail, "--vocab", vocabulary, "--languages", "all", "--jobs", 1, "--json"]
    build += ["--ledger", tmp_path / "ledger"]
    assert {u["status"] for u in perslm(*build).json["users"]} == {"published"}
    return build


def known(perslm: Perslm, user: str) -> set[str]:
    """Every n-gram of a model, readable."""
    frequent = perslm("inspect", user, "--top", 999, "--json").json["frequent"]
    return {row["text"] for of_order in frequent for row in of_order}


def test_inspect_shows_what_is_known(perslm: Perslm, built: list[object]) -> None:
    facts = perslm("inspect", "me", "--top", 3, "--json").json
    assert (facts["pending"], facts["blocked"]) == (0, 0)
    assert [len(of_order) for of_order in facts["frequent"]] == [3, 3, 3]
    assert "send the Zephyr" in known(perslm, "me")
    shown = perslm("inspect", "me", "--top", 2).out
    assert "order 3" in shown
    assert "frequent" not in perslm("inspect", "me", "--json").json


def test_explain_shows_contexts_and_counts(perslm: Perslm, built: list[object]) -> None:
    explained = perslm("explain", "me", "Thanks for the", "--json").json
    scored = perslm("score", "me", "Thanks for the", "--json").json
    assert [t["token"] for t in explained["tokens"]] == [t["token"] for t in scored["tokens"]]
    assert [t["logprob"] for t in explained["tokens"]] == [t["logprob"] for t in scored["tokens"]]
    third = explained["tokens"][2]
    assert [c["context"] for c in third["contexts"]] == ["Thanks for", "for", ""]
    assert third["contexts"][0]["count"] == third["contexts"][0]["total"] > 0
    shown = perslm("explain", "me", "Thanks for the").out
    assert "Thanks for" in shown
    assert "(anything)" in shown
    assert perslm("explain", "nobody", "Thanks", code=3)


def test_a_blocked_phrase_goes_at_once_and_stays_gone(perslm: Perslm, built: list[object]) -> None:
    other = known(perslm, "you")
    assert perslm("block", "me", "ZEPHYR", "quick reply", "--json").json == {
        "blocked": ["quick reply", "zephyr"]
    }
    assert perslm("block", "me", "--list").out.split("\n")[:2] == ["quick reply", "zephyr"]
    left = known(perslm, "me")
    assert not any("Zephyr" in text or "quick reply" in text for text in left)
    assert "quick" in left
    assert known(perslm, "you") == other
    assert perslm("inspect", "me", "--json").json["blocked"] == 2
    states = {u["user"]: u["status"] for u in perslm(*built).json["users"]}
    assert states.get("me") == "published"
    rebuilt = known(perslm, "me")
    assert not any("Zephyr" in text or "quick reply" in text for text in rebuilt)
    assert perslm("block", "me", "--remove", "zephyr", "--json").json == {
        "blocked": ["quick reply"]
    }
    perslm(*built)
    assert any("Zephyr" in text for text in known(perslm, "me"))


def test_everybody_is_everybody(perslm: Perslm, built: list[object]) -> None:
    perslm("block", "--everybody", "zephyr")
    assert not any("Zephyr" in text for user in ("me", "you") for text in known(perslm, user))
    perslm(*built)
    assert not any("Zephyr" in text for user in ("me", "you") for text in known(perslm, user))
    perslm("block", "--everybody", "--remove", "zephyr")
    perslm(*built)
    assert all(any("Zephyr" in text for text in known(perslm, u)) for u in ("me", "you"))


def test_who_opts_out_has_no_model_and_gets_none(
    perslm: Perslm, built: list[object], tmp_path: Path
) -> None:
    ledger = ("--ledger", tmp_path / "ledger")
    assert perslm("opt-out", "me", "--yes", *ledger, "--json").json == {
        "user": "me",
        "opted_out": True,
        "had_model": True,
    }
    perslm("inspect", "me", code=3)
    perslm(*built)
    with open_store(perslm.store) as store:
        assert list(store.users()) == ["you"]
        assert store.rules("me").opted_out
    assert perslm("opt-in", "me", "--json").json == {"user": "me", "opted_out": False}
    perslm(*built)
    assert "send the Zephyr" in known(perslm, "me")


def test_who_opts_out_while_others_block_is_out(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = Rules.block

    def slow(rules: Rules, *arguments: Any) -> Rules:
        if not meanwhile.rules("me").opted_out:
            privacy.opt_out("me", yes=True, store=store_url)
        return block(rules, *arguments)

    with open_store(store_url) as meanwhile:
        monkeypatch.setattr(Rules, "block", slow)
        privacy.block(["me", "zephyr"], store=store_url)
        rules = meanwhile.rules("me")
    assert rules.opted_out
    assert rules.phrases == {"zephyr"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["block"], "--everybody"),
        (["block", "me"], "name a phrase"),
        (["block", "me", "x", "--list"], "takes no phrases"),
        (["block", "me", "--remove", "never blocked"], "not blocked"),
        (["block", "me", " , "], "at least one word"),
    ],
)
def test_what_makes_no_sense_is_refused(perslm: Perslm, arguments: list[str], says: str) -> None:
    assert says in " ".join(perslm(*arguments, code=2).err.split())
