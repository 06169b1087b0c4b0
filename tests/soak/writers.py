"""Publish, roll back and forget, while everybody scores and the store breaks."""

from __future__ import annotations

import threading
import time
from random import Random
from urllib.parse import quote

import grpc

from perslm.errors import NoModelError, StoreError, StoreUnavailableError
from perslm.store import Head, Store
from perslm.v1 import scorer_pb2
from service.grpc import SERVICE
from tests.soak.clients import ANSWER_SECONDS, Crowd, Load, Replica
from tests.soak.contents import FINGERPRINT
from tests.soak.ledger import Ledger, Owner


class Writer:
    """Changes users' models one at a time, and keeps the ledger.

    A change whose outcome is not known is begun and never acknowledged; the next one begins from
    what the store says then.
    """

    def __init__(
        self, ledger: Ledger, crowd: Crowd, stores: dict[str, Store], writing: threading.Lock
    ) -> None:
        self._ledger, self._crowd, self._writing = ledger, crowd, writing
        self._stores = stores  # by tenant

    def publish(self, owner: Owner, content: int) -> None:
        """Publish a content for a user. Raises StoreError."""
        store = self._stores[owner[0]]
        head = store.head(owner[1])
        generation = _next(head)
        self._ledger.publish_begins(owner, generation, content)
        blob = self._ledger.contents[content].blob
        given = store.publish(owner[1], blob, parent=head, vocabulary=FINGERPRINT)
        self._ledger.publish_ends(owner, given, head.generation)

    def roll_back(self, owner: Owner) -> None:
        """Publish again what the present generation replaced. Raises StoreError."""
        store = self._stores[owner[0]]
        head = store.head(owner[1])
        record = self._ledger.record(owner)
        info = store.info(owner[1])
        if info is None or info.previous == 0:
            return
        for content in record.begun[info.previous]:
            self._ledger.publish_begins(owner, _next(head), content)
        try:
            given = store.rollback(owner[1])
        except NoModelError:  # the earlier one is no longer kept
            return
        earlier = store.info(owner[1])
        assert earlier is not None
        self._ledger.publish_ends(owner, given, earlier.previous)

    def forget(self, owner: Owner, replica: Replica | None, transport: str) -> None:
        """Delete a user, through the store or a replica. Raises StoreError if it may not be."""
        self._ledger.deletion_begins(owner)
        if replica is None:
            self._stores[owner[0]].forget(owner[1])
        elif transport == "http":
            self._forget_by_http(owner, replica)
        else:
            self._forget_by_grpc(owner, replica)
        self._ledger.deletion_ends(owner, None if replica is None else replica.number)

    def work(self, load: Load, name: str, replica: Replica, random: Random) -> None:
        """Make one change; a caller of ``Load``."""
        owner = self._crowd.draw(random)
        if owner not in self._ledger.users:
            return
        record = self._ledger.record(owner)
        if record.writing.acquire(blocking=False):
            try:
                with self._writing:
                    outcome = self._change(owner, replica, random)
            finally:
                record.writing.release()
            self._ledger.count(name, outcome)
        load.stopped.wait(random.expovariate(1 / (8 * load.pause)))

    def _change(self, owner: Owner, replica: Replica, random: Random) -> str:
        luck = random.random()
        try:
            if self._ledger.record(owner).generation == 0 or luck < 0.6:
                self.publish(owner, random.randrange(len(self._ledger.contents)))
                return "published"
            if luck < 0.8:
                self.roll_back(owner)
                return "rolled back"
            through = random.choice((None, replica, replica))
            self.forget(owner, through, random.choice(("http", "grpc")))
            return "forgotten"
        except StoreUnavailableError:
            return "unavailable"
        except StoreError as error:
            now = time.monotonic()
            if any(self._ledger.is_disturbed(i, now - 10, now) for i in (0, 1)):
                return "unavailable"
            self._ledger.violate("a write refused", f"{type(error).__name__}: {error}")
            return "refused"

    def _forget_by_http(self, owner: Owner, replica: Replica) -> None:
        connection = replica.connect()
        try:
            path = f"/v1/users/{quote(owner[1], safe='')}"
            connection.request("DELETE", path, headers=replica.headers(owner[0]))
            status = connection.getresponse().status
        finally:
            connection.close()
        if status == 503:
            raise StoreUnavailableError("the service could not delete")
        if status not in (204, 404):
            self._ledger.violate("a deletion refused", str(status))

    def _forget_by_grpc(self, owner: Owner, replica: Replica) -> None:
        with replica.channel() as channel:
            call = channel.unary_unary(f"/{SERVICE}/Forget")
            body = scorer_pb2.ForgetRequest(user=owner[1]).SerializeToString()
            try:
                call(body, timeout=ANSWER_SECONDS, metadata=replica.metadata(owner[0]))
            except grpc.RpcError as error:
                code = error.code()
                if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                    raise StoreUnavailableError("the service could not delete") from None
                if code != grpc.StatusCode.NOT_FOUND:
                    self._ledger.violate("a deletion refused", str(code))


def _next(head: Head) -> int:
    """Return the generation that a publish against ``head`` gets."""
    return max(head.generation, head.fence) + 1
