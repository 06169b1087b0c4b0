"""A real server in a thread, and a plain way to talk to it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import urllib3
import uvicorn

from perslm.store import Store
from service.codec import Format
from service.core import ScoringService
from service.http import create_app
from service.protocol import protocol
from service.settings import Settings
from service.tls import secure

TYPES = {"json": "application/json", "msgpack": "application/msgpack"}


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.port: int | None = None
        self.ready = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.port = self.servers[0].sockets[0].getsockname()[1]
        self.ready.set()


@contextmanager
def running(
    settings: Settings, store: Store, app: Any = None, service: ScoringService | None = None
) -> Iterator[str]:
    """The URL of a server of ``app`` (default: the service) that lives as long as the context."""
    service = service or ScoringService(store, settings)
    config = uvicorn.Config(
        app or create_app(settings, service),
        port=0,
        loop="uvloop",
        http=protocol(service, settings),
        lifespan="off",
        log_config=None,
    )
    scheme = "http"
    if settings.tls_cert is not None:
        secure(config, settings)
        scheme = "https"
    server = _Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert server.ready.wait(30)
        yield f"{scheme}://127.0.0.1:{server.port}"
    finally:
        server.should_exit = True
        thread.join(30)


@dataclass
class Reply:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Caller:
    """Sends requests that are put together here, not by ``perslm.client``."""

    def __init__(self, url: str, **tls: Any) -> None:
        self._pool = urllib3.connection_from_url(url, timeout=30, retries=False, **tls)

    def __call__(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        response = self._pool.urlopen(method, path, body=body, headers=named)
        return Reply(response.status, response.headers, response.data)

    def score(self, fields: Any, form: Format, **headers: str) -> Reply:
        body = json.dumps(fields).encode() if form == "json" else msgpack.packb(fields)
        return self("POST", "/v1/score", body, content_type=TYPES[form], **headers)

    def close(self) -> None:
        self._pool.close()


def arrays(reply: Reply) -> dict[str, Any]:
    """The fields of a score answer with its arrays as numpy arrays, whatever the format."""
    if reply.headers["content-type"] == TYPES["msgpack"]:
        fields = msgpack.unpackb(reply.body)
        for name in {"weights", "logprobs", "ids"} & fields.keys():
            array = fields[name]
            fields[name] = np.frombuffer(array["data"], array["dtype"]).reshape(array["shape"])
        return fields
    fields = reply.json
    n = len(fields["weights"])
    fields["weights"] = np.array(fields["weights"], np.float32)
    rows = [[-np.inf if p is None else p for p in row] for row in fields["logprobs"]]
    fields["logprobs"] = np.array(rows, np.float32).reshape(n, -1 if n and rows[0] else 0)
    if "ids" in fields:
        ids = np.array(fields["ids"], np.uint32)
        fields["ids"] = ids
    return fields
