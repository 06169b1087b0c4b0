"""The local runner: sources to published models, with processes, progress and a report.

Three stages. *Meeting* asks the store about every user whom the ledger knows: who was deleted, and
of whom something else is published than came from here. *Reading* splits the sources into raw
messages here and has worker processes parse, route, clean and tokenize those that the ledger has
not seen. *Building* takes one user at a time of whom something changed, has a worker count and
encode, and publishes. Each user is published whole or not at all, and what was read is kept, so a
run may stop anywhere: the next one goes on.

Without a ledger that lasts, a build is one of exactly its sources. :func:`sequences` shows what
would be counted, :func:`count_words` counts for a vocabulary; both only read. Nothing here decides
what is learned: that is ``builders.prepare`` and ``builders.build``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from collections.abc import Sequence as Several
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgpack

from builders.build import Built, build_user, source_digest, unique
from builders.hygiene import learnable
from builders.ledger import AT_ONCE, Account, Ledger
from builders.ledger_files import Mail, deletions
from builders.ledgers import other_ledgers, temporary_ledger
from builders.message import Message
from builders.prepare import Prepared, Settings, Skip, correspondents, own_text, prepare
from builders.read import RawItem, Unreadable, items, parse, size
from builders.report import Report, Status, UserResult
from builders.routing import Progress, Router, source_name
from builders.vocabulary import WordCounter
from builders.workers import ordered_map
from perslm.errors import (
    BlobError,
    ForgottenError,
    OptedOutError,
    PerslmError,
    PublishConflictError,
    RulesError,
)
from perslm.rules import Rules
from perslm.store import Head, Store
from perslm.tokenize import sentences
from perslm.vocabulary import Sequence, Vocabulary

CHUNK_MESSAGES = 128
CHUNK_BYTES = 4 << 20
KNOWN: Final = "known"
TOO_OLD: Final = "too_old"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Raw messages of one source, enough of them to be worth sending to another process.

    ``marks`` are what a ledger knows them by, none if it need not.
    """

    source: Path
    items: tuple[RawItem, ...]
    marks: tuple[bytes, ...] = ()


@dataclass(slots=True)
class ChunkResult:
    """What a worker made of a chunk: of each message either a result, a reason, or an error.

    ``prepared`` have their marks, where those tell what becomes of the message anywhere;
    ``nothing`` are the marks of those that teach nobody anything.
    """

    messages: int
    prepared: list[tuple[bytes | None, Prepared]] = field(default_factory=list)
    nothing: list[bytes] = field(default_factory=list)
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
    ledger: Ledger | None = None,
    window: float | None = None,
    rebuild: bool = False,
    now: float | None = None,
) -> None:
    """Build and publish a model for every user of whom ``sources`` or the ledger hold mail.

    Mail from ``window`` seconds before ``now`` (a POSIX time, by default the clock's) or longer ago
    does not count, and goes. With ``rebuild`` what the ledger has of the users in ``sources`` is
    replaced by what these hold. Without a ledger a build is of ``sources`` alone.

    Whatever is raised (SourceError, StoreUnavailableError, KeyboardInterrupt, …), ``report`` says
    what was done until then, and every user that it calls published is.
    """
    now = time.time() if now is None else now
    floor = now - window if window is not None else 0.0
    data = vocabulary.to_bytes()
    store.put_vocabulary(data, vocabulary.fingerprint)
    everybody = store.rules(None)
    built_by = source_digest((), vocabulary, settings, everybody)
    with ExitStack() as stack:
        ledger = ledger or stack.enter_context(temporary_ledger())
        ledger.begin(settings, built_by, now=now, floor=floor, rebuild=rebuild)
        _meet(store, ledger, vocabulary.fingerprint, progress, report)
        arguments = (data, router, settings, 1, floor)
        unseen = _Unseen(ledger, router, report) if ledger.lasting else None
        read = _read(_prepare_chunk, sources, arguments, jobs, progress, report, unseen)
        with closing(read) as results:
            for result in results:
                # read before anything is built: a deletion from here on wins over this run
                new = ledger.strangers(m.user for _, m in result.prepared)
                heads = dict(zip(new, store.heads(new), strict=True))
                added = ledger.add(result.prepared, heads, result.nothing)
                report.skip(Skip.DUPLICATE, added.duplicates)
                report.skip(KNOWN, added.known)
        _inherit(store, ledger)
        runner = _Building(store, ledger, vocabulary.fingerprint, everybody, built_by, report)
        runner.run((data, router, settings, 1, floor, ledger.path), jobs, progress)
        ledger.end()


