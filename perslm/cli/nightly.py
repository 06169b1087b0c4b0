"""``perslm build``: models for everybody, night for night."""

from __future__ import annotations

import io
import re
import sys
import tempfile
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from perslm.cli.building import (
    JobsOption,
    KeepOption,
    LanguagesOption,
    MeOption,
    UserFrom,
    UserFromOption,
    UserOption,
    VocabOption,
    cores,
    explain,
    make_router,
    split_list,
    warn_unreadable,
)
from perslm.cli.common import (
    JsonOption,
    StoreOption,
    add_command,
    check_writable,
    stderr,
    stdout,
)
from perslm.cli.progress import show_progress
from perslm.errors import ArgumentError, PerslmError
from perslm.store import Store, open_store
from perslm.vocabulary import Vocabulary

if TYPE_CHECKING:
    from builders.prepare import Settings
    from builders.report import Report
    from builders.routing import Progress, Router

_SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}

LedgerOption = Annotated[
    Path | None,
    typer.Option(
        "--ledger",
        metavar="DIRECTORY",
        envvar="PERSLM_LEDGER",
        help="Where builds remember what they counted, for each tenant; by default under your user "
        "data directory, for each store. It holds what people wrote: keep it where the mail is.",
        show_default=False,
    ),
]


class Runner(StrEnum):
    """Where a build does its work."""

    LOCAL = "local"
    SPARK = "spark"


def register(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    add_command(
        app,
        build,
        "perslm build sent.mbox --user me --vocab vocab.json",
        "perslm build sent.mbox --user me --me me@example.org --me me@work.example --vocab v.json",
        "perslm build mail/*.mbox --user-from file --vocab v.json --languages en,es --order 4",
        "perslm build company.jsonl.gz --vocab v.json --store redis://db:6379 --window 365d "
        "--report night.jsonl --report night.html",
    )


def build(
    vocab: VocabOption,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE]...",
            help="Mail: an mbox (also gzipped, also Gmail Takeout), a maildir, a directory of "
            ".eml, JSON lines (.jsonl, .jsonl.gz: user, message_id, date, from, to, subject, and "
            "body or raw), or Parquet with those columns; with --runner spark the last two, from "
            "any file system that Hadoop reads. Without any the ledger's mail and learned messages "
            "are built.",
            show_default=False,
        ),
    ] = None,
    order: Annotated[int, typer.Option(min=1, max=5, help="Longest n-grams.")] = 3,
    user: UserOption = None,
    me: MeOption = None,
    user_from: UserFromOption = UserFrom.AUTO,
    languages: LanguagesOption = "en",
    keep: KeepOption = "",
    max_bytes: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Leave out what is worth least, so that no model is larger; 16384 keeps most.",
        ),
    ] = None,
    min_messages: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="An n-gram of two words or more must come from so many different messages; 1 "
            "keeps what was said once, secrets that no rule knows among it.",
        ),
    ] = 2,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Mail from longer ago does not count, and leaves the ledger: 365d, 52w or 1y (of "
            "365 days), 12h.",
            show_default=False,
        ),
    ] = None,
    ledger: LedgerOption = None,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="Begin anew with every user found in the sources, as if nothing had been counted.",
        ),
    ] = False,
    jobs: JobsOption = None,
    runner: Annotated[
        Runner,
        typer.Option(help="Where the work is done: in processes here, or on a Spark cluster."),
    ] = Runner.LOCAL,
    master: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="With --runner spark: the cluster, such as yarn, k8s://https://HOST:PORT, "
            "spark://HOST:7077 or local[4]; Spark's own configuration says it if this does not.",
            show_default=False,
        ),
    ] = None,
    spark_conf: Annotated[
        list[str] | None,
        typer.Option(
            "--spark-conf",
            metavar="NAME=VALUE",
            help="With --runner spark: a setting of Spark (repeat for more).",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Also write what was done: a line for each user to a .jsonl or .parquet, all to a "
            ".json, a summary without user ids to a .html (repeat for several).",
            show_default=False,
        ),
    ] = None,
    master_keys: Annotated[
        Path | None,
        typer.Option(
            "--master-keys",
            metavar="FILE",
            envvar="PERSLM_MASTER_KEYS",
            help="Encrypt models with these keys; perslm keys master new makes them.",
            show_default=False,
        ),
    ] = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Build a model for every user found in the sources, and publish it.

    Run it every night: a ledger remembers what was counted, so a build reads only mail that is new,
    and publishes only users of whom something changed. Mail that the sources no longer hold counts
    on, until --window or perslm forget ends that. A user is published whole or not at all. After an
    interruption run the same command again: it goes on. Exit code 1 if some users must be built
    again: another builder came first, or the store has a model of more mail than was found.

    With --json the report is printed that --report FILE.json writes: what was read, skipped and
    why, and users with status, generation, messages, duplicates, tokens, ngrams, pruned (how many
    n-grams were counted and not kept: --min-messages, --max-bytes) and bytes.
    """
    from builders.prepare import Settings
    from builders.report import Report
    from builders.report_files import ReportFiles

    sources = sources or []
    settings = Settings(order, split_list(languages), split_list(keep), max_bytes, min_messages)
    span = seconds(window) if window is not None else None
    _check_runner(
        runner,
        spark={"--master": master, "--spark-conf": spark_conf},
        local={"--jobs": jobs, "--rebuild": rebuild or None},
    )
    vocabulary = Vocabulary.load(vocab)
    for path in report or ():
        check_writable(path)
    with tempfile.TemporaryFile() as printed:
        files = ReportFiles(report or ())
        if json:
            files.add(printed)
        done = Report(sources, on_user=files.user)
        try:
            with show_progress(quiet=json) as progress:
                if runner is Runner.SPARK:
                    from perslm.cli.spark import build_on_spark

                    router = build_on_spark(
                        sources,
                        store=store,
                        master_keys=master_keys,
                        master=master,
                        conf=spark_conf or (),
                        vocabulary=vocabulary,
                        user=user,
                        me=me or (),
                        by_file=user_from is UserFrom.FILE,
                        settings=settings,
                        window=span,
                        progress=progress,
                        report=done,
                    )
                    explain(router)
                else:
                    paths = [Path(source) for source in sources]
                    with open_store(store, master_keys=master_keys, patient=True) as opened:
                        opened.ping()  # before the mail is read: it may take hours
                        router = make_router(paths, user, me, user_from, progress)
                        _build_here(
                            paths, opened, vocabulary, router, settings, jobs or cores(),
                            progress, done, ledger_folder(ledger, opened), span, rebuild,
                        )  # fmt: skip
        except KeyboardInterrupt:
            done.interrupted = True
        except (PerslmError, OSError):
            with suppress(OSError):  # tell of the first trouble, not of this one
                files.end(done)
            raise
        files.end(done)
        if json:
            printed.seek(0)
            for chunk in io.TextIOWrapper(printed, "utf-8"):
                sys.stdout.write(chunk)
    if not json:
        _summarize(done)
    warn_unreadable(done.unreadable, done.unreadable_messages)
    _end(done)


def _build_here(
    sources: list[Path],
    store: Store,
    vocabulary: Vocabulary,
    router: Router,
    settings: Settings,
    jobs: int,
    progress: Progress,
    report: Report,
    folder: Path,
    window: float | None,
    rebuild: bool,
) -> None:
    from builders.ledgers import open_ledger
    from builders.run import build as build_all

    with open_ledger(folder, vocabulary.fingerprint, settings) as ledger:
        build_all(
            sources,
            store=store,
            vocabulary=vocabulary,
            router=router,
            settings=settings,
            jobs=jobs,
            progress=progress,
            report=report,
            ledger=ledger,
            window=window,
            rebuild=rebuild,
        )


def ledger_folder(named: Path | None, store: Store) -> Path:
    """Return the folder of the ledger of a store's tenant."""
    from builders.ledgers import default_folder

    return (named or default_folder(store.location)) / store.tenant


