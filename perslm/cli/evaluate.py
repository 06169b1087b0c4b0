"""``perslm suggest`` and ``perslm evaluate``: a user's model with a global LM, and its worth."""

from __future__ import annotations

import hashlib
import json as jsonlib
import math
import platform
from copy import deepcopy
from dataclasses import replace
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
    EstimatorOption,
    JsonOption,
    StoreOption,
    UserArgument,
    add_command,
    check_writable,
    finite,
    print_json,
    stderr,
    stdout,
    write_bytes,
)
from perslm.cli.progress import show_progress
from perslm.errors import ArgumentError
from perslm.model import DEFAULT_ESTIMATOR, check_estimator
from perslm.store import open_store
from perslm.vocabulary import Vocabulary

if TYPE_CHECKING:
    from builders.evaluate.mail import Letter
    from builders.evaluate.run import Made, Plan
    from builders.prepare import Settings
    from perslm.global_lm import GlobalLM

MARK = "perslm evaluate"
"""Names the place of the table in a Markdown file."""

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
        "perslm evaluate mail/*.mbox --user-from file --cross-fit --suggestions 50 -o results",
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
        float,
        typer.Option(
            help="Show none of a lower confidence, natural log per token; perslm evaluate "
            "--suggestions says at how many places which threshold shows one."
        ),
    ] = -math.inf,
    block: Annotated[
        list[str] | None,
        typer.Option(metavar="PHRASE", help="Never suggest this word or phrase (repeat for more)."),
    ] = None,
    blocklist: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Nor these: UTF-8, one a line.")
    ] = None,
    estimator: EstimatorOption = DEFAULT_ESTIMATOR,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Suggest how the user would go on: the global LM with the user's model mixed in.

    A suggestion ends with its sentence, or with the last whole word of --tokens. What perslm block
    says must not be learned is not suggested either. A user without a model gets what the global LM
    alone suggests, and a line on standard error says why.

    With --json: user, reason (ok, or why there is no model), and suggestions with text, logprob and
    confidence.
    """
    from perslm.global_lm import open_global_lm
    from perslm.suggest import Suggester

    phrases = [*(block or ()), *(_lines(blocklist) if blocklist else ())]
    shared = open_global_lm(global_lm)
    with open_store(store) as opened:
        model = opened.load(
            user, vocabulary=shared.vocabulary, estimator=check_estimator(estimator)
        )
        phrases += sorted((opened.rules(user) | opened.rules(None)).phrases)
    suggester = Suggester(
        shared,
        shared.vocabulary,
        width=max(width, k),
        tokens=tokens,
        best=k,
        threshold=threshold,
        blocklist=phrases,
    )
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


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ArgumentError(f"{path} cannot be read: give a text file in UTF-8") from None
    return [line for line in lines if line.strip()]


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
    min_messages: Annotated[
        int,
        typer.Option(
            "--min-messages",
            min=1,
            metavar="N",
            help="Learn an n-gram above order 1 only if it is in N messages, as perslm build does.",
        ),
    ] = 2,
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
    budgets: Annotated[
        str,
        typer.Option(
            metavar="NUMBERS", help="Test also models of at most so many bytes: 16384,32768."
        ),
    ] = "",
    suggestions: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Ask for suggestions at N places of a person's test mail, with and without their "
            "model. A neural LM on a CPU takes a second or two for each.",
        ),
    ] = 0,
    bfloat16: Annotated[
        bool,
        typer.Option(
            "--bfloat16",
            help="Ask a neural LM for suggestions in this precision: on processors that have it, "
            "in half the time.",
        ),
    ] = False,
    cross_fit: Annotated[
        bool,
        typer.Option(
            "--cross-fit",
            help="Fit what decides when a model speaks anew, for each person on other people's "
            "older mail: what the weights are worth to somebody new.",
        ),
    ] = False,
    markdown: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the first table into this file, between its markers."
        ),
    ] = None,
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
    report.json, report.html (one file, with plots) and report.md; people are numbers in them. It
    goes on where it stopped: what the global LM says of the mail, what was suggested, and who is
    done, is kept in DIR, as numbers without text. --keep all learns from every kind of zone.

    With --json the report is printed: summary, and users with their figures. Exit status 2 if
    nobody wrote enough.
    """
    from builders.clean import KINDS
    from builders.evaluate import page
    from builders.evaluate.answers import Answers
    from builders.evaluate.crossfit import cross_fit as fit_on_others
    from builders.evaluate.mail import letters_of
    from builders.evaluate.run import Plan, enough, mail_digest, model_of
    from builders.evaluate.run import evaluate as evaluate_all
    from builders.evaluate.run import suggest as suggest_all
    from builders.evaluate.summary import summarize
    from builders.evaluate.targets import Targets
    from builders.prepare import Settings
    from perslm.backoff import population
    from perslm.bench.report import replace_table
    from perslm.global_lm import open_global_lm
    from perslm.suggest import Suggester

    kinds = KINDS if keep == "all" else split_list(keep)
    settings = Settings(order, split_list(languages), kinds, min_messages=min_messages)
    numbers = _numbers("--amounts", amounts), _numbers("--budgets", budgets)
    plan = Plan(settings, test_share, *numbers, suggestions)
    if markdown is not None:
        replace_table(markdown, "", MARK)
        check_writable(markdown)
    output.mkdir(parents=True, exist_ok=True)
    shared = open_global_lm(global_lm)
    vocabulary: Vocabulary = shared.vocabulary
    made_of = " ".join([global_lm, vocabulary.fingerprint, *_files(global_lm)])
    with show_progress(quiet=json) as progress:
        everybody = letters_of(
            sources,
            router=make_router(sources, user, me, user_from, progress),
            vocabulary=vocabulary,
            settings=settings,
            progress=progress,
        )
        mail = enough(everybody)
        if not mail:
            raise ArgumentError(
                "nobody here wrote enough to learn from and to test on: give more mail, or --user"
            )
        targets = Targets(shared, made_of, output / "targets")
        name = _name(replace(plan, places=0), made_of)
        gates = dict.fromkeys(mail, population(order))
        if cross_fit:
            name = _digest(name, *(mail_digest(u, letters) for u, letters in mail.items()))
            gates = fit_on_others(
                mail,
                name=name,
                vocabulary=vocabulary,
                targets=targets,
                order=order,
                folder=output / "gates",
                progress=progress,
            )

        def models(user: str, letters: list[Letter], settings: Settings) -> Made:
            return model_of(letters, vocabulary, settings, gates[user])

        figures = evaluate_all(
            mail,
            plan=plan,
            models=models,
            targets=targets,
            folder=output / "users" / name,
            progress=progress,
        )
        if suggestions:
            asked = _in_bfloat16(shared) if bfloat16 else shared
            suggester = Suggester(asked, vocabulary, best=1)
            precision = " bfloat16" if bfloat16 else ""
            typing = suggest_all(
                mail,
                plan=plan,
                models=models,
                suggester=suggester,
                name=f"{made_of}{precision} {suggester}",
                answers=Answers(output / "answers"),
                progress=progress,
            )
            for person, outcomes in typing.items():
                figures[person]["typing"] = outcomes
    # who is who would be known by an order of names
    users = sorted(figures.values(), key=lambda u: (u["letters"], u["amounts"]["all"]["reduction"]))
    few = len(everybody) - len(mail)
    report: dict[str, Any] = {
        "global_lm": global_lm,
        "order": order,
        "min_messages": min_messages,
        "test_share": test_share,
        "cross_fit": cross_fit,
        "too_little_mail": few,
        "made_by": f"perslm {version('perslm')} evaluate, {platform.machine()}, "
        f"Python {platform.python_version()}",
        "summary": summarize(users),
        "users": [{"user": number, **user} for number, user in enumerate(users, 1)],
    }
    write_bytes(output / "report.json", (jsonlib.dumps(finite(report), indent=1) + "\n").encode())
    write_bytes(output / "report.md", page.markdown(report).encode())
    write_bytes(output / "report.html", page.page(report).encode())
    if markdown is not None:
        table = page.tables(report)["perplexity"]
        write_bytes(markdown, replace_table(markdown, table.as_markdown(), MARK))
    if few:
        stderr.print(f"{few} people have too little mail and are left out")
    if json:
        print_json(report)
    else:
        _show(report)
        stdout.print(f"{output / 'report.html'} has the plots")


