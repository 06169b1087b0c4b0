"""Commands that read mail but build nothing: vocabularies, and looks at what a build would see.

What they share with ``perslm build`` (``perslm.cli.nightly``): options, and whose mail is whose.
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perslm.cli.common import (
    JsonOption,
    add_command,
    check_writable,
    print_json,
    stderr,
    stdout,
    write_bytes,
)
from perslm.cli.progress import show_progress
from perslm.errors import ArgumentError
from perslm.vocabulary import Vocabulary

if TYPE_CHECKING:
    from builders.read import Unreadable
    from builders.routing import Progress, Router

SHOWN = 20
"""Lines on whose mail is whose."""

Sources = Annotated[
    list[Path],
    typer.Argument(
        metavar="SOURCE",
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
        "user of a message is, in this order: the `user` field of its record; the address of who "
        "wrote it; the name of the file, if it does not say who wrote it.",
    ),
]
MeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--me",
        metavar="ADDRESS",
        help="With --user: an address that the person sends from (repeat for aliases). Without it "
        "the address is USER, if it is one, or else inferred: who takes part in most of the mail.",
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
        "signature, … (perslm clean names the kinds it removes).",
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
    add_command(
        vocab,
        vocab_build,
        "perslm vocab build mail/*.mbox --user-from file -o vocab.json",
        "perslm vocab build sent.mbox --user me --min-users 1 -o vocab.json",
        name="build",
    )
    add_command(
        vocab,
        vocab_import,
        "perslm vocab import tokenizer.json -o vocab.json",
        "perslm vocab import smollm2 -o vocab.json",
        "perslm vocab import tokenizer.json --bos '<|begin|>' --eos '<|end|>' -o vocab.json",
        name="import",
    )
    app.add_typer(vocab, name="vocab")
    add_command(
        app,
        clean,
        "perslm clean sent.mbox | less",
        "perslm clean sent.mbox --user me --keep greeting,close --json",
    )
    add_command(
        app,
        tokenize,
        "perslm tokenize sent.mbox --user me --vocab vocab.json | head",
    )


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
    from builders.report import Report
    from builders.run import count_words

    settings = Settings(languages=split_list(languages), keep=split_list(keep))
    report = Report([str(s) for s in sources])
    check_writable(output)
    with show_progress(quiet=json) as progress:
        router = make_router(sources, user, me, user_from, progress)
        counter = count_words(
            sources,
            min_users=min_users,
            router=router,
            settings=settings,
            jobs=jobs or cores(),
            progress=progress,
            report=report,
        )
    vocabulary = counter.vocabulary(size)
    write_bytes(output, vocabulary.to_bytes())
    facts = {
        "output": str(output),
        "size": vocabulary.size,
        "fingerprint": vocabulary.fingerprint,
        "messages": report.messages,
        "unreadable": len(report.unreadable),
    }
    warn_unreadable(report.unreadable)
    if json:
        print_json(facts)
        return
    stdout.print(
        f"{output}: {vocabulary.size} tokens from {report.messages} messages, "
        f"fingerprint {vocabulary.fingerprint}"
    )


def vocab_import(
    tokenizer: Annotated[
        str,
        typer.Argument(
            metavar="TOKENIZER_JSON|LM",
            help="A Hugging Face tokenizer.json, or a global LM as perslm suggest names them: "
            "smollm2, hf:DIRECTORY, arpa:FILE, pocketsphinx.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    bos: Annotated[str | None, typer.Option(help="The token that opens a text.")] = None,
    eos: Annotated[str | None, typer.Option(help="The token that closes a text.")] = None,
    json: JsonOption = False,
) -> None:
    """Take over the tokenizer of the global LM, so that models speak its very ids."""
    from perslm.global_lm import is_spec, open_global_lm

    if is_spec(tokenizer):
        if bos is not None or eos is not None:
            raise ArgumentError("--bos and --eos are for a tokenizer.json: an LM knows its own")
        vocabulary = open_global_lm(tokenizer).vocabulary
    else:
        vocabulary = Vocabulary.from_tokenizer_json(tokenizer, bos=bos, eos=eos)
    write_bytes(output, vocabulary.to_bytes())
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


def clean(
    sources: Sources,
    user: UserOption = None,
    me: MeOption = None,
    user_from: UserFromOption = UserFrom.AUTO,
    keep: KeepOption = "",
    json: JsonOption = False,
) -> None:
    """Show what a build takes from each message: the kept text, and the zones it removes.

    All messages are shown; with --user or --user-from file only those that the user sent. The
    language gate comes after this.

    With --json one object a line: message_id, text, and zones with kind, start and end in the body.
    """
    from builders.prepare import Settings, Skip, cleaned
    from builders.read import read

    settings = Settings(keep=split_list(keep))
    router = None
    if user is not None or me or user_from is UserFrom.FILE:
        with show_progress(quiet=True) as progress:
            router = make_router(sources, user, me, user_from, progress)
    unreadable: list[Unreadable] = []
    for source in sources:
        for message in read(source, on_error=unreadable.append):
            if router is not None and isinstance(router.user(message, source), Skip):
                continue
            own = cleaned(message, settings.keep)
            if json:
                zones = [{"kind": z.kind, "start": z.start, "end": z.end} for z in own.zones]
                print_json({"message_id": message.message_id, "text": own.text, "zones": zones})
                continue
            removed = ", ".join(f"{z.kind} {z.start}-{z.end}" for z in own.zones)
            stdout.rule(message.position, style="dim")
            stdout.print(own.text)
            stdout.print(f"removed: {removed or 'nothing'}", style="dim")
    warn_unreadable(unreadable)


def tokenize(
    sources: Sources,
    vocab: VocabOption,
    user: UserOption = None,
    me: MeOption = None,
    user_from: UserFromOption = UserFrom.AUTO,
    languages: LanguagesOption = "en",
    keep: KeepOption = "",
    jobs: JobsOption = None,
    json: JsonOption = False,
) -> None:
    """Print the sentences that the counts of a build see, one a line, tokens separated by spaces.

    Users come one after the other, each one's mail in time order without duplicates.

    With --json one object a line: user, tokens, opens, closes (whether <s> stands before and </s>
    after).
    """
    from builders.prepare import Settings
    from builders.report import Report
    from builders.run import sequences

    vocabulary = Vocabulary.load(vocab)
    settings = Settings(languages=split_list(languages), keep=split_list(keep))
    report = Report([str(s) for s in sources])
    with show_progress(quiet=True) as progress:
        found = sequences(
            sources,
            vocabulary=vocabulary,
            router=make_router(sources, user, me, user_from, progress),
            settings=settings,
            jobs=jobs or cores(),
            progress=progress,
            report=report,
        )
        for owner, (ids, opens, closes) in found:
            tokens = [vocabulary.token(i) for i in ids]
            if json:
                print_json({"user": owner, "tokens": tokens, "opens": opens, "closes": closes})
            else:
                sys.stdout.write(" ".join(tokens) + "\n")
    warn_unreadable(report.unreadable)


def make_router(
    sources: list[Path],
    user: str | None,
    me: list[str] | None,
    user_from: UserFrom,
    progress: Progress,
) -> Router:
    """Return who a message counts for, by these options, and say whom it took for whom."""
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
    explain(router)
    return router


def explain(router: Router) -> None:
    """Say whom a router took for whom."""
    lines = list(router.explanation())
    for line in lines[:SHOWN]:
        stderr.print(line)
    if len(lines) > SHOWN:
        stderr.print(f"and {len(lines) - SHOWN} more people whose addresses were inferred")


def warn_unreadable(unreadable: list[Unreadable], count: int | None = None) -> None:
    """Say which messages could not be read, the first few of ``count`` (None: all are given)."""
    for one in unreadable[:10]:
        stderr.print(f"unreadable: {one.position}: {one.reason}")
    more = (len(unreadable) if count is None else count) - 10
    if more > 0:
        stderr.print(f"and {more} more unreadable messages")


def split_list(text: str) -> tuple[str, ...]:
    """Return the parts of an option that are separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def cores() -> int:
    """Return how many processes can run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
