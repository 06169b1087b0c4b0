"""The local runner: sources to published models, with processes, progress and a report.

Two stages. *Reading* splits the sources into raw messages here and has worker processes parse,
route, clean and tokenize them; the results are spooled by user. *Building* takes one user at a
time, has a worker count and encode, and publishes. Each user is published whole or not at all, so
a run may stop anywhere: the next one finds the users already published unchanged and goes on with
the others.

:func:`sequences` shows what a build would count, :func:`count_words` counts for a vocabulary; both
run the first stage alone. Nothing here decides what is
learned: that is ``builders.prepare`` and ``builders.build``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from collections.abc import Sequence as Several
from contextlib import closing
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from builders.build import Built, build_user, unique
from builders.prepare import Prepared, Settings, Skip, correspondents, own_text, prepare
from builders.read import RawItem, Unreadable, items, parse, size
from builders.routing import Progress, Router
from builders.spool import Spool
from builders.vocabulary import WordCounter
from builders.workers import ordered_map
from perslm.errors import ForgottenError, PublishConflictError
from perslm.store import Head, Store
from perslm.tokenize import sentences
from perslm.vocabulary import Sequence, Vocabulary

CHUNK_MESSAGES = 128
CHUNK_BYTES = 4 << 20


class Status(StrEnum):
    """How a user's build ended."""

    PUBLISHED = "published"
    UNCHANGED = "unchanged"
    CONFLICT = "conflict"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True, slots=True)
class UserResult:
    """One user's line of the report."""

    user: str
    status: Status
    generation: int
    messages: int
    duplicates: int
    tokens: int
    ngrams: tuple[int, ...]
    pruned: int
    bytes: int


@dataclass(slots=True)
class Report:
    """What a run did. ``skipped`` counts messages by reason; times are in seconds."""

    sources: list[str]
    messages: int = 0
    unreadable: list[Unreadable] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    users: list[UserResult] = field(default_factory=list)
    reading_seconds: float = 0.0
    building_seconds: float = 0.0
    interrupted: bool = False

    @property
    def tokens(self) -> int:
        """Return the number of tokens counted over all users."""
        return sum(u.tokens for u in self.users)

    @property
    def failed(self) -> bool:
        """Tell whether some user must be built again."""
        return any(u.status is Status.CONFLICT for u in self.users)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        seconds = self.reading_seconds + self.building_seconds
        return {
            **asdict(self),
            "unreadable": [
                {"position": u.position, "reason": str(u.reason)} for u in self.unreadable
            ],
            "skipped": {str(reason): n for reason, n in self.skipped.items()},
            "published": sum(u.status is Status.PUBLISHED for u in self.users),
            "tokens": self.tokens,
            "messages_per_second": self.messages / seconds if seconds else 0.0,
            "tokens_per_second": self.tokens / seconds if seconds else 0.0,
        }


@dataclass(frozen=True, slots=True)
class Chunk:
    """Raw messages of one source, enough of them to be worth sending to another process."""

    source: Path
    items: tuple[RawItem, ...]


@dataclass(slots=True)
class ChunkResult:
    """What a worker made of a chunk: of each message either a result, a reason, or an error."""

    messages: int
    prepared: list[Prepared] = field(default_factory=list)
    words: WordCounter | None = None
    skipped: Counter[str] = field(default_factory=Counter)
    unreadable: list[Unreadable] = field(default_factory=list)


def build(
    sources: Several[Path],
    *,
    store: Store,
    vocabulary: Vocabulary,
    router: Router,
    settings: Settings,
    jobs: int,
    progress: Progress,
    report: Report,
) -> None:
    """Build and publish a model for every user found in ``sources``, filling ``report``.

    Whatever is raised (SourceError, StoreUnavailableError, KeyboardInterrupt, …), ``report`` says
    what was done until then, and every user that it calls published is.
    """
    data = vocabulary.to_bytes()
    store.put_vocabulary(data, vocabulary.fingerprint)
    heads: dict[str, Head] = {}
    with Spool() as spool:
        with closing(_prepared(sources, data, router, settings, jobs, progress, report)) as read:
            for message in read:
                # read before anything is built: a deletion from here on wins over this run
                if message.user not in heads:
                    heads[message.user] = store.head(message.user)
                spool.add(message)
        progress.stage("building", len(heads))
        began = time.monotonic()
        mapped = ordered_map(
            _build_user,
            spool.by_user(),
            jobs=jobs,
            setup=_set_up,
            setup_arguments=(data, router, settings),
        )
        try:
            with closing(mapped) as built_users:
                for built in built_users:
                    result = _publish(store, built, heads[built.user], vocabulary.fingerprint)
                    report.skipped[Skip.DUPLICATE] += built.duplicates
                    report.users.append(result)
                    progress.advance(1)
        finally:
            report.building_seconds = time.monotonic() - began


def sequences(
    sources: Several[Path],
    *,
    vocabulary: Vocabulary,
    router: Router,
    settings: Settings,
    jobs: int,
    progress: Progress,
    report: Report,
) -> Iterator[tuple[str, Sequence]]:
    """Yield the sequences that :func:`build` would count, each with its user.

    Users come one after the other, the mail of each in time order and without duplicates.
    """
    data = vocabulary.to_bytes()
    with Spool() as spool:
        with closing(_prepared(sources, data, router, settings, jobs, progress, report)) as read:
            for message in read:
                spool.add(message)
        for user, mail in spool.by_user():
            kept, duplicates = unique(mail)
            report.skipped[Skip.DUPLICATE] += duplicates
            for message in kept:
                for sequence in message.sequences:
                    yield user, sequence


