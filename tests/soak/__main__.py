"""``python -m tests.soak [--seconds 600] [--seed N] [--json FILE]``; exit code 1 on a violation."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from dataclasses import asdict
from pathlib import Path

from tests.soak.run import Plan, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long things break")
    parser.add_argument("--seed", type=int, default=None, help="repeats a schedule")
    parser.add_argument("--users", type=int, default=Plan.users)
    parser.add_argument("--fault", action="append", default=[], help="only faults of these names")
    parser.add_argument("--json", type=Path, help="a file for the report")
    given = parser.parse_args()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    report = run(Plan(given.seconds, seed, given.users, faults=tuple(given.fault)))
    print(report.text())
    if given.json is not None:
        given.json.write_text(json.dumps(asdict(report), indent=1))
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
