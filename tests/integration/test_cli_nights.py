"""``perslm build`` night for night, and what ``perslm forget`` deletes of it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pyarrow.parquet
import pytest

from builders.ledgers import open_ledger
from builders.prepare import Settings
from perslm.cli.nightly import seconds
from perslm.errors import ArgumentError
from perslm.vocabulary import Vocabulary
from tests.integration.mailboxes import Perslm

ANN, BOB = "ann@example.org", "bob@example.net"
TEXT = "We bring the cake on Monday. We meet on Monday and bring the tea."


def write(path: Path, numbers: range, user: str = ANN) -> Path:
    lines = [
        json.dumps(
            {
                "message_id": f"<{n}@{user}>",
                "from": user,
                "date": f"2025-01-{n + 1:02d}T10:00:00Z",
                "subject": f"number {n}",
                "body": TEXT + " The cake is here." * (n % 3),
            }
        )
        for n in numbers
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def build(perslm: Perslm, tmp_path: Path) -> tuple[object, ...]:
    """Arguments of a build of two people's mail, which is done."""
    mail = [write(tmp_path / "ann.jsonl", range(8)), write(tmp_path / "bob.jsonl", range(3), BOB)]
    vocabulary = tmp_path / "words.json"
    perslm("vocab", "build", *mail, "--min-users", 1, "-o", vocabulary)
    arguments = ("build", *mail, "--vocab", vocabulary, "--jobs", 1, "--json")
    assert perslm(*arguments).json["published"] == 2
    return arguments


def test_the_second_night_reads_and_publishes_nothing(perslm: Perslm, build: tuple[object]) -> None:
    report = perslm(*build).json
    assert report["statuses"] == {"unchanged": 2}
    assert report["skipped"] == {"known": 11}
    vocabulary = build[4]
    report = perslm("build", "--vocab", vocabulary, "--json").json
    assert (report["messages"], report["statuses"]) == (0, {"unchanged": 2})


def test_a_log_says_how_long_it_will_take(perslm: Perslm, build: tuple[object]) -> None:
    shown = perslm(*build[:-1], "--order", 2).err
    assert re.search(r"^building: 50%, \d+:\d\d:\d\d left$", shown, re.MULTILINE)


def test_a_window_ends_what_counts(perslm: Perslm, build: tuple[object]) -> None:
    assert perslm(*build, "--window", "200y").json["statuses"] == {"unchanged": 2}
    assert perslm(*build, "--window", "24h").json["statuses"] == {"expired": 2}
    assert perslm("users", "--json").lines == []
    assert "365d" in perslm(*build, "--window", "a year", code=2).err


@pytest.mark.parametrize(
    ("text", "days"), [("365d", 365), ("52w", 364), ("1y", 365), ("12h", 0.5), (" 2Y ", 730)]
)
def test_windows_as_people_write_them(text: str, days: float) -> None:
    assert seconds(text) == days * 86400


@pytest.mark.parametrize("text", ["", "0d", "-1d", "365", "1m", "1.5y", "d", "99999999d"])
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(ArgumentError, match="365d"):
        seconds(text)


def test_reports_in_four_formats(perslm: Perslm, build: tuple[object], tmp_path: Path) -> None:
    paths = [tmp_path / f"night.{ending}" for ending in ("json", "jsonl", "parquet", "html")]
    options = [word for path in paths for word in ("--report", path)]
    printed = perslm(*build, *options).json
    whole, lines, table, page = paths
    assert json.loads(whole.read_text()) == printed
    users = [json.loads(line) for line in lines.read_text().splitlines()]
    assert users == printed["users"]
    assert [(u["user"], u["status"], u["messages"]) for u in users] == [
        (ANN, "unchanged", 8),
        (BOB, "unchanged", 3),
    ]
    rows = pyarrow.parquet.read_table(table).to_pylist()
    assert sorted(rows[0]) == sorted(users[0])
    assert [row["user"] for row in rows] == [ANN, BOB]
    html = page.read_text()
    assert "unchanged" in html
    assert "example" not in html  # neither a user nor a source
    assert "://" not in html
    assert ".txt" not in html
    assert ".html" in perslm(*build, "--report", tmp_path / "night.txt", code=2).err
    assert not (tmp_path / "night.txt").exists()


def test_a_report_is_written_although_the_build_failed(
    perslm: Perslm, build: tuple[object], tmp_path: Path
) -> None:
    report = tmp_path / "night.json"
    missing = tmp_path / "missing.mbox"
    perslm("build", missing, *build[3:], "--report", report, code=5)
    assert json.loads(report.read_text())["users"] == []


def test_a_second_build_at_once_is_refused(perslm: Perslm, build: tuple[object]) -> None:
    vocabulary = Vocabulary.load(Path(str(build[4])))
    (folder,) = Path(os.environ["XDG_DATA_HOME"]).rglob("default")
    with open_ledger(folder, vocabulary.fingerprint, Settings()):
        assert "--ledger" in perslm(*build, code=5).err
        perslm(*build, "--ledger", folder / "other")
    perslm(*build)


def test_forgotten_mail_stays_away(perslm: Perslm, build: tuple[object]) -> None:
    done = perslm("forget", ANN, "--message", f"<7@{ANN}>", "--yes", "--json").json
    assert done == {"user": ANN, "messages": 1, "generation": 2}
    done = perslm("forget", ANN, "--before", "2025-01-03", "--yes", "--json").json
    assert done == {"user": ANN, "messages": 2, "generation": 3}
    assert perslm(*build).json["statuses"] == {"unchanged": 2}
    assert perslm("inspect", ANN, "--json").json["messages"] == 5
    assert perslm("rollback", ANN, code=3)
    assert "no mail is left" in perslm("forget", ANN, "--before", "2026-01-01", "-y").err
    assert perslm(*build).json["statuses"] == {"unchanged": 1}
    assert [line["user"] for line in perslm("users", "--json").lines] == [BOB]


def test_a_forgotten_user_leaves_the_ledger(perslm: Perslm, build: tuple[object]) -> None:
    perslm("forget", ANN, "--yes")
    report = perslm("build", "--vocab", build[4], "--json").json
    assert [user["user"] for user in report["users"]] == [BOB]


def test_what_cannot_be_forgotten_is_told(
    perslm: Perslm, build: tuple[object], tmp_path: Path
) -> None:
    elsewhere = ("--ledger", tmp_path / "elsewhere")
    assert "--ledger" in perslm("forget", ANN, "--message", "1", "-y", *elsewhere, code=5).err
    assert not (tmp_path / "elsewhere").exists()
    assert "2024-12-31" in perslm("forget", ANN, "--before", "soon", "-y", code=2).err
    assert "one user" in perslm("forget", "--before", "2025-01-01", "-y", code=2).err
    perslm("forget", "nobody", "--message", "1", "-y", code=3)


def test_options_of_one_runner_are_refused_by_the_other(
    perslm: Perslm, build: tuple[object]
) -> None:
    assert "--runner spark" in perslm(*build, "--master", "local[2]", code=2).err
    assert "--rebuild" in perslm(*build[:5], "--runner", "spark", "--rebuild", code=2).err
