"""Speed of a build on Spark, beside the local runner on the same mail and the same cores.

    python -m tests.benchmarks.spark [--json] [--cores N] [--copies N]

Reads the measuring data where it is present (PERSLM_SHARED), else mail that is made up; of it
``--copies``, as other messages of the same people. Each runner builds into an empty embedded store,
Spark twice: the second time its processes are warm. The seconds that Spark takes to start are told
apart.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import pyspark

from builders.prepare import Settings
from builders.report import Report
from builders.routing import Router
from builders.run import build, count_words
from builders.spark import Target, Whose, session
from builders.spark import build as build_on_spark
from perslm.store import open_store
from perslm.vocabulary import Vocabulary
from tests.spark.mail import NAMES, Silent, records, write_lines
from tests.support import SHARED


def copied(sources: list[Path], copies: int, folder: Path) -> list[Path]:
    """Write all mail ``copies`` times, each as messages of their own, as JSON lines."""
    found = []
    for source in sources:
        path = folder / source.name.removesuffix(".gz")
        opened = gzip.open if source.suffix == ".gz" else open
        with opened(source, "rb") as file:
            lines = [json.loads(line) for line in file]
        with path.open("w") as file:
            for n in range(copies):
                for i, record in enumerate(lines):
                    body = f"{record['body']}\n\nThis was copy {n} of {i}.\n"
                    mine = {**record, "message_id": f"<{n}-{i}-{path.name}>", "body": body}
                    file.write(json.dumps(mine) + "\n")
        found.append(path)
    return found


def local(sources: list[Path], vocabulary: Vocabulary, cores: int) -> dict[str, object]:
    began = time.monotonic()
    report = Report([])
    with tempfile.TemporaryDirectory() as folder, open_store(f"embedded:{folder}") as store:
        router = Router.for_sources(sources, user=None, me=(), by_file=False, progress=Silent())
        build(
            sources,
            store=store,
            vocabulary=vocabulary,
            router=router,
            settings=Settings(),
            jobs=cores,
            progress=Silent(),
            report=report,
        )
    return row(f"local, {cores} jobs", report, time.monotonic() - began)


def on_spark(sources: list[Path], vocabulary: Vocabulary, cores: int) -> list[dict[str, object]]:
    rows = []
    began = time.monotonic()
    with session(f"local[{cores}]") as spark:
        starting = time.monotonic() - began
        for name in ("cold", "warm"):
            began = time.monotonic()
            report = Report([])
            with tempfile.TemporaryDirectory() as folder, open_store(f"embedded:{folder}") as store:
                build_on_spark(
                    spark,
                    [str(source) for source in sources],
                    store=store,
                    target=Target(f"embedded:{folder}"),
                    vocabulary=vocabulary,
                    whose=Whose(),
                    settings=Settings(),
                    progress=Silent(),
                    report=report,
                )
            rows.append(row(f"Spark, local[{cores}], {name}", report, time.monotonic() - began))
    return [{"runner": "Spark starts", "seconds": starting}, *rows]


def row(name: str, report: Report, seconds: float) -> dict[str, object]:
    return {
        "runner": name,
        "messages": report.messages,
        "users": len(report.users),
        "tokens": report.tokens,
        "seconds": seconds,
        "messages_per_second": report.messages / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--copies", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mail = Path(folder)
        if (SHARED / "data").exists():
            sources = sorted((SHARED / "data/enron_dev").glob("*.jsonl.gz"))
        else:
            made_up = records(NAMES, 200)
            sources = [write_lines(mail / "made-up.jsonl.gz", made_up)]
        sources = copied(sources, arguments.copies, mail)
        words = count_words(
            sources,
            min_users=1,
            router=Router(),
            settings=Settings(),
            jobs=arguments.cores,
            progress=Silent(),
            report=Report([]),
        )
        vocabulary = words.vocabulary(50_000)
        rows = [
            local(sources, vocabulary, arguments.cores),
            *on_spark(sources, vocabulary, arguments.cores),
        ]
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    versions = f"Python {platform.python_version()}, pyspark {pyspark.__version__}"
    if arguments.json:
        print(json.dumps({"machine": machine, "versions": versions, "rows": rows}))
        return
    print(f"{machine}; {versions}")
    print(f"{'runner':24} {'messages':>9} {'users':>6} {'seconds':>8} {'msg/s':>7}")
    for r in rows:
        print(f"{r['runner']:24} {r.get('messages', ''):>9} {r.get('users', ''):>6} ", end="")
        print(f"{r['seconds']:8.1f} {r.get('messages_per_second', 0):7.0f}")


if __name__ == "__main__":
    main()
