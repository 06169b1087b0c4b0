"""``perslm suggest`` and ``evaluate`` with an ARPA file as global LM, as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perslm.bench.report import markers
from tests.benchmarks import results
from tests.support import FIXTURES

MAIL = FIXTURES / "mail"
DOCS = Path(__file__).parents[2] / "docs" / "results"


def perslm(*arguments: object, code: int = 0) -> str:
    command = [sys.executable, "-m", "perslm", *map(str, arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def global_lm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model of one person, in the place of everybody's."""
    folder = tmp_path_factory.mktemp("global")
    store = ["--store", f"embedded:{folder / 'store'}"]
    words = folder / "words.json"
    mail = MAIL / "ruth-lawyer"
    perslm("vocab", "build", mail, "--user", "ruth", "--min-users", 1, "-o", words)
    perslm("build", mail, "--user", "ruth", "--vocab", words, "--order", 2, *store)
    perslm("export", "ruth", "--format", "arpa", "-o", folder / "ruth.arpa", *store)
    return f"arpa:{folder / 'ruth.arpa'}"


def test_suggestions_of_a_user_and_of_nobody(global_lm: str, tmp_path: Path) -> None:
    store = ["--store", f"embedded:{tmp_path / 'store'}"]
    vocabulary = tmp_path / "vocab.json"
    perslm("vocab", "import", global_lm, "-o", vocabulary)
    perslm("build", MAIL / "nora-engineer.mbox", "--user", "nora", "--vocab", vocabulary, *store)
    ask = ["Thanks for ", "--global-lm", global_lm, *store]
    known = json.loads(perslm("suggest", "nora", *ask, "--json"))
    assert known["reason"] == "ok"
    assert known["suggestions"]
    assert all(s["confidence"] <= 0 for s in known["suggestions"])
    nobody = json.loads(perslm("suggest", "nobody", *ask, "--json"))
    assert nobody["reason"] == "unknown_user"
    assert nobody["suggestions"] != known["suggestions"]
    assert known["suggestions"][0]["text"] in perslm("suggest", "nora", *ask)
    shown = {s["text"].strip(" .") for s in known["suggestions"]}
    blocked = tmp_path / "blocked.txt"
    blocked.write_text("".join(f"{text}\n\n" for text in shown if text))
    other = json.loads(perslm("suggest", "nora", *ask, "--blocklist", blocked, "--json"))
    assert other["suggestions"]
    assert shown.isdisjoint(s["text"].strip(" .") for s in other["suggestions"])
    assert "UTF-8" in perslm("suggest", "nora", *ask, "--blocklist", tmp_path / "none", code=2)
    held = json.loads(perslm("suggest", "nora", *ask, "--threshold", 1, "--json"))
    assert held["suggestions"] == []


def test_an_evaluation_and_its_report(global_lm: str, tmp_path: Path) -> None:
    command = ["evaluate", MAIL / "nora-engineer.mbox", MAIL / "ines-student.mbox"]
    command += ["--user-from", "file", "--global-lm", global_lm, "-o", tmp_path / "results"]
    command += ["--amounts", "30", "--suggestions", 2]
    report = json.loads(perslm(*command, "--json"))
    assert [u["user"] for u in report["users"]] == [1, 2]
    everything = report["summary"]["amounts"]["all"]
    assert everything["users"] == 2
    assert everything["improved"] == 1.0
    assert report["summary"]["typing"]["places"] == 4
    assert json.loads((tmp_path / "results" / "report.json").read_text()) == report
    page = (tmp_path / "results" / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "nora" not in page
    assert "nora" not in json.dumps(report)
    assert "src=" not in page
    assert "reduction" in perslm(*command)
    # the page of docs/results is made of it
    folder = tmp_path / "docs"
    shutil.copytree(DOCS, folder)
    readme = tmp_path / "README.md"
    readme.write_text("\n".join(markers(results.MARK)))
    found = tmp_path / "results" / "report.json"
    results.write(found, found, folder, readme)
    assert "≥ 20%" in (folder / "report.html").read_text()
    assert "≥ 20%" in (folder / "README.md").read_text()
    assert "| all | 2 |" in readme.read_text()
    assert json.loads((tmp_path / "results" / "report.json").read_text()) == report


def test_another_global_lm_of_the_same_name_is_asked_anew(global_lm: str, tmp_path: Path) -> None:
    arpa, store = tmp_path / "lm.arpa", ["--store", f"embedded:{tmp_path / 'store'}"]
    arpa.write_bytes(Path(global_lm.removeprefix("arpa:")).read_bytes())

    def perplexity(folder: str) -> float:
        command = ["evaluate", MAIL / "ines-student.mbox", "--user", "ines", "--amounts", ""]
        command += ["--global-lm", f"arpa:{arpa}", "-o", tmp_path / folder, "--json"]
        report = json.loads(perslm(*command))
        return float(report["summary"]["amounts"]["all"]["global_perplexity"]["mean"])

    before = perplexity("results")
    words = Path(global_lm.removeprefix("arpa:")).with_name("words.json")
    mail = MAIL / "ruth-lawyer"  # the same words
    perslm("build", mail, "--user", "ruth", "--vocab", words, "--order", 3, *store)
    perslm("export", "ruth", "--format", "arpa", "-o", arpa, *store)
    after = perplexity("results")
    assert after != before
    assert after == perplexity("elsewhere")


def test_what_is_refused(tmp_path: Path) -> None:
    mail = MAIL / "nora-engineer.mbox"
    said = perslm("evaluate", mail, "--global-lm", "huge", "-o", tmp_path / "r", code=2)
    assert "smollm2" in said
    said = perslm("suggest", "nora", "Hi", "--global-lm", f"arpa:{tmp_path / 'no.arpa'}", code=5)
    assert "no.arpa" in said
    said = perslm("vocab", "import", "smollm2", "--bos", "x", "-o", tmp_path / "v.json", code=2)
    assert "--bos" in said
