"""What a nightly build costs: speed by core, users skipped, and memory, on mail made up here.

    python -m tests.benchmarks.nights [--users N] [--messages N] [--json]

Makes a company's mail (the first user has a quarter of all), builds it, and builds again: from the
same source, from no source, and with one new message a hundred users. Seconds are those of the
CPU, so that they mean the same on a busy machine; the server's are not among them. Each build is a
process of its own, whose peak memory is measured; so is that of the largest user's messages.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from builders.ledgers import open_ledger
from builders.prepare import Settings
from builders.report import Report
from builders.routing import Router
from builders.run import build
from perslm.store import open_store
from perslm.vocabulary import Vocabulary

WORDS = [
    f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "rt", "st", "ly", "m")
]
VOCABULARY = Vocabulary.from_words(["the", "and", "to", "of", "a", "I", "we", ".", *WORDS])


class _Silent:
    def stage(self, name: str, total: int) -> None:
        pass

    def advance(self, amount: int) -> None:
        pass


def company(users: int, messages: int) -> Iterator[dict[str, str]]:
    """Yield mail of so many users; the first has written a quarter of it."""
    random = Random(5)
    for number in range(messages):
        user = number % users if number < users or number % 4 else 0
        sentences = (
            " ".join(random.choices(("the", "and", "to", "we"), k=3) + random.choices(WORDS, k=5))
            for _ in range(8)
        )
        yield {
            "message_id": f"<{number}@example.org>",
            "from": f"user{user}@example.org",
            "date": f"2025-{number % 12 + 1:02d}-{number % 28 + 1:02d}T10:{number % 60:02d}:00Z",
            "subject": "made up",
            "body": ".\n".join(s.capitalize() for s in sentences) + ".",
        }


def night(sources: list[Path], url: str, folder: Path) -> dict[str, float]:
    """Build once, in this process, and return what it cost."""
    report = Report([], on_user=lambda result: None)
    settings = Settings(languages=("all",))
    began, cpu = time.monotonic(), time.process_time()
    with open_store(url) as store:
        store.ping()
        began, cpu = time.monotonic(), time.process_time()
        with open_ledger(folder, VOCABULARY.fingerprint, settings) as ledger:
            build(
                sources,
                store=store,
                vocabulary=VOCABULARY,
                router=Router(),
                settings=settings,
                jobs=1,
                progress=_Silent(),
                report=report,
                ledger=ledger,
            )
        wall, cpu = time.monotonic() - began, time.process_time() - cpu
    return {
        "users": report.statuses.total(),
        "published": report.statuses["published"],
        "messages": report.messages,
        "wall": wall,
        "cpu": cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def apart(*arguments: str) -> dict[str, float]:
    """Run :func:`night` in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.nights", "--night", *arguments]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=-1).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=30_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--night", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.night:
        url, folder, *sources = arguments.night
        print(json.dumps(night([Path(s) for s in sources], url, Path(folder))))
        return
    with tempfile.TemporaryDirectory() as folder, open_store(f"embedded:{folder}/store") as store:
        store.ping()
        all_mail, new_mail = Path(folder) / "all.jsonl", Path(folder) / "new.jsonl"
        largest = 0
        with all_mail.open("w") as file:
            for record in company(arguments.users, arguments.messages):
                line = json.dumps(record) + "\n"
                largest += len(line) if record["from"].startswith("user0@") else 0
                file.write(line)
        with new_mail.open("w") as file:
            for number, record in enumerate(company(arguments.users, arguments.users // 100)):
                new = f"new {number}"
                record |= {"message_id": f"<{new}@example.org>", "subject": new}
                file.write(json.dumps(record) + "\n")
        size = all_mail.stat().st_size
        place = (f"embedded:{folder}/store", f"{folder}/ledger")
        rows = {
            "first": apart(*place, str(all_mail)),
            "same source": apart(*place, str(all_mail)),
            "no source": apart(*place),
            "some new mail": apart(*place, str(new_mail)),
        }
        ledger = sum(p.stat().st_size for p in (Path(folder) / "ledger").iterdir())
    if arguments.json:
        print(json.dumps({"rows": rows, "source": size, "largest": largest, "ledger": ledger}))
        return
    print(
        f"{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}; 1 job"
    )
    print(f"mail {size / 2**20:.0f} MiB, of the largest user {largest / 2**20:.1f} MiB; ", end="")
    print(f"ledger {ledger / max(1, arguments.messages):.0f} bytes a message")
    print(
        f"{'build':14} {'users':>8} {'published':>9} {'messages':>9} {'wall s':>7} {'CPU s':>7} ",
        end="",
    )
    print(f"{'users/CPU s':>11} {'msg/CPU s':>10} {'peak MiB':>8}")
    for name, r in rows.items():
        print(f"{name:14} {r['users']:8} {r['published']:9} {r['messages']:9} ", end="")
        print(f"{r['wall']:7.1f} {r['cpu']:7.1f} {r['users'] / r['cpu']:11.0f} ", end="")
        print(f"{r['messages'] / r['cpu']:10.0f} {r['peak_mib']:8.0f}")


if __name__ == "__main__":
    main()
