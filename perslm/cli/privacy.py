"""Commands of those who answer for what models know: to look, to block, to opt out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from perslm import blob
from perslm.cli.common import (
    EstimatorOption,
    JsonOption,
    StoreOption,
    UserArgument,
    add_command,
    print_json,
    read_model,
    stderr,
    stdout,
)
from perslm.cli.nightly import LedgerOption, ledger_folder
from perslm.errors import ArgumentError
from perslm.explain import Step, readable
from perslm.explain import explain as steps_of
from perslm.model import DEFAULT_ESTIMATOR
from perslm.rules import Rules
from perslm.store import Store, open_store
from perslm.vocabulary import Vocabulary

EverybodyOption = Annotated[bool, typer.Option("--everybody", help="For all users, not for one.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    add_command(
        app,
        explain,
        'perslm explain me "Thanks for the quick"',
        'perslm explain me "Thanks for" --json',
    )
    add_command(
        app,
        block,
        'perslm block me "Project Zephyr"',
        'perslm block --everybody "Project Zephyr" zephyr',
        "perslm block me --list",
        'perslm block me --remove "Project Zephyr"',
    )
    add_command(app, opt_out, "perslm opt-out me --yes", name="opt-out")
    add_command(app, opt_in, "perslm opt-in me", name="opt-in")


def explain(
    user: UserArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text to explain.")],
    estimator: EstimatorOption = DEFAULT_ESTIMATOR,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show what made each score of TEXT: the contexts that the model has, and their counts.

    Of each word: ln p and λ, and below them every context from the longest to none: how many words
    followed it in the user's mail, how many different ones, how many of them are not kept, and how
    often this very word. The longest context decides; a word that was not seen after it goes back
    to the next.

    With --json: user, generation, estimator, and tokens with token, logprob, weight, backoff and
    contexts (context, total, distinct, cut, count, logprob, weight).
    """
    with open_store(store, patient=True) as opened:
        data, model, vocabulary = read_model(opened, user, estimator)
    counts = blob.decode(data).counts
    steps: list[Step] = []
    for sequence in vocabulary.encode(text):
        opening = [vocabulary.bos] if sequence.opens else []
        closing = [vocabulary.eos] if sequence.closes else []
        steps += steps_of(model, counts, opening, [*sequence.ids, *closing])
    if json:
        facts = {"user": user, "generation": model.generation, "estimator": estimator}
        print_json({**facts, "tokens": [_as_json(step, vocabulary) for step in steps]})
        return
    table = Table(Column("word", overflow="fold"), Column("after", overflow="fold"))
    for name in ("ln p", "λ", "seen", "of", "different", "not kept"):
        table.add_column(name, justify="right", no_wrap=True)
    for step in steps:
        for number, context in enumerate(step.contexts):
            table.add_row(
                "" if number else vocabulary.token(step.id),
                readable(context.ids, vocabulary) or "(anything)",
                f"{context.logprob:.3f}",
                f"{context.weight:.2f}",
                str(context.count),
                str(context.total),
                str(context.distinct),
                str(context.cut),
                end_section=number + 1 == len(step.contexts),
            )
    stdout.print(table)


def _as_json(step: Step, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "token": vocabulary.token(step.id),
        "logprob": step.logprob,
        "weight": round(step.weight, 6),
        "backoff": step.backoff,
        "contexts": [
            {
                "context": readable(c.ids, vocabulary),
                "total": c.total,
                "distinct": c.distinct,
                "cut": c.cut,
                "count": c.count,
                "logprob": c.logprob,
                "weight": round(c.weight, 6),
            }
            for c in step.contexts
        ],
    }


def block(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[USER] [PHRASE]...",
            help="The user's id, unless --everybody, and words or phrases, each in quotes.",
            show_default=False,
        ),
    ] = None,
    everybody: EverybodyOption = False,
    show: Annotated[bool, typer.Option("--list", help="Show what is blocked.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Block these no longer.")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Block words and phrases: no model of the user, or of anybody, knows or learns them.

    They match whole words in any case. Models that are there lose them at once, on every replica;
    the next build leaves them out as if they had not been written, and so does every build after
    it, until --remove and one more build.

    With --json: blocked, the phrases that are blocked now, in small letters.
    """
    given = list(words or ())
    if not everybody and not given:
        raise ArgumentError("name a user, or --everybody")
    user = None if everybody else given.pop(0)
    if show and (remove or given):
        raise ArgumentError("--list takes no phrases: it shows all")
    if not show and not given:
        raise ArgumentError("name a phrase: perslm block USER PHRASE")
    with open_store(store, patient=True) as opened:
        if show:
            rules = opened.rules(user)
        else:
            known = vocabularies(opened)
            change = Rules.unblock if remove else Rules.block
            rules = opened.change_rules(user, lambda rules: change(rules, given, known))
    phrases = sorted(rules.phrases)
    if json:
        print_json({"blocked": phrases})
        return
    if show:
        for phrase in phrases:
            stdout.print(phrase)
    stderr.print(f"{len(phrases)} phrases are blocked")


def vocabularies(store: Store) -> list[Vocabulary]:
    """Return all vocabularies of a store's tenant, as phrases are spelled in each."""
    found = sorted(name for tenant, name in store.vocabularies() if tenant == store.tenant)
    return [Vocabulary.from_bytes(data) for name in found if (data := store.vocabulary(name))]


def opt_out(
    user: UserArgument,
    yes: YesOption = False,
    ledger: LedgerOption = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Learn nothing of a user any more, and delete what was learned, in the store and the ledger.

    Builds and learning refuse the user from now on, those under way among them, until perslm
    opt-in. The id itself stays in the store, to be known again.

    With --json: user, opted_out, had_model.
    """
    if not yes:
        typer.confirm("Delete all that was learned of this user?", abort=True, err=True)
    with open_store(store, patient=True) as opened:
        opened.set_rules(user, Rules(opted_out=True))
        had_model = opened.forget(user)
        folder = ledger_folder(ledger, opened)
    _drop_from(folder, user)
    if json:
        print_json({"user": user, "opted_out": True, "had_model": had_model})
        return
    stderr.print("opted out: nothing is kept or learned")


def _drop_from(folder: Path, user: str) -> None:
    if folder.exists():
        from builders.ledgers import drop_users

        drop_users(folder, [user])


def opt_in(user: UserArgument, store: StoreOption = None, json: JsonOption = False) -> None:
    """Let a user who opted out have a model again; the next build makes one.

    With --json: user, opted_out.
    """
    with open_store(store, patient=True) as opened:
        opened.change_rules(user, lambda rules: replace(rules, opted_out=False))
    if json:
        print_json({"user": user, "opted_out": False})
        return
    stderr.print("opted in: the next build makes a model")
