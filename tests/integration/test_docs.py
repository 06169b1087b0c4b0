"""Every example in the documents runs and prints what it says."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import perslm.cli.main
from perslm.store import open_store
from service.settings import Settings
from tests.neural import needs_smollm2
from tests.service.server import running
from tests.support import FIXTURES, ROOT

README = (ROOT / "README.md").read_text("utf-8")
MAIL = FIXTURES / "mail"
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.S)


def printed_by(code: str, names: dict[str, object]) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), names)
    return printed.getvalue()


def run(command: str, folder: Path, store_url: str) -> str:
    """Run one line of shell with this interpreter's ``perslm``."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PERSLM_STORE": store_url, "COLUMNS": "200"}
    shell = ["sh", "-c", command]
    done = subprocess.run(
        shell, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_shell_example(tmp_path: Path, store_url: str) -> None:
    block = re.search(r"```sh\n(.*?)```", README, re.S)
    assert block
    lines = [line for line in block[1].splitlines() if line and not line.startswith("pip ")]
    assert len(lines) == 3
    for line in lines:
        printed = run(line.replace("MAIL", str(MAIL / "nora-engineer.mbox")), tmp_path, store_url)
    assert "continuation" in printed


def test_the_python_examples(
    tmp_path: Path, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nora = MAIL / "nora-engineer.mbox"
    make = f"perslm vocab build {nora} --user-from file --min-users 1 -o vocab.json"
    run(make, tmp_path, store_url)
    run(f"perslm build {nora} --user-from file --vocab vocab.json", tmp_path, store_url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERSLM_STORE", store_url)
    examples = [(code, said) for code, said in EXAMPLES if "transformers" not in code]
    assert len(examples) == 3
    with open_store(store_url) as store, running(Settings(), store) as url:
        names: dict[str, object] = {"url": url}
        for code, expected in examples:
            assert printed_by(code, names) == expected


@needs_smollm2
def test_the_example_with_transformers(
    tmp_path: Path, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("perslm vocab import smollm2 -o smollm2.json", tmp_path, store_url)
    nora = MAIL / "nora-engineer.mbox"
    run(f"perslm build {nora} --user-from file --vocab smollm2.json", tmp_path, store_url)
    monkeypatch.setenv("PERSLM_STORE", store_url)
    ((code, expected),) = (example for example in EXAMPLES if "transformers" in example[0])
    assert len([line for line in code.splitlines() if line]) <= 15
    assert printed_by(code, {}) == expected


@pytest.mark.parametrize(
    "module", ["perslm", "builders.clean", "builders.read", "perslm.tokenize", "perslm.model"]
)
def test_docstring_examples(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_documented_commands_exist() -> None:
    commands = {c.callback.__name__ for c in perslm.cli.main.app.registered_commands if c.callback}
    commands |= {str(g.name) for g in perslm.cli.main.app.registered_groups}
    commands |= {c.name for c in perslm.cli.main.app.registered_commands if c.name}
    documents = ("README", "ARCHITECTURE", "CHANGELOG", "docs/operations", "docs/privacy")
    for document in documents:
        text = (ROOT / f"{document}.md").read_text("utf-8")
        quoted = " ".join(re.findall(r"`[^`\n]+`", text))
        assert set(re.findall(r"perslm ([a-z]+(?:-[a-z]+)*)\b", quoted)) <= commands


def test_the_layout_table_names_every_module_and_no_other() -> None:
    layout = (ROOT / "ARCHITECTURE.md").read_text("utf-8").split("## Layout")[1].split("## ")[0]
    named = set(re.findall(r"\b(\w+)\.py", layout))
    modules = {
        path.stem
        for package in ("perslm", "builders", "service")
        for path in (ROOT / package).glob("*.py")
        if not path.stem.startswith("__")
    }
    assert named == modules
