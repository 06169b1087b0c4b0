"""Any sequence of operations, against a model of what the store promises; encrypted or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from perslm import _store_scripts as scripts
from perslm import encryption
from perslm.errors import ForgottenError, NoModelError, PublishConflictError
from perslm.store import Head, Store, open_store
from tests.unit.test_store import USER


class Lifetime(RuleBasedStateMachine):
    """What the store promises for one user, as plain Python beside the real thing."""

    store: Store
    raw: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.raw.flushall()
        self.generation = self.fence = self.highest = 0
        self.kept: dict[int, tuple[bytes, int]] = {}  # generation -> blob, what it replaced
        self.heads: list[Head] = []

    def _put(self, blob: bytes, previous: int, generation: int) -> None:
        assert generation > self.highest, "numbers only grow"
        self.highest = self.generation = generation
        self.kept[generation] = (blob, previous)
        self.kept.pop(generation - scripts.SLOTS - 1, None)

    @rule(blob=st.binary(max_size=20))
    def publish(self, blob: bytes) -> None:
        parent = self.store.head(USER)
        self._put(blob, parent.generation, self.store.publish(USER, blob, parent=parent))

    @rule()
    def begin_a_build(self) -> None:
        self.heads.append(self.store.head(USER))

    @rule(blob=st.binary(max_size=20), data=st.data())
    def finish_a_build(self, blob: bytes, data: st.DataObject) -> None:
        if not self.heads:
            return
        parent = data.draw(st.sampled_from(self.heads))
        if parent.fence != self.fence:
            with pytest.raises(ForgottenError):
                self.store.publish(USER, blob, parent=parent)
        elif parent.generation != self.generation:
            with pytest.raises(PublishConflictError):
                self.store.publish(USER, blob, parent=parent)
        else:
            self._put(blob, parent.generation, self.store.publish(USER, blob, parent=parent))

    @rule()
    def rollback(self) -> None:
        previous = self.kept[self.generation][1] if self.generation else 0
        if previous in self.kept:
            blob, before = self.kept[previous]
            self._put(blob, before, self.store.rollback(USER))
        else:
            with pytest.raises(NoModelError):
                self.store.rollback(USER)

    @rule()
    def forget(self) -> None:
        assert self.store.forget(USER) == (self.generation > 0)
        self.generation = 0
        self.kept.clear()
        self.fence = self.store.head(USER).fence
        assert self.fence > self.highest
        self.highest = self.fence

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        assert self.store.head(USER) == Head(self.generation, self.fence)
        assert list(self.store.users()) == ([USER] if self.generation else [])
        current = self.store.fetch(USER)
        assert (current.generation if current else 0) == self.generation
        listed = self.store.generations(USER)
        assert [info.generation for info in listed] == sorted(self.kept, reverse=True)
        for info in listed:
            stored = self.store.fetch(USER, generation=info.generation)
            assert stored is not None
            assert (stored.blob, info.previous) == self.kept[info.generation]


@pytest.fixture(params=["open", "encrypted"])
def either(request: pytest.FixtureRequest, store_url: str, tmp_path: Path) -> Iterator[Store]:
    keys = tmp_path / "master.json"
    encryption.create(keys)
    with open_store(
        store_url, master_keys=keys if request.param == "encrypted" else None
    ) as opened:
        yield opened


def test_any_sequence_of_operations(either: Store, raw_store: redis.Redis) -> None:
    machine = type("Lifetime", (Lifetime,), {"store": either, "raw": raw_store})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=40, stateful_step_count=30, deadline=None)
    )