def publish(
    store: Store,
    built: Built,
    head: Head,
    vocabulary: str,
    *,
    folded: Several[bytes] = (),
    alone: bool = False,
) -> UserResult:
    """Publish a user's model against the head that the build began from, and return the line.

    If the very same is published already, nothing is done, unless learned messages are in it
    (``folded``), or earlier generations must go (``alone``). Another builder's model, a deletion
    and an opt-out are no errors but statuses.
    """
    generation, status = head.generation, Status.UNCHANGED
    same = head.generation > 0 and head.source_digest == built.source_digest
    if not same or folded or alone:
        try:
            generation = store.publish(
                built.user,
                built.blob,
                parent=head,
                source_digest=built.source_digest,
                messages=built.messages,
                tokens=built.tokens,
                vocabulary=vocabulary,
                folded=folded,
                alone=alone,
            )
            status = Status.PUBLISHED
        except PublishConflictError as conflict:
            generation = conflict.found
            found = store.head(built.user)
            same = found.generation == generation and found.source_digest == built.source_digest
            status = Status.UNCHANGED if same and not folded else Status.CONFLICT
        except ForgottenError:
            generation, status = 0, Status.FORGOTTEN
        except OptedOutError:
            generation, status = 0, Status.OPTED_OUT
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


def _meet(
    store: Store, ledger: Ledger, vocabulary: str, progress: Progress, report: Report
) -> None:
    """Look at what the store has of everybody, and who has learned messages waiting."""
    began = time.monotonic()
    if ledger.lasting:
        progress.stage("meeting", ledger.users())
        for accounts in ledger.accounts():
            ledger.meet(accounts, store.heads([account.user for account in accounts]))
            progress.advance(len(accounts))
        for user in store.learners():
            if ledger.account(user) is None:
                info = store.info(user)
                if info is not None and info.vocabulary == vocabulary:
                    ledger.add((), {user: store.head(user)})
    report.meeting_seconds = time.monotonic() - began


def _inherit(store: Store, ledger: Ledger) -> None:
    """Delete what was deleted on request from mail that was prepared otherwise.

    It is after reading: a deletion in between went by the users who were in the ledger then.
    """
    for path in other_ledgers(ledger.path) if ledger.lasting else ():
        found = deletions(path)
        for first in range(0, len(found), AT_ONCE):
            part = found[first : first + AT_ONCE]
            ledger.inherit(part, store.heads([of.user for of in part]))


