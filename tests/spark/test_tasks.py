"""What Spark's tasks do, without Spark: above all a second time, late, or both at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from time import time

import pyarrow as pa
import pytest

from builders.build import Built
from builders.prepare import Prepared, Settings, Skip
from builders.read import RawItem, Reason, Unreadable
from builders.report import Report, Status
from builders.routing import Router
from builders.spark import rows, tasks
from builders.spark.rows import Rows, TaskError, discreet, groups
from perslm import encryption
from perslm.errors import DecryptionError, StoreUnavailableError
from perslm.rules import Rules
from perslm.store import Pending, Store, open_store
from perslm.vocabulary import Sequence, Vocabulary
from tests.spark.mail import NAMES, SETTINGS, WORDS, local, records, statuses, write_lines

SECRET = "xyzzy"


@dataclass(frozen=True)
class Sent:
    """A broadcast variable that stays here."""

    value: tasks.Shared


def shared(url: str, *, began: float | None = None, floor: float = 0.0) -> Sent:
    target = tasks.Target(url)
    when = time() if began is None else began
    return Sent(tasks.Shared(WORDS.to_bytes(), Router(), SETTINGS, target, when, floor))


def line_items(batch: pa.RecordBatch) -> Iterator[tuple[RawItem | Unreadable, Path]]:
    for value in batch.column(0).to_pylist():
        yield RawItem("a line", "json", value), Path("/some.jsonl")


def prepared(sent: Sent, found: list[dict[str, object]]) -> pa.RecordBatch:
    """The rows of the first stage, sorted as Spark sorts them."""
    lines = Rows("line")
    for record in found:
        lines.add(json.dumps(record).encode())
    table = pa.Table.from_batches(tasks.prepare(sent, line_items, [lines.take()]))
    (batch,) = table.sort_by("user").combine_chunks().to_batches()
    return batch


def built(sent: Sent, batch: pa.RecordBatch) -> Report:
    report = Report([])
    for result in tasks.build(sent, [batch]):
        for row in result.column(0).to_pylist():
            tasks.take(row, report)
    return report


@pytest.fixture
def mail() -> list[dict[str, object]]:
    return records([f"{name}" for name in NAMES[:4]], 5)


def users(mail: list[dict[str, object]]) -> set[str]:
    return {str(record["from"]) for record in mail}


def test_a_repeated_task_finds_its_users_unchanged(
    store_url: str, store: Store, mail: list[dict[str, object]]
) -> None:
    sent = shared(store_url)
    batch = prepared(sent, mail)
    first, again = built(sent, batch), built(sent, batch)
    assert statuses(first) == dict.fromkeys(users(mail), Status.PUBLISHED)
    assert statuses(again) == dict.fromkeys(users(mail), Status.UNCHANGED)
    assert first.messages == again.messages == len(mail)
    assert {r.generation for r in again.users} == {1}
    assert [replace(r, status=Status.PUBLISHED) for r in again.users] == first.users


def test_two_copies_of_a_task_at_once_agree(
    store_url: str, store: Store, mail: list[dict[str, object]]
) -> None:
    sent = shared(store_url)
    batch = prepared(sent, mail)
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(built, [sent, sent], [batch, batch]))
    for user in users(mail):
        pair = {statuses(report)[user] for report in reports}
        assert pair <= {Status.PUBLISHED, Status.UNCHANGED}
        assert Status.PUBLISHED in pair
        assert store.head(user).generation == 1


def test_who_is_deleted_while_a_build_runs_is_not_brought_back_by_a_repeated_task(
    store_url: str, store: Store, mail: list[dict[str, object]]
) -> None:
    sent = shared(store_url)
    batch = prepared(sent, mail)
    built(sent, batch)
    gone = mail[0]["from"]
    store.forget(str(gone))
    again = statuses(built(sent, batch))
    assert again.pop(str(gone)) is Status.FORGOTTEN
    assert set(again.values()) == {Status.UNCHANGED}
    assert store.fetch(str(gone)) is None


def test_a_build_after_a_deletion_makes_a_model_again(
    store_url: str, store: Store, mail: list[dict[str, object]]
) -> None:
    store.forget(str(mail[0]["from"]))
    later = shared(store_url, began=time() + 3600)
    assert set(statuses(built(later, prepared(later, mail))).values()) == {Status.PUBLISHED}


def test_what_another_builder_published_since_the_beginning_stays(
    store_url: str, store: Store, mail: list[dict[str, object]]
) -> None:
    sent = shared(store_url, began=time() - 60)
    user = str(mail[0]["from"])
    store.publish(user, b"theirs", parent=store.head(user), source_digest="other")
    report = built(sent, prepared(sent, mail))
    assert statuses(report)[user] is Status.CONFLICT
    assert report.failed
    stored = store.fetch(user)
    assert stored is not None
    assert stored.blob == b"theirs"
    later = shared(store_url, began=time() + 60)
    assert statuses(built(later, prepared(later, mail)))[user] is Status.PUBLISHED


def test_one_users_failure_is_a_status_and_says_no_word(
    store_url: str,
    store: Store,
    mail: list[dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = str(mail[0]["from"])
    really = tasks.build_user

    def build_user(
        user: str, messages: list[Prepared], words: Vocabulary, settings: Settings, rules: Rules
    ) -> Built:
        if user == broken:
            raise KeyError(SECRET)
        return really(user, messages, words, settings, rules)

    monkeypatch.setattr(tasks, "build_user", build_user)
    sent = shared(store_url)
    report = built(sent, prepared(sent, mail))
    failed = {r.user: r.error for r in report.users if r.status is Status.FAILED}
    assert failed == {broken: "KeyError"}
    assert len(report.users) == len(users(mail))
    assert set(store.users()) == users(mail) - {broken}
    assert report.failed
    assert SECRET not in repr(report)


def test_mail_that_cannot_be_prepared_fails_its_user(
    store_url: str,
    store: Store,
    mail: list[dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = str(mail[0]["from"])
    really = tasks.prepare_message

    def prepare(message: object, user: str, *rest: object) -> object:
        if user == broken:
            raise RecursionError(SECRET)
        return really(message, user, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(tasks, "prepare_message", prepare)
    sent = shared(store_url)
    report = built(sent, prepared(sent, mail))
    failed = {r.user: r.error for r in report.users if r.status is Status.FAILED}
    assert failed == {broken: "RecursionError"}
    assert set(store.users()) == users(mail) - {broken}


def test_a_message_that_nobody_can_be_told_of_is_reported(
    store_url: str, store: Store, mail: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(item: RawItem) -> object:
        raise RecursionError(SECRET)

    monkeypatch.setattr(tasks, "parse", parse)
    sent = shared(store_url)
    report = built(sent, prepared(sent, mail))
    assert report.unreadable_messages == len(mail)
    assert {one.reason for one in report.unreadable} == {Reason.FAILED}
    assert not report.users


def test_rules_are_kept(store_url: str, store: Store, mail: list[dict[str, object]]) -> None:
    out, other = sorted(users(mail))[:2]
    store.set_rules(out, Rules(opted_out=True))
    store.set_rules(other, Rules().block(["cake"], [WORDS]))
    sent = shared(store_url)
    batch = prepared(sent, mail)
    assert statuses(built(sent, batch))[out] is Status.OPTED_OUT
    assert out not in store.users()
    with_rule = store.head(other).source_digest
    store.set_rules(other, Rules())
    later = shared(store_url, began=time() + 60)
    assert statuses(built(later, batch))[other] is Status.PUBLISHED
    assert store.head(other).source_digest != with_rule


def test_learned_messages_are_folded_if_they_are_in_the_sources(
    store_url: str, store: Store, mail: list[dict[str, object]]
) -> None:
    sent = shared(store_url, began=time() + 60)
    batch = prepared(sent, mail)
    user = str(mail[0]["from"])
    store.put_vocabulary(WORDS.to_bytes(), WORDS.fingerprint)
    known = next(
        tasks.unpack(user, packed).digests
        for key, values in groups([batch])
        if key != tasks.NOBODY
        for name, _, packed in map(tasks.msgpack.unpackb, values)
        if name == user
    )
    words = (Sequence((3, 4, 5), True, True),)
    store.add_message(user, Pending(b"1", 1.0, known, words), vocabulary=WORDS.fingerprint)
    store.add_message(user, Pending(b"2", 2.0, (b"x" * 16,), words), vocabulary=WORDS.fingerprint)
    assert statuses(built(sent, batch))[user] is Status.PUBLISHED
    assert [pending.mark for pending in store.pending(user)] == [b"2"]


def test_tasks_have_the_store_of_a_tenant_and_encrypt(
    store_url: str, mail: list[dict[str, object]], tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    encryption.create(keys)
    sent = shared(store_url)
    target = tasks.Target(store_url, "acme", str(keys))
    sent = Sent(replace(sent.value, target=target))
    assert set(statuses(built(sent, prepared(sent, mail))).values()) == {Status.PUBLISHED}
    assert store_url not in repr(sent)
    user = str(mail[0]["from"])
    with open_store(store_url, tenant="acme") as bare, pytest.raises(DecryptionError):
        bare.fetch(user)
    with open_store(store_url, tenant="acme", master_keys=keys) as opened:
        assert opened.fetch(user) is not None


def test_mail_beyond_the_window_does_not_count(
    store_url: str, store: Store, mail: list[dict[str, object]]
) -> None:
    sent = shared(store_url, floor=time())
    report = built(sent, prepared(sent, mail))
    assert report.skipped == {tasks.TOO_OLD: len(mail)}
    assert not report.users


def test_a_store_that_is_away_fails_the_task(mail: list[dict[str, object]], tmp_path: Path) -> None:
    sent = shared(f"unix://{tmp_path}/nothing.sock")
    batch = prepared(sent, mail)
    with pytest.raises(StoreUnavailableError) as raised:
        built(sent, batch)
    assert raised.value.__suppress_context__


def test_what_a_task_raises_has_type_and_place_only() -> None:
    with pytest.raises(TaskError) as raised, discreet():
        raise ValueError(SECRET)
    assert "ValueError in test_tasks.py" in str(raised.value)
    assert SECRET not in str(raised.value)
    assert raised.value.__suppress_context__


def test_small_users_share_a_window_and_a_large_one_does_not_wait_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "_USERS", 3)
    monkeypatch.setattr(tasks, "_BYTES", 1000)
    batch = Rows("user", "message")
    sizes = [10, 10, 10, 10, 5000, 10]
    for number, size in enumerate(sizes):
        packed = tasks.msgpack.packb((f"user {number}", "", b"x" * size))
        batch.add(bytes([number]), packed)
    windows = [[m.user for m in mail] for _, mail in tasks._windows([batch.take()])]
    assert windows == [
        ["user 0", "user 1", "user 2"],
        ["user 3", "user 4"],
        ["user 5"],
    ]


def test_rows_are_passed_on_before_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_BYTES", 100)
    some = Rows("a", "b")
    some.add(b"x" * 10, b"y" * 10)
    assert not some.full
    some.add(b"x" * 100, b"")
    assert some.full
    assert some.take().num_rows == 2
    assert not some.full


def test_reports_agree_with_those_of_the_local_runner(
    store_url: str, store: Store, mail: list[dict[str, object]], tmp_path: Path
) -> None:
    quoted = {"from": "quoter@example.org", "body": "> only\n> quoted\n"}
    found = [*mail, *mail[:3], quoted]
    source = write_lines(tmp_path / "mail.jsonl", found)
    sent = shared(store_url)
    mine = built(sent, prepared(sent, found))
    for user in users(mail):
        store.forget(user)
    theirs = local(store, [source])
    assert mine.skipped[Skip.DUPLICATE] == 3
    assert mine.skipped == theirs.skipped
    assert mine.messages == theirs.messages
    assert mine.tokens == theirs.tokens
