"""A process between clients and the store that can delay, cut, swallow and lie.

``python -m tests.soak.proxy PATH…`` listens at each unix socket; lines of JSON on standard input
say what each does, and each is answered with a line once it holds. :class:`Proxy` is the other end.

==============  ============================================================================
mode            what becomes of traffic
==============  ============================================================================
``pass``        nothing
``slow``        replies wait for ``seconds``
``dribble``     replies come in pieces of 512 bytes, ``seconds`` apart
``errors``      requests are answered with one of ``lines``, and reach nobody
``cut``         half of the replies end in the middle, with their connections
``lose``        half of the requests are done, and their connections lost before the reply
``refuse``      connections are closed, those that are there and new ones
``swallow``     open connections are dead from now on, without a sign of it; new ones, too
``deaf``        the same, but for those that subscribe only
==============  ============================================================================
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

_CHUNK = 1 << 16


class _Listener:
    def __init__(self, target: list[Any]) -> None:
        self.target = target  # host and port, shared by all
        self.mode: dict[str, Any] = {"mode": "pass"}
        self.open: set[_Connection] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode["mode"] == "refuse":
            writer.transport.abort()
            return
        connection = _Connection(self, reader, writer)
        self.open.add(connection)
        try:
            await connection.run()
        finally:
            self.open.discard(connection)

    def change(self, mode: dict[str, Any]) -> None:
        self.mode = mode
        for connection in list(self.open):
            if mode["mode"] == "refuse":
                connection.abort()
            elif mode["mode"] == "swallow" or (mode["mode"] == "deaf" and connection.subscribes):
                connection.dead = True


class _Connection:
    def __init__(
        self, listener: _Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._listener, self._reader, self._writer = listener, reader, writer
        self._server: asyncio.StreamWriter | None = None
        self.subscribes = False
        self.dead = listener.mode["mode"] == "swallow"

    def abort(self) -> None:
        for writer in (self._writer, self._server):
            if writer is not None:
                writer.transport.abort()

    async def run(self) -> None:
        host, port = self._listener.target
        try:
            reader, self._server = await asyncio.open_connection(host, port)
        except OSError:
            self.abort()
            return
        pumps = [asyncio.create_task(self._up()), asyncio.create_task(self._down(reader))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        self.abort()
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _up(self) -> None:
        assert self._server is not None
        while data := await self._reader.read(_CHUNK):
            if b"SUBSCRIBE" in data:
                self.subscribes = True
                if self._listener.mode["mode"] == "deaf":
                    self.dead = True
            if self.dead:
                continue
            mode = self._listener.mode
            if mode["mode"] == "errors":
                # requests are small and whole, but for blobs, whose rest has no line like this
                for _ in range(max(1, data.count(b"\r\n$4\r\nEVAL\r\n"))):
                    self._writer.write(f"-{random.choice(mode['lines'])}\r\n".encode())
                await self._writer.drain()
                if len(data) == _CHUNK:
                    self.abort()
                continue
            self._server.write(data)
            await self._server.drain()

    async def _down(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_CHUNK):
            mode = self._listener.mode
            kind = mode["mode"]
            if kind in ("slow", "dribble"):
                await asyncio.sleep(mode["seconds"])
            if self.dead:
                continue
            if kind in ("cut", "lose") and random.random() < 0.5:
                if kind == "cut":
                    self._writer.write(data[: len(data) // 2])
                    await self._writer.drain()
                    self._writer.close()  # not aborted: the half is to arrive
                return
            if kind == "dribble":
                for start in range(0, len(data), 512):
                    self._writer.write(data[start : start + 512])
                    await asyncio.sleep(mode["seconds"])
            else:
                self._writer.write(data)
            await self._writer.drain()


async def _serve(paths: list[str]) -> None:
    target: list[Any] = ["127.0.0.1", 0]
    listeners = [_Listener(target) for _ in paths]
    for path, listener in zip(paths, listeners, strict=True):
        await asyncio.start_unix_server(listener.accept, path)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    while line := await orders.readline():
        order = json.loads(line)
        if "target" in order:
            target[:] = order["target"]
            for listener in listeners:
                for connection in list(listener.open):
                    connection.abort()
        else:
            listeners[order["listener"]].change(order["change"])
        sys.stdout.write("done\n")
        sys.stdout.flush()
    os._exit(0)  # in whatever state the connections are


class Proxy:
    """The process, and what it is told."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.proxy", *map(str, paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def point_to(self, port: int) -> None:
        """Send all connections from now on to this port, and close those that are open."""
        self._tell({"target": ["127.0.0.1", port]})

    def change(self, listener: int, mode: str, **more: Any) -> None:
        """Let one listener do what ``mode`` says."""
        self._tell({"listener": listener, "change": {"mode": mode, **more}})

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)

    def _tell(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1:]))
