"""The Spark runner: the build of ``builders.run``, on as many machines as there are.

The same pure functions (``builders.prepare``, ``builders.build``) and the same models, byte for
byte. A build is one Spark job of two stages, after another where people are told by their mail:

1. *Who wrote* (``owners``), only where user ids may not be addresses: headers, grouped by person.
2. *Preparing*: every task reads a part of the sources (``reading``), cleans and tokenizes it. A
   message leaves as ids, under a digest of its user. All that is dear is done here, before mail is
   grouped: so somebody with half of all mail is the work of many tasks.
3. *Building* (``tasks``): rows come sorted by user, out of Spark's external sort, and are read as
   they stream by. A task holds a few small users or one large one, builds, and publishes to the
   store, which it opens itself.

Every task may die, be repeated, or run twice at once. That changes nothing: what it publishes is
determined by the mail, so the second time it is found UNCHANGED. What a task did comes back as rows
beside its users, so it counts once. Who was deleted from the store since the job began stays
deleted, also if the task that reads the deletion is a repeated one.

One user's failure is a status in the report, with the type of the error and nothing else. Spark
writes what tasks raise into its logs, so nothing that a task raises says more than that either.

A build is stateless: no ledger, all of the sources every time. Sessions are made in ``session``.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from collections.abc import Sequence as Several
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING

from builders.prepare import Settings
from builders.report import Report
from builders.routing import Progress, Router
from builders.spark import owners, tasks
from builders.spark.reading import Input, open_inputs
from builders.spark.session import collected, explained, session
from builders.spark.tasks import Target
from perslm.errors import ArgumentError
from perslm.store import Store
from perslm.vocabulary import Vocabulary

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["Target", "Whose", "build", "session"]

_TASKS_PER_CORE = 2  # so that a task with a large user holds up few others
_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",  # what dates without a zone are in, as in builders.read
    "spark.sql.legacy.parquet.nanosAsLong": "true",  # else Spark refuses what pandas writes
    "spark.sql.execution.arrow.maxRecordsPerBatch": "512",  # so much mail is in memory at once,
    "spark.sql.execution.arrow.maxBytesPerBatch": str(4 << 20),  # or so much
}


@dataclass(frozen=True, slots=True)
class Whose:
    """Who a message counts for: the options of ``builders.routing``."""

    user: str | None = None
    me: Collection[str] = ()
    by_file: bool = False


def build(
    spark: SparkSession,
    sources: Several[str],
    *,
    store: Store,
    target: Target,
    vocabulary: Vocabulary,
    whose: Whose,
    settings: Settings,
    window: float | None = None,
    progress: Progress,
    report: Report,
) -> Router:
    """Build and publish a model for every user found in ``sources``, filling ``report``.

    ``sources`` are paths or patterns of Hadoop: JSON lines, also gzip'd, or Parquet. ``store`` is
    for the driver, ``target`` says how tasks open it. Mail of ``window`` seconds ago, or longer,
    does not count. Returns who was taken for whom, as far as `owners.TOLD_OF` goes.

    Raises SourceError if a source cannot be read, StoreUnavailableError if tasks cannot reach the
    store, ArgumentError as ``Router.for_sources`` does and for a store that only this machine has,
    SparkError if Spark gives up for another reason. What is published stays; the same build once
    more finds it unchanged.
    """
    context = spark.sparkContext
    if target.url.startswith("embedded:") and not (context.master or "").startswith("local"):
        raise ArgumentError(
            "the embedded store is on this machine alone: name one that all machines of the "
            "cluster reach, --store redis://HOST:PORT"
        )
    data = vocabulary.to_bytes()
    store.put_vocabulary(data, vocabulary.fingerprint)
    began = time.time()  # deletions from here on win
    floor = began - window if window is not None else 0.0
    with explained(), _own_settings(spark) as own:
        inputs = open_inputs(own, sources)
        router, complete = Router.by_options(user=whose.user, me=whose.me, by_file=whose.by_file)
        told = router
        if not complete:
            router, told = owners.find(inputs, router, progress)
        report.reading_seconds = time.time() - began
        shared = context.broadcast(tasks.Shared(data, router, settings, target, began, floor))
        try:
            job, steps = _built(inputs, shared)
            for (row,) in collected(job, "building", steps, progress):
                tasks.take(row, report)
        finally:
            shared.destroy()
            report.building_seconds = time.time() - began - report.reading_seconds
    return told


def _built(inputs: Several[Input], shared: tasks.Broadcast) -> tuple[DataFrame, int]:
    """Return the job, which runs when somebody collects its rows, and how many tasks it has."""
    prepared = reduce(
        lambda one, other: one.union(other),
        (
            given.frame.mapInArrow(partial(tasks.prepare, shared, given.items), tasks.PREPARED)
            for given in inputs
        ),
    )
    cores = prepared.sparkSession.sparkContext.defaultParallelism
    preparing = prepared.rdd.getNumPartitions()
    building = max(_TASKS_PER_CORE * cores, preparing)
    by_user = prepared.repartition(building, "user").sortWithinPartitions("user")
    return by_user.mapInArrow(partial(tasks.build, shared), tasks.RESULT), preparing + building


@contextmanager
def _own_settings(spark: SparkSession) -> Iterator[SparkSession]:
    """Give a session of its own settings, in the same application."""
    own = spark.newSession()
    for name, value in _SETTINGS.items():
        own.conf.set(name, value)
    yield own
