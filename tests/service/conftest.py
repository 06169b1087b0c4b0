"""The store that the service's tests ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from perslm.store import Store
from tests.service.support import populated


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with populated(store_url) as opened:
        yield opened
