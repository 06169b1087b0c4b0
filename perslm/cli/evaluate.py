"""``perslm suggest`` and ``perslm evaluate``: a user's model with a global LM, and its worth."""

from __future__ import annotations

import hashlib
import json as jsonlib
import math
import platform
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from perslm.cli.building import (
    KeepOption,
    LanguagesOption,
    MeOption,
    Sources,
    UserFrom,
    UserFromOption,
    UserOption,
    make_router,
    split_list,
)
from perslm.cli.common import (
    JsonOption,
    StoreOption,
    UserArgument,
    add_command,
    finite,
    print_json,
    stderr,
    stdout,
    write_bytes,
)
from perslm.cli.progress import show_progress
from perslm.errors import ArgumentError
from perslm.model import DEFAULT_ESTIMATOR
from perslm.store import open_store
from perslm.vocabulary import Vocabulary

if TYPE_CHECKING:
    from builders.evaluate.run import Plan

GlobalLmOption = Annotated[
    str,
    typer.Option(
        "--global-lm",
        metavar="LM",
        help="The language model that everybody shares: smollm2, hf:DIRECTORY, arpa:FILE or "
        "pocketsphinx.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    add_command(
        app,
        suggest,
        'perslm suggest me "Thanks for the qu"',
        'perslm suggest me "Thanks for " --global-lm arpa:english.arpa -k 1 --json',
    )
    add_command(
        app,
        evaluate,
        "perslm evaluate company.jsonl.gz -o results",
        "perslm evaluate mail/*.mbox --user-from file --global-lm hf:./our-lm -o results",
        "perslm evaluate sent.mbox --user me --suggestions 200 -o results --json",
    )


def suggest(
    user: UserArgument,
    text: Annotated[
        str,
        typer.Argument(
            metavar="TEXT",
            help="What stands before the cursor; the last word may be typed in part.",
        ),
    ],
    global_lm: GlobalLmOption = "smollm2",
    k: Annotated[int, typer.Option("-k", min=1, help="How many suggestions.")] = 3,
    tokens: Annotated[int, typer.Option(min=1, help="Longest suggestion, in tokens.")] = 15,
    width: Annotated[int, typer.Option(min=1, help="Hypotheses of the beam search.")] = 8,
    threshold: Annotated[
        float, typer.Option(help="Show none of a lower confidence, natural log per token.")
    ] = -math.inf,
    block: Annotated[
        list[str] | None,
        typer.Option(metavar="PHRASE", help="Never suggest this word or phrase (repeat for more)."),
    ] = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Suggest how the user would go on: the global LM with the user's model mixed in.

    A suggestion ends with its sentence, or after --tokens. A user without a model gets what the
    global LM alone suggests, and a line on standard error says why.

    With --json: user, reason (ok, or why there is no model), and suggestions with text, logprob and
    confidence.
    """
    from perslm.global_lm import open_global_lm
    from perslm.suggest import Suggester

    shared = open_global_lm(global_lm)
    suggester = Suggester(
        shared,
        shared.vocabulary,
        width=max(width, k),
        tokens=tokens,
        best=k,
        threshold=threshold,
        blocklist=block or (),
    )
    with open_store(store) as opened:
        model = opened.load(user, vocabulary=shared.vocabulary)
    if model.reason != "ok":
        stderr.print(f"the global LM alone: {model.reason}")
    found = suggester.suggest(text, model)
    if json:
        rows = [{"text": s.text, "logprob": s.logprob, "confidence": s.confidence} for s in found]
        print_json({"user": user, "reason": model.reason, "suggestions": rows})
        return
    table = Table(
        Column("suggestion", overflow="fold"),
        Column("confidence", justify="right"),
        Column("ln p", justify="right"),
    )
    for s in found:
        table.add_row(s.text, f"{s.confidence:.2f}", f"{s.logprob:.2f}")
    stdout.print(table)


def evaluate(
    sources: Sources,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="DIR", help="Where the report goes, and what is done so far."
        ),
    ],
    global_lm: GlobalLmOption = "smollm2",
    order: Annotated[int, typer.Option(min=1, max=5, help="Longest n-grams.")] = 3,
    test_share: Annotated[
        float, typer.Option(help="How much of a person's mail, the newest, is the test.")
    ] = 0.2,
    amounts: Annotated[
        str,
        typer.Option(
            metavar="NUMBERS",
            help="Learn also from so many messages only, the last before the test.",
        ),
    ] = "10,30,100,300,1000",
    suggestions: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Ask for suggestions at N places of a person's test mail, with and without their "
            "model. A neural LM on a CPU takes about a second for each.",
        ),
    ] = 0,
    user: UserOption = None,
    me: MeOption = None,
    user_from: UserFromOption = UserFrom.AUTO,
    languages: LanguagesOption = "en",
    keep: KeepOption = "",
    json: JsonOption = False,
) -> None:
    """Measure what personalization is worth: learn from people's past mail, predict the newer.

    For each person: perplexity with the global LM alone and with their model mixed in, by amount of
    training mail; with --suggestions also ExactMatch, coverage and characters saved. DIR gets
    report.json, report.html (one file, with plots) and report.md. It goes on where it stopped: what
    the global LM says of the mail, and who is done, is kept in DIR, as numbers without text.

    With --json the report is printed: summary, and users with their figures.
    """
    from builders.evaluate.mail import letters_of
    from builders.evaluate.page import markdown, page
    from builders.evaluate.run import Plan, counted
    from builders.evaluate.run import evaluate as evaluate_all
    from builders.evaluate.summary import summarize
    from builders.evaluate.targets import Targets
    from builders.prepare import Settings
    from perslm.global_lm import open_global_lm
    from perslm.suggest import Suggester

    plan = Plan(order, test_share, _numbers(amounts), suggestions)
    settings = Settings(order, split_list(languages), split_list(keep))
    output.mkdir(parents=True, exist_ok=True)
    shared = open_global_lm(global_lm)
    vocabulary: Vocabulary = shared.vocabulary
    made_of = " ".join([global_lm, vocabulary.fingerprint, *_files(global_lm)])
    with show_progress(quiet=json) as progress:
        mail = letters_of(
            sources,
            router=make_router(sources, user, me, user_from, progress),
            vocabulary=vocabulary,
            settings=settings,
            progress=progress,
        )
        users, few = evaluate_all(
            mail,
            plan=plan,
            make=lambda letters: counted(letters, vocabulary, order),
            targets=Targets(shared, made_of, output / "targets"),
            suggester=Suggester(shared, vocabulary, best=1) if suggestions else None,
            folder=output / "users" / _name(plan, settings, made_of),
            progress=progress,
        )
    if not users:
        raise ArgumentError(
            "nobody here wrote enough to learn from and to test on: give more mail, or --user"
        )
    report: dict[str, Any] = {
        "global_lm": global_lm,
        "order": order,
        "test_share": test_share,
        "too_little_mail": len(few),
        "made_by": f"perslm {version('perslm')} evaluate, {platform.machine()}, "
        f"Python {platform.python_version()}",
        "summary": summarize(users),
        "users": users,
    }
    write_bytes(output / "report.json", (jsonlib.dumps(finite(report), indent=1) + "\n").encode())
    write_bytes(output / "report.md", markdown(report).encode())
    write_bytes(output / "report.html", page(report).encode())
    if few:
        stderr.print(f"{len(few)} people have too little mail and are left out")
    if json:
        print_json(report)
    else:
        _show(report)
        stdout.print(f"{output / 'report.html'} has the plots")


def _show(report: dict[str, Any]) -> None:
    from builders.evaluate.page import perplexity_rows, typing_rows

    tables = [perplexity_rows(report["summary"])]
    if report["summary"]["typing"]:
        tables.append(typing_rows(report["summary"]))
    for head, rows in tables:
        table = Table(*head, box=None, padding=(0, 1, 0, 0))
        for row in rows:
            table.add_row(*row)
        stdout.print(table)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in split_list(text)}))
    except ValueError:
        raise ArgumentError("--amounts are whole numbers, separated by commas") from None


def _name(plan: Plan, settings: object, global_lm: str) -> str:
    """Return a name for everything that a person's figures depend on but the mail."""
    gates = files("perslm").joinpath("gates.json").read_bytes()
    parts = repr((plan, settings, global_lm, version("perslm"), DEFAULT_ESTIMATOR, gates))
    return hashlib.blake2b(parts.encode(), digest_size=8).hexdigest()


def _files(global_lm: str) -> list[str]:
    """Return what changes if a file that the global LM is read from does; nothing of a package."""
    _, _, name = global_lm.partition(":")
    place = Path(name)
    found = sorted(place.iterdir()) if name and place.is_dir() else [place]
    facts = ((path.name, path.stat()) for path in found if path.is_file())
    return [f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in facts]
