"""``perslm bench service`` as a command: a real store, service and load, for some seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perslm.bench.report import markers
from perslm.bench.serving.report import COLUMNS, MARK

pytest.importorskip("fastapi", reason="the service's extra is not installed")

BEGIN, END = markers(MARK)
TARGETS = [
    "http_p50",
    "http_p99",
    "grpc_stream_p50",
    "grpc_stream_p99",
    "throughput",
    "cold_added",
    "overload_p99",
    "overload_errors",
]
FOR_INFORMATION = {
    "http_bare_p50",
    "http_bare_p99",
    "grpc_unary_p50",
    "grpc_unary_p99",
    *(f"client_{t}_{m}_p{p}" for t in ("http", "grpc") for m in ("score", "mix") for p in (50, 99)),
    "throughput_bare",
    "throughput_busy",
    "cold_p99",
    "cold_without",
    "sustained",
    "overload_p99_wanted",
    "overload_late",
    "overload_busy",
    "overload_many_p99",
    "overload_many_rate",
    "overload_shed",
    "overload_rate",
    "crowd_hits",
    "crowd_p50",
    "crowd_p99",
    "crowd_rate",
    "crowd_without",
    "crowd_errors",
    "crowd_models",
    "crowd_memory",
}


def bench(*options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "perslm", "bench", *map(str, options)],
        env={**os.environ, "COLUMNS": "250"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a quick run on two small users wrote: report.json, page.md, and what it printed."""
    folder = tmp_path_factory.mktemp("bench")
    for user, word in enumerate(("quincunx", "zeugma")):
        with (folder / f"user{user}.jsonl").open("w") as file:
            for i in range(200):
                sentences = [f"The {word} of case {i} is here.", f"We meet at the {word} again."]
                file.write(json.dumps({"sentences": sentences}) + "\n")
    (folder / "page.md").write_text(f"# title\n\n{BEGIN}\nto be replaced\n{END}\n\nafter\n")
    outputs = ("--report", folder / "report.json", "--markdown", folder / "page.md")
    done = bench("service", "--quick", "--source", folder, *outputs)
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stdout)
    (folder / "progress.txt").write_text(done.stderr)
    return folder


def figures(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "report.json").read_text())["figures"]
    return {figure["key"]: figure for figure in found}


def test_every_target_of_the_issue_has_its_row(folder: Path) -> None:
    found = figures(folder)
    assert [key for key, figure in found.items() if figure["target"]] == TARGETS
    assert found.keys() == {*TARGETS, *FOR_INFORMATION}
    for key in TARGETS:
        assert isinstance(found[key]["reached"], bool)


def test_figures_are_of_something(folder: Path) -> None:
    found = figures(folder)
    for key in ("http_p50", "http_bare_p50", "grpc_stream_p50", "grpc_unary_p50", "throughput"):
        figure = found[key]
        assert figure["ratio"] == pytest.approx(figure["value"] / figure["beside"])
        assert figure["ratio"] > 0
    assert found["sustained"]["value"] > 0
    assert found["crowd_models"]["value"] > 0
    assert 0 <= found["crowd_hits"]["value"] <= 100
    assert found["crowd_memory"]["value"] > found["crowd_memory"]["beside"] > 0


def test_the_table_replaces_the_one_in_the_page(folder: Path) -> None:
    page = (folder / "page.md").read_text("utf-8")
    assert "to be replaced" not in page
    assert page.endswith(f"{END}\n\nafter\n")
    lines = page.split(BEGIN)[1].split(END)[0].strip().splitlines()
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    assert rows[0] == list(COLUMNS)
    assert [row[0] for row in rows[2:]] == [figure["title"] for figure in figures(folder).values()]
    assert {len(row) for row in rows} == {len(COLUMNS)}


def test_it_says_what_was_measured_where_and_shows_no_word(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    assert report["machine"]["cores"] >= 1
    assert {"perslm", "uvicorn", "grpcio"} <= set(report["versions"])
    assert report["population"]["users"] == 150
    assert report["population"]["hot_ngrams"] > 20
    printed, page = ((folder / name).read_text("utf-8") for name in ("printed.txt", "page.md"))
    assert "HTTP step, p50" in printed
    assert "2 users' mail" in printed
    assert (folder / "progress.txt").read_text().splitlines()[-1].startswith("crowd")
    assert not any(word in text for word in ("quincunx", "zeugma") for text in (printed, page))


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["service", "--markdown", "plain.md"], 2, "needs the lines"),
        (["service", "--report", "absent/report.json"], 5, "create the directory"),
        (["service", "--source", "empty"], 5, "no sentences here"),
        (["--quick", "service"], 2, "behind the word service"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], code: int, says: str
) -> None:
    (tmp_path / "plain.md").write_text("<!-- perslm bench -->\n<!-- perslm bench: end -->\n")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    done = bench(*options)
    assert done.returncode == code
    assert says in done.stderr
    assert "latency" not in done.stderr
    assert "Traceback" not in done.stderr
