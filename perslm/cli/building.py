"""Commands that read mail: vocabularies, builds, and looks at what a build would see."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from perslm.cli.common import JsonOption, StoreOption, print_json, stderr, stdout, write_bytes
from perslm.errors import ArgumentError
from perslm.store import open_store
from perslm.vocabulary import Vocabulary

if TYPE_CHECKING:
    from builders.message import Message
    from builders.read import Unreadable
    from builders.routing import Router
    from builders.run import Report

SHOWN_USERS = 20
"""Rows of the summary table; the JSON report has them all."""

Sources = Annotated[
    list[Path],
    typer.Argument(
        metavar="SOURCE...",
        help="Mail: an mbox (also gzipped, also Gmail Takeout), a maildir, a directory of .eml, "
        "JSON lines (.jsonl, .jsonl.gz: user, message_id, date, from, to, subject, and body or "
        "raw), or Parquet with those columns.",
        show_default=False,
    ),
]
UserOption = Annotated[
    str | None,
    typer.Option(
        "--user",
        help="All sources are this one person's mailbox, and this is the user id. Without it the "
        "user of a message is, in this order: its `user` field; the From address; the file's name.",
    ),
]
MeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--me",
        metavar="ADDRESS",
        help="With --user: an address that the person sends from (repeat for aliases). Without it "
        "the addresses are inferred from who takes part in most of the mail.",
    ),
]


class UserFrom(StrEnum):
    """Where user ids come from when ``--user`` does not say."""

    AUTO = "auto"
    FILE = "file"


UserFromOption = Annotated[
    UserFrom,
    typer.Option(
        "--user-from",
        help="file: each source is one person's mailbox, named as the file without its ending; "
        "which mail they sent is inferred as for --user.",
    ),
]
KeepOption = Annotated[
    str,
    typer.Option(
        metavar="KINDS",
        help="Zones to keep although they would be removed, separated by commas: greeting, close, "
        "signature, …",
    ),
]
LanguagesOption = Annotated[
    str,
    typer.Option(metavar="CODES", help="Languages to learn, separated by commas (en,es), or all."),
]
JobsOption = Annotated[
    int | None, typer.Option(min=1, help="Worker processes; one for each core by default.")
]
VocabOption = Annotated[
    Path, typer.Option("--vocab", help="A file of perslm vocab build or perslm vocab import.")
]


def register(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    vocab = typer.Typer(help="Make the vocabulary that models speak.", no_args_is_help=True)
    vocab.command("build")(vocab_build)
    vocab.command("import")(vocab_import)
    app.add_typer(vocab, name="vocab")
    for command in (build, clean, tokenize):
        app.command()(command)


def vocab_build(
    sources: Sources,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    size: Annotated[int, typer.Option(min=1, help="At most so many words.")] = 50_000,
    min_users: Annotated[
        int,
        typer.Option(
            min=1,
            help="A word must come from so many people, lest a shared vocabulary give one away. "
            "1 is for a vocabulary that only one person will ever use.",
        ),
    ] = 2,
    user: UserOption = None,
    me: MeOption = None,
    user_from: UserFromOption = UserFrom.AUTO,
    languages: LanguagesOption = "en",
    keep: KeepOption = "",
    jobs: JobsOption = None,
    json: JsonOption = False,
) -> None:
    """Make a word vocabulary: the words that most people wrote most often.

    Only words of people's own text count, as perslm build sees it.
    """
    from builders.prepare import Settings
    from builders.run import Report, count_words

    settings = Settings(languages=_list(languages), keep=_list(keep))
    report = Report([str(s) for s in sources])
    with _progress(quiet=json) as progress:
        router = _router(sources, user, me, user_from, progress)
        counter = count_words(
            sources,
            min_users=min_users,
            router=router,
            settings=settings,
            jobs=jobs or _cores(),
            progress=progress,
            report=report,
        )
    vocabulary = counter.vocabulary(size)
    vocabulary.save(output)
    facts = {
        "output": str(output),
        "size": vocabulary.size,
        "fingerprint": vocabulary.fingerprint,
        "messages": report.messages,
        "unreadable": len(report.unreadable),
    }
    if json:
        print_json(facts)
        return
    _warn_unreadable(report.unreadable)
    stdout.print(
        f"{output}: {vocabulary.size} tokens from {report.messages} messages, "
        f"fingerprint {vocabulary.fingerprint}"
    )


def vocab_import(
    tokenizer: Annotated[
        Path, typer.Argument(metavar="TOKENIZER_JSON", help="A Hugging Face tokenizer.json.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    bos: Annotated[str | None, typer.Option(help="The token that opens a text.")] = None,
    eos: Annotated[str | None, typer.Option(help="The token that closes a text.")] = None,
    json: JsonOption = False,
) -> None:
    """Take over the tokenizer of the global LM, so that models speak its very ids."""
    vocabulary = Vocabulary.from_tokenizer_json(tokenizer, bos=bos, eos=eos)
    vocabulary.save(output)
    if json:
        print_json(
            {
                "output": str(output),
                "size": vocabulary.size,
                "fingerprint": vocabulary.fingerprint,
                "bos": vocabulary.bos,
                "eos": vocabulary.eos,
            }
        )
        return
    stdout.print(f"{output}: {vocabulary.size} tokens, fingerprint {vocabulary.fingerprint}")


def build(
    sources: Sources,
    vocab: VocabOption,
    order: Annotated[int, typer.Option(min=1, max=5, help="Longest n-grams.")] = 3,
    user: UserOption = None,
    me: MeOption = None,
    user_from: UserFromOption = UserFrom.AUTO,
    languages: LanguagesOption = "en",
    keep: KeepOption = "",
    jobs: JobsOption = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write what was done to this file, as JSON.")
    ] = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Build a model for every user found in the sources, and publish it.

    A user is published whole or not at all. After an interruption run the same command again: users
    already published are found unchanged. Exit code 1 if another builder published a user first.
    """
    from builders.prepare import Settings
    from builders.run import Report
    from builders.run import build as build_all

    vocabulary = Vocabulary.load(vocab)
    settings = Settings(order, _list(languages), _list(keep))
    done = Report([str(s) for s in sources])
    try:
        with open_store(store) as opened, _progress(quiet=json) as progress:
            build_all(
                sources,
                store=opened,
                vocabulary=vocabulary,
                router=_router(sources, user, me, user_from, progress),
                settings=settings,
                jobs=jobs or _cores(),
                progress=progress,
                report=done,
            )
    except KeyboardInterrupt:
        done.interrupted = True
    finally:
        if report is not None:
            text = jsonlib.dumps(done.as_json(), ensure_ascii=False, indent=1)
            write_bytes(report, text.encode("utf-8"))
    if json:
        print_json(done.as_json())
    else:
        _summarize(done)
    if done.interrupted:
        stderr.print("interrupted; run the same command again to go on")
        raise typer.Exit(130)
    if done.failed:
        stderr.print("some users were published by another builder meanwhile; run again for them")
        raise typer.Exit(1)


