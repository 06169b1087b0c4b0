"""Whole builds on Spark, with processes of its own, beside those of the local runner."""

from __future__ import annotations

import os
import signal
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from builders.report import Report, Status, UserResult
from builders.routing import Router
from builders.spark import Target, Whose, build, session, tasks
from builders.spark.reading import open_inputs
from builders.spark.rows import digest
from perslm._store_keys import rules
from perslm.errors import ArgumentError, SourceError, StoreUnavailableError
from perslm.rules import Rules
from perslm.store import NAMESPACE, Store
from tests.spark.mail import (
    NAMES,
    SETTINGS,
    WORDS,
    Silent,
    blobs,
    local,
    records,
    statuses,
    write_lines,
    write_parquet,
)


class Hook(Silent):
    """Does something before tasks are sent out, and adds up their progress."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action
        self.total = self.done = 0

    def stage(self, name: str, total: int) -> None:
        self.total += total
        if name == "building":
            self._action()

    def advance(self, amount: int) -> None:
        self.done += amount


def run(
    spark: Any,
    store: Store,
    url: str,
    *sources: Path,
    whose: Whose | None = None,
    progress: Silent | None = None,
) -> Report:
    report = Report([str(s) for s in sources])
    build(
        spark,
        [str(s) for s in sources],
        store=store,
        target=Target(url),
        vocabulary=WORDS,
        whose=whose or Whose(),
        settings=SETTINGS,
        progress=progress or Silent(),
        report=report,
    )
    return report


def lines(report: Report) -> list[UserResult]:
    """The report's lines, sorted; a ledger finds copies before it knows that they are theirs."""
    return sorted((replace(r, duplicates=0) for r in report.users), key=lambda r: r.user)


def forget_all(store: Store, client: redis.Redis) -> None:
    client.flushall()
    assert not list(store.users())


def test_models_are_those_of_the_local_runner(
    spark: Any, store_url: str, store: Store, raw_store: redis.Redis, tmp_path: Path
) -> None:
    by_address = records(NAMES, 6)
    sources = [
        write_lines(tmp_path / "by address.jsonl", by_address),
        write_lines(tmp_path / "by id.jsonl.gz", records(NAMES[:4], 9, seed=1, ids=True)),
        write_parquet(tmp_path / "other ids.parquet", records(NAMES[4:7], 9, seed=2, ids=True)),
        write_parquet(tmp_path / "pandas.parquet", records(NAMES[6:8], 9, seed=3), unit="ns"),
        write_parquet(tmp_path / "again.parquet", by_address[:40]),
    ]
    with sources[0].open("ab") as file:
        file.write(b'\n  \n{"from": "ann@exa\n{"body": "\xff"}\r\n{"body": "no name"}')
    theirs = local(
        store,
        sources,
        Router.for_sources(sources, user=None, me=(), by_file=False, progress=Silent()),
    )
    expected = blobs(store)
    forget_all(store, raw_store)
    mine = run(spark, store, store_url, *sources)
    assert blobs(store) == expected
    assert {"ann@example.org", "ann-7", "gus-7", "by address"} <= expected.keys()
    assert statuses(mine) == statuses(theirs) == dict.fromkeys(expected, Status.PUBLISHED)
    assert lines(mine) == lines(theirs)
    assert mine.skipped == theirs.skipped
    assert (mine.messages, mine.tokens) == (theirs.messages, theirs.tokens)
    assert mine.unreadable_messages == theirs.unreadable_messages == 2
    assert {one.reason for one in mine.unreadable} == {one.reason for one in theirs.unreadable}
    damaged = "cy@example.org"
    store.set_rules(damaged, Rules().block(["cake"], [WORDS]))
    raw_store.hset(f"{rules(NAMESPACE)}:{{{damaged}}}", "rules", b"damaged")
    again = run(spark, store, store_url, *sources)
    assert statuses(again) == {
        **dict.fromkeys(expected, Status.UNCHANGED),
        damaged: Status.FAILED,
    }
    assert [r.error for r in again.users if r.status is Status.FAILED] == ["RulesError"]
    assert again.failed


def test_preparing_somebodys_mail_is_the_work_of_many_tasks(
    spark: Any, store_url: str, tmp_path: Path
) -> None:
    source = write_lines(tmp_path / "mail.jsonl.gz", records(NAMES, 6))  # one file, not to be cut
    (given,) = open_inputs(spark, [str(source)])
    shared = spark.sparkContext.broadcast(
        tasks.Shared(WORDS.to_bytes(), Router(), SETTINGS, Target(store_url), 0.0, 0.0)
    )
    prepared = given.frame.mapInArrow(
        partial(tasks.prepare, shared, given.items), tasks.PREPARED
    ).selectExpr("user", "spark_partition_id() AS part")
    parts = defaultdict(Counter[int])
    for user, part in prepared.collect():
        parts[bytes(user)][part] += 1
    heavy = parts[digest("ann@example.org")]
    assert len(heavy) > 1
    assert min(heavy.values()) > 10


