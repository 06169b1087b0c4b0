"""``perslm bench`` as a command: what it prints, writes, and that the README shows its table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perslm.bench.report import COLUMNS, MARK, markers
from tests.support import ROOT

BEGIN, END = markers(MARK)

KEYS = {
    "learn": [3, 5],
    "step": [3, 4, 5],
    "word": [3],
    "distribution": [3],
    "continuations": [3],
    "mix": [3],
    "mix_in_place": [3],
    "threads": [3],
    "threads_small": [3],
    "blob": [3, 5],
    "memory": [3, 5],
    "load": [3, 5],
    "blob_of_nothing": [3],
    "blob_of_few": [3],
}


def bench(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perslm", "bench", *map(str, options)]
    return subprocess.run(
        command,
        env={**os.environ, "COLUMNS": "250"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run on two small users wrote: report.json, README.md, and what it printed."""
    folder = tmp_path_factory.mktemp("bench")
    for user, word in enumerate(("quincunx", "zeugma")):
        with (folder / f"user{user}.jsonl").open("w") as file:
            for i in range(40):
                sentences = [f"The {word} of case {i} is here.", f"We meet at the {word} again."]
                file.write(json.dumps({"sentences": sentences}) + "\n")
    (folder / "README.md").write_text(f"# title\n\n{BEGIN}\n{END}\n")
    outputs = ("--report", folder / "report.json", "--markdown", folder / "README.md")
    done = bench("--quick", "--json", "--source", folder, *outputs)
    assert done.returncode == 0, done.stderr
    (folder / "printed.json").write_text(done.stdout)
    return folder


def report(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text())


def test_every_figure_is_measured(folder: Path) -> None:
    found: dict[str, list[int]] = {}
    for figure in report(folder)["figures"]:
        found.setdefault(figure["key"], []).append(figure["order"])
        ours, *others = figure["measured"]
        assert ours["name"] == "perslm"
        assert ours["ratio"] is None
        for m in (ours, *others):
            assert m["median"] > 0
            assert 0 < m["low"] <= m["high"]
            assert m["p99"] > 0
            assert m["samples"] >= 1
        assert all(m["ratio"] > 0 for m in others)
        assert all((m["difference"] or 0) <= 1e-5 for m in others)
    assert found == KEYS
    assert list(found) == list(KEYS)


def test_peers_take_part_or_are_named_as_absent(folder: Path) -> None:
    run = report(folder)
    measured: dict[str, set[str]] = {}
    for figure in run["figures"]:
        names = {m["name"].partition(",")[0] for m in figure["measured"]}
        measured.setdefault(figure["key"], set()).update(names)
    expected = {"kenlm-ex", "pywrapfst", "numpy twin"}
    assert set(run["absent"]) <= expected
    assert measured["step"] == {"perslm", "dict"} | expected - set(run["absent"])
    assert {"numpy.full"} <= measured["distribution"]
    assert {"numpy.copyto", "numpy.logaddexp"} <= measured["mix"]
    assert ("kenlm-ex" in measured["load"]) == ("kenlm-ex" not in run["absent"])
    assert ("OpenFst const" in measured["blob"]) == ("pywrapfst" not in run["absent"])


def test_it_says_what_was_measured_where(folder: Path) -> None:
    run = report(folder)
    assert json.loads((folder / "printed.json").read_text()) == run
    assert run["backend"] in ("kernel", "numpy")
    assert run["machine"]["processor"]
    assert run["machine"]["cores"] >= 1
    assert {"perslm", "Python", "numpy"} <= set(run["versions"])
    assert run["corpus"]["users"] == 2
    assert run["corpus"]["tokens"] > 500


def test_it_shows_no_word_that_anybody_wrote(folder: Path) -> None:
    for name in ("report.json", "README.md", "printed.json"):
        text = (folder / name).read_text()
        assert "quincunx" not in text
        assert "zeugma" not in text


def rows(text: str) -> list[list[str]]:
    lines = text.split(BEGIN)[1].split(END)[0].strip().splitlines()
    return [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"]


def test_the_readme_shows_the_table_of_the_command(folder: Path) -> None:
    ours, readme = (rows((place / "README.md").read_text("utf-8")) for place in (folder, ROOT))
    assert ours[0] == readme[0] == list(COLUMNS)
    assert [row[0] for row in ours] == [row[0] for row in readme]
    assert [row[0] for row in ours[2:]] == [figure["row"] for figure in report(folder)["figures"]]
    assert {len(row) for row in readme} == {len(COLUMNS)}


def test_it_runs_without_any_data_and_shows_a_table() -> None:
    done = bench("--quick", "--tokens", 1000)
    assert done.returncode == 0, done.stderr
    assert "beam step, 8 × 64 with next states, order 3, µs" in done.stdout
    assert "made-up users" in done.stdout
    assert done.stderr.splitlines()[0].startswith("speed")


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--markdown", "plain.md"], 2, "needs the lines"),
        (["--markdown", "absent.md"], 5, "no such file"),
        (["--report", "absent/report.json"], 5, "create the directory"),
        (["--source", "empty"], 5, "no sentences here"),
        (["--tokens", "3"], 2, "Invalid value"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], code: int, says: str
) -> None:
    (tmp_path / "plain.md").write_text("no markers")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    done = bench(*options)
    assert done.returncode == code
    assert says in done.stderr
    assert "speed" not in done.stderr
    assert "Traceback" not in done.stderr
