"""Models in memory: bounded, never older than a moment, and still there when the store is not.

An :class:`Entry` is what the store said of one user: a model, or the null model that says why there
is none. Both are kept, so that neither a popular user nor an unknown one asks the store at every
step. What happens to an entry:

==========  ==========================================================================
age         then
==========  ==========================================================================
fresh       answers at once; ``peek`` returns it
due         the next request asks the store for the generation, and loads it if it
            changed; requests that come meanwhile are answered from the old entry,
            and so is that request if the store takes longer than it can wait
stale       the store did not answer: the old model goes on for ``stale_seconds``,
            asking the store again whenever ``fresh_seconds`` are over
evicted     least recently used first, when the models exceed ``cache_bytes``
==========  ==========================================================================

Users of different tenants are different users, whatever their ids: an entry belongs to a tenant and
a user id, and is loaded from that tenant's part of the store. All share one bound.

Loads run in a few threads of the cache's own, one load at a time for a user however many requests
wait for it. So a request can stop waiting: it goes on with the old model, or with the null model
``loading``, while the load goes on behind, for the next request to find. What an answer is made of
is the business of ``service.core``.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from perslm.errors import BlobError, StoreError
from perslm.model import NullModel, PersonalModel
from perslm.store import DEFAULT_TENANT, Store, UserInfo
from service.metrics import CacheFigures
from service.settings import Settings

_LOADERS: Final = 8
_MOST_LOADS: Final = 1024  # running and queued; more than a second's worth helps nobody
_ENTRY_BYTES: Final = 2048

_Owner: TypeAlias = tuple[str, str]
"""A tenant and the id of a user there."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the store said of a user.

    ``generation`` is that of the published model (0: none, or unknown), ``info`` what the store
    knows of it. ``due`` is when to ask again, ``confirmed`` when the store last vouched for it, in
    seconds of the cache's clock. ``stale`` tells that the store did not answer when it was due, or
    not in time.
    """

    model: PersonalModel | NullModel
    generation: int
    info: UserInfo | None
    due: float
    confirmed: float
    stale: bool = False

    @property
    def bytes(self) -> int:
        """Return about how much memory the entry takes."""
        return _ENTRY_BYTES + (0 if isinstance(self.model, NullModel) else self.model.nbytes)


class _Load(Future[Entry]):
    """What a load will bring, and when it began."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = time.monotonic()

    def is_done(self, seconds: float | None) -> bool:
        """Wait until it has ended, or ``seconds`` after it began; tell which."""
        if seconds is not None:
            seconds = max(0.0, self._begun + seconds - time.monotonic())
        return bool(wait([self], seconds).done)


