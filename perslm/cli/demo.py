"""``perslm demo``: the whole way once, from mailboxes to a personalised beam over HTTP.

Real parts throughout: the builders, the embedded store and the service are those of production.
Only the global LM is a stand-in: a model of everybody else's mail (``perslm.beam.PooledModel``), so
that, like a neural one, it has not seen the user's.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy.typing as npt
import typer
from rich.table import Table

from perslm import backend, blob
from perslm.beam import PooledModel, search
from perslm.cli.common import add_command, stdout
from perslm.counts import Counts, UInt32Array, merge
from perslm.errors import PerslmError, SourceError
from perslm.interpolate import Float32Array
from perslm.model import Candidates, Histories, Scorer, States
from perslm.store import Store, open_store
from perslm.vocabulary import Vocabulary

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "mail"

PROMPTS = {
    "nora-engineer": ["lgtm", "Thanks for", "I'd bet"],
    "ruth-lawyer": ["I should be", "Thank you", "For the"],
    "ines-student": ["To be", "La verdad", "I was"],
    "bea-shopkeeper": ["Give us", "Just a", "No worries"],
    "pavel-five": ["Wood"],
}


WEIGHT = 0.5
"""λ of the demo: more than the default, for the stand-in knows less than a neural LM."""


def register(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    add_command(app, demo, "perslm demo")


def demo(
    mail: Annotated[
        Path, typer.Option(help="The folder of fixture mailboxes, fixtures/mail in the repository.")
    ] = FIXTURES,
) -> None:
    """Build models of five fictional people, serve them, and compare beam searches.

    Everything happens in a temporary folder and takes seconds.
    """
    sources = sorted(p for p in mail.iterdir() if p.suffix != ".json") if mail.is_dir() else []
    if not sources:
        raise SourceError(
            str(mail), "no fixture mailboxes here", "run it in a checkout of the repository"
        )
    with tempfile.TemporaryDirectory(prefix="perslm-demo-") as folder:
        url = f"embedded:{folder}/store"
        with open_store(url) as store:
            vocabulary = _build(sources, store, Path(folder))
            pooled = _pool_others(store)
            with _service(url) as address:
                _compare(address, pooled, vocabulary)
    _what_next()


def _build(sources: list[Path], store: Store, folder: Path) -> Vocabulary:
    """Make the vocabulary and everybody's model, as `perslm vocab build` and `perslm build` do."""
    from perslm.cli import building, nightly

    stdout.rule("1. sent mail to models")
    target = folder / "vocab.json"
    stdout.print(
        "(--min-users 1, for these people are fictional: a shared vocabulary wants 2 or more)"
    )
    from_file = building.UserFrom.FILE
    building.vocab_build(sources, target, min_users=1, user_from=from_file, languages="en,es")
    url = f"embedded:{folder}/store"
    nightly.build(
        target,
        [str(source) for source in sources],
        user_from=from_file,
        languages="en,es",
        ledger=folder / "ledger",
        store=url,
    )
    return Vocabulary.load(folder / "vocab.json")


def _pool_others(store: Store) -> dict[str, PooledModel]:
    """Return, for each user, a global LM that knows everybody's mail but theirs."""
    stored = {user: store.fetch(user) for user in sorted(store.users())}
    known = {user: blob.decode(s.blob).counts for user, s in stored.items() if s is not None}
    # order 2: four people's trigrams would be far surer of themselves than a neural LM is;
    # without what a build cuts: pruned counts do not add
    counts = {user: Counts(c.specials, c.levels).shorten(2) for user, c in known.items()}
    return {
        user: PooledModel(merge([c for other, c in counts.items() if other != user]))
        for user in counts
    }


@contextmanager
def _service(store: str) -> Iterator[str]:
    """Run `perslm serve` on a free port and yield its URL."""
    stdout.rule("2. the scoring service")
    where = ["--http", "127.0.0.1:0", "--store", store]
    command = [sys.executable, "-m", "perslm", "serve", *where, "--weight", str(WEIGHT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = next((w for w in process.stdout.readline().split() if "://" in w), None)
            if address is None:
                raise PerslmError("the service did not start; perslm serve says why")
            stdout.print(f"perslm serve listens on {address}")
            yield address
        finally:
            process.terminate()


class _Timed(Scorer):
    """A scorer that measures what each beam step adds."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.seconds: list[float] = []

    @property
    def reason(self) -> str:
        return self._scorer.reason

    def states(self, histories: Histories) -> UInt32Array:
        return self._scorer.states(histories)

    def weights(
        self,
        states: States,
        positions: npt.ArrayLike | None = None,
        uncertainty: npt.ArrayLike | None = None,
    ) -> Float32Array:
        return self._scorer.weights(states, positions, uncertainty)

    def score(self, states: States, candidates: Candidates) -> tuple[Float32Array, UInt32Array]:
        return self._scorer.score(states, candidates)

    def mix(
        self,
        states: States,
        global_logprobs: Float32Array,
        out: Float32Array | None = None,
        *,
        positions: npt.ArrayLike | None = None,
    ) -> Float32Array:
        began = time.perf_counter()
        mixed = self._scorer.mix(states, global_logprobs, out, positions=positions)
        self.seconds.append(time.perf_counter() - began)
        return mixed


def _compare(address: str, pooled: dict[str, PooledModel], vocabulary: Vocabulary) -> None:
    from perslm.client import Client

    stdout.rule("3. beam search, 8 hypotheses, without and with the user's model")
    table = Table("user", "typed so far", "global LM alone", "with the user's model", "a step")
    everything: list[float] = []
    # no sentence ends here: hypotheses of one length compare fairly
    marks = [i for i in map(vocabulary.id, (".", "!", "?", ",")) if i is not None]
    banned = [*vocabulary.special_ids, *marks]
    with Client(address) as client:
        for user, prompts in PROMPTS.items():
            model = client.model(user, vocabulary=vocabulary)
            for prompt in prompts:
                timed = _Timed(model)
                found = [
                    search(
                        pooled[user],
                        vocabulary.history(prompt),
                        personal=scorer,
                        steps=4,
                        best=1,
                        banned=banned,
                    )[0]
                    for scorer in (None, timed)
                ]
                if model.reason != "ok":
                    raise PerslmError(f"the service answered {model.reason} for {user}")
                texts = [vocabulary.decode(h.ids) for h in found]
                milliseconds = f"{1000 * statistics.median(timed.seconds):.1f} ms"
                table.add_row(user, prompt, *texts, milliseconds)
                everything += timed.seconds
    stdout.print(table)
    everything.sort()
    stdout.print(
        f"{len(everything)} personalised steps over HTTP, scored by the {backend}: median "
        f"{1000 * statistics.median(everything):.1f} ms, 90th percentile "
        f"{1000 * everything[int(0.9 * len(everything))]:.1f} ms"
    )


def _what_next() -> None:
    stdout.rule("with your own mail")
    stdout.print(
        "MAIL is an mbox (a Gmail Takeout, say), a maildir, a folder of .eml or a .jsonl file:\n\n"
        "  perslm vocab build MAIL --user me --min-users 1 --output vocab.json\n"
        "  perslm build MAIL --user me --vocab vocab.json\n"
        '  perslm complete me "Thanks for"\n'
        "  perslm clean MAIL --user me          # what is learned, what is left out\n"
        "  perslm serve                         # http://127.0.0.1:8377/docs\n"
        "  perslm forget me\n",
        highlight=False,
    )