@dataclass(slots=True)
class _Building:
    """The last stage of a run: everybody of whom something changed."""

    store: Store
    ledger: Ledger
    vocabulary: str
    everybody: Rules
    built_by: str
    report: Report

    def run(self, arguments: tuple[object, ...], jobs: int, progress: Progress) -> None:
        began = time.monotonic()
        progress.stage("building", self.ledger.users())
        asked: dict[int, tuple[Account, Head]] = {}
        try:
            for accounts in self.ledger.accounts(changed=False):
                for account in accounts:
                    self._unchanged(account)
                progress.advance(len(accounts))
            mapped = ordered_map(
                _build_user,
                self._work(asked, progress),
                jobs=jobs,
                setup=_set_up,
                setup_arguments=arguments,
            )
            with closing(mapped) as results:
                for id, revision, built in results:
                    account, head = asked.pop(id)
                    result = self._settle(account, head, revision, built)
                    if result is not None:
                        self.report.add(result)
                    progress.advance(1)
        finally:
            _close_mail()
            self.report.building_seconds = time.monotonic() - began

    def _unchanged(self, account: Account) -> None:
        if account.result is not None:
            generation = account.head.generation
            line = UserResult.unpack(account.user, Status.UNCHANGED, generation, account.result)
            self.report.add(line)

    def _work(
        self, asked: dict[int, tuple[Account, Head]], progress: Progress
    ) -> Iterator[tuple[int, Rules]]:
        """Yield who is to be built, and by which rules; ``asked`` gets what the store has now."""
        for accounts in self.ledger.accounts(changed=True):
            heads = self.store.heads([account.user for account in accounts])
            for account, head in zip(accounts, heads, strict=True):
                try:
                    rules = self._prepared(account, head)
                except (BlobError, RulesError) as error:  # damaged: only this user is
                    rules = UserResult(account.user, Status.FAILED, error=type(error).__name__)
                if isinstance(rules, UserResult):
                    self.report.add(rules)
                    progress.advance(1)
                    continue
                asked[account.id] = account, head
                yield account.id, rules

    def _prepared(self, account: Account, head: Head) -> Rules | UserResult:
        """Return the rules that a user is built by, or why nobody is; takes over what they learned.

        Raises BlobError and RulesError if what the store has of the user is damaged.
        """
        rules = self.everybody
        if head.rules:
            rules |= self.store.rules(account.user)
        if head.fence != account.head.fence or rules.opted_out:
            self.ledger.deleted(account)
            status = Status.OPTED_OUT if rules.opted_out else Status.FORGOTTEN
            return UserResult(account.user, status)
        if head.pending:
            self.ledger.learn(account, self.store.pending(account.user), self.vocabulary)
        return rules

    def _settle(
        self, account: Account, head: Head, revision: int, built: Built | str
    ) -> UserResult | None:
        """Publish what a worker built, and take note of it; None if there is nothing to say."""
        store, ledger = self.store, self.ledger
        if isinstance(built, str):
            return UserResult(account.user, Status.FAILED, error=built)
        self.report.skip(Skip.DUPLICATE, built.duplicates)
        with ledger.settling(account.id, revision) as valid:
            if not valid:  # somebody deleted mail from the ledger meanwhile
                status = Status.CONFLICT if ledger.account(account.user) else Status.FORGOTTEN
                return UserResult(account.user, status)
            if not built.messages and account.published is None:
                ledger.emptied(account.id, account.head.fence)
                return None
            if not built.messages:
                store.forget(account.user)
                ledger.emptied(account.id, store.head(account.user).fence)
                return UserResult(account.user, Status.EXPIRED)
            if head.generation != account.head.generation:
                head = account.head
            elif self._is_foreign(account, head, built):
                return UserResult(account.user, Status.FOREIGN, head.generation)
            folded = ledger.folding(account.id)
            result = publish(store, built, head, self.vocabulary, folded=folded)
            if result.status in (Status.PUBLISHED, Status.UNCHANGED):
                now = Head(result.generation, head.fence, rules=head.rules)
                ledger.settled(account.id, now, built.source_digest, self.built_by, result.pack())
        if result.status in (Status.FORGOTTEN, Status.OPTED_OUT):
            ledger.deleted(account)
        return result

    def _is_foreign(self, account: Account, head: Head, built: Built) -> bool:
        """Tell whether the store has a model of more mail, none of which the ledger has seen."""
        if (
            account.published is not None
            or not self.ledger.lasting
            or self.ledger.rebuilding
            or not head.generation
            or head.source_digest == built.source_digest
        ):
            return False
        info = self.store.info(account.user)
        return info is not None and info.messages > built.messages


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
    arguments = (vocabulary.to_bytes(), router, settings)
    with temporary_ledger() as ledger, closing(Mail(ledger.path)) as kept_mail:
        ledger.begin(settings, "", now=time.time(), floor=0.0)
        read = _read(_prepare_chunk, sources, arguments, jobs, progress, report)
        with closing(read) as results:
            for result in results:
                heads = {m.user: Head(0, 0) for _, m in result.prepared}
                added = ledger.add(result.prepared, heads)
                report.skip(Skip.DUPLICATE, added.duplicates)
        for accounts in ledger.accounts():
            for account in accounts:
                user, _, mail = kept_mail.of(account.id)
                kept, duplicates = unique(mail)
                report.skip(Skip.DUPLICATE, duplicates)
                for text in learnable(kept):
                    for sequence in text:
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


def _read(
    work: Callable[[Chunk], ChunkResult],
    sources: Several[Path],
    setup_arguments: tuple[object, ...],
    jobs: int,
    progress: Progress,
    report: Report,
    unseen: _Unseen | None = None,
) -> Generator[ChunkResult, None, None]:
    """Yield ``work`` of every chunk, in the order of the sources, and keep the report's numbers."""
    progress.stage("reading", sum(map(size, sources)))
    began = time.monotonic()
    chunks = _chunks(sources, report.add_unreadable, progress.advance, unseen)
    mapped = ordered_map(work, chunks, jobs=jobs, setup=_set_up, setup_arguments=setup_arguments)
    try:
        with closing(mapped) as results:
            for result in results:
                report.messages += result.messages
                report.skipped.update(result.skipped)
                for one in result.unreadable:
                    report.add_unreadable(one)
                yield result
    finally:
        report.reading_seconds = time.monotonic() - began


