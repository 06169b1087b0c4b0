"""Builds night for night, against a real store: as if there had been one, and nothing for nothing.

What is compared is always the bytes of models: a build of everything there is (or may count) into
an empty store, and what nights, crashes and deletions left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.build import build_user
from builders.duplicates import id_digest
from builders.forgetting import forget_mail
from builders.ledgers import drop_users, open_ledger
from builders.prepare import VERSION, Settings, Skip
from builders.report import Report, Status
from builders.routing import Router
from builders.run import KNOWN, TOO_OLD, build
from perslm.backup import backup, restore
from perslm.errors import LedgerError, NoModelError
from perslm.rules import Rules
from perslm.store import Pending, Store, open_store
from perslm.vocabulary import Vocabulary
from tests.unit.builders.test_run import Hook

PEOPLE = ["ann@example.org", "bob@example.net", "cy@example.com"]
NOUNS = ["cake", "tea", "train", "meeting", "report", "garden", "piano", "window", "letter"]
WORDS = Vocabulary.from_words(["we", "meet", "on", "Monday", "and", "bring", "the", ".", *NOUNS])
NOW = datetime(2026, 3, 1, tzinfo=UTC)
Mail = dict[str, object]


def mail(number: int, person: str = PEOPLE[0], **changes: object) -> Mail:
    """One message a day, of before NOW; texts repeat, so that n-grams are in two messages."""
    random = Random(number // 2)
    text = " ".join(f"We bring the {random.choice(NOUNS)} on Monday." for _ in range(7))
    return {
        "message_id": f"<{number}@{person}>",
        "from": person,
        "date": (NOW - timedelta(days=number + 1)).isoformat(),
        "subject": f"number {number}",
        "body": text,
    } | changes


ALL = [mail(n, person) for n in range(6) for person in PEOPLE]


class Place:
    """A tenant of a store and the ledger of its builds."""

    def __init__(self, store: Store, folder: Path) -> None:
        name = uuid.uuid4().hex
        self.store = store.of_tenant(name)
        self.folder = folder / name
        self.folder.mkdir()
        self.ledger = self.folder / "ledger"

    def night(
        self,
        messages: Iterable[Mail],
        *,
        days: int | None = None,
        now: datetime = NOW,
        rebuild: bool = False,
        jobs: int = 1,
        hook: Hook | None = None,
        **changes: object,
    ) -> Report:
        """Build from these messages; ``days`` is the window."""
        source = self.folder / "mail.jsonl"
        lines = [json.dumps(message) + "\n" for message in messages]
        source.write_text("".join(lines))
        report = Report([])
        settings = Settings(**changes)  # type: ignore[arg-type]
        with open_ledger(self.ledger, WORDS.fingerprint, settings) as ledger:
            build(
                [source] if lines else [],
                store=self.store,
                vocabulary=WORDS,
                router=Router(),
                settings=settings,
                jobs=jobs,
                progress=hook or Hook(),
                report=report,
                ledger=ledger,
                window=days * 86400.0 if days is not None else None,
                rebuild=rebuild,
                now=now.timestamp(),
            )
        return report

    def lose_the_store(self) -> None:
        """Delete all keys of the tenant's people, without a trace."""
        keys = self.store._connection.client()
        for user in PEOPLE:
            for key in keys.keys(f"*{self.store.tenant}*{user}*"):
                keys.delete(key)

    def models(self) -> dict[str, bytes]:
        """Everybody's model."""
        found = {user: self.store.fetch(user) for user in self.store.users()}
        return {user: stored.blob for user, stored in found.items() if stored is not None}


@pytest.fixture
def place(store: Store, tmp_path: Path) -> Place:
    return Place(store, tmp_path)


@pytest.fixture
def clean(store: Store, tmp_path: Path) -> Callable[[Iterable[Mail]], dict[str, bytes]]:
    """Returns the models of a first build from some messages."""

    def models(messages: Iterable[Mail], **changes: object) -> dict[str, bytes]:
        fresh = Place(store, tmp_path)
        fresh.night(messages, **changes)  # type: ignore[arg-type]
        return fresh.models()

    return models


def statuses(report: Report) -> dict[str, Status]:
    return {result.user: result.status for result in report.users}


