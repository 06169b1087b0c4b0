"""The service as the process that operators run, and what can be seen of it from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support import ROOT


class ServedProcess:
    """``perslm serve`` on free ports, HTTP and gRPC; what it writes goes to files."""

    def __init__(self, store_url: str, folder: Path, **settings: object) -> None:
        self.stdout, self.stderr = folder / "stdout", folder / "stderr"
        named = {f"PERSLM_{name.upper()}": str(value) for name, value in settings.items()}
        environment: Mapping[str, str] = {**os.environ, **named}
        command = [sys.executable, "-m", "perslm", "serve", "--store", store_url]
        command += ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]
        reading, writing = os.pipe()
        with self.stderr.open("wb") as errors:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=writing, stderr=errors
            )
        os.close(writing)
        self._out = os.fdopen(reading, "rb")
        lines = [self._out.readline() for _ in range(2)]
        self._said = b"".join(lines)
        urls = [line.decode().removeprefix("listening on ").strip() for line in lines]
        self.http, self.grpc = urls
        assert self.http.startswith("http://"), self.stderr.read_text()
        assert self.grpc.startswith("grpc://"), self.stderr.read_text()

    def __enter__(self) -> ServedProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def memory(self) -> int:
        """The most bytes that the process ever had in memory."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found
        return int(found[1]) << 10

    def stop(self) -> bytes:
        """End it, and return all that it wrote."""
        if not self._out.closed:
            self._process.terminate()
            self._process.wait(30)
            self._said += self._out.read()
            self._out.close()
        return self._said + self.stderr.read_bytes()
