"""Speed of a whole build: sources to published models in a real store.

    python -m tests.benchmarks.build [--json] [--jobs N]

Reads the fixture mail, and the measuring data where it is present (PERSLM_SHARED). Each source is
built into an empty embedded store; reading and building are timed apart. Messages and tokens per
second are for all processes together.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np

from builders.prepare import Settings
from builders.report import Report
from builders.routing import Router
from builders.run import build, count_words
from perslm.store import open_store
from tests.support import FIXTURES, SHARED


class _Silent:
    def stage(self, name: str, total: int) -> None:
        pass

    def advance(self, amount: int) -> None:
        pass


def measure(name: str, sources: list[Path], jobs: int) -> dict[str, object]:
    settings, progress = Settings(), _Silent()
    router = Router()
    words = count_words(
        sources,
        min_users=1,
        router=router,
        settings=settings,
        jobs=jobs,
        progress=progress,
        report=Report([]),
    )
    vocabulary = words.vocabulary(50_000)
    report = Report([name])
    with tempfile.TemporaryDirectory() as folder, open_store(f"embedded:{folder}") as store:
        build(
            sources,
            store=store,
            vocabulary=vocabulary,
            router=router,
            settings=settings,
            jobs=jobs,
            progress=progress,
            report=report,
        )
    seconds = report.reading_seconds + report.building_seconds
    return {
        "source": name,
        "messages": report.messages,
        "tokens": report.tokens,
        "users": len(report.users),
        "ngrams": sum(sum(u.ngrams) for u in report.users),
        "bytes": sum(u.bytes for u in report.users),
        "reading_seconds": report.reading_seconds,
        "building_seconds": report.building_seconds,
        "messages_per_second": report.messages / seconds,
        "tokens_per_second": report.tokens / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    cases = {"fixtures": sorted(p for p in (FIXTURES / "mail").iterdir() if p.suffix != ".json")}
    if (SHARED / "data").exists():
        cases["enron_dev (JSON lines)"] = sorted((SHARED / "data/enron_dev").glob("*.jsonl.gz"))
        cases["ksummit (mbox)"] = [SHARED / "data/ksummit.mbox.gz"]
    else:
        print("measuring data absent: fixtures only (set PERSLM_SHARED)", file=sys.stderr)
    rows = [measure(name, sources, arguments.jobs) for name, sources in cases.items()]
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    versions = f"Python {platform.python_version()}, numpy {np.__version__}"
    if arguments.json:
        print(json.dumps({"machine": machine, "versions": versions, "rows": rows}))
        return
    print(f"{machine}; {versions}; {arguments.jobs} job(s)")
    print(f"{'source':24} {'messages':>8} {'tokens':>8} {'read s':>7} {'build s':>7} ", end="")
    print(f"{'msg/s':>7} {'tok/s':>8} {'bytes/n-gram':>12}")
    for r in rows:
        print(f"{r['source']:24} {r['messages']:8} {r['tokens']:8} ", end="")
        print(f"{r['reading_seconds']:7.2f} {r['building_seconds']:7.2f} ", end="")
        print(f"{r['messages_per_second']:7.0f} {r['tokens_per_second']:8.0f} ", end="")
        print(f"{r['bytes'] / max(1, r['ngrams']):12.2f}")


if __name__ == "__main__":
    main()
