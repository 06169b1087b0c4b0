"""The store that the service's tests ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from perslm.store import Store
from service import logs
from tests.service.support import populated


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with populated(store_url) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is left out, however many a test provokes; ``test_logs`` has those that are."""
    for name in ("_refusals", "_failures"):
        monkeypatch.setattr(logs, name, logs.Limited(lambda kind, number: None, most=10**9))
