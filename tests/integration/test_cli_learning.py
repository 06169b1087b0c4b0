"""``perslm learn``: a message in any form, until a build counts it with all others."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from perslm.store import open_store
from tests.integration.mailboxes import Perslm, write_people

USER = "user001@example.org"
BODY = "Our zeppelin reached the harbour this morning, and everybody came to look at it."
MESSAGE = {
    "message_id": "<zeppelin@example.org>",
    "date": "2026-01-31T09:30:00Z",
    "from": USER,
    "to": "desk@example.org",
    "subject": "Zeppelin",
    "body": BODY,
}
MAIL = f"""\
Message-ID: <zeppelin@example.org>
Date: Sat, 31 Jan 2026 09:30:00 +0000
From: {USER}
To: desk@example.org
Subject: Zeppelin

{BODY}
"""


@pytest.fixture
def mail(tmp_path: Path) -> Path:
    return write_people(tmp_path / "mail.jsonl", 3, 4)


@pytest.fixture
def built(perslm: Perslm, mail: Path, vocabulary: Path) -> Perslm:
    perslm("build", mail, "--vocab", vocabulary)
    return perslm


def test_a_message_in_any_form_is_one(
    built: Perslm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in (("a.eml", MAIL), ("a.json", json.dumps(MESSAGE)), ("a.txt", BODY)):
        (tmp_path / name).write_text(content)
    learn = ("learn", USER, "--json")
    assert built(*learn, tmp_path / "a.eml").json == {"status": "learned", "reason": "ok"}
    assert built(*learn, tmp_path / "a.json").json == {"status": "known", "reason": "ok"}

    class Input:
        buffer = io.BytesIO(MAIL.encode())

    monkeypatch.setattr("sys.stdin", Input())
    assert built(*learn).json["status"] == "known"
    assert "learned" in built("learn", USER, tmp_path / "a.txt").err
    assert "already" in built("learn", USER, tmp_path / "a.txt").err
    assert built("inspect", USER, "--json").json["pending"] == 2


def test_what_teaches_nothing_says_why(built: Perslm, tmp_path: Path) -> None:
    quoted = tmp_path / "quoted.txt"
    quoted.write_text("> not my words\n")
    assert "no own words" in built("learn", USER, quoted).err
    broken = tmp_path / "broken.json"
    broken.write_text('{"body": ')
    assert "JSON" in built("learn", USER, broken, code=2).err
    empty = tmp_path / "empty.json"
    empty.write_text('{"subject": "Zeppelin"}')
    told = built("learn", USER, empty, code=2).err
    assert "body" in told
    assert "Zeppelin" not in told
    built("learn", USER, tmp_path / "nowhere", code=5)


def test_without_a_vocabulary_the_remedy_is_named(perslm: Perslm, tmp_path: Path) -> None:
    (tmp_path / "a.eml").write_text(MAIL)
    assert "perslm build" in perslm("learn", USER, tmp_path / "a.eml", code=5).err


def test_the_next_build_counts_it_once(
    built: Perslm, mail: Path, vocabulary: Path, tmp_path: Path
) -> None:
    before = built("inspect", USER, "--json").json
    (tmp_path / "a.eml").write_text(MAIL)
    built("learn", USER, tmp_path / "a.eml")
    learned = built("inspect", USER, "--json").json
    assert (learned["messages"], learned["pending"]) == (before["messages"] + 1, 1)
    assert learned["generation"] == before["generation"]
    assert learned["tokens"] > before["tokens"]
    line = {**MESSAGE, "user": USER}
    mail.write_text(mail.read_text() + json.dumps(line) + "\n")
    for _ in range(2):
        built("build", mail, "--vocab", vocabulary)
        found = built("inspect", USER, "--json").json
        assert (found["messages"], found["pending"]) == (before["messages"] + 1, 0)
        assert found["tokens"] == learned["tokens"]


def test_who_opted_out_is_taught_nothing(built: Perslm, tmp_path: Path) -> None:
    (tmp_path / "a.eml").write_text(MAIL)
    built("opt-out", USER, "--yes")
    assert "opted out" in built("learn", USER, tmp_path / "a.eml").err
    with open_store(built.store) as store:
        assert store.head(USER).generation == 0


def test_a_deletion_takes_it_along(built: Perslm, tmp_path: Path, raw_store: Any) -> None:
    (tmp_path / "a.eml").write_text(MAIL)
    built("learn", USER, tmp_path / "a.eml")
    assert len(raw_store.keys("perslm:pending:*")) == 1
    built("forget", USER, "--yes")
    assert raw_store.keys("perslm:pending:*") == []