def _show(report: dict[str, Any]) -> None:
    from builders.evaluate.page import tables

    for made in tables(report).values():
        table = Table(*made.head, title=made.caption, box=None, padding=(0, 1, 0, 0))
        for row in made.rows:
            table.add_row(*row)
        stdout.print(table)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in split_list(text)}))
    except ValueError:
        raise ArgumentError(f"{option} are whole numbers, separated by commas") from None


def _in_bfloat16(shared: GlobalLM) -> GlobalLM:
    """Return a neural LM in half the bytes; others are asked as they are."""
    model = getattr(shared, "model", None)
    if model is None:
        return shared
    from perslm.global_lm.huggingface import HuggingFaceLM

    return HuggingFaceLM(deepcopy(model).bfloat16(), shared.vocabulary)


def _name(plan: Plan, global_lm: str) -> str:
    """Return a name for everything that a person's figures depend on but the mail."""
    gates = files("perslm").joinpath("gates.json").read_bytes()
    return _digest(repr((plan, global_lm, version("perslm"), DEFAULT_ESTIMATOR, gates)))


def _digest(*parts: str) -> str:
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=8).hexdigest()


def _files(global_lm: str) -> list[str]:
    """Return what changes if a file that the global LM is read from does; nothing of a package."""
    _, _, name = global_lm.partition(":")
    place = Path(name)
    found = sorted(place.iterdir()) if name and place.is_dir() else [place]
    facts = ((path.name, path.stat()) for path in found if path.is_file())
    return [f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in facts]
