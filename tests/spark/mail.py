"""Mail for these tests, in every form that the Spark runner reads, and what to compare."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from builders.prepare import Settings
from builders.report import Report, Status
from builders.routing import Router
from builders.run import build as build_locally
from perslm.store import Store
from perslm.vocabulary import Vocabulary

NAMES = ["ann", "bob", "cy", "dora", "eve", "fritz", "gus", "hal", "ida", "jo", "kim", "leo"]
TEXT = """we meet on Monday and I bring the cake for everybody at the office so please call before
noon if your train is late again because room closes early this week"""
LEXICON = list(dict.fromkeys(TEXT.split()))
WORDS = Vocabulary.from_words([*LEXICON, "."])
BEGIN = datetime(2025, 1, 6, 9, tzinfo=UTC)
SETTINGS = Settings()


class Silent:
    """Progress that nobody sees."""

    def stage(self, name: str, total: int) -> None:
        pass

    def advance(self, amount: int) -> None:
        pass


def records(
    people: list[str], mails: int, *, seed: int = 0, ids: bool = False
) -> list[dict[str, Any]]:
    """``mails`` of each person; the first person writes as many as all others together.

    With ``ids`` the user of a record is an id that is no address, and some mail was received.
    """
    random = Random(seed)
    found = []
    for person in people:
        for i in range(mails * (len(people) - 1 if person == people[0] else 1)):
            address = f"{person}@example.org"
            sentences = (
                " ".join(random.choices(LEXICON, k=random.randint(6, 14))) for _ in range(4)
            )
            record = {
                "message_id": f"<{seed}-{person}-{i}@example.org>",
                "from": address,
                "to": ["Zoe Doe <zoe@example.net>"],
                "date": (BEGIN + timedelta(hours=len(found))).isoformat(),
                "body": "".join(f"{s.capitalize()}.\n" for s in sentences),
            }
            if ids:
                record["user"] = f"{person}-7"
                if i % 3 == 2:
                    record["from"], record["to"] = "zoe@example.net", [address]
            found.append(record)
    random.shuffle(found)
    return found


def write_lines(path: Path, found: list[dict[str, Any]]) -> Path:
    data = "".join(json.dumps(record) + "\n" for record in found).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_parquet(path: Path, found: list[dict[str, Any]], *, unit: str = "us") -> Path:
    """Write records with dates in ``unit``; nanoseconds are what pandas writes."""
    rows = [{**r, "date": datetime.fromisoformat(r["date"]), "other": 1} for r in found]
    table = pa.Table.from_pylist(rows)
    at = table.schema.get_field_index("date")
    table = table.set_column(at, "date", table["date"].cast(pa.timestamp(unit, "UTC")))
    pq.write_table(table, path)
    return path


def local(store: Store, sources: list[Path], router: Router | None = None) -> Report:
    """Build with the local runner."""
    report = Report([str(s) for s in sources])
    build_locally(
        sources,
        store=store,
        vocabulary=WORDS,
        router=router or Router(),
        settings=SETTINGS,
        jobs=1,
        progress=Silent(),
        report=report,
    )
    return report


def statuses(report: Report) -> dict[str, Status]:
    return {result.user: result.status for result in report.users}


def blobs(store: Store) -> dict[str, bytes]:
    """Every user's blob."""
    stored = {user: store.fetch(user) for user in store.users()}
    return {user: found.blob for user, found in stored.items() if found is not None}