def clean(
    sources: Sources,
    user: UserOption = None,
    me: MeOption = None,
    user_from: UserFromOption = UserFrom.AUTO,
    keep: KeepOption = "",
    json: JsonOption = False,
) -> None:
    """Show what a build takes from each message: the kept text, and the zones it removes.

    With --json one object a line: message_id, text, and zones with kind, start and end in the body.
    All messages are shown; with --user, --me or --user-from only those that the user sent.
    """
    from builders.clean import clean as clean_body
    from builders.identity import author_address

    selected = user is not None or user_from is UserFrom.FILE
    kinds = _list(keep)
    for _, message in _messages(sources, user, me, user_from, everybody=not selected):
        author = author_address(message)
        cleaned = clean_body(message.body, author=author.name if author else None, keep=kinds)
        if json:
            print_json(
                {
                    "message_id": message.message_id,
                    "text": cleaned.text,
                    "zones": [
                        {"kind": z.kind, "start": z.start, "end": z.end} for z in cleaned.zones
                    ],
                }
            )
            continue
        stdout.rule(message.position, style="dim")
        stdout.print(cleaned.text, markup=False, highlight=False)
        removed = ", ".join(f"{z.kind} {z.start}-{z.end}" for z in cleaned.zones)
        stdout.print(f"removed: {removed or 'nothing'}", style="dim", highlight=False)


