"""Two real servers, primary and replica, that can be killed, frozen, filled and failed over."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import redis

from perslm.embedded import server_binary

_START_SECONDS = 30.0


class Server:
    """One server on a port of this machine; what it acknowledged is on its disk."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(port=self.port, socket_timeout=_START_SECONDS)

    def start(self, primary: Server | None = None) -> None:
        """Return when it answers, with all its data."""
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "loglevel": "warning",
            "logfile": "log",
            "repl-diskless-sync-delay": 0,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        if primary is not None:
            words += ["--replicaof", "127.0.0.1", str(primary.port)]
        self._process = subprocess.Popen(
            [str(server_binary()), *words],
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _until(self._answers)

    def kill(self) -> None:
        """End it without warning."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self.client.connection_pool.disconnect()

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def limit_memory(self, size: int) -> None:
        """Allow so many bytes; 0 is any number."""
        self.client.config_set("maxmemory", size)

    def follow(self, primary: Server | None) -> None:
        """Become the replica of another, or a primary."""
        if primary is None:
            self.client.execute_command("REPLICAOF", "NO", "ONE")
        else:
            self.client.execute_command("REPLICAOF", "127.0.0.1", str(primary.port))

    def is_level_with(self, primary: Server) -> bool:
        """Tell whether all that the primary has is here, too."""
        mine, its = self.client.info("replication"), primary.client.info("replication")
        if mine["role"] != "slave" or mine["master_link_status"] != "up":
            return False
        return bool(mine["slave_repl_offset"] >= its["master_repl_offset"])

    def close(self) -> None:
        self.client.close()
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self._process.kill()
            self._process.wait()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the store does not start: see its log"
        try:
            return bool(self.client.ping())
        except redis.RedisError:  # not yet, or still reading its data
            return False


class Pair:
    """A primary with its replica. Who writes holds one of ``writing``; a failover holds all.

    Replication is asynchronous: what a primary acknowledged in its last moment can be lost with it.
    That is the server's promise to break or keep, not perslm's; so a failover here waits until the
    replica has everything, and nobody writes meanwhile.
    """

    def __init__(self, directory: Path) -> None:
        self.primary, self._replica = Server(directory / "one"), Server(directory / "two")
        self.primary.start()
        self._replica.start(self.primary)
        self.writing = [threading.Lock(), threading.Lock()]

    def fail_over(self) -> int:
        """Kill the primary, promote the replica, and return the new primary's port."""
        with self.writing[0], self.writing[1]:
            _until(lambda: self._replica.is_level_with(self.primary))
            self.primary.kill()
            self._replica.follow(None)
            self.primary, self._replica = self._replica, self.primary
        return self.primary.port

    def mend(self) -> None:
        """Start the server that a failover killed, as replica of the present primary."""
        self._replica.start(self.primary)

    def close(self) -> None:
        self._replica.close()
        self.primary.close()


def _until(holds: object) -> None:
    assert callable(holds)
    deadline = time.monotonic() + _START_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "a store of the soak did not come up"
        time.sleep(0.01)
