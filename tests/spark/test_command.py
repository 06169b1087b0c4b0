"""``perslm build --runner spark`` as a command: its exit code, report and words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perslm.cli.main import app
from perslm.store import Store
from tests.spark.conftest import FAST_JAVA, needs_spark
from tests.spark.mail import WORDS, records, write_lines

PERSLM = Path(sys.executable).with_name("perslm")


def test_a_build_on_spark(store_url: str, store: Store, tmp_path: Path) -> None:
    needs_spark()
    source = write_lines(tmp_path / "mail.jsonl", records(["ann", "bob"], 5))
    (tmp_path / "v.json").write_bytes(WORDS.to_bytes())
    report = tmp_path / "report.json"
    command = [
        PERSLM, "build", source, "--vocab", tmp_path / "v.json", "--store", store_url,
        "--user", "ann@example.org", "--report", report, "--runner", "spark",
        "--master", "local[2]", "--spark-conf", "spark.sql.codegen.wholeStage=false",
    ]  # fmt: skip
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_SUBMIT_OPTS": FAST_JAVA},
    )
    assert done.returncode == 0, done.stderr
    assert list(store.users()) == ["ann@example.org"]
    facts = json.loads(report.read_text())
    assert facts["messages"] == 10
    assert facts["skipped"] == {"not_sent": 5}
    assert [user["status"] for user in facts["users"]] == ["published"]
    said = [line for line in done.stderr.splitlines() if "incubator" not in line]
    assert {line.split()[0].strip(":") for line in said} == {"building"}  # nothing of Spark's
    assert "1 of 1 users published" in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--master", "local[2]"], "--runner spark"),
        (["--runner", "spark", "--jobs", "2"], "--jobs"),
        (["--runner", "spark", "--spark-conf", "spark.task.cpus"], "NAME=VALUE"),
    ],
)
def test_options_that_make_no_sense(
    store_url: str, tmp_path: Path, options: list[str], words: str
) -> None:
    needs_spark()
    source = write_lines(tmp_path / "mail.jsonl", records(["ann", "bob"], 1))
    (tmp_path / "v.json").write_bytes(WORDS.to_bytes())
    arguments = ["build", str(source), "--vocab", str(tmp_path / "v.json"), "--store", store_url]
    done = CliRunner().invoke(app, [*arguments, *options])
    assert done.exit_code != 0
    assert words in str(done.exception)
