"""Fixtures that every test may use: a real store, empty for each test; either implementation.

The server is the embedded one, started once per test process (per pytest-xdist worker) and stopped
by its watcher when that process ends, however it ends.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import redis

from perslm import _backend
from perslm.embedded import EmbeddedServer
from perslm.store import Store, open_store

# a busy machine, or one with sanitizers, is slow and not wrong
hypothesis.settings.register_profile("perslm", deadline=None)
hypothesis.settings.load_profile("perslm")


@pytest.fixture(scope="session")
def _server() -> Iterator[redis.Redis]:
    directory = Path(tempfile.mkdtemp(prefix="perslm-test-"))
    server = EmbeddedServer(directory)
    server.ensure()
    client = redis.Redis(unix_socket_path=str(server.socket))
    client.config_set("appendonly", "no")  # these tests need no disk, and run faster without
    yield client
    client.close()
    server.close()
    shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def _data_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds what another, or whoever runs them, left in a user data directory."""
    place = tmp_path_factory.getbasetemp() / "data" / uuid.uuid4().hex
    monkeypatch.setenv("XDG_DATA_HOME", str(place))
    monkeypatch.delenv("PERSLM_LEDGER", raising=False)


@pytest.fixture
def store_url(_server: redis.Redis) -> str:
    """URL of a running, empty server on a unix socket."""
    _server.flushall()
    return f"unix://{_server.get_connection_kwargs()['path']}"


@pytest.fixture
def raw_store(_server: redis.Redis, store_url: str) -> redis.Redis:
    """A bare client of the server behind ``store_url``, to look at keys and to break things."""
    return _server


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """The store at ``store_url``, opened."""
    with open_store(store_url) as opened:
        yield opened


@pytest.fixture(scope="module", params=["kernel", "numpy"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs every test of a module with the kernel, where it was built, and again on numpy."""
    if request.param == "kernel" and _backend.native is None:
        pytest.skip("the kernel was not built, or PERSLM_KERNEL=off")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setattr(_backend, "native", None)
        yield request.param