def seconds(window: str) -> float:
    """Return how long a time like ``365d`` is. Raises ArgumentError if it is none."""
    match = re.fullmatch(r"([1-9]\d{0,5})([hdwy])", window.strip().lower())
    if match is None:
        raise ArgumentError(f"{window!r} is no time: write 12h, 365d, 52w or 1y")
    return float(int(match[1]) * _SECONDS[match[2]])


def _check_runner(runner: Runner, *, spark: dict[str, object], local: dict[str, object]) -> None:
    """Raise ArgumentError if an option is meant for the other runner."""
    if runner is Runner.LOCAL and any(spark.values()):
        raise ArgumentError(f"{' and '.join(spark)} need --runner spark")
    given = [name for name, value in local.items() if value is not None]
    if runner is Runner.SPARK and given:
        raise ArgumentError(
            f"{given[0]} is for the local runner: Spark builds from all of its sources, without a "
            "ledger, and --spark-conf says how much runs at once (spark.executor.cores=N)"
        )


def _end(report: Report) -> None:
    """Leave with the exit code that tells what is still to do."""
    from builders.report import Status

    if report.interrupted:
        stderr.print("interrupted; run the same command again to go on")
        raise typer.Exit(130)
    foreign = report.statuses[Status.FOREIGN]
    if foreign:
        stderr.print(
            f"{foreign} users were left as they are: their models were built from more mail than "
            "this ledger and these sources hold; give all of their mail, with --rebuild"
        )
    if report.statuses[Status.CONFLICT]:
        stderr.print("some users were changed by somebody else meanwhile; run again for them")
    if report.statuses[Status.FAILED]:
        stderr.print("some users failed; --report FILE.jsonl says which, and why")
    if report.failed:
        raise typer.Exit(1)


def _summarize(report: Report) -> None:
    facts = report.totals()
    table = Table(Column("user", overflow="fold"), Column("status", no_wrap=True))
    for name in ("generation", "messages", "tokens", "n-grams", "bytes"):
        table.add_column(name, justify="right", no_wrap=True)
    for u in report.largest:
        table.add_row(
            u.user,
            u.status,
            str(u.generation),
            str(u.messages),
            str(u.tokens),
            str(sum(u.ngrams)),
            str(u.bytes),
        )
    stdout.print(table)
    users = report.statuses.total()
    if users > len(report.largest):
        stdout.print(
            f"and {users - len(report.largest)} more users (--report FILE.jsonl lists all)"
        )
    skipped = ", ".join(f"{n} {reason}" for reason, n in sorted(facts["skipped"].items()) if n)
    stdout.print(
        f"{report.messages} messages read, {report.unreadable_messages} unreadable; "
        f"not learned from: {skipped or 'none'}"
    )
    stdout.print(
        f"{facts['published']} of {users} users published, {report.tokens} tokens; "
        f"reading {report.reading_seconds:.1f} s, building {report.building_seconds:.1f} s "
        f"({facts['messages_per_second']:.0f} messages/s, {facts['tokens_per_second']:.0f} "
        "tokens/s)"
    )
