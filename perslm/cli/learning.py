"""``perslm learn``, and what the service learns messages by: the cleaning of a build."""

from __future__ import annotations

import json as parser
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perslm.cli.common import JsonOption, StoreOption, add_command, print_json, stderr
from perslm.errors import ArgumentError, MissingExtraError, SourceError
from perslm.store import Pending, open_store

if TYPE_CHECKING:
    from perslm.vocabulary import Sequence, Vocabulary

_SHOWN = {
    "learned": "learned: it counts from now on",
    "known": "nothing to do: it was learned already",
    "opted_out": "nothing was kept: the user has opted out",
}
_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True)
class Prepare:
    """Makes of a message's fields what counts of it, as a build with these settings would."""

    languages: tuple[str, ...] = ("en",)
    keep: tuple[str, ...] = ()

    def __call__(
        self, fields: Mapping[str, object], user: str, vocabulary: Vocabulary
    ) -> Pending | str:
        """Return what counts of a message, or a word for why nothing does.

        ``fields`` are those of a line of a JSON lines source. Raises ArgumentError if they hold no
        message, MissingExtraError without ``perslm[builders]``.
        """
        try:
            from builders.hygiene import MOST_TOKENS
            from builders.message import Message
            from builders.prepare import Settings, Skip, prepare
            from builders.read.records import parse_record
        except ModuleNotFoundError as error:
            raise MissingExtraError("learning messages", "builders") from error
        message = parse_record(fields, "the message")
        if not isinstance(message, Message):
            raise ArgumentError(
                f"this is no message ({message}): send body, or raw, and what else is known of it"
            )
        settings = Settings(languages=self.languages, keep=self.keep)
        prepared = prepare(message, user, vocabulary, settings)
        if isinstance(prepared, Skip):
            return str(prepared)
        mark = prepared.digests[0] if prepared.digests else _digest(prepared.sequences)
        sequences = _beginning(prepared.sequences, MOST_TOKENS)
        return Pending(mark, prepared.when, prepared.digests, sequences)


def _beginning(sequences: Iterable[Sequence], most: int) -> tuple[Sequence, ...]:
    """Return the first ``most`` tokens: a build counts no more of a message either."""
    kept = []
    for sequence in sequences:
        if most <= 0:
            break
        whole = len(sequence.ids) <= most
        kept.append(sequence if whole else sequence._replace(ids=sequence.ids[:most], closes=False))
        most -= len(sequence.ids)
    return tuple(kept)


def listed(text: str) -> tuple[str, ...]:
    """Return what an option names, separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def register(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    add_command(
        app,
        learn,
        "perslm learn engineer@example.com sent.eml",
        "perslm learn engineer@example.com --json < message.json",
    )


def learn(
    user: Annotated[str, typer.Argument(help="Who wrote it.")],
    file: Annotated[
        Path | None,
        typer.Argument(
            help="One message: RFC 822 (.eml), a JSON object with the fields of a line of a JSON "
            "lines source, or plain text. By default standard input.",
        ),
    ] = None,
    languages: Annotated[
        str, typer.Option(help="Languages to learn, as those of perslm build.")
    ] = "en",
    keep: Annotated[str, typer.Option(help="Zones to keep, as those of perslm build.")] = "",
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Learn a message that was just sent: it counts at once, until a build counts it with all.

    It is cleaned as a build cleans, for the vocabulary of the user's model, or of the last build if
    there is none. The same message twice is learned once, by its Message-ID, or else by what it
    says.

    With --json: status (learned, known, nothing or opted_out) and reason.
    """
    from perslm.learning import Vocabularies
    from perslm.learning import learn as learn_message

    prepare = Prepare(listed(languages), listed(keep))
    fields = _fields(_read(file))
    with open_store(store, patient=True) as opened:
        learned = learn_message(opened, user, partial(prepare, fields), Vocabularies())
    if json:
        print_json({"status": learned.status, "reason": learned.reason})
    else:
        nothing = f"nothing to learn in it: {learned.reason.replace('_', ' ')}"
        stderr.print(_SHOWN.get(learned.status, nothing))


def _read(file: Path | None) -> bytes:
    data = sys.stdin.buffer.read(_LIMIT + 1) if file is None else file.read_bytes()
    if len(data) > _LIMIT:
        raise SourceError(str(file or "standard input"), "is too large", "give one message")
    return data


def _fields(data: bytes) -> dict[str, Any]:
    """Return the fields of a message in any of the three forms."""
    start = data.lstrip()
    if start.startswith(b"{"):
        try:
            fields = parser.loads(start)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise ArgumentError("this is not one JSON object: give a line of JSON lines")
        return fields
    first = start.partition(b"\n")[0]
    name, colon, _ = first.partition(b":")
    if colon and name.replace(b"-", b"").isalnum() and b"\n" in start:
        return {"raw": data}
    return {"body": data.decode("utf-8", "replace")}


def _digest(sequences: Iterable[Sequence]) -> bytes:
    digest = blake2b(digest_size=16)
    for sequence in sequences:
        digest.update(bytes((sequence.opens, sequence.closes)))
        digest.update(b",".join(b"%d" % i for i in sequence.ids))
    return digest.digest()