def test_a_rerun_is_a_no_op(place: Place) -> None:
    place.night(ALL)
    before = place.models()
    report = place.night(ALL)
    assert statuses(report) == dict.fromkeys(PEOPLE, Status.UNCHANGED)
    assert report.messages == report.skipped[KNOWN] == len(ALL)
    assert {result.generation for result in report.users} == {1}
    assert {result.messages for result in report.users} == {6}
    assert place.models() == before


def test_only_users_that_changed_are_published(place: Place, clean: Callable[..., object]) -> None:
    place.night(ALL)
    more = mail(20, PEOPLE[1])
    report = place.night([*ALL, more])
    assert statuses(report) == {
        PEOPLE[0]: Status.UNCHANGED,
        PEOPLE[1]: Status.PUBLISHED,
        PEOPLE[2]: Status.UNCHANGED,
    }
    assert report.skipped[KNOWN] == len(ALL)
    assert place.models() == clean([*ALL, more])


# Copies: the same again, under another Message-ID and date, and a link between the two.
COPIES = [
    mail(0),
    mail(0, message_id="<copy@example.org>", date=(NOW - timedelta(days=9)).isoformat()),
    mail(3, message_id="<copy@example.org>", date=(NOW - timedelta(days=2)).isoformat()),
    mail(4, date=None),
    mail(5, message_id=None),
]


@settings(max_examples=12)
@given(st.data())
def test_nights_over_slices_are_one_build(
    store_factory: Callable[[], Place], data: st.DataObject
) -> None:
    messages = data.draw(st.permutations(ALL[::3] + COPIES))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(messages)), max_size=3)))
    nights, once = store_factory(), store_factory()
    for first, last in zip([0, *cuts], [*cuts, len(messages)], strict=True):
        again = data.draw(st.integers(0, first))  # a source may hold old mail, too
        nights.night(messages[again:last])
    once.night(messages)
    assert nights.models() == once.models()


