"""``perslm demo`` runs from mailboxes to a personalised beam, with every part real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from perslm import backend


def demo(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "perslm", "demo", *options],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_demo_personalises() -> None:
    done = demo()
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("│")] for line in done.stdout.splitlines()]
    table = {(r[1], r[2]): (r[3], r[4]) for r in rows if len(r) == 7}
    alone, personal = table["bea-shopkeeper", "Give us"]
    assert personal.startswith("a shout")
    assert not alone.startswith("a shout")
    assert table["ines-student", "La verdad"][1].startswith("es que")
    assert f"personalised steps over HTTP, scored by the {backend}" in done.stdout
    assert "perslm build MAIL" in done.stdout


def test_the_demo_says_where_its_mail_is(tmp_path: Path) -> None:
    done = demo("--mail", str(tmp_path))
    assert done.returncode == 5
    assert "checkout of the repository" in done.stderr