def tokenize(
    sources: Sources,
    vocab: VocabOption,
    user: UserOption = None,
    me: MeOption = None,
    user_from: UserFromOption = UserFrom.AUTO,
    languages: LanguagesOption = "en",
    keep: KeepOption = "",
    json: JsonOption = False,
) -> None:
    """Print the sentences that the counts of a build see, one a line, tokens separated by spaces.

    Users one after the other, each one's mail in time order without duplicates. With --json one
    object a line: user, tokens, opens, closes (whether <s> stands before and </s> after).
    """
    from builders.build import unique
    from builders.prepare import Prepared, Settings, prepare

    vocabulary = Vocabulary.load(vocab)
    settings = Settings(languages=_list(languages), keep=_list(keep))
    users: dict[str, list[Prepared]] = {}
    for owner, message in _messages(sources, user, me, user_from):
        outcome = prepare(message, owner, vocabulary, settings)
        if isinstance(outcome, Prepared):
            users.setdefault(owner, []).append(outcome)
    for owner, mail in sorted(users.items()):
        for sequence in (s for message in unique(mail)[0] for s in message.sequences):
            tokens = [vocabulary.token(i) for i in sequence.ids]
            if json:
                print_json(
                    {
                        "user": owner,
                        "tokens": tokens,
                        "opens": sequence.opens,
                        "closes": sequence.closes,
                    }
                )
            else:
                sys.stdout.write(" ".join(tokens) + "\n")


def _messages(
    sources: list[Path],
    user: str | None,
    me: list[str] | None,
    user_from: UserFrom,
    *,
    everybody: bool = False,
) -> Iterator[tuple[str, Message]]:
    """Yield the messages that users sent, with the user; of ``everybody``, all messages."""
    from builders.prepare import Skip
    from builders.read import read

    unreadable: list[Unreadable] = []
    with _progress(quiet=True) as progress:
        router = _router(sources, user, me, user_from, progress)
    for source in sources:
        for message in read(source, on_error=unreadable.append):
            owner = router.user(message, source)
            if not isinstance(owner, Skip):
                yield owner, message
            elif everybody:
                yield "", message
    _warn_unreadable(unreadable)


def _router(
    sources: list[Path],
    user: str | None,
    me: list[str] | None,
    user_from: UserFrom,
    progress: _Progress,
) -> Router:
    from builders.routing import Router

    if me and user is None:
        raise ArgumentError("--me needs --user: whose addresses are they?")
    if user is not None and user_from is UserFrom.FILE:
        raise ArgumentError("--user and --user-from file exclude each other")
    router = Router.for_sources(
        sources,
        user=user,
        me=me or (),
        by_file=user_from is UserFrom.FILE,
        progress=progress,
    )
    for line in router.explanation():
        stderr.print(line, highlight=False, markup=False)
    return router


class _Progress:
    """A progress bar as ``builders.run`` wants one."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=None)

    def stage(self, name: str, total: int) -> None:
        self._bar.reset(self._task, description=name, total=total)

    def advance(self, amount: int) -> None:
        self._bar.advance(self._task, amount)


@contextmanager
def _progress(quiet: bool) -> Iterator[_Progress]:
    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=stderr, disable=quiet) as bar:
        yield _Progress(bar)


def _summarize(report: Report) -> None:
    facts = report.as_json()
    table = Table("user", "status", "generation", "messages", "tokens", "n-grams", "bytes")
    largest = sorted(report.users, key=lambda u: -u.tokens)
    for u in largest[:SHOWN_USERS]:
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
    if len(largest) > SHOWN_USERS:
        stdout.print(f"and {len(largest) - SHOWN_USERS} more users (--report FILE lists all)")
    skipped = ", ".join(f"{n} {reason}" for reason, n in sorted(facts["skipped"].items()) if n)
    stdout.print(
        f"{report.messages} messages read, {len(report.unreadable)} unreadable; "
        f"not learned from: {skipped or 'none'}"
    )
    stdout.print(
        f"{facts['published']} of {len(report.users)} users published, {report.tokens} tokens; "
        f"reading {report.reading_seconds:.1f} s, building {report.building_seconds:.1f} s "
        f"({facts['messages_per_second']:.0f} messages/s, {facts['tokens_per_second']:.0f} "
        "tokens/s)"
    )
    _warn_unreadable(report.unreadable)


def _warn_unreadable(unreadable: list[Unreadable]) -> None:
    for one in unreadable[:10]:
        stderr.print(f"unreadable: {one.position}: {one.reason}", highlight=False, markup=False)
    if len(unreadable) > 10:
        stderr.print(f"and {len(unreadable) - 10} more unreadable messages")


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