class ModelCache:
    """Models of the most recently served users, kept in step with a store. Thread-safe."""

    def __init__(
        self, store: Store, settings: Settings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._entries: OrderedDict[_Owner, Entry] = OrderedDict()  # least recently used first
        self.figures = CacheFigures()
        self._loads: dict[_Owner, _Load] = {}  # those that may still change the entries
        self._mutex = threading.Lock()  # over all of that; never held while the store is asked
        self._loaders = ThreadPoolExecutor(_LOADERS, "perslm-load")

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"ModelCache(entries={len(self)}, bytes={self.figures.bytes})"

    def peek(self, user: str, tenant: str = DEFAULT_TENANT) -> Entry | None:
        """Return the user's entry if it is fresh: at once, without asking the store."""
        return self._fresh((tenant, user))

    def hit(self, user: str, tenant: str = DEFAULT_TENANT) -> Entry | None:
        """Return what ``get`` would without asking the store, and count it; None if it would."""
        with self._mutex:
            entry = self._touched((tenant, user))
            if entry is None or self._clock() >= entry.due:
                return None
            self.figures.hits += 1
            return entry

    def get(
        self, user: str, tenant: str = DEFAULT_TENANT, *, seconds: float | None = None
    ) -> Entry:
        """Return the user's entry, after asking the store if it is due.

        Waits for the store at most ``seconds`` (None: as long as the store's own timeouts let it),
        and not at all for a load that has taken that long already: while a store hangs, a beam
        search waits once and not at every step. After that, or if too many loads wait already, it
        is the old entry, or else one with the null model ``loading``. Raises ArgumentError if
        ``user`` cannot be a user id, and nothing else.
        """
        owner = (tenant, user)
        with self._mutex:
            old = self._touched(owner)
            if old is not None and self._clock() < old.due:
                self.figures.hits += 1
                return old
            self.figures.misses += 1
            load = self._loads.get(owner)
            mine = load is None and len(self._loads) < _MOST_LOADS
            if mine:
                load = self._loads[owner] = _Load()
        if mine:
            assert load is not None
            self._loaders.submit(self._run, owner, load)
        # while somebody else asks, what the store said not long ago will do
        usable = old is not None and self._clock() - old.confirmed < self._settings.stale_seconds
        if usable and not mine:
            assert old is not None
            return old
        if load is not None and load.is_done(seconds):
            return load.result()
        if usable:
            assert old is not None
            return replace(old, stale=True)
        now = self._clock()
        return Entry(NullModel("loading"), 0, None, now, now)

    def drop(self, user: str, tenant: str = DEFAULT_TENANT) -> None:
        """Forget the entry of a user whose model in the store was just changed or deleted.

        What a load brings that began before that is not kept either.
        """
        owner = (tenant, user)
        with self._mutex:
            self._loads.pop(owner, None)
            self._remove(owner)

    def _run(self, owner: _Owner, load: _Load) -> None:
        try:
            entry = self._ask(owner, self._recent(owner))
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is waited for
            with self._mutex:
                self._end(owner, load)
            load.set_exception(error)
            return
        with self._mutex:
            if self._end(owner, load):
                self._put(owner, entry)
        load.set_result(entry)

    def _end(self, owner: _Owner, load: _Load) -> bool:
        """Take a load off the list; tell whether it was still there, and not dropped."""
        if self._loads.get(owner) is not load:
            return False
        del self._loads[owner]
        return True

    def _fresh(self, owner: _Owner) -> Entry | None:
        entry = self._recent(owner)
        return entry if entry is not None and self._clock() < entry.due else None

    def _ask(self, owner: _Owner, old: Entry | None) -> Entry:
        """Return what the store says now, or else go on with what it said before."""
        tenant, user = owner
        store = self._store.of_tenant(tenant)
        now = self._clock()
        due = now + self._settings.fresh_seconds
        try:
            if old is not None and old.generation == store.head(user).generation > 0:
                return replace(old, due=due, confirmed=now, stale=False)
            stored = store.fetch(user)
        except StoreError:
            with self._mutex:
                self.figures.store_failures += 1
            if old is not None and now - old.confirmed < self._settings.stale_seconds:
                return replace(old, due=due, stale=True)
            return Entry(NullModel("store_unavailable"), 0, None, due, now)
        if stored is None:
            return Entry(NullModel("unknown_user"), 0, None, due, now)
        model: PersonalModel | NullModel
        try:
            model = PersonalModel.from_blob(
                stored.blob, generation=stored.generation, weight=self._settings.weight
            )
        except BlobError:
            model = NullModel("bad_blob")
        with self._mutex:
            if isinstance(model, NullModel):
                self.figures.blob_failures += 1
            else:
                self.figures.loads += 1
        info = UserInfo(
            **{name: getattr(stored, name) for name in UserInfo.__dataclass_fields__}
        )  # without the blob, which would stay in memory
        return Entry(model, stored.generation, info, due, now)

    def _recent(self, owner: _Owner) -> Entry | None:
        with self._mutex:
            return self._touched(owner)

    def _touched(self, owner: _Owner) -> Entry | None:
        entry = self._entries.get(owner)
        if entry is not None:
            self._entries.move_to_end(owner)
        return entry

    def _put(self, owner: _Owner, entry: Entry) -> None:
        """Keep ``entry``, which may be larger than the bound: then it is the only one."""
        self._remove(owner)
        self._entries[owner] = entry
        self.figures.entries += 1
        self.figures.models += isinstance(entry.model, PersonalModel)
        self.figures.bytes += entry.bytes
        while self.figures.bytes > self._settings.cache_bytes and len(self._entries) > 1:
            self._remove(next(iter(self._entries)))
            self.figures.evictions += 1

    def _remove(self, owner: _Owner) -> None:
        entry = self._entries.pop(owner, None)
        if entry is not None:
            self.figures.entries -= 1
            self.figures.models -= isinstance(entry.model, PersonalModel)
            self.figures.bytes -= entry.bytes
