"""What the tests of whole commands share: running ``perslm``, and mail to run it on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perslm.cli.main import main
from perslm.vocabulary import Vocabulary
from tests.support import FIXTURES

MAIL = FIXTURES / "mail"
EXPECTED = MAIL / "expected.json"
PEOPLE = sorted(path for path in MAIL.iterdir() if path != EXPECTED)
OPTIONS = ("--user-from", "file", "--languages", "en,es")


@dataclass(frozen=True)
class Result:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Perslm:
    """Runs commands in this process, as the console script would."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], store: str
    ) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.store = store

    def __call__(self, *arguments: object, code: int = 0, store: str | None = None) -> Result:
        """Run one command and check its exit code; an error must be one line, no traceback."""
        self._monkeypatch.setenv("PERSLM_STORE", store or self.store)
        self._monkeypatch.setattr(sys, "argv", ["perslm", *map(str, arguments)])
        before = signal.getsignal(signal.SIGTERM)
        self._capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGTERM, before)
        printed = self._capsys.readouterr()
        result = Result(int(ended.value.code or 0), printed.out, printed.err)
        assert result.code == code, printed.err
        assert "Traceback" not in printed.err
        return result


@contextmanager
def process(store: str, *arguments: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A real ``perslm`` process; killed at the end if it still runs."""
    environment = {**os.environ, "PERSLM_STORE": store, **options.pop("environment", {})}
    with subprocess.Popen(
        [sys.executable, "-m", "perslm", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def await_line(running: subprocess.Popen[str], beginning: str) -> None:
    """Return when the process has said on standard error that a stage began."""
    assert running.stderr is not None
    seen = []
    for line in running.stderr:
        if line.startswith(beginning):
            return
        seen.append(line)
    raise AssertionError(f"the process ended without saying {beginning}: {seen}")


def write_people(path: Path, people: int, mails: int = 1) -> Path:
    """JSON lines of ``people`` users with so many mails each."""
    with path.open("w") as file:
        for i in range(people):
            for j in range(mails):
                record = {
                    "user": f"user{i:03d}@example.org",
                    "from": f"user{i:03d}@example.org",
                    "message_id": f"<{i}.{j}@example.org>",
                    "date": "2025-01-02T10:00:00Z",
                    "body": f"We meet in room {j} on Monday, and I bring the cake for person {i}.",
                }
                file.write(json.dumps(record) + "\n")
    return path


def write_vocabulary(path: Path) -> Path:
    """A small vocabulary for :func:`write_people`."""
    Vocabulary.from_words(
        ["We", "meet", "in", "room", "on", "Monday", ",", "and", "I", "bring", "the", "cake", "."]
    ).save(path)
    return path
