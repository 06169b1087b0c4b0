"""Stop the embedded server when its last user has gone; ``perslm.embedded`` has the whole story.

Run as a program, alone: ``python -I -S _watcher.py DESCRIPTOR SOCKET`` in the store's directory,
where DESCRIPTOR is inherited and holds the lock on ``lock.watcher``. Only the standard library is
imported, so that a waiting watcher costs a few megabytes. It needs no timer and no signal:
the exclusive lock on ``lock.users`` is granted when the kernel has released all shared ones.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time

GRACE_SECONDS = 20
"""A server that does not stop within this time is left to whoever opens the store next."""


def stop_server(server: int, address: str) -> None:
    """Return when no server lives any more, or after ``GRACE_SECONDS``.

    ``server`` is an open descriptor of ``lock.server``, ``address`` the path of the socket. The
    caller holds ``lock.users`` exclusively.
    """
    deadline = time.monotonic() + GRACE_SECONDS
    while _lives(server) and time.monotonic() < deadline:
        _ask_to_stop(address)
        time.sleep(0.002)


def _lives(server: int) -> bool:
    try:
        fcntl.flock(server, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _ask_to_stop(address: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(address)
            connection.sendall(b"SHUTDOWN NOSAVE\r\n")  # NOSAVE: the append-only file has it all
            connection.recv(1)
        except OSError:  # not listening yet, or gone: the lock on lock.server tells which
            return


def main(watcher: int, address: str) -> None:
    """Wait for the last user, stop the server, and leave in the order that keeps others safe."""
    if os.fork():
        os._exit(0)  # the process that started us waits for this one, not for the end of the watch
    os.setsid()
    users = os.open("lock.users", os.O_RDWR)
    server = os.open("lock.server", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(users, fcntl.LOCK_EX)
    stop_server(server, address)
    # First these locks, then (by exiting) that on lock.users: who is let in next must find that
    # there is no server and no watcher.
    os.close(server)
    os.close(watcher)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
