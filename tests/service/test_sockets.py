"""A listening socket that lets nobody new in before it is closed."""

from __future__ import annotations

import contextlib
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.settings import Address, TcpAddress, UnixAddress
from service.sockets import listening, turn_away

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux filters a queue")


@contextlib.contextmanager
def address_of(kind: str) -> Iterator[Address]:
    if kind == "unix":
        with tempfile.TemporaryDirectory(dir="/tmp") as directory:  # its path must be short
            yield UnixAddress(Path(directory) / "s")
    else:
        yield TcpAddress(kind, 0)


@pytest.mark.parametrize("kind", ["127.0.0.1", "::1", "unix"])
def test_who_waits_is_accepted_and_nobody_new_comes(kind: str) -> None:
    with address_of(kind) as address, listening(address) as (listener, _):
        listener.listen()
        place = listener.getsockname()
        with socket.socket(listener.family) as early, socket.socket(listener.family) as late:
            early.connect(place)
            turn_away(listener)
            late.setblocking(False)
            with pytest.raises((BlockingIOError, ConnectionRefusedError)):
                late.connect(place)
            listener.setblocking(False)
            accepted, _ = listener.accept()
            with accepted:
                with pytest.raises(BlockingIOError):
                    listener.accept()
                listener.close()
                early.sendall(b"asked")
                assert accepted.recv(5) == b"asked"
                accepted.sendall(b"answered")
                assert early.recv(8) == b"answered"
