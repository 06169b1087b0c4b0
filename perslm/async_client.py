"""A scoring service elsewhere, for programs that await.

The async twin of ``perslm.client``, which tells how models behind a service behave and what
happens when it does not answer; all of that holds here::

    async with perslm.AsyncClient("http://127.0.0.1:8377") as client:
        model = await client.model("engineer@example.com", vocabulary)
        states = model.states(histories)                # nothing is sent: no await
        mixed = await model.mix(states, global_logprobs)

HTTP needs ``perslm[async]``, gRPC ``perslm[grpc]``. A client belongs to the event loop of its first
request, where any number of tasks may share it; over gRPC, requests of one model go one after the
other, by its stream. A call that is cancelled, by ``asyncio.timeout`` or by whoever awaits it,
leaves the client and its models as good as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy.typing as npt

from perslm._asking import Asking, ClientBase, credentials_of
from perslm._steps import AsyncWire, Steps, T, run_async
from perslm._transport import open_async_transport
from perslm.counts import UInt32Array
from perslm.interpolate import Float32Array
from perslm.model import (
    DEFAULT_ESTIMATOR,
    Candidates,
    Estimator,
    NullModel,
    PersonalModel,
    States,
)
from perslm.remote import RemoteBase

if TYPE_CHECKING:
    from perslm.vocabulary import Vocabulary


class AsyncClient(ClientBase):
    """A connection to a scoring service, for one event loop; keeps connections open.

    Its arguments are those of ``perslm.Client``; nothing is connected before the first request.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 1.0,
        strict: bool = False,
        pause: float = 1.0,
        stale_seconds: float = 3600.0,
        token: str | None = None,
        ca: str | None = None,
        cert: str | tuple[str, str] | None = None,
    ) -> None:
        calls, wire = open_async_transport(url, credentials_of(token, ca, cert))
        self._wire = wire
        self._asking = Asking(
            calls, timeout=timeout, strict=strict, pause=pause, stale_seconds=stale_seconds
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._wire.close()

    async def model(
        self, user: str, vocabulary: str | Vocabulary | None = None
    ) -> AsyncRemoteModel:
        """Return the user's model as the service has it; see ``Client.model``."""
        model = AsyncRemoteModel(self._asking, self._wire, user, vocabulary)
        await self._run(model.introduce())
        return model

    async def fetch(
        self,
        user: str,
        vocabulary: str | Vocabulary | None = None,
        *,
        weight: float | None = None,
        estimator: Estimator = DEFAULT_ESTIMATOR,
    ) -> PersonalModel | NullModel:
        """Download the user's model, to score in process, without awaiting; see ``Client.fetch``.

        It is read in a thread.
        """
        return await self._run(self._asking.fetch(user, vocabulary, weight, estimator))

    async def info(self, user: str) -> dict[str, Any]:
        """Return metadata of the user's model; see ``Client.info``."""
        return await self._run(self._asking.info(user))

    async def learn(self, user: str, message: Mapping[str, Any]) -> str:
        """Have the service learn a message that the user just sent; see ``Client.learn``."""
        return await self._run(self._asking.learn(user, message))

    async def forget(self, user: str) -> bool:
        """Delete every generation of the user's model; see ``Client.forget``.

        If it is cancelled, the model may be deleted all the same.
        """
        return await self._run(self._asking.forget(user))

    async def health(self) -> str:
        """Return "ok", or why models cannot be loaded; see ``Client.health``."""
        return await self._run(self._asking.health())

    async def _run(self, steps: Steps[T]) -> T:
        return await run_async(steps, self._wire, self._asking.timeout)


class AsyncRemoteModel(RemoteBase):
    """A user's model behind a service; made by :meth:`AsyncClient.model`.

    Attributes and answers are those of ``perslm.RemoteModel``; what may send a request is awaited.
    """

    def __init__(
        self, asking: Asking, wire: AsyncWire, user: str, vocabulary: str | Vocabulary | None
    ) -> None:
        super().__init__(asking, wire.line(), user, vocabulary)
        self._wire = wire

    async def weights(
        self,
        states: States,
        positions: npt.ArrayLike | None = None,
        uncertainty: npt.ArrayLike | None = None,
    ) -> Float32Array:
        """Return λ of each state, float32[n]; a request if the last answers did not tell."""
        return await self._run(self.ask_weights(states, positions, uncertainty))

    async def score(
        self, states: States, candidates: Candidates
    ) -> tuple[Float32Array, UInt32Array]:
        """Return ln p(candidate | state), float32[n, k], and the states behind, uint32[n, k]."""
        return await self._run(self.ask_score(states, candidates))

    async def continuations(self, states: States, k: int = 8) -> tuple[UInt32Array, Float32Array]:
        """Return the k likeliest next ids, uint32[n, m], and their ln p, float32[n, m]; m ≤ k."""
        return await self._run(self.ask_continuations(states, k))

    async def distribution(self, states: States) -> Float32Array:
        """Return ln p(w | state) for every id w, float32[n, vocabulary_size]."""
        return await self._run(self.ask_distribution(states))

    async def mix(
        self,
        states: States,
        global_logprobs: Float32Array,
        out: Float32Array | None = None,
        *,
        positions: npt.ArrayLike | None = None,
    ) -> Float32Array:
        """Return ln(λ·p_personal + (1−λ)·p_global), float32[n, width], natural log.

        If every weight is 0: the given array, or ``out`` filled with it.
        """
        return await self._run(self.ask_mix(states, global_logprobs, out, positions))

    async def _run(self, steps: Steps[T]) -> T:
        return await run_async(steps, self._wire, self._asking.timeout)