def _chunks(
    sources: Iterable[Path],
    on_error: Callable[[Unreadable], None],
    on_bytes: Callable[[int], None],
    unseen: _Unseen | None,
) -> Iterator[Chunk]:
    for source in sources:
        for held in _parts(items(source, on_error=on_error, on_bytes=on_bytes)):
            chunk = Chunk(source, held) if unseen is None else unseen.chunk(source, held)
            if chunk.items:
                yield chunk


def _parts(found: Iterable[RawItem]) -> Iterator[tuple[RawItem, ...]]:
    held: list[RawItem] = []
    held_bytes = 0
    for item in found:
        held.append(item)
        held_bytes += len(item.payload)
        if len(held) >= CHUNK_MESSAGES or held_bytes >= CHUNK_BYTES:
            yield tuple(held)
            held, held_bytes = [], 0
    if held:
        yield tuple(held)


@dataclass(slots=True)
class _Unseen:
    """Leaves out raw messages that a ledger need not look at again."""

    ledger: Ledger
    router: Router
    report: Report

    def chunk(self, source: Path, found: tuple[RawItem, ...]) -> Chunk:
        by_file = source_name(source) if self.router.by_file else None
        routing = msgpack.packb((self.router.only_user, by_file))
        marks = [self.ledger.mark(routing, _bytes(item)) for item in found]
        seen = self.ledger.seen(marks)
        self.report.messages += sum(mark in seen for mark in marks)
        self.report.skip(KNOWN, sum(mark in seen for mark in marks))
        left = [(item, mark) for item, mark in zip(found, marks, strict=True) if mark not in seen]
        return Chunk(source, tuple(i for i, _ in left), tuple(m for _, m in left))


def _bytes(item: RawItem) -> bytes:
    payload = item.payload
    if isinstance(payload, bytes):
        return payload
    return repr(sorted(payload.items())).encode("utf-8", "backslashreplace")


@dataclass(slots=True)
class _Worker:
    """What a worker process holds for all of its chunks."""

    vocabulary: Vocabulary | None
    router: Router
    settings: Settings
    min_users: int
    floor: float
    mail: Mail | None


_worker: _Worker


def _set_up(
    vocabulary: bytes | None,
    router: Router,
    settings: Settings,
    min_users: int = 1,
    floor: float = 0.0,
    ledger: Path | None = None,
) -> None:
    global _worker  # noqa: PLW0603 - a process pool has no other place for what outlives a chunk
    loaded = Vocabulary.from_bytes(vocabulary) if vocabulary is not None else None
    mail = Mail(ledger) if ledger is not None else None
    _worker = _Worker(loaded, router, settings, min_users, floor, mail)


def _close_mail() -> None:
    """Close what this process has opened if it was its own worker."""
    worker: _Worker | None = globals().get("_worker")
    if worker is not None and worker.mail is not None:
        worker.mail.close()
        worker.mail = None


def _prepare_chunk(chunk: Chunk) -> ChunkResult:
    result = ChunkResult(len(chunk.items))
    marks = chunk.marks or (None,) * len(chunk.items)
    for item, mark in zip(chunk.items, marks, strict=True):
        message = parse(item)
        if isinstance(message, Unreadable):
            result.unreadable.append(message)
            continue
        user = _worker.router.user(message, chunk.source)
        if isinstance(user, Skip):  # whose mail it is may become known
            result.skipped[user] += 1
            continue
        outcome = _prepare(message, user)
        if not isinstance(outcome, str):
            result.prepared.append((mark if _is_settled(message) else None, outcome))
            continue
        result.skipped[outcome] += 1
        if mark is not None:
            result.nothing.append(mark)
    return result


def _prepare(message: Message, user: str) -> Prepared | str:
    assert _worker.vocabulary is not None
    if message.date is not None and message.date.timestamp() < _worker.floor:
        return TOO_OLD
    return prepare(message, user, _worker.vocabulary, _worker.settings)


def _is_settled(message: Message) -> bool:
    """Tell whether a message counts for the same user from any source with such a name."""
    router = _worker.router
    said = message.user or message.author or message.sender
    return bool(said or router.only_user or router.by_file)


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


def _build_user(work: tuple[int, Rules]) -> tuple[int, int, Built | str]:
    """Return a user's id, the revision of their mail, and the model or what failed."""
    assert _worker.vocabulary is not None
    assert _worker.mail is not None
    id, rules = work
    user, revision, mail = _worker.mail.of(id)
    try:
        built = build_user(user, mail, _worker.vocabulary, _worker.settings, rules)
    except (PerslmError, MemoryError) as error:  # one user's trouble is not the others'
        return id, revision, type(error).__name__
    return id, revision, built
