"""Fixtures of the tests of whole commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.mailboxes import Perslm, write_vocabulary


@pytest.fixture
def perslm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], store_url: str
) -> Perslm:
    """Runs commands against an empty store."""
    return Perslm(monkeypatch, capsys, store_url)


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    """A file of a small vocabulary."""
    return write_vocabulary(tmp_path / "vocabulary.json")
