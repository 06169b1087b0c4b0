"""Models in memory: bounded, never older than a moment, and still there when the store is not.

An :class:`Entry` is what the store said of one user: a model, or the null model that says why there
is none. Both are kept, so that neither a popular user nor an unknown one asks the store at every
step. What happens to an entry:

==========  ==========================================================================
state       then
==========  ==========================================================================
fresh       the store vouched for it within ``fresh_seconds``: answers at once, and in
            the last quarter of that time the store is asked again, behind
due         the next request asks the store for the generation, and loads it if it
            changed; requests wait for that as long as they can
stale       the store failed, or is asked and was heard of within ``_GRACE_SECONDS``: the
            old model goes on, for ``stale_seconds`` at most, and is called stale;
            whenever ``fresh_seconds`` are over the store is asked again
evicted     least recently used first, when the entries exceed ``cache_bytes``
==========  ==========================================================================

**Told of changes.** While :meth:`ModelCache.following` lasts, the store announces what is
published, learned and deleted (``Store.changes``). As long as announcements are known to arrive,
every entry loaded since they do is vouched for, and a popular user costs the store next to nothing:
it is asked about an entry every ``_TRUST_SECONDS``, should an announcement be lost on its way. A
published user's entry is soon due, a deleted user's is dropped. When announcements stop, which is
known well within a second, an entry lives on what the store was last asked, as without them.

A model is what was published, the messages that were learned since, and what is blocked of it
(``perslm.learned``): an entry is of one generation with so many messages under such rules.

So an answer that is not called stale rests on what the store said at most ``fresh_seconds`` before,
asked or announced: no longer is a new generation unknown, or a deleted one in use.

**Unknown users** cannot evict the models of the known: entries without a model get a sixteenth of
``cache_bytes``, and among them the least recently used goes first.

Users of different tenants are different users, whatever their ids: an entry belongs to a tenant and
a user id, and is loaded from that tenant's part of the store. All share one bound.

Loads run in a few threads of the cache's own, one load at a time for a user however many requests
wait for it. So a request can stop waiting: it goes on with the old model, or with the null model
``loading``, while the load goes on behind, for the next request to find. What an answer is made of
is the business of ``service.core``.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from perslm.errors import BlobError, RulesError, StoreError
from perslm.learned import current
from perslm.model import NullModel, PersonalModel, check_estimator
from perslm.rules import Rules
from perslm.store import DEFAULT_TENANT, Change, Changes, Head, Store, Stored, UserInfo
from service.metrics import CacheFigures
from service.settings import Settings

_LOADERS: Final = 8
_MOST_LOADS: Final = 1024  # running and queued; more than a second's worth helps nobody
_MODEL_BYTES: Final = 2048  # of what surrounds a model, with the longest user id
_ABSENT_BYTES: Final = 768  # of an entry without a model
_TRUST_SECONDS: Final = 3.0
_GRACE_SECONDS: Final = 5.0  # more than _TRUST_SECONDS and a request to the store that times out
_AHEAD: Final = 0.25  # the share of ``fresh_seconds`` in which the store is asked before it must be
_ABSENT_SHARE: Final = 1 / 16
_UNANNOUNCED: Final = -1  # an entry that announcements say nothing of

_Owner: TypeAlias = tuple[str, str]
"""A tenant and the id of a user there."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the store said of a user.

    ``generation`` is that of the published model (0: none, or unknown), ``info`` what the store
    knows of it. ``pending`` is how many learned messages are in the model, ``rules`` (a revision)
    and ``everybodys`` what it was loaded under. ``confirmed`` is when the store was asked, ``due``
    when to ask again, in seconds of the cache's clock; ``gaps`` is how often announcements had been
    interrupted by then. ``stale`` tells that the store did not answer when it was due, or not in
    time.
    """

    model: PersonalModel | NullModel
    generation: int
    info: UserInfo | None
    due: float
    confirmed: float
    gaps: int = _UNANNOUNCED
    stale: bool = False
    pending: int = 0
    rules: str = ""
    everybodys: Rules | None = None

    def is_older(self, change: Change) -> bool:
        """Tell whether the store has changed since."""
        if change.kind == "rules":
            return True
        return (self.generation, self.pending) < (change.generation, change.pending)

    def is_as(self, head: Head, everybodys: Rules) -> bool:
        """Tell whether the store would give the same model."""
        known = (self.generation, self.pending, self.rules)
        same = known == (head.generation, head.pending, head.rules)
        return same and self.generation > 0 and self.everybodys == everybodys

    @property
    def bytes(self) -> int:
        """Return about how much memory the entry takes."""
        if isinstance(self.model, NullModel):
            return _ABSENT_BYTES
        return _MODEL_BYTES + self.model.nbytes


class _Load(Future[Entry]):
    """What a load will bring, and when it began.

    ``announced`` has the last changes that were announced since, by their kind.
    """

    def __init__(self) -> None:
        super().__init__()
        self._begun = time.monotonic()
        self.announced: dict[str, Change] = {}

    def is_done(self, seconds: float | None) -> bool:
        """Wait until it has ended, or ``seconds`` after it began; tell which."""
        if seconds is not None:
            seconds = max(0.0, self._begun + seconds - time.monotonic())
        return bool(wait([self], seconds).done)


class _Shelf:
    """Entries, the least recently used first, and the sum of their bytes."""

    def __init__(self) -> None:
        self._entries: OrderedDict[_Owner, Entry] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def touched(self, owner: _Owner) -> Entry | None:
        """Return an entry, which counts as a use."""
        entry = self._entries.get(owner)
        if entry is not None:
            self._entries.move_to_end(owner)
        return entry

    def put(self, owner: _Owner, entry: Entry) -> None:
        self._entries[owner] = entry
        self.bytes += entry.bytes

    def replace(self, owner: _Owner, entry: Entry) -> None:
        """Put an entry of the same model in the place of another, which is no use."""
        self._entries[owner] = entry

    def get(self, owner: _Owner) -> Entry | None:
        """Return an entry, which counts as no use."""
        return self._entries.get(owner)

    def pop(self, owner: _Owner) -> Entry | None:
        entry = self._entries.pop(owner, None)
        if entry is not None:
            self.bytes -= entry.bytes
        return entry

    def oldest(self) -> _Owner:
        return next(iter(self._entries))


class ModelCache:
    """Models of the most recently served users, kept in step with a store. Thread-safe."""

    def __init__(
        self, store: Store, settings: Settings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._settings = settings
        self._fresh, self._ahead = settings.fresh_seconds, _AHEAD * settings.fresh_seconds
        self._clock = clock
        self._models, self._absent = _Shelf(), _Shelf()
        self.figures = CacheFigures()
        self._loads: dict[_Owner, _Load] = {}  # those that may still change the entries
        self._everybodys: dict[str, tuple[float, Rules]] = {}  # rules by tenant, and until when
        self._changes: Changes | None = None
        self._gaps = 0
        self._mutex = threading.Lock()  # over all of that; never held while the store is asked
        self._loaders = ThreadPoolExecutor(_LOADERS, "perslm-load")

    def __len__(self) -> int:
        return len(self._models) + len(self._absent)

    def __repr__(self) -> str:
        return f"ModelCache(entries={len(self)}, bytes={self._bytes})"

    @contextmanager
    def following(self) -> Iterator[None]:
        """Be told of changes in the store, in a thread, as long as the context lasts.

        Enter it in the process that serves, after any fork.
        """
        with self._store.changes() as changes:
            thread = threading.Thread(
                target=self._follow, args=(changes,), name="perslm-changes", daemon=True
            )
            thread.start()
            try:
                yield
            finally:
                changes.close()
                thread.join()

    def peek(self, user: str, tenant: str = DEFAULT_TENANT) -> Entry | None:
        """Return the user's entry if it is fresh: at once, without asking the store."""
        with self._mutex:
            entry = self._touched((tenant, user))
            return entry if entry is not None and self._clock() < self._due(entry) else None

    def hit(self, user: str, tenant: str = DEFAULT_TENANT) -> Entry | None:
        """Return what ``get`` would at once, and count it; None if it would wait, or ask the store.

        On the hot path, where every call is felt.
        """
        owner = (tenant, user)
        with self._mutex:
            entry = self._models.touched(owner) or self._absent.touched(owner)
            if entry is None:
                return None
            if entry.due - self._clock() <= self._ahead:
                left = self._left(entry)  # as announcements have it
                if left <= 0 or (left <= self._ahead and owner not in self._loads):
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
        is the old model, if it may be used, or else the null model ``loading``. Raises
        ArgumentError if ``user`` cannot be a user id, and nothing else.
        """
        owner = (tenant, user)
        with self._mutex:
            now = self._clock()
            old = self._touched(owner)
            left = -math.inf if old is None else self._left(old)
            load = self._loads.get(owner)
            if old is not None and (left > self._ahead or (left > 0 and load is not None)):
                self.figures.hits += 1
                return old
            self.figures.misses += 1
            mine = load is None and len(self._loads) < _MOST_LOADS
            if mine:
                load = self._loads[owner] = _Load()
        if mine:
            assert load is not None
            self._loaders.submit(self._run, owner, load)
        if old is not None and left > 0:
            return old
        if load is not None and load.is_done(seconds):
            entry = load.result()
            # what somebody else asked for can have come late: it may no longer be so
            late = now - entry.confirmed > max(self._fresh, self._settings.load_seconds)
            return replace(entry, stale=True) if late else entry
        if old is not None and self._is_usable(old):
            return replace(old, stale=True)
        return Entry(NullModel("loading"), 0, None, now, now)

    def drop(self, user: str, tenant: str = DEFAULT_TENANT) -> None:
        """Forget the entry of a user whose model in the store was just changed or deleted.

        What a load brings that began before that is not kept either.
        """
        with self._mutex:
            self._drop((tenant, user))

    def outdate(self, user: str, tenant: str = DEFAULT_TENANT) -> None:
        """Have the store asked again soon for a user whose model was just changed a little."""
        with self._mutex:
            self._hear(Change("rules", tenant, user))

    def everybodys(self, tenant: str) -> Rules:
        """Return what the store said of everybody's rules, a moment ago at most.

        Raises StoreError, BlobError or RulesError.
        """
        now = self._clock()
        with self._mutex:
            until, found = self._everybodys.get(tenant, (-math.inf, Rules()))
        if now < until:
            return found
        found = self._store.of_tenant(tenant).rules(None)
        with self._mutex:
            self._everybodys[tenant] = now + self._fresh, found
        return found

    def _is_usable(self, old: Entry) -> bool:
        """Tell whether a due entry may answer while the store is asked, called stale.

        One that nobody asked for in a long time may be of a user who was deleted since.
        """
        if isinstance(old.model, NullModel):
            return False
        age = self._clock() - old.confirmed
        if not old.stale and age >= _GRACE_SECONDS:
            return False
        return age < self._settings.stale_seconds

    # Being told

    def _follow(self, changes: Changes) -> None:
        self._changes = changes
        try:
            for change in changes:
                with self._mutex:
                    self._hear(change)
        finally:
            self._changes = None

    def _hear(self, change: Change) -> None:
        if change.kind == "gap" or (change.kind == "rules" and not change.user):
            self._everybodys.clear()
            self._gaps += 1
            return
        owner = (change.tenant, change.user)
        if change.kind == "forget":
            self._drop(owner)
            return
        load = self._loads.get(owner)
        if load is not None:
            load.announced[change.kind] = change
        for shelf in (self._models, self._absent):
            entry = shelf.get(owner)
            if entry is not None and entry.is_older(change):
                shelf.replace(owner, self._outdated(entry))

    def _outdated(self, entry: Entry) -> Entry:
        """Return the entry as it is when a newer model was announced.

        The next request finds it in its last quarter, and asks behind.
        """
        soon = self._clock() + self._ahead
        return replace(entry, due=min(self._due(entry), soon), gaps=_UNANNOUNCED)

    def _due(self, entry: Entry) -> float:
        """Return until when the store's word for an entry is fresh."""
        changes = self._changes
        if entry.gaps != self._gaps or changes is None:
            return entry.due
        told, trusted = changes.heard + self._fresh, entry.confirmed + _TRUST_SECONDS
        told = told if told < trusted else trusted
        return told if told > entry.due else entry.due

    def _left(self, entry: Entry) -> float:
        return self._due(entry) - self._clock()

    # Asking

    def _run(self, owner: _Owner, load: _Load) -> None:
        with self._mutex:
            old = self._touched(owner)
            gaps = self._gaps  # before the store is asked: what changes later is announced
        try:
            entry = self._ask(owner, old, gaps)
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is waited for
            with self._mutex:
                self._end(owner, load)
            load.set_exception(error)
            return
        with self._mutex:
            if self._end(owner, load):
                outdated = any(map(entry.is_older, load.announced.values()))
                self._put(owner, self._outdated(entry) if outdated else entry)
        load.set_result(entry)

    def _end(self, owner: _Owner, load: _Load) -> bool:
        """Take a load off the list; tell whether it was still there, and not dropped."""
        if self._loads.get(owner) is not load:
            return False
        del self._loads[owner]
        return True

    def _ask(self, owner: _Owner, old: Entry | None, gaps: int) -> Entry:
        """Return what the store says now, or else go on with what it said before."""
        tenant, user = owner
        store = self._store.of_tenant(tenant)
        now = self._clock()
        due = now + self._fresh
        try:
            everybodys = self.everybodys(tenant)
            if old is not None and old.is_as(store.head(user), everybodys):
                if isinstance(old.model, PersonalModel):
                    return replace(old, due=due, confirmed=now, gaps=gaps, stale=False)
                if now - old.confirmed < _TRUST_SECONDS:
                    return replace(old, due=due)  # unreadable, as it was a moment ago
            stored = store.fetch(user)
        except (BlobError, RulesError):
            return self._unreadable(Entry(NullModel("bad_blob"), 0, None, due, now))
        except StoreError:
            with self._mutex:
                self.figures.store_failures += 1
            if old is not None and now - old.confirmed < self._settings.stale_seconds:
                return replace(old, due=due, gaps=_UNANNOUNCED, stale=True)
            return Entry(NullModel("store_unavailable"), 0, None, due, now)
        if stored is None or (stored.rules is not None and stored.rules.opted_out):
            return Entry(NullModel("unknown_user"), 0, None, due, now, gaps)
        info = _info(stored)
        entry = Entry(
            NullModel("bad_blob"),
            stored.generation,
            info,
            due,
            now,
            pending=len(stored.pending),
            rules=stored.revision,
            everybodys=everybodys,
        )
        try:
            model = PersonalModel.from_blob(
                current(stored, everybodys),
                generation=stored.generation,
                weight=self._settings.weight,
                estimator=check_estimator(self._settings.estimator),
            )
        except BlobError:
            return self._unreadable(entry)
        with self._mutex:
            self.figures.loads += 1
        if old is not None and 0 < old.generation < stored.generation:
            self.figures.lagged(max(0.0, time.time() - stored.created))
        return replace(entry, model=model, gaps=gaps)

    def _unreadable(self, entry: Entry) -> Entry:
        """Count and return the entry of a model that cannot be read: it may yet be mended."""
        with self._mutex:
            self.figures.blob_failures += 1
        return entry

    # Keeping; all with the mutex held

    @property
    def _bytes(self) -> int:
        return self._models.bytes + self._absent.bytes

    def _touched(self, owner: _Owner) -> Entry | None:
        return self._models.touched(owner) or self._absent.touched(owner)

    def _put(self, owner: _Owner, entry: Entry) -> None:
        """Keep ``entry``, which may be larger than the bound: then it is the only one."""
        self._remove(owner)
        bound = self._settings.cache_bytes
        known = isinstance(entry.model, PersonalModel)
        (self._models if known else self._absent).put(owner, entry)
        self.figures.entries += 1
        self.figures.models += known
        self.figures.bytes += entry.bytes
        while self._absent.bytes > _ABSENT_SHARE * bound and len(self._absent) > 1:
            self._evict(self._absent)
        while self._bytes > bound and len(self._models) > 1:
            self._evict(self._models)

    def _evict(self, shelf: _Shelf) -> None:
        self._remove(shelf.oldest())
        self.figures.evictions += 1

    def _drop(self, owner: _Owner) -> None:
        self._loads.pop(owner, None)
        self._remove(owner)

    def _remove(self, owner: _Owner) -> None:
        for shelf in (self._models, self._absent):
            entry = shelf.pop(owner)
            if entry is not None:
                self.figures.entries -= 1
                self.figures.models -= shelf is self._models
                self.figures.bytes -= entry.bytes


def _info(stored: Stored) -> UserInfo:
    """Return what is known of a model without the blob, which would stay in memory."""
    return UserInfo(**{name: getattr(stored, name) for name in UserInfo.__dataclass_fields__})