def count_words(
    sources: Several[Path],
    *,
    min_users: int,
    router: Router,
    settings: Settings,
    jobs: int,
    progress: Progress,
    report: Report,
) -> WordCounter:
    """Count the words of everybody's own text, as a vocabulary needs them; fills ``report``."""
    total = WordCounter(min_users)
    arguments = (None, router, settings, min_users)
    read = _read(_count_words_of_chunk, sources, arguments, jobs, progress, report)
    with closing(read) as results:
        for result in results:
            assert result.words is not None
            total.merge(result.words)
    return total


def _prepared(
    sources: Several[Path],
    vocabulary: bytes,
    router: Router,
    settings: Settings,
    jobs: int,
    progress: Progress,
    report: Report,
) -> Generator[Prepared, None, None]:
    arguments = (vocabulary, router, settings)
    read = _read(_prepare_chunk, sources, arguments, jobs, progress, report)
    with closing(read) as results:
        for result in results:
            yield from result.prepared


def _read(
    work: Callable[[Chunk], ChunkResult],
    sources: Several[Path],
    setup_arguments: tuple[object, ...],
    jobs: int,
    progress: Progress,
    report: Report,
) -> Generator[ChunkResult, None, None]:
    """Yield ``work`` of every chunk, in the order of the sources, and keep the report's numbers."""
    progress.stage("reading", sum(map(size, sources)))
    began = time.monotonic()
    chunks = _chunks(sources, report.unreadable.append, progress.advance)
    mapped = ordered_map(work, chunks, jobs=jobs, setup=_set_up, setup_arguments=setup_arguments)
    try:
        with closing(mapped) as results:
            for result in results:
                report.messages += result.messages
                report.skipped.update(result.skipped)
                report.unreadable.extend(result.unreadable)
                yield result
    finally:
        report.reading_seconds = time.monotonic() - began


def _chunks(
    sources: Iterable[Path],
    on_error: Callable[[Unreadable], None],
    on_bytes: Callable[[int], None],
) -> Iterator[Chunk]:
    for source in sources:
        held: list[RawItem] = []
        held_bytes = 0
        for item in items(source, on_error=on_error, on_bytes=on_bytes):
            held.append(item)
            held_bytes += len(item.payload)
            if len(held) >= CHUNK_MESSAGES or held_bytes >= CHUNK_BYTES:
                yield Chunk(source, tuple(held))
                held, held_bytes = [], 0
        if held:
            yield Chunk(source, tuple(held))


@dataclass(slots=True)
class _Worker:
    """What a worker process holds for all of its chunks."""

    vocabulary: Vocabulary | None
    router: Router
    settings: Settings
    min_users: int


_worker: _Worker


def _set_up(
    vocabulary: bytes | None, router: Router, settings: Settings, min_users: int = 1
) -> None:
    global _worker  # noqa: PLW0603 - a process pool has no other place for what outlives a chunk
    loaded = Vocabulary.from_bytes(vocabulary) if vocabulary is not None else None
    _worker = _Worker(loaded, router, settings, min_users)


def _prepare_chunk(chunk: Chunk) -> ChunkResult:
    assert _worker.vocabulary is not None
    result = ChunkResult(len(chunk.items))
    for item in chunk.items:
        message = parse(item)
        if isinstance(message, Unreadable):
            result.unreadable.append(message)
            continue
        user = _worker.router.user(message, chunk.source)
        outcome = (
            user
            if isinstance(user, Skip)
            else prepare(message, user, _worker.vocabulary, _worker.settings)
        )
        if isinstance(outcome, Skip):
            result.skipped[outcome] += 1
        else:
            result.prepared.append(outcome)
    return result


def _count_words_of_chunk(chunk: Chunk) -> ChunkResult:
    result = ChunkResult(len(chunk.items), words=WordCounter(_worker.min_users))
    assert result.words is not None
    for item in chunk.items:
        message = parse(item)
        if isinstance(message, Unreadable):
            result.unreadable.append(message)
            continue
        user = _worker.router.user(message, chunk.source)
        text = user if isinstance(user, Skip) else own_text(message, _worker.settings)
        if isinstance(text, Skip) or isinstance(user, Skip):
            result.skipped[str(text)] += 1
            continue
        for tokens in sentences(text, names=correspondents(message)):
            result.words.add(user, tokens)
    return result


def _build_user(mail: tuple[str, list[Prepared]]) -> Built:
    assert _worker.vocabulary is not None
    return build_user(*mail, _worker.vocabulary, _worker.settings)


def _publish(store: Store, built: Built, head: Head, vocabulary: str) -> UserResult:
    """Publish one user unless the very same is published already."""
    generation = head.generation
    info = store.info(built.user)
    if info is not None and info.source_digest == built.source_digest:
        status = Status.UNCHANGED
        generation = info.generation
    else:
        try:
            generation = store.publish(
                built.user,
                built.blob,
                parent=head,
                source_digest=built.source_digest,
                messages=built.messages,
                tokens=built.tokens,
                vocabulary=vocabulary,
            )
            status = Status.PUBLISHED
        except PublishConflictError as conflict:
            status, generation = Status.CONFLICT, conflict.found
        except ForgottenError:
            status, generation = Status.FORGOTTEN, 0
    return UserResult(
        user=built.user,
        status=status,
        generation=generation,
        messages=built.messages,
        duplicates=built.duplicates,
        tokens=built.tokens,
        ngrams=built.ngrams,
        pruned=built.pruned,
        bytes=len(built.blob),
    )
