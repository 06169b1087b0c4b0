"""``perslm bench``: speed and size on this machine, beside other libraries.

``perslm bench service`` measures the scoring service, which it starts in a process of its own.
"""

from __future__ import annotations

import json as jsonlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from perslm.cli.common import (
    JsonOption,
    add_command,
    check_writable,
    explained,
    print_json,
    stdout,
    write_bytes,
)
from perslm.cli.progress import show_progress
from perslm.errors import ArgumentError, MissingExtraError, ServiceError

if TYPE_CHECKING:
    from perslm.bench.report import Report
    from perslm.bench.serving.report import Report as ServiceReport

SourceOption = Annotated[
    Path | None,
    typer.Option(
        "--source",
        metavar="PATH",
        help="Users' sentences: JSON lines with a list `sentences`, a file (.jsonl, .jsonl.gz) or "
        "a folder of them, one a user. Without it users are made up, always the same ones.",
    ),
]
QuickOption = Annotated[
    bool, typer.Option("--quick", help="Seconds instead of minutes, and rough figures.")
]
ReportOption = Annotated[
    Path | None, typer.Option("--report", help="Also write everything to this file, as JSON.")
]


def register(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    group = typer.Typer(
        invoke_without_command=True,
        **explained(
            bench,
            "perslm bench",
            "perslm bench --quick --json",
            "perslm bench --source mail/ --report bench.json --markdown README.md",
            "perslm bench service",
        ),
    )
    group.callback()(bench)
    add_command(
        group,
        service,
        "perslm bench service",
        "perslm bench service --quick --json",
        "perslm bench service --report service.json --markdown README.md",
    )
    app.add_typer(group, name="bench")


def bench(
    context: typer.Context,
    source: SourceOption = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=1000,
            help="Speed is measured on the user who wrote nearest to so many tokens: 60,000 by "
            "default, 10,000 with --quick.",
        ),
    ] = None,
    quick: QuickOption = False,
    report: ReportOption = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also put the table into this Markdown file, between the lines "
            "<!-- perslm bench --> and <!-- perslm bench: end -->.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure speed and size on this machine, beside other libraries in the same run.

    KenLM (pip install kenlm-ex) and OpenFst (pip install pynini) take part where they
    are installed; their answers are compared with perslm's before they are timed. Let the machine
    do nothing else meanwhile.

    With --json the report is printed that --report writes: machine, versions, corpus, and figures
    with median, p99, low and high (quartiles) of everything measured, ratio (how many times better
    perslm is) and difference (of the answers).
    """
    if context.invoked_subcommand is not None:
        if any((source, tokens, quick, report, markdown, json)):
            raise ArgumentError("options of perslm bench service stand behind the word service")
        return
    from perslm.bench import clock, corpus, run
    from perslm.bench.report import MARK

    _check_outputs(report, markdown, MARK)
    pace, size = (clock.QUICK, 10_000) if quick else (clock.FULL, 60_000)
    size = tokens or size
    with show_progress(quiet=json) as progress:
        data = corpus.invent(size) if source is None else corpus.read(source)
        found = run(data, size, pace, progress)
    _write(found, report, markdown, MARK)
    if json:
        print_json(found.as_json())
    else:
        _show(found)


def service(
    source: SourceOption = None,
    quick: QuickOption = False,
    report: ReportOption = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also put the table into this Markdown file, between the lines "
            "<!-- perslm bench service --> and <!-- perslm bench service: end -->.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure the scoring service on this machine: latency, throughput, overload, its cache.

    Store, service and load run here in processes of their own, for some three minutes and with
    some 2 GB of memory. What a step costs is measured in turns with echoes of the same server,
    which send back what they got. Let the machine do nothing else meanwhile.

    With --json the report is printed that --report writes: machine, versions, population, and
    figures with value, beside (what was measured beside it), ratio, its quartiles, target and
    reached.
    """
    for module in ("fastapi", "uvicorn", "grpc"):
        if find_spec(module) is None:
            raise MissingExtraError("the scoring service", "service")
    from perslm.bench import corpus, serving
    from perslm.bench.serving.report import COLUMNS, MARK

    _check_outputs(report, markdown, MARK)
    scale = serving.QUICK if quick else serving.FULL
    with show_progress(quiet=json) as progress:
        data = corpus.invent(scale.corpus_tokens) if source is None else corpus.read(source)
        found = serving.run(data, scale, _started, progress)
    _write(found, report, markdown, MARK)
    if json:
        print_json(found.as_json())
        return
    table = Table(
        *(
            Column(name, justify="right" if i in (1, 3, 4) else "left")
            for i, name in enumerate(COLUMNS)
        )
    )
    for row in found.rows:
        table.add_row(*row.cells())
    stdout.print(table)
    stdout.print(found.caption())


@contextmanager
def _started(store: str, cache_bytes: int) -> Iterator[tuple[str, str]]:
    """Start the service with echoes and yield its URLs, as ``perslm.bench.serving.Start`` says."""
    spawning = get_context("spawn")
    here, there = spawning.Pipe(duplex=False)
    process = spawning.Process(target=_serve, args=(store, cache_bytes, there))
    process.start()
    there.close()
    try:
        try:
            http, grpc = here.recv()
        except EOFError:
            raise ServiceError("the service did not start; perslm serve says why") from None
        yield http, grpc
    finally:
        process.terminate()
        process.join()


def _serve(store: str, cache_bytes: int, ready: Connection) -> None:
    """Run in the service's process: it logs every refusal, which nobody wants to read here."""
    from service import echo
    from service.settings import Settings

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    settings = Settings(
        store=store, http="127.0.0.1:0", grpc="127.0.0.1:0", cache_bytes=cache_bytes
    )
    echo.serve(settings, ready.send)


def _check_outputs(report: Path | None, markdown: Path | None, mark: str) -> None:
    """Say now, rather than after minutes of work, what cannot be written."""
    from perslm.bench.report import replace_table

    if report is not None:
        check_writable(report)
    if markdown is not None:
        replace_table(markdown, "", mark)
        check_writable(markdown)


def _write(
    found: Report | ServiceReport, report: Path | None, markdown: Path | None, mark: str
) -> None:
    from perslm.bench.report import replace_table

    if report is not None:
        write_bytes(report, f"{jsonlib.dumps(found.as_json(), indent=1)}\n".encode())
    if markdown is not None:
        write_bytes(markdown, replace_table(markdown, found.markdown(), mark))


def _show(report: Report) -> None:
    from perslm.bench.report import COLUMNS

    first, *numbers, others, published = COLUMNS
    table = Table(
        Column(first),
        *(Column(name, justify="right") for name in numbers),
        Column(others),
        Column(published),
    )
    for figure in report.figures:
        table.add_row(*figure.cells())
    stdout.print(table)
    stdout.print(report.caption())
