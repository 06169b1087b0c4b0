"""``perslm bench``: speed and size on this machine, beside other libraries."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from perslm.cli.common import (
    JsonOption,
    add_command,
    check_writable,
    print_json,
    stdout,
    write_bytes,
)
from perslm.cli.progress import show_progress

if TYPE_CHECKING:
    from perslm.bench.report import Report


def register(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    add_command(
        app,
        bench,
        "perslm bench",
        "perslm bench --quick --json",
        "perslm bench --source mail/ --report bench.json --markdown README.md",
    )


def bench(
    source: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Users' sentences: JSON lines with a list `sentences`, a file (.jsonl, "
            ".jsonl.gz) or a folder of them, one a user. Without it users are made up, always the "
            "same ones.",
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=1000,
            help="Speed is measured on the user who wrote nearest to so many tokens: 60,000 by "
            "default, 10,000 with --quick.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Seconds instead of minutes, and rough figures.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Also write everything to this file, as JSON.")
    ] = None,
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
    from perslm.bench import clock, corpus, run
    from perslm.bench.report import replace_table

    if report is not None:
        check_writable(report)
    if markdown is not None:
        replace_table(markdown, "")  # say now that the file has no place for it
        check_writable(markdown)
    pace, size = (clock.QUICK, 10_000) if quick else (clock.FULL, 60_000)
    size = tokens or size
    with show_progress(quiet=json) as progress:
        data = corpus.invent(size) if source is None else corpus.read(source)
        found = run(data, size, pace, progress)
    text = jsonlib.dumps(found.as_json(), indent=1)
    if report is not None:
        write_bytes(report, f"{text}\n".encode())
    if markdown is not None:
        write_bytes(markdown, replace_table(markdown, found.markdown()))
    if json:
        print_json(found.as_json())
    else:
        _show(found)


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
