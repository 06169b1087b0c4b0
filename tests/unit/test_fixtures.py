"""The committed fixture mail is what its generator writes, and what it says it is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
MAIL = FIXTURES / "mail"


def files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MAIL / "expected.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def raw() -> dict[str, list[EmailMessage]]:
    """Every message in the fixtures by Message-ID, split by rules of our own."""
    found: dict[str, list[EmailMessage]] = {}
    for path, data in files(MAIL).items():
        if path.endswith(".mbox"):
            data = data.replace(b"\r\n", b"\n")
            pieces = re.split(rb"(?m)^From .*\n", data)[1:]
            pieces = [re.sub(rb"(?m)^>(>*From )", rb"\1", piece) for piece in pieces]
        elif path.endswith((".json", ".gitkeep")):
            continue
        else:
            pieces = [data]
        for piece in pieces:
            message = message_from_bytes(piece, policy=policy.default)
            found.setdefault(message["Message-ID"], []).append(message)
    return found


def plain_text(message: EmailMessage) -> str | None:
    part = message.get_body(preferencelist=("plain",))
    return None if part is None else str(part.get_content()).replace("\r\n", "\n")


def squeezed(text: str) -> str:
    return " ".join(text.split())


def test_regenerating_gives_the_committed_bytes(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(FIXTURES / "generate.py"), "--output", str(tmp_path)], check=True
    )
    assert files(tmp_path) == files(MAIL)


def test_check_notices_one_changed_byte_and_one_missing_file(tmp_path: Path) -> None:
    for path, data in files(MAIL).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    script = str(FIXTURES / "generate.py")
    command = [sys.executable, script, "--check", "--output", str(tmp_path)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    box = tmp_path / "pavel-five.mbox"
    box.write_bytes(box.read_bytes().replace(b"Wood", b"wood", 1))
    (tmp_path / "nora-engineer.mbox").unlink()
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "differs: nora-engineer.mbox",
        "differs: pavel-five.mbox",
    ]


def test_the_fixtures_stay_small() -> None:
    assert sum(len(data) for data in files(MAIL).values()) < 3_000_000


def test_every_message_is_recorded_and_parses_without_defects(
    expected: dict[str, Any], raw: dict[str, list[EmailMessage]]
) -> None:
    assert raw.keys() == expected["messages"].keys()
    for message_id, copies in raw.items():
        assert len(copies) == len(expected["messages"][message_id]["files"])
        for message in copies:
            assert [d for part in message.walk() for d in part.defects] == []


def test_own_text_stands_in_the_message_word_for_word(
    expected: dict[str, Any], raw: dict[str, list[EmailMessage]]
) -> None:
    compared = 0
    for message_id, record in expected["messages"].items():
        if not record["sent"] or not record["text"] or record["wire"].find("-as-") > 0:
            continue
        text = plain_text(raw[message_id][0])
        # Here something stands between the writer's paragraphs, or there is no text/plain part.
        if text is None or record["form"] == "reply-interleaved" or "code" in record["zones"]:
            continue
        if "pgp" in record["zones"]:
            text = re.sub(r"(?m)^- ", "", text)
        assert squeezed(record["text"]) in squeezed(text)
        compared += 1
    assert compared > 450


def test_own_text_begins_with_the_greeting_and_ends_with_the_close(
    expected: dict[str, Any],
) -> None:
    for record in expected["messages"].values():
        if record["sent"] and record["text"]:
            assert record["text"].startswith(record["greeting"])
            assert record["text"].endswith(record["close"])


def test_words_of_others_are_in_the_mail_but_never_in_own_text(expected: dict[str, Any]) -> None:
    for key, person in expected["people"].items():
        own = " ".join(
            record["text"]
            for record in expected["messages"].values()
            if record["person"] == key and record["sent"]
        )
        assert own.count(person["canary"]) == 1
        folded = squeezed(own.lower().replace("’", "'"))
        assert [word for word in person["others_words"] if word.lower() in folded] == []
        # Of five mails a habit needs two, of a year's correspondence more.
        least = 2 if key == "pavel" else 7
        for habit in person["habits"]:
            assert folded.count(habit.lower()) >= least, habit


def test_quoted_material_holds_the_words_of_others(
    expected: dict[str, Any], raw: dict[str, list[EmailMessage]]
) -> None:
    marked = quoted = 0
    for message_id, record in expected["messages"].items():
        if "quote" not in record.get("zones", ()):
            continue
        words = expected["people"][record["person"]]["others_words"]
        text = plain_text(raw[message_id][0]) or ""
        quoted += 1
        marked += any(word.lower() in text.lower() for word in words)
    assert quoted > 150
    assert marked > 0.8 * quoted


def test_mailing_lists_rewrite_the_author_of_posts_by_the_owner_and_by_others(
    expected: dict[str, Any], raw: dict[str, list[EmailMessage]]
) -> None:
    own = others = 0
    for message_id, copies in raw.items():
        record = expected["messages"][message_id]
        for message in copies:
            if " via " not in message["From"]:
                continue
            answered = message["Reply-To"].addresses[0].addr_spec
            if record["sent"]:
                own += 1
                assert answered == expected["people"][record["person"]]["addresses"][0]
            else:
                others += 1
                assert answered == record["author"]
    assert own >= 3
    assert others >= 3


def test_every_wire_form_and_extra_of_the_readme_occurs(expected: dict[str, Any]) -> None:
    records = [record for record in expected["messages"].values() if record["sent"]]
    assert {record["wire"] for record in records} == {
        *("plain", "flowed", "long", "8bit", "utf8-base64", "latin1", "latin1-qp"),
        *("cp1252", "cp1252-qp", "cp1252-as-latin1", "utf8-as-ascii", "alternative", "html"),
    }
    assert {record["form"] for record in records} == {
        *("new", "reply-top", "reply-bottom", "reply-interleaved", "reply-original"),
        *("reply-header", "forward", "forward-outlook", "forward-apple"),
        *("auto-reply", "calendar"),
    }
    assert {record["extra"] for record in records} == {"", "pgp", "list", "txt", "pdf", "code"}
    assert sum("duplicate_of" in record for record in records) == 4
    assert sum(len(set(record["files"])) < len(record["files"]) for record in records) >= 2


def test_mboxrd_quotes_lines_that_look_like_separators() -> None:
    lines = (MAIL / "nora-engineer.mbox").read_bytes().split(b"\n")
    assert any(line.startswith(b">From ") for line in lines)


@pytest.mark.parametrize(
    ("person", "sent", "words"),
    [("nora", 145, 80), ("ruth", 140, 80), ("ines", 140, 80), ("bea", 115, 40), ("pavel", 5, 30)],
)
def test_people_write_enough(expected: dict[str, Any], person: str, sent: int, words: int) -> None:
    texts = [
        record["text"]
        for record in expected["messages"].values()
        if record["person"] == person and record["sent"] and record["text"]
    ]
    assert len(texts) >= sent
    assert words <= sum(len(text.split()) for text in texts) / len(texts) <= 160
    assert len(set(texts)) >= 0.98 * len(texts)
