"""A Redis Cluster of six nodes for all tests here; every test finds it whole and empty."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from perslm.store import Store, open_store
from tests.cluster.nodes import RedisCluster


@pytest.fixture(scope="session")
def _cluster() -> Iterator[RedisCluster]:
    with (
        tempfile.TemporaryDirectory(prefix="perslm-test-") as place,
        RedisCluster(Path(place)) as cluster,
    ):
        yield cluster


@pytest.fixture
def cluster(_cluster: RedisCluster) -> RedisCluster:
    _cluster.heal()
    for node in _cluster.primaries():
        node.client.flushall()
    return _cluster


@pytest.fixture
def store(cluster: RedisCluster) -> Iterator[Store]:
    with open_store(cluster.url) as opened:
        yield opened
