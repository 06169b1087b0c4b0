"""Whole runs against a real store: what is published, what is reported, and how runs meet."""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from builders import build as building
from builders.prepare import Settings, Skip
from builders.report import Report, Status
from builders.routing import Router
from builders.run import build, count_words, sequences
from perslm import blob
from perslm.counts import count
from perslm.store import Store
from perslm.vocabulary import Sequence, Vocabulary

PEOPLE = ["ann@example.org", "bob@example.net", "cy@example.com"]
WORDS = Vocabulary.from_words(
    ["we", "meet", "on", "Monday", "and", "I", "bring", "the", "cake", "."]
)


class Hook:
    """A progress bar that does something when a stage begins, or at every step of building."""

    def __init__(
        self,
        *,
        at: str = "",
        begin: Callable[[], object] = lambda: None,
        step: Callable[[], object] = lambda: None,
    ) -> None:
        self._at, self._begin, self._step = at, begin, step
        self._stage = ""

    def stage(self, name: str, total: int) -> None:
        self._stage = name
        if name == self._at:
            self._begin()

    def advance(self, amount: int) -> None:
        if self._stage == self._at:
            self._step()


def write_mail(path: Path, *, mails: int = 4) -> Path:
    records = [
        {
            "message_id": f"<{person}-{i}>",
            "from": person,
            "date": f"2025-01-0{i + 1}T10:00:00Z",
            "body": f"We meet on Monday and I bring the cake.\n\nThe cake of mail {i % 3} is here.",
        }
        for i in range(mails)
        for person in PEOPLE
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


@pytest.fixture
def mail(tmp_path: Path) -> Path:
    return write_mail(tmp_path / "all.jsonl")


def run(
    store: Store,
    *sources: Path,
    vocabulary: Vocabulary = WORDS,
    jobs: int = 1,
    hook: Hook | None = None,
    report: Report | None = None,
    order: int = 3,
) -> Report:
    done = report or Report([str(s) for s in sources])
    build(
        sources,
        store=store,
        vocabulary=vocabulary,
        router=Router(),
        settings=Settings(order=order),
        jobs=jobs,
        progress=hook or Hook(),
        report=done,
    )
    return done


def statuses(report: Report) -> dict[str, Status]:
    return {result.user: result.status for result in report.users}


def test_every_user_is_published_and_reported(store: Store, mail: Path) -> None:
    report = run(store, mail)
    assert statuses(report) == dict.fromkeys(PEOPLE, Status.PUBLISHED)
    assert sorted(store.users()) == PEOPLE
    for result in report.users:
        stored = store.fetch(result.user)
        assert stored is not None
        assert (stored.generation, stored.bytes) == (1, result.bytes)
        assert (stored.messages, stored.tokens) == (result.messages, result.tokens)
        assert stored.vocabulary == WORDS.fingerprint
        assert blob.decode(stored.blob).counts.ngrams == result.ngrams
    assert store.vocabulary(WORDS.fingerprint) == WORDS.to_bytes()
    facts = json.loads(json.dumps(report.as_json()))
    assert facts["messages"] == 12
    assert facts["published"] == 3
    assert facts["tokens"] == sum(user["tokens"] for user in facts["users"])
    assert not facts["unreadable"]
    assert not facts["interrupted"]


def test_processes_change_nothing(store: Store, mail: Path) -> None:
    run(store, mail)
    one = {user: store.fetch(user) for user in PEOPLE}
    for user in PEOPLE:
        store.forget(user)
    run(store, mail, jobs=2)
    for user, before in one.items():
        after = store.fetch(user)
        assert before is not None
        assert after is not None
        assert after.blob == before.blob


def test_the_same_mail_again_is_unchanged_whatever_its_name(
    store: Store, mail: Path, tmp_path: Path
) -> None:
    run(store, mail)
    moved = mail.rename(tmp_path / "renamed.jsonl")
    report = run(store, moved)
    assert statuses(report) == dict.fromkeys(PEOPLE, Status.UNCHANGED)
    assert {result.generation for result in report.users} == {1}
    assert not report.failed


def test_a_copy_of_the_mail_is_counted_and_changes_nothing(
    store: Store, mail: Path, tmp_path: Path
) -> None:
    run(store, mail)
    report = run(store, mail, write_mail(tmp_path / "copy.jsonl"))
    assert statuses(report) == dict.fromkeys(PEOPLE, Status.UNCHANGED)
    assert report.skipped[Skip.DUPLICATE] == 12


def test_another_vocabulary_or_order_replaces_the_model(store: Store, mail: Path) -> None:
    run(store, mail)
    other = Vocabulary.from_words(["cake", "Monday"])
    assert {u.generation for u in run(store, mail, vocabulary=other).users} == {2}
    assert {u.generation for u in run(store, mail, vocabulary=other, order=2).users} == {3}
    info = store.info(PEOPLE[0])
    assert info is not None
    assert info.vocabulary == other.fingerprint
    assert store.vocabulary(WORDS.fingerprint) is not None  # for a rollback


def test_a_deletion_during_a_build_wins(store: Store, mail: Path) -> None:
    gone = PEOPLE[1]
    report = run(store, mail, hook=Hook(at="building", begin=lambda: store.forget(gone)))
    assert statuses(report)[gone] is Status.FORGOTTEN
    assert not report.failed
    assert store.fetch(gone) is None
    assert sorted(store.users()) == [PEOPLE[0], PEOPLE[2]]
    assert statuses(run(store, mail))[gone] is Status.PUBLISHED


def test_a_builder_that_came_first_wins(store: Store, mail: Path) -> None:
    user = PEOPLE[0]

    def publish() -> None:
        store.publish(user, b"theirs", parent=store.head(user))

    report = run(store, mail, hook=Hook(at="building", begin=publish))
    assert statuses(report)[user] is Status.CONFLICT
    assert report.failed
    stored = store.fetch(user)
    assert stored is not None
    assert stored.blob == b"theirs"
    assert statuses(run(store, mail))[user] is Status.PUBLISHED


@pytest.mark.parametrize("jobs", [1, 2])
def test_after_an_interruption_the_report_says_what_is_published(
    store: Store, mail: Path, jobs: int
) -> None:
    steps: list[None] = []

    def interrupt_the_second() -> None:
        steps.append(None)
        if len(steps) == 2:
            raise KeyboardInterrupt

    report = Report([str(mail)])
    hook = Hook(at="building", step=interrupt_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(store, mail, jobs=jobs, hook=hook, report=report)
    assert not multiprocessing.active_children()
    published = {u for u, status in statuses(report).items() if status is Status.PUBLISHED}
    assert len(published) == 2
    assert set(store.users()) == published
    again = statuses(run(store, mail))
    assert Counter(again.values()) == {Status.UNCHANGED: 2, Status.PUBLISHED: 1}
    assert {u for u, status in again.items() if status is Status.UNCHANGED} == published


def test_an_interruption_while_reading_publishes_nothing(store: Store, mail: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(store, mail, jobs=2, hook=Hook(at="reading", step=interrupt))
    assert not multiprocessing.active_children()
    assert list(store.users()) == []


def test_what_cannot_be_read_is_counted_and_nothing_else_is_lost(store: Store, mail: Path) -> None:
    lines = mail.read_text().splitlines()
    lines[4] = lines[4][:-10]
    mail.write_text("\n".join(lines))
    report = run(store, mail)
    assert report.messages == 12
    (unreadable,) = report.unreadable
    assert str(mail) in unreadable.position
    assert sum(user.messages for user in report.users) + report.skipped[Skip.DUPLICATE] == 11


def test_sequences_are_those_that_a_build_counts(store: Store, mail: Path, tmp_path: Path) -> None:
    sources = (mail, write_mail(tmp_path / "copy.jsonl"))
    run(store, *sources)
    shown: defaultdict[str, list[Sequence]] = defaultdict(list)
    found = sequences(
        sources,
        vocabulary=WORDS,
        router=Router(),
        settings=Settings(),
        jobs=1,
        progress=Hook(),
        report=Report([]),
    )
    for user, sequence in found:
        shown[user].append(sequence)
    assert sorted(shown) == PEOPLE
    for user, theirs in shown.items():
        stored = store.fetch(user)
        assert stored is not None
        counts = count(theirs, 3, building.specials(WORDS))
        assert blob.encode(counts, blob.decode(stored.blob).metadata) == stored.blob


@pytest.mark.parametrize("jobs", [1, 2])
def test_words_are_counted_over_users(mail: Path, jobs: int) -> None:
    report = Report([])
    counter = count_words(
        (mail,),
        min_users=3,
        router=Router(),
        settings=Settings(),
        jobs=jobs,
        progress=Hook(),
        report=report,
    )
    vocabulary = counter.vocabulary()
    assert vocabulary.id("cake") is not None
    assert report.messages == 12


def test_no_mail_is_no_model(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "quotes.jsonl"
    source.write_text(json.dumps({"from": PEOPLE[0], "body": "> only\n> quoted\n"}) + "\n")
    report = run(store, source)
    assert report.users == []
    assert report.skipped == {Skip.NO_OWN_WORDS: 1}
    assert list(store.users()) == []
