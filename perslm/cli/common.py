"""What several commands share: consoles, options, files, and the opening of stores."""

from __future__ import annotations

import errno
import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from perslm._files import replacing
from perslm.errors import NoModelError, VocabularyError
from perslm.learned import current
from perslm.model import DEFAULT_ESTIMATOR, PersonalModel, check_estimator
from perslm.store import Store, open_store
from perslm.vocabulary import Vocabulary

# No markup: file names and user ids may hold brackets.
stdout = Console(soft_wrap=True, markup=False, highlight=False)
stderr = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        envvar="PERSLM_STORE",
        help="embedded: (the default: a server of our own, data under your user data directory), "
        "embedded:DIRECTORY, redis://HOST:PORT/DB, rediss://…, unix://SOCKET or "
        "redis+cluster://HOST:PORT.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
UserArgument = Annotated[
    str, typer.Argument(metavar="USER", help="The user's id; perslm users lists them.")
]
WeightOption = Annotated[
    float | None,
    typer.Option("--weight", min=0, max=1, help="λ, the share of the personal model in a mixture."),
]
EstimatorOption = Annotated[
    str,
    typer.Option(
        "--estimator",
        metavar="NAME",
        help="How counts become probabilities: backoff, katz, witten_bell, absolute or kneser_ney.",
    ),
]


def add_command(
    app: typer.Typer, command: Callable[..., None], *examples: str, name: str | None = None
) -> None:
    """Add ``command`` to ``app``: its docstring is the help, ``examples`` stand below it."""
    app.command(name, **explained(command, *examples))(command)


def explained(command: Callable[..., None], *examples: str) -> dict[str, Any]:
    """Return the arguments of Typer that make a docstring the help, with examples below it."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    shown = "\n\n".join(("Examples:", *(f"  {example}" for example in examples)))
    return {
        "help": "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs),
        "epilog": shown if examples else None,
    }


def print_json(value: Any) -> None:
    """Print one JSON value on one line; numbers that JSON does not have become null."""
    readable = (sys.stdout.encoding or "").lower().startswith("utf")
    json.dump(finite(value), sys.stdout, ensure_ascii=not readable)
    sys.stdout.write("\n")


def finite(value: Any) -> Any:
    """Return a JSON value whose numbers JSON has: others become None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value


def load_model(store: Store, user: str, estimator: str = DEFAULT_ESTIMATOR) -> PersonalModel:
    """Return the user's model.

    Raises ArgumentError for an unknown estimator, NoModelError, BlobError or StoreUnavailableError.
    """
    model = store.load(user, estimator=check_estimator(estimator), strict=True)
    assert isinstance(model, PersonalModel)
    return model


def read_model(store: Store, user: str, estimator: str) -> tuple[bytes, PersonalModel, Vocabulary]:
    """Return the blob of a user's model as readers see it, the model, and its vocabulary.

    For commands that show what is in it; others :func:`load_model`. Raises as that does.
    """
    stored = store.fetch(user)
    if stored is None:
        raise no_model()
    data = current(stored, store.rules(None))
    model = PersonalModel.from_blob(
        data, generation=stored.generation, estimator=check_estimator(estimator)
    )
    return data, model, load_vocabulary(store, model)


def load_vocabulary(store: Store, model: PersonalModel) -> Vocabulary:
    """Return the vocabulary that a model was built with, which every build leaves in the store."""
    data = store.vocabulary(model.vocabulary_fingerprint)
    if data is None:
        raise VocabularyError(
            f"the store does not hold vocabulary {model.vocabulary_fingerprint}: run perslm build "
            "with it once more"
        )
    return Vocabulary.from_bytes(data)


def open_model(
    url: str | None, user: str, estimator: str = DEFAULT_ESTIMATOR
) -> tuple[PersonalModel, Vocabulary]:
    """Return a user's model and its vocabulary from the store at ``url``."""
    with open_store(url) as store:
        model = load_model(store, user, estimator)
        return model, load_vocabulary(store, model)


def no_model() -> NoModelError:
    """Return the error for a user without a model, with the remedy."""
    return NoModelError("the user has no model: perslm users lists those that have one")


def check_writable(path: Path) -> None:
    """Raise OSError now, rather than after hours of work, if ``path`` cannot be written."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not _is_special(path):
        target = path.resolve()
        temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
        with _naming(path):
            temporary.touch()
            temporary.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file wholly or not at all; pipes and devices are written to. Raises OSError."""
    if _is_special(path):
        path.write_bytes(data)
        return
    with _naming(path), replacing(path, 0o666) as file:
        file.write(data)


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Make an OSError name the file that was asked for, not the temporary one."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