@pytest.mark.parametrize(
    "whose", [Whose(by_file=True), Whose("me"), Whose("me", ["bob@example.org"])]
)
def test_it_is_told_by_headers_who_wrote(
    spark: Any,
    store_url: str,
    store: Store,
    raw_store: redis.Redis,
    tmp_path: Path,
    whose: Whose,
) -> None:
    found = [
        {k: v for k, v in r.items() if k != "user"} for r in records(["ann", "bob"], 9, ids=True)
    ]
    source = write_lines(tmp_path / "her mail.jsonl", found)
    router = Router.for_sources(
        [source], user=whose.user, me=whose.me, by_file=whose.by_file, progress=Silent()
    )
    theirs = local(store, [source], router)
    expected = blobs(store)
    forget_all(store, raw_store)
    mine = run(spark, store, store_url, source, whose=whose)
    assert blobs(store) == expected
    assert mine.skipped == theirs.skipped


def test_an_executor_may_be_killed_in_the_middle(
    spark: Any, store_url: str, store: Store, raw_store: redis.Redis, tmp_path: Path
) -> None:
    source = write_lines(tmp_path / "mail.jsonl", records(NAMES, 12))
    local(store, [source])
    expected = blobs(store)
    forget_all(store, raw_store)
    before = 0

    def hold_writes() -> None:
        nonlocal before
        before = len(raw_store.client_list())
        raw_store.execute_command("CLIENT", "PAUSE", 600_000, "WRITE")

    progress = Hook(hold_writes)
    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(run, spark, store, store_url, source, progress=progress)
        try:
            # tasks of both executors wait for the store: their mail is prepared, nobody published
            until(lambda: before and len(raw_store.client_list()) >= before + 2)
            assert not building.done()
            victim, *others = executors()
            assert others
            os.kill(victim, signal.SIGKILL)
            until(lambda: victim not in executors())
        finally:
            raw_store.execute_command("CLIENT", "UNPAUSE")
        report = building.result()
    assert blobs(store) == expected
    assert statuses(report).keys() == expected.keys()
    assert set(statuses(report).values()) <= {Status.PUBLISHED, Status.UNCHANGED}
    assert report.messages == 12 * 2 * (len(NAMES) - 1)
    assert progress.done == progress.total > 0


def until(holds: Callable[[], object]) -> None:
    """Return when something holds that another process is about to do."""
    end = monotonic() + 300
    while not holds():
        assert monotonic() < end


def executors() -> list[int]:
    """Processes of executors that this process started, through Spark."""
    parents: dict[int, int] = {}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        if stat[0] == "Z":
            continue
        parents[int(folder.name)] = int(stat[1])
        if b"CoarseGrainedExecutorBackend" in command:
            found.append(int(folder.name))
    return [pid for pid in found if os.getpid() in ancestors(pid, parents)]


def ancestors(pid: int, parents: dict[int, int]) -> set[int]:
    found = set()
    while pid in parents:
        pid = parents[pid]
        found.add(pid)
    return found


def test_a_source_that_cannot_be_read_is_named(
    spark: Any, store_url: str, store: Store, tmp_path: Path
) -> None:
    mbox = tmp_path / "some.mbox"
    mbox.write_text("From x Thu Jan  2 10:00:00 2025\nFrom: a@b.example\n\nWords.\n")
    packed = write_lines(tmp_path / "right.jsonl.gz", records(["ann", "bob"], 400)).read_bytes()
    misnamed = tmp_path / "packed.jsonl"
    misnamed.write_bytes(packed)
    damaged = tmp_path / "damaged.jsonl.gz"
    damaged.write_bytes(packed[: len(packed) // 2])
    hidden = write_lines(tmp_path / "_hidden.jsonl", records(["ann", "bob"], 1))
    cases = {
        tmp_path / "nothing.jsonl": "no such file",
        hidden: "no such file",
        mbox: "runner local",
        misnamed: "end it in .gz",
        damaged: "damaged",
    }
    for source, words in cases.items():
        with pytest.raises(SourceError, match=words) as raised:
            run(spark, store, store_url, source, whose=Whose("me", ["ann@example.org"]))
        assert source.name in raised.value.path
    assert not list(store.users())


def test_a_process_has_one_session(spark: Any) -> None:
    with pytest.raises(ArgumentError, match="session"), session("local[1]"):
        pass


def test_the_embedded_store_is_for_this_machine_alone(store: Store) -> None:
    elsewhere = SimpleNamespace(sparkContext=SimpleNamespace(master="spark://elsewhere:7077"))
    with pytest.raises(ArgumentError, match="--store"):
        run(elsewhere, store, "embedded:")


def test_what_fails_in_tasks_says_nothing_of_users(
    spark: Any,
    store_url: str,
    store: Store,
    tmp_path: Path,
    executor_logs: list[Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    source = write_lines(tmp_path / "mail.jsonl", records(NAMES, 2))
    run(spark, store, store_url, source)
    with pytest.raises(StoreUnavailableError, match="reach"):
        run(spark, store, f"unix://{tmp_path}/nothing.sock", source)
    logged = [path.read_text("utf-8", "replace") for path in executor_logs]
    assert any("StoreUnavailableError" in text for text in logged)  # so these are the logs
    for text in [*logged, *capfd.readouterr()]:
        assert "example.org" not in text
        assert "cake" not in text
