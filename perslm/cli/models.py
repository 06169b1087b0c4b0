"""Commands that ask a store about users and their models."""

from __future__ import annotations

import io
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from perslm import blob
from perslm.beam import PersonalOnly, search
from perslm.cli.common import (
    EstimatorOption,
    JsonOption,
    StoreOption,
    UserArgument,
    add_command,
    check_writable,
    load_model,
    load_vocabulary,
    no_model,
    open_model,
    print_json,
    read_model,
    stderr,
    stdout,
    write_bytes,
)
from perslm.cli.nightly import LedgerOption, ledger_folder
from perslm.errors import ArgumentError, SourceError
from perslm.explain import frequent, readable
from perslm.learned import current
from perslm.model import DEFAULT_ESTIMATOR
from perslm.store import open_store


class ExportFormat(StrEnum):
    """File formats of ``perslm export``."""

    ARPA = "arpa"
    FST = "fst"
    BLOB = "blob"


def register(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    add_command(
        app,
        complete,
        'perslm complete me "Thanks for"',
        'perslm complete me "Thanks for" -k 3 --json',
    )
    add_command(app, score, 'perslm score me "Thanks for the quick reply."')
    add_command(app, users, "perslm users --store redis://db:6379 --json")
    add_command(app, inspect, "perslm inspect me --validate", "perslm inspect me --top 20 --json")
    add_command(app, export, "perslm export me --format arpa -o me.arpa")
    add_command(
        app,
        forget,
        "perslm forget me --yes",
        "perslm forget --from deleted.txt --yes",
        "perslm forget me --message '<1234@mail.example.org>' --yes",
        "perslm forget me --before 2024-01-01 --yes",
    )
    add_command(app, rollback, "perslm rollback me")


def complete(
    user: UserArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What stands before the cursor.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many continuations.")] = 5,
    words: Annotated[int, typer.Option(min=1, help="Longest continuation, in tokens.")] = 6,
    estimator: EstimatorOption = DEFAULT_ESTIMATOR,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show how the user's own model would go on: the likeliest continuations of TEXT.

    Ranked by natural log-probability per token. This is the personal model alone; in a product it
    is mixed into the global LM (see perslm demo).

    With --json: user, generation, and continuations with text and logprob, summed over its tokens.
    """
    model, vocabulary = open_model(store, user, estimator)
    hidden = set(vocabulary.special_ids) - {vocabulary.eos}
    found = search(
        PersonalOnly(model),
        vocabulary.history(text),
        width=max(16, 2 * k),
        steps=words,
        best=k,
        stop=[vocabulary.eos],
        banned=[i for i in hidden if i < vocabulary.size],
    )
    rows = [
        {
            "text": vocabulary.decode([i for i in h.ids if i != vocabulary.eos]),
            "logprob": h.logprob,
        }
        for h in found
    ]
    if json:
        print_json({"user": user, "generation": model.generation, "continuations": rows})
        return
    table = Table(Column("continuation", overflow="fold"), Column("ln p", justify="right"))
    for row in rows:
        table.add_row(str(row["text"]) or "(end)", f"{row['logprob']:.2f}")
    stdout.print(table)


def score(
    user: UserArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text to score.")],
    estimator: EstimatorOption = DEFAULT_ESTIMATOR,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Score TEXT word by word: ln p of each token under the user's own model, and λ.

    −inf (null in JSON) marks a word that the user never wrote: a mixture leaves it to the global
    LM.
    """
    model, vocabulary = open_model(store, user, estimator)
    tokens = []
    for sequence in vocabulary.encode(text):
        ids = [*sequence.ids, *([vocabulary.eos] if sequence.closes else [])]
        opening = [vocabulary.bos] if sequence.opens else []
        states = model.states([[*opening, *ids[:i]] for i in range(len(ids))])
        logprobs, _ = model.score(states, [[i] for i in ids])
        for i, logp, weight, state in zip(
            ids, logprobs[:, 0].tolist(), model.weights(states).tolist(), states, strict=True
        ):
            context = model.context_length(int(state))
            tokens.append(
                {
                    "token": vocabulary.token(i),
                    "logprob": logp,
                    "weight": round(weight, 6),
                    "context": context,
                }
            )
    total = sum(t["logprob"] for t in tokens)
    if json:
        print_json(
            {
                "user": user,
                "generation": model.generation,
                "logprob": total,
                "tokens": tokens,
            }
        )
        return
    table = Table(Column("token", overflow="fold"))
    for name in ("ln p", "words of context", "λ"):
        table.add_column(name, justify="right", no_wrap=True)
    for t in tokens:
        table.add_row(t["token"], f"{t['logprob']:.3f}", str(t["context"]), f"{t['weight']:.2f}")
    stdout.print(table)
    stdout.print(f"total ln p {total:.3f} over {len(tokens)} tokens")


def users(store: StoreOption = None, json: JsonOption = False) -> None:
    """List the users who have a model."""
    with open_store(store, patient=True) as opened:
        found = sorted(opened.users())
        if json:
            for user in found:
                print_json({"user": user})
            return
        for user in found:
            stdout.print(user)
        stderr.print(f"{len(found)} users")


def inspect(
    user: UserArgument,
    validate: Annotated[
        bool, typer.Option(help="Check every invariant, and that each state sums to 1.")
    ] = False,
    top: Annotated[
        int, typer.Option(min=0, help="Also show so many n-grams of each order, the most frequent.")
    ] = 0,
    estimator: EstimatorOption = DEFAULT_ESTIMATOR,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show what a user's model is made of: sizes, generation, vocabulary, degenerate orders.

    Learned messages that wait for a build are part of it; pending says how many. blocked is how
    many phrases are, for this user and for everybody. --top shows what it knows, which is what the
    user wrote.

    With --json: these facts, and with --top frequent, for each order objects of text and count.
    """
    with open_store(store, patient=True) as opened:
        model = load_model(opened, user, estimator)
        stored, everybody = opened.fetch(user), opened.rules(None)
        vocabulary = load_vocabulary(opened, model) if top else None
    if stored is None:
        raise no_model()
    rules = everybody if stored.rules is None else everybody | stored.rules
    if validate:
        model.automaton.validate()
    facts = {
        "user": user,
        "order": model.order,
        "ngrams": list(model.ngrams),
        "bytes": stored.bytes,
        "generation": model.generation,
        "created": datetime.fromtimestamp(stored.created, UTC).isoformat(timespec="seconds"),
        "messages": model.metadata.messages,
        "tokens": model.tokens,
        "vocabulary": model.vocabulary_fingerprint,
        "source_digest": model.metadata.source_digest,
        "states": model.automaton.states,
        "arcs": model.automaton.arcs,
        "estimator": model.estimator,
        "fell_back": list(model.fell_back),
        "weight": model.weight,
        "pending": len(stored.pending),
        "blocked": len(rules.phrases),
    }
    known: list[list[dict[str, object]]] = []
    if vocabulary is not None:
        counts = blob.decode(current(stored, rules)).counts
        known = [
            [{"text": readable(ids, vocabulary), "count": count} for ids, count in of_order]
            for of_order in frequent(counts, top)
        ]
    if validate:
        facts["valid"] = True
    if json:
        print_json({**facts, "frequent": known} if top else facts)
        return
    table = Table(Column(no_wrap=True), Column(overflow="fold"), show_header=False)
    for name, value in facts.items():
        table.add_row(name, str(value))
    stdout.print(table)
    for order, of_order in enumerate(known, start=1):
        table = Table(Column(f"order {order}", overflow="fold"), Column("count", justify="right"))
        for row in of_order:
            table.add_row(str(row["text"]), str(row["count"]))
        stdout.print(table)


def export(
    user: UserArgument,
    format: Annotated[ExportFormat, typer.Option(help="arpa (text), fst (OpenFst), blob (ours).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    estimator: EstimatorOption = "katz",  # an automaton has no global LM to fall back on
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Write a user's model to a file. It holds what the user wrote: treat it as their mail."""
    check_writable(output)
    with open_store(store, patient=True) as opened:
        data, model, vocabulary = read_model(opened, user, estimator)
    if format is ExportFormat.ARPA:
        from perslm import arpa

        text = io.StringIO()
        arpa.dump(model.automaton, vocabulary.token, text)
        data = text.getvalue().encode("utf-8")
    elif format is ExportFormat.FST:
        from perslm import openfst

        data = openfst.to_fst(model.automaton, vocabulary.token).write_to_string()
    write_bytes(output, data)
    if json:
        facts = {"output": str(output), "bytes": len(data)}
        print_json({"user": user, "generation": model.generation, **facts})
        return
    stderr.print(f"wrote {output} ({len(data)} bytes)")


def forget(
    user: Annotated[
        str | None, typer.Argument(metavar="[USER]", help="The user's id.", show_default=False)
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Delete all users of this file, one id a line; - is standard input. Those without "
            "a model are no error.",
            show_default=False,
        ),
    ] = None,
    message: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID",
            help="Delete only the message with this Message-ID, and its copies (repeat for more).",
            show_default=False,
        ),
    ] = None,
    before: Annotated[
        str | None,
        typer.Option(
            metavar="DATE",
            help="Delete only mail from before this day (2024-12-31) or time, in UTC if it does "
            "not say.",
            show_default=False,
        ),
    ] = None,
    ledger: LedgerOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Delete a user's model, all generations of it; a build already running cannot undo it.

    The builds' ledger forgets the user, too: run this where builds run, or name its place with
    --ledger. With --message or --before only that mail is deleted, for good: a model of what is
    left takes the place of all generations, and builds do not count the mail again although their
    sources may still hold it. That needs the ledger.

    With --json: user and forgotten; with --from users, and how many of them had a model; with
    --message or --before user, messages (how many were deleted) and generation (0: none is left).
    """
    if message or before is not None:
        _forget_mail(user, source, message or [], before, ledger, yes, store, json)
        return
    if source is not None and user is None:
        users = _lines(source)
    elif source is None and user is not None:
        users = [user]
    else:
        raise ArgumentError("name one user, or a file of users with --from")
    if not yes:
        whose = "this user's model" if user is not None else f"the models of {len(users)} users"
        typer.confirm(f"Delete every generation of {whose}?", abort=True, err=True)
    with open_store(store, patient=True) as opened:
        had_model = sum([opened.forget(one) for one in users])
        had_mail = _drop_from_ledgers(ledger_folder(ledger, opened), users)
    if source is not None:
        if json:
            print_json({"users": len(users), "had_model": had_model})
        else:
            stderr.print(f"forgot {len(users)} users; {had_model} of them had a model")
        return
    if user is not None and not had_model and not had_mail:
        raise no_model()
    if json:
        print_json({"user": user, "forgotten": True})
        return
    stderr.print("forgotten")


def _forget_mail(
    user: str | None,
    source: Path | None,
    message_ids: list[str],
    before: str | None,
    ledger: Path | None,
    yes: bool,
    store: str | None,
    json: bool,
) -> None:
    from builders.forgetting import forget_mail

    if user is None or source is not None:
        raise ArgumentError("--message and --before are of one user: name one, without --from")
    when = _time(before) if before is not None else None
    if not yes:
        typer.confirm("Delete this mail from the user's model for good?", abort=True, err=True)
    with open_store(store, patient=True) as opened:
        folder = ledger_folder(ledger, opened)
        done = forget_mail(opened, folder, user, message_ids=message_ids, before=when)
    if json:
        print_json({"user": user, "messages": done.messages, "generation": done.generation})
        return
    stderr.print(
        f"{done.messages} messages forgotten; "
        + (f"generation {done.generation} is published" if done.generation else "no mail is left")
    )


def _drop_from_ledgers(folder: Path, users: list[str]) -> int:
    if not folder.exists():
        return 0
    from builders.ledgers import drop_users

    return drop_users(folder, users)


def _time(text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ArgumentError(
            f"{text!r} is no day: write 2024-12-31, or 2024-12-31T18:00+01:00"
        ) from None


def _lines(source: Path) -> list[str]:
    try:
        data = sys.stdin.buffer.read() if str(source) == "-" else source.read_bytes()
        return [line.removesuffix("\r") for line in data.decode().split("\n") if line]
    except UnicodeDecodeError:
        raise SourceError(str(source), "is not UTF-8 text", "write one user id a line") from None


def rollback(user: UserArgument, store: StoreOption = None, json: JsonOption = False) -> None:
    """Publish the previous generation of a user's model again, under a new number."""
    with open_store(store, patient=True) as opened:
        generation = opened.rollback(user)
    if json:
        print_json({"user": user, "generation": generation})
        return
    stderr.print(f"generation {generation} is published")
