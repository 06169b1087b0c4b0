"""The async client with the interface of the other one, so that the same tests hold both."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from perslm.async_client import AsyncClient, AsyncRemoteModel

T = TypeVar("T")


class BlockingClient:
    """An async client and the event loop that it lives on, in a thread."""

    def __init__(self, url: str, **options: Any) -> None:
        self.client = AsyncClient(url, **options)
        self._loop: asyncio.AbstractEventLoop | None = None

    def wait(self, asked: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result(60)

    def close(self) -> None:
        self.wait(self.client.close())
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self.client).removeprefix("Async")

    @property
    def strict(self) -> bool:
        return self.client.strict

    @strict.setter
    def strict(self, strict: bool) -> None:
        self.client.strict = strict

    @property
    def pause(self) -> float:
        return self.client.pause

    @pause.setter
    def pause(self, seconds: float) -> None:
        self.client.pause = seconds

    def model(self, *arguments: Any) -> BlockingModel:
        return BlockingModel(self, self.wait(self.client.model(*arguments)))

    def __getattr__(self, name: str) -> Any:
        """Return ``info``, ``fetch``, ``forget`` or ``health``, blocking."""
        asked = getattr(self.client, name)
        return lambda *arguments, **named: self.wait(asked(*arguments, **named))


class BlockingModel:
    """A model of an async client, blocking."""

    def __init__(self, client: BlockingClient, model: AsyncRemoteModel) -> None:
        self._client = client
        self._model = model

    def __repr__(self) -> str:
        return repr(self._model)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._model, name)
        if name not in ("weights", "score", "continuations", "distribution", "mix"):
            return found
        return lambda *arguments, **named: self._client.wait(found(*arguments, **named))