@pytest.fixture(scope="module")
def store_factory(
    _server: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterable[Callable[[], Place]]:
    path = _server.get_connection_kwargs()["path"]  # type: ignore[attr-defined]
    folder = tmp_path_factory.mktemp("nights")
    with open_store(f"unix://{path}") as store:
        yield lambda: Place(store, folder)


@pytest.mark.parametrize("jobs", [1, 2])
def test_after_a_build_a_ledger_is_one_file(place: Place, jobs: int) -> None:
    place.night(ALL, jobs=jobs)  # no journal is left that could hold what was deleted
    names = sorted(path.suffix for path in place.ledger.iterdir())
    assert names == ["", "", ".sqlite"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_mail_beyond_the_window_stops_counting(
    place: Place, clean: Callable[..., object], jobs: int
) -> None:
    place.night(ALL, jobs=jobs)
    report = place.night(ALL, days=3, jobs=jobs)  # the messages of three days and a bit
    recent = [m for m in ALL if datetime.fromisoformat(str(m["date"])) >= NOW - timedelta(days=3)]
    assert len(recent) == 9
    assert place.models() == clean(recent)
    assert statuses(report) == dict.fromkeys(PEOPLE, Status.PUBLISHED)
    assert report.skipped[KNOWN] == len(ALL)
    report = place.night([*ALL, mail(30)], days=3, jobs=jobs)
    assert report.skipped[TOO_OLD] == 1
    assert statuses(report) == dict.fromkeys(PEOPLE, Status.UNCHANGED)
    later = place.night([], days=3, now=NOW + timedelta(days=30), jobs=jobs)
    assert statuses(later) == dict.fromkeys(PEOPLE, Status.EXPIRED)
    assert place.models() == {}
    place.night(ALL, jobs=jobs)  # no window any more: what the sources hold counts again
    assert place.models() == clean(ALL)


def test_other_settings_build_everybody_from_the_ledger(
    place: Place, clean: Callable[..., object]
) -> None:
    place.night(ALL)
    report = place.night([], order=2, min_messages=1)
    assert statuses(report) == dict.fromkeys(PEOPLE, Status.PUBLISHED)
    assert place.models() == clean(ALL, order=2, min_messages=1)


def test_mail_is_prepared_anew_when_the_preparation_is_another(
    place: Place, clean: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.night(ALL)
    monkeypatch.setattr("builders.ledgers.VERSION", VERSION + 1)
    report = place.night(ALL)
    assert KNOWN not in report.skipped
    assert place.models() == clean(ALL)


# Stores that changed in between


def test_a_deleted_user_is_gone_from_the_ledger_too(
    place: Place, clean: Callable[..., object]
) -> None:
    place.night(ALL)
    place.store.forget(PEOPLE[0])
    place.night([mail(9)])
    assert place.models()[PEOPLE[0]] == clean([mail(9)])[PEOPLE[0]]


def test_a_deletion_while_a_build_runs_wins_and_the_ledger_forgets(place: Place) -> None:
    begun = Hook(at="building", begin=lambda: place.store.forget(PEOPLE[0]))
    assert statuses(place.night(ALL, hook=begun))[PEOPLE[0]] is Status.FORGOTTEN
    assert PEOPLE[0] not in place.models()
    assert PEOPLE[0] not in statuses(place.night([]))


def test_a_user_whom_the_ledger_forgets_while_a_build_reads_stays_away(place: Place) -> None:
    place.night(ALL[:3])

    def delete() -> None:
        place.store.forget(PEOPLE[0])
        drop_users(place.ledger, [PEOPLE[0]])

    report = place.night(ALL, hook=Hook(at="reading", begin=delete))
    assert PEOPLE[0] not in statuses(report)
    assert sorted(place.models()) == PEOPLE[1:]
    assert statuses(place.night(ALL))[PEOPLE[0]] is Status.PUBLISHED  # a build begun later


def test_a_store_that_lost_everything_gets_it_back(place: Place) -> None:
    place.night(ALL)
    before = place.models()
    place.lose_the_store()
    assert place.models() == {}
    place.night([])
    assert place.models() == before


def test_an_older_backup_is_brought_up_to_date(place: Place, tmp_path: Path) -> None:
    place.night(ALL[: len(ALL) // 2])
    backup(place.store, tmp_path / "older", Hook())
    place.night(ALL)
    before = place.models()
    place.lose_the_store()
    restore(place.store, tmp_path / "older", Hook())
    assert place.models() != before
    place.night([])
    assert place.models() == before


def test_another_builders_model_is_replaced(place: Place) -> None:
    place.night(ALL)
    before = place.models()
    place.store.publish(PEOPLE[0], b"theirs", parent=place.store.head(PEOPLE[0]), messages=1)
    assert statuses(place.night([]))[PEOPLE[0]] is Status.PUBLISHED
    assert place.models() == before


def test_a_model_of_more_mail_than_there_is_stays(
    place: Place, store: Store, clean: Callable[..., object]
) -> None:
    place.night(ALL)
    before = place.models()
    lost = Place(store, place.folder)
    lost.store = place.store  # another ledger: as if the first had been lost
    report = lost.night([mail(40)])
    assert statuses(report) == {PEOPLE[0]: Status.FOREIGN}
    assert report.failed
    assert place.models() == before
    assert statuses(lost.night(ALL))[PEOPLE[0]] is Status.PUBLISHED
    assert lost.models()[PEOPLE[0]] == clean([*ALL, mail(40)])[PEOPLE[0]]
    assert statuses(lost.night([mail(40)], rebuild=True))[PEOPLE[0]] is Status.PUBLISHED
    assert lost.models()[PEOPLE[0]] == clean([mail(40)])[PEOPLE[0]]


def test_beginning_anew_counts_only_what_is_found_of_the_users_found(
    place: Place, clean: Callable[..., dict[str, bytes]]
) -> None:
    place.night(ALL)
    place.night([mail(2)], rebuild=True)
    expected = clean(ALL) | clean([mail(2)])
    assert place.models() == expected


# Learned messages


def learned(number: int, person: str = PEOPLE[0]) -> Pending:
    record = mail(number, person)
    sequences = tuple(WORDS.encode(str(record["body"])))
    when = datetime.fromisoformat(str(record["date"])).timestamp() + 60  # a slow clock
    digest = id_digest(str(record["message_id"]))
    return Pending(b"mark %d" % number, when, (digest,), sequences)


def test_a_learned_message_is_folded_exactly_once(
    place: Place, clean: Callable[..., object]
) -> None:
    place.night(ALL)
    place.store.add_message(PEOPLE[0], learned(9), vocabulary=WORDS.fingerprint)
    report = place.night([])
    assert statuses(report) == {
        PEOPLE[0]: Status.PUBLISHED,
        PEOPLE[1]: Status.UNCHANGED,
        PEOPLE[2]: Status.UNCHANGED,
    }
    assert place.store.pending(PEOPLE[0]) == []
    assert report.users[-1].messages == 7
    assert set(statuses(place.night([])).values()) == {Status.UNCHANGED}
    place.night([mail(9)])  # then the mail comes, and takes its place
    assert place.models() == clean([*ALL, mail(9)])


def test_a_message_that_was_counted_before_it_was_learned_counts_once(
    place: Place, clean: Callable[..., object]
) -> None:
    place.night([*ALL, mail(9)])
    place.store.add_message(PEOPLE[0], learned(9), vocabulary=WORDS.fingerprint)
    assert statuses(place.night([]))[PEOPLE[0]] is Status.PUBLISHED
    assert place.store.pending(PEOPLE[0]) == []
    assert place.models() == clean([*ALL, mail(9)])


@pytest.mark.parametrize("digests", [(), (b"of its text only",)], ids=["short", "long"])
def test_a_learned_message_that_says_little_of_itself_gives_way_to_its_mail(
    place: Place, clean: Callable[..., object], digests: tuple[bytes, ...]
) -> None:
    place.night(ALL)
    message = replace(learned(9), digests=digests, sent=0.0)
    place.store.add_message(PEOPLE[0], message, vocabulary=WORDS.fingerprint)
    place.night(ALL)
    assert place.store.pending(PEOPLE[0]) == []
    assert place.models() != clean(ALL)
    place.night([*ALL, mail(9)])
    assert place.models() == clean([*ALL, mail(9)])
    assert forget(place, str(mail(9)["message_id"])) == 2
    assert place.models() == clean(ALL)
    place.night([*ALL, mail(9)])
    assert place.models() == clean(ALL)


def alone(number: int) -> Pending:
    """A message of which nothing but the text is known."""
    return replace(learned(number), digests=(), sent=0.0)


def test_a_deletion_counts_what_was_learned_once(
    place: Place, clean: Callable[..., object]
) -> None:
    place.night(ALL)
    place.store.add_message(PEOPLE[0], alone(9), vocabulary=WORDS.fingerprint)
    assert forget(place, "<of nothing>") == 0
    expected = clean([*ALL, mail(9, date=None)])
    assert place.models() == expected
    place.night(ALL)
    assert place.models() == expected


def test_what_was_learned_without_a_date_is_of_the_day_it_was_learned(
    place: Place, clean: Callable[..., object]
) -> None:
    place.night(ALL)
    place.store.add_message(PEOPLE[0], alone(9), vocabulary=WORDS.fingerprint)
    assert forget(place, before=NOW - timedelta(days=4000)) == 0
    expected = clean([*ALL, mail(9, date=None)])
    assert place.models() == expected
    place.night(ALL, days=4000)
    assert place.models() == expected


def test_a_deletion_does_not_count_what_is_beyond_the_window(
    place: Place, clean: Callable[..., object]
) -> None:
    place.night(ALL, days=7)
    place.store.add_message(PEOPLE[0], learned(9), vocabulary=WORDS.fingerprint)
    assert forget(place, "<of nothing>") == 0
    assert place.models() == clean(ALL)
    assert place.store.pending(PEOPLE[0]) == []


def test_who_only_learned_is_built_too(place: Place) -> None:
    place.night(ALL[1:])
    newcomer = "dee@example.org"
    place.store.add_message(newcomer, learned(1, newcomer), vocabulary=WORDS.fingerprint)
    report = place.night([])
    assert statuses(report)[newcomer] is Status.PUBLISHED
    assert place.store.pending(newcomer) == []


def test_who_opted_out_leaves_the_ledger(place: Place) -> None:
    place.night(ALL)
    place.store.set_rules(PEOPLE[0], Rules(opted_out=True))
    assert statuses(place.night([]))[PEOPLE[0]] is Status.OPTED_OUT
    place.store.set_rules(PEOPLE[0], Rules())
    assert PEOPLE[0] not in statuses(place.night([]))


def test_everybodys_rules_build_everybody(place: Place) -> None:
    place.night(ALL)
    place.store.set_rules(None, Rules().block(["piano"], [WORDS]))
    assert set(statuses(place.night([])).values()) == {Status.PUBLISHED}
    assert set(statuses(place.night([])).values()) == {Status.UNCHANGED}


def test_a_user_who_fails_does_not_fail_the_others(
    place: Place, clean: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(user: str, *arguments: object) -> object:
        if user == PEOPLE[1]:
            raise MemoryError
        return build_user(user, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("builders.run.build_user", fail)
        report = place.night(ALL)
    assert [(u.user, u.error) for u in report.users if u.status is Status.FAILED] == [
        (PEOPLE[1], "MemoryError")
    ]
    assert report.failed
    assert sorted(place.models()) == [PEOPLE[0], PEOPLE[2]]
    place.night([])
    assert place.models() == clean(ALL)


# Deletions


def forget(place: Place, *ids: str, before: datetime | None = None) -> int:
    when = before.timestamp() if before is not None else None
    done = forget_mail(place.store, place.ledger, PEOPLE[0], message_ids=ids, before=when)
    return done.messages


def without(messages: Iterable[Mail], *ids: object) -> list[Mail]:
    return [message for message in messages if message["message_id"] not in ids]


def test_a_forgotten_message_is_as_if_it_had_never_been(
    place: Place, clean: Callable[..., object]
) -> None:
    place.night(ALL)
    gone = mail(2)["message_id"]
    place.night([*ALL, mail(9)])
    assert len(place.store.generations(PEOPLE[0])) == 2
    assert forget(place, str(gone)) == 1
    expected = clean(without([*ALL, mail(9)], gone))
    assert place.models() == expected
    assert [info.generation for info in place.store.generations(PEOPLE[0])] == [3]
    assert set(statuses(place.night([*ALL, mail(9)])).values()) == {Status.UNCHANGED}
    assert place.models() == expected
    place.night([*ALL, mail(9)], rebuild=True)
    assert place.models() == expected


def test_mail_of_before_a_day_is_as_if_it_had_never_been(
    place: Place, clean: Callable[..., object]
) -> None:
    place.night(ALL)
    day = NOW - timedelta(days=4)
    assert forget(place, before=day) == 2
    left = [
        m for m in ALL
        if m["from"] != PEOPLE[0] or datetime.fromisoformat(str(m["date"])) >= day
    ]  # fmt: skip
    assert place.models() == clean(left)
    place.night([*ALL, mail(50)])
    assert place.models() == clean(left)


def test_when_nothing_is_left_there_is_no_model(place: Place, clean: Callable[..., object]) -> None:
    place.night(ALL)
    assert forget(place, before=NOW) == 6
    assert sorted(place.models()) == PEOPLE[1:]
    place.night(ALL)
    assert sorted(place.models()) == PEOPLE[1:]
    newer = mail(-3)
    place.night([*ALL, newer])
    assert place.models() == clean(
        [*without(ALL, *(mail(n)["message_id"] for n in range(6))), newer]
    )


OTHERWISE = {"languages": ("en", "es")}  # another recipe, so another ledger


@pytest.mark.parametrize("had", [True, False], ids=["had it", "new"])
def test_what_was_forgotten_stays_so_however_mail_is_prepared(
    place: Place, clean: Callable[..., object], had: bool
) -> None:
    if had:
        place.night(ALL, **OTHERWISE)  # type: ignore[arg-type]
    place.night(ALL)
    gone = mail(2)["message_id"]
    day = NOW - timedelta(days=5)
    assert forget(place, str(gone)) == 1
    assert forget(place, before=day) == 1
    place.night(ALL, **OTHERWISE)  # type: ignore[arg-type]
    expected = clean(without(ALL, gone, mail(5)["message_id"]))
    assert place.models() == expected
    place.night(ALL, rebuild=True, **OTHERWISE)  # type: ignore[arg-type]
    assert place.models() == expected
    assert forget(place, before=NOW) == 4
    place.night(ALL)
    place.night(ALL, **OTHERWISE)  # type: ignore[arg-type]
    assert sorted(place.models()) == PEOPLE[1:]


def test_what_was_forgotten_of_a_user_who_was_deleted_since_is_void(
    place: Place, clean: Callable[..., object]
) -> None:
    place.night(ALL)
    assert forget(place, str(mail(2)["message_id"])) == 1
    place.store.forget(PEOPLE[0])
    place.night(ALL, **OTHERWISE)  # type: ignore[arg-type]
    assert place.models() == clean(ALL)


def test_a_message_forgotten_while_another_ledger_is_made_does_not_come(
    place: Place, clean: Callable[..., object]
) -> None:
    place.night(ALL)
    gone = mail(2)["message_id"]

    def delete() -> None:
        assert forget(place, str(gone)) == 1

    place.night(ALL, hook=Hook(at="reading", begin=delete), **OTHERWISE)  # type: ignore[arg-type]
    assert place.models() == clean(without(ALL, gone))


@pytest.mark.parametrize("first", [True, False], ids=["first build", "later build"])
def test_a_running_build_cannot_bring_a_message_back(
    place: Place, clean: Callable[..., object], first: bool
) -> None:
    gone = mail(2)["message_id"]
    place.night(ALL[1:3] if first else ALL)  # bob and cy, or everybody

    def delete() -> None:
        assert forget(place, str(gone)) == 1

    place.night([*ALL, mail(9)], hook=Hook(at="building", step=once(delete)))
    place.night([*ALL, mail(9)])
    assert place.models() == clean(without([*ALL, mail(9)], gone))


def once(act: Callable[[], object]) -> Callable[[], None]:
    left = [act]

    def step() -> None:
        if left:
            left.pop()()

    return step


def test_without_a_ledger_nothing_is_half_forgotten(place: Place, tmp_path: Path) -> None:
    with pytest.raises(NoModelError):
        forget(place, "<1>")
    place.night(ALL)
    before = place.models()
    place.ledger.rename(tmp_path / "elsewhere")
    with pytest.raises(LedgerError, match="--ledger"):
        forget(place, "<1>")
    assert place.models() == before
    assert not place.ledger.exists()


def test_a_learned_message_can_be_forgotten(place: Place, clean: Callable[..., object]) -> None:
    place.night(ALL)
    place.store.add_message(PEOPLE[0], learned(9), vocabulary=WORDS.fingerprint)
    assert forget(place, str(mail(9)["message_id"])) == 1
    assert place.store.pending(PEOPLE[0]) == []
    place.night([*ALL, mail(9)])
    assert place.models() == clean(ALL)


# Crashes

KILLED = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from builders.ledger import Ledger
from perslm.store import open_store
from tests.unit.builders import test_nights

stage, at, url, tenant, folder, jobs = sys.argv[1:]
steps = [int(at)]

def step(name):
    if name == stage:
        steps[0] -= 1
        if steps[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

class Killer:
    def stage(self, name, total):
        self.now = name
        step(name)

    def advance(self, amount):
        step(self.now)

def stepping(method):
    def wrapped(*arguments):
        step(method.__name__)
        return method(*arguments)
    return wrapped

Ledger.add = stepping(Ledger.add)
Ledger.settled = stepping(Ledger.settled)  # published, and not noted yet

with open_store(url) as store:
    place = test_nights.Place.__new__(test_nights.Place)
    place.store, place.folder = store.of_tenant(tenant), Path(folder)
    place.ledger = place.folder / "ledger"
    place.night(test_nights.MANY, hook=Killer(), jobs=int(jobs))
"""

MANY = [mail(n, person) for n in range(150) for person in PEOPLE]


@pytest.mark.parametrize(
    ("stage", "at", "jobs"),
    [
        ("reading", 0, 1),
        ("add", 1, 1),
        ("add", 2, 2),
        ("building", 0, 1),
        ("settled", 0, 1),
        ("settled", 2, 2),
        ("building", 2, 1),
        ("building", 3, 2),
    ],
)
def test_a_killed_build_loses_nothing(
    place: Place, store_url: str, clean: Callable[..., object], stage: str, at: int, jobs: int
) -> None:
    place.night(MANY[:9])
    arguments = (stage, str(at), store_url, place.store.tenant, str(place.folder), str(jobs))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"PYTHONPATH": "."},
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    report = place.night(MANY)
    assert not report.failed
    assert place.models() == clean(MANY)
    assert set(statuses(place.night(MANY)).values()) == {Status.UNCHANGED}


def test_an_interrupted_build_goes_on(place: Place, clean: Callable[..., object]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.night(ALL, hook=Hook(at="building", step=interrupt))
    report = place.night(ALL)
    assert report.skipped[KNOWN] == len(ALL)
    assert sorted(statuses(report).values()) == [
        Status.PUBLISHED, Status.PUBLISHED, Status.UNCHANGED
    ]  # fmt: skip
    assert place.models() == clean(ALL)


def test_copies_in_one_night_are_duplicates_and_later_known(place: Place) -> None:
    report = place.night([*ALL, *ALL])
    assert report.skipped[Skip.DUPLICATE] == len(ALL)
    assert place.night([*ALL, *ALL]).skipped[KNOWN] == 2 * len(ALL)
