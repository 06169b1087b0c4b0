"""The page of docs/results out of what ``perslm evaluate`` found, beside what was to be reached.

    python -m tests.benchmarks.results REPORT.json DEFAULT.json docs/results README.md

``make results`` runs all of it. DEFAULT.json is the report of what ``perslm build`` makes if nobody
says otherwise; README.md gets its table. In the folder, tuned.json has the figures of
``tests.benchmarks.finetuned``, which takes an hour and is not run every time. What is written names
nobody and holds no word of anybody's.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from builders.evaluate.page import Table, markdown, page, tables
from perslm.bench.report import replace_table

MARK = "make results"
EVALUATE = "perslm evaluate MAIL/* --user-from file -o DIR --cross-fit --order 5 --min-messages 1"
SUGGEST = "the same with --suggestions N --bfloat16"
BUDGETS = "the same with --budgets 16384"
TUNED = "python -m tests.benchmarks.finetuned MAIL/* --output DIR"
SAME = "the same"
NOT_MEASURED = "not measured"

_ABSENT = ("typing", "hindsight")  # not numbers


def targets(report: dict[str, Any]) -> Table:
    """Return what was to be reached, what was measured, and how."""
    summary = report["summary"]
    everything, ten = summary["amounts"]["all"], summary["amounts"].get("10")
    mean, low, high = (everything["reduction"][key] for key in ("mean", "low", "high"))
    rows = [
        [
            "mean perplexity reduction, personalised over global",
            "≥ 38%",
            f"{mean:.1%} ({100 * low:.0f} – {100 * high:.0f})",
            yes(mean >= 0.38),
            f"`{EVALUATE}`",
        ],
        [
            "people improved / harmed beyond 0.1%",
            "≥ 99% / 0",
            f"{everything['improved']:.0%} / {everything['harmed']:.0%}",
            yes(everything["improved"] >= 0.99 and not everything["harmed"]),
            SAME,
        ],
    ]
    if ten:
        rows += [
            [
                "after 10 messages: mean reduction",
                "≥ 8%",
                f"{ten['reduction']['mean']:.1%}",
                yes(ten["reduction"]["mean"] >= 0.08),
                SAME,
            ],
            [
                "after 10 messages: the person worst off",
                "≥ −1%",
                f"{ten['worst']:+.1%}".replace("-", "−"),
                yes(ten["worst"] >= -0.01),
                SAME,
            ],
        ]
    single = summary["hindsight"]
    rows.append(
        [
            "people for whom λ by state beats the best single λ in hindsight: with Katz / with the "
            "same p_personal",
            "≥ 90%",
            f"{single['single_katz']['beaten']:.0%} / {single['single']['beaten']:.0%}",
            yes(min(single["single"]["beaten"], single["single_katz"]["beaten"]) >= 0.9),
            SAME,
        ]
    )
    return Table(
        "What was to be reached, and what was measured",
        ["figure", "to reach", "measured", "reached", "command"],
        [*rows, exact_match(summary), sixteen(summary)],
    )


def exact_match(summary: dict[str, Any]) -> list[str]:
    """Return the row of suggestions: the gain over all coverages, and at half of the places."""
    name = "ExactMatch averaged to length 15, relative gain at equal coverage"
    if not summary["typing"]:
        return [name, "≥ 20%", NOT_MEASURED, "", SUGGEST]
    gains = summary["typing"]["relative_gain"]
    parts = [
        f"{gain['mean']:+.0%} ({100 * gain['low']:.0f} – {100 * gain['high']:.0f}) at {cover:.0%}"
        for cover, gain in ((float(key), gains[key]) for key in ("0.1", "0.2", "0.5", "1.0"))
    ]
    reached = [gain["mean"] >= 0.2 for gain in gains.values()]
    verdict = yes(all(reached)) if all(reached) or not any(reached) else "in part"
    return [name, "≥ 20%", "; ".join(parts), verdict, SUGGEST]


def sixteen(summary: dict[str, Any]) -> list[str]:
    """Return the row of 16 KiB a person."""
    name = "16 KiB per person: share of the unpruned gain kept"
    budget = summary["budgets"].get("16384")
    if not budget:
        return [name, "≥ 95%", NOT_MEASURED, "", BUDGETS]
    kept = budget["reduction"]["mean"] / summary["amounts"]["all"]["reduction"]["mean"]
    return [name, "≥ 95%", f"{kept:.1%}", yes(kept >= 0.95), BUDGETS]


def yes(reached: bool) -> str:
    """Return a word for a table."""
    return "yes" if reached else "no"


def tuned(figures: dict[str, Any]) -> Table:
    """Return what is left to gain beside a global LM that was trained on other people's mail."""
    plain, other = figures["systems"]["plain"], figures["systems"]["tuned"]
    rows = []
    for amount in ("10", "30", "100", "300", "all"):
        cells = [amount, str(plain[amount]["people"])]
        for system in (plain, other):
            a = system[amount]
            cells += [f"{a['mean_reduction']:.1%}", f"{a['improved']:.0%}", f"{a['worst']:+.1%}"]
        rows.append(cells)
    below = figures["below_plain"]
    return Table(
        "Beside SmolLM2 fine-tuned on other people's mail",
        ["messages", "people", "plain", "improved", "worst", "tuned", "improved", "worst"],
        rows,
        f"Tuning alone takes {below['tuned']:.1%} off the perplexity of plain SmolLM2, both "
        f"together {below['tuned with personal']:.1%}. Who serves an LM that was trained on mail "
        f"should expect the second half of the table, with gates fitted to that LM. {TUNED}",
    )


def numbers(value: Any) -> Any:
    """Return figures as they were before JSON, which has no NaN."""
    if isinstance(value, dict):
        return {
            key: None if key in _ABSENT and one is None else numbers(one)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [numbers(one) for one in value]
    return math.nan if value is None else value


def by_default(report: dict[str, Any]) -> Table:
    """Return the table of what ``perslm build`` makes by default."""
    table = tables(report)["perplexity"]
    return Table(
        f"As perslm build makes models by default: order {report['order']}, n-grams above order 1 "
        f"from {report['min_messages']} messages or more",
        table.head,
        table.rows,
    )


def read(path: Path) -> dict[str, Any]:
    """Return a report."""
    report: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return {**report, "summary": numbers(report["summary"])}


def write(found: Path, default: Path, folder: Path, readme: Path) -> None:
    """Write the page of two reports, and the tables into both README.md."""
    report, first, usual = read(found), targets(read(found)), by_default(read(default))
    after = [usual, tuned(json.loads((folder / "tuned.json").read_text("utf-8")))]
    (folder / "report.html").write_text(page(report, before=[first], after=after), "utf-8")
    (folder / "report.md").write_text(markdown(report, before=[first], after=after), "utf-8")
    inside = folder / "README.md"
    inside.write_bytes(replace_table(inside, first.as_markdown(), MARK))
    readme.write_bytes(replace_table(readme, usual.as_markdown(), MARK))


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("report", "default", "folder", "readme"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    write(options.report, options.default, options.folder, options.readme)


if __name__ == "__main__":
    main()
