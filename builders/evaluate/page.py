"""A report to read: one self-contained HTML page, and the table and plots of the README.

Plots are SVG, drawn by matplotlib (the extra ``evaluate``). A page has figures only: no text of
anybody's mail, and no ids of people.
"""

from __future__ import annotations

import html
import io
from typing import Any

from perslm.errors import MissingExtraError

_LEGEND = (
    "messages: how many were learned from, the last before the test; global, mixed: perplexity per "
    "token without and with the person's model, means over people; reduction: mean over people of "
    "how much lower it is, with its 95% bootstrap interval over people; harmed: by more than 0.1%; "
    "λ: mean weight of the person's model; KiB: a person's model in the store."
)
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 } caption { text-align: left; font-weight: 600 }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left } svg { max-width: 100%; height: auto }
.note { color: #555 }
"""


def page(report: dict[str, Any]) -> str:
    """Return the HTML page of a report (``perslm evaluate --json`` has the same)."""
    summary = report["summary"]
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>perslm: what personalization is worth</title><style>{_STYLE}</style>",
        "<h1>What personalization is worth</h1>",
        f"<p>{summary['users']} people; global LM {html.escape(report['global_lm'])}. Of each "
        f"person's mail the newest {report['test_share']:.0%} is the test; models are built from "
        "the mail before it, weights are never fitted on the test.</p>",
        _table("Perplexity by amount of training mail", *perplexity_rows(summary)),
        f"<p class='note'>{_LEGEND}</p>",
        perplexity_plot(summary),
        people_plot(report["users"]),
    ]
    if summary["typing"]:
        parts += [
            _table("Suggestions, shown at the same share of places", *typing_rows(summary)),
            exact_match_plot(summary),
            coverage_plot(summary),
        ]
    parts.append(f"<p class='note'>{html.escape(report['made_by'])}</p></html>\n")
    return "\n".join(parts)


def markdown(report: dict[str, Any]) -> str:
    """Return the tables of a report as Markdown."""
    summary = report["summary"]
    tables = [perplexity_rows(summary)]
    if summary["typing"]:
        tables.append(typing_rows(summary))
    made = []
    for head, rows in tables:
        lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
        made.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join([*made, _LEGEND, report["made_by"]]) + "\n"


def perplexity_rows(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of perplexity."""
    head = ["messages", "people", "global", "mixed", "reduction", "95%", "improved", "harmed"]
    head += ["worst", "λ", "KiB"]
    rows = []
    for amount, a in summary["amounts"].items():
        rows.append(
            [
                amount,
                str(a["users"]),
                f"{a['global_perplexity']['mean']:.1f}",
                f"{a['mixed_perplexity']['mean']:.1f}",
                f"{a['reduction']['mean']:.1%}",
                f"{100 * a['reduction']['low']:.0f} – {100 * a['reduction']['high']:.0f}",
                f"{a['improved']:.1%}",
                f"{a['harmed']:.1%}",
                f"{a['worst']:+.1%}",
                f"{a['mean_weight']['mean']:.2f}",
                f"{a['bytes']['mean'] / 1024:.1f}",
            ]
        )
    return head, rows


def typing_rows(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of suggestions."""
    typing = summary["typing"]
    head = ["shown at", "ExactMatch, global", "personalised", "gain", "characters saved, global"]
    head.append("personalised")
    rows = []
    curves = typing["curves"]
    gains = typing["relative_gain"].values()
    for was, now, gain in zip(curves["global"], curves["mixed"], gains, strict=True):
        rows.append(
            [
                f"{was['coverage']:.0%}",
                f"{was['exact_match']:.1%}",
                f"{now['exact_match']:.1%}",
                f"{gain:+.0%}",
                f"{was['characters_saved_per_place']:.2f}",
                f"{now['characters_saved_per_place']:.2f}",
            ]
        )
    return head, rows


def perplexity_plot(summary: dict[str, Any]) -> str:
    """Return a plot of the mean reduction against the amount of training mail."""
    figure, axes = _axes("messages learned from", "perplexity reduction")
    amounts = summary["amounts"]
    means = [a["reduction"] for a in amounts.values()]
    axes.errorbar(
        range(len(means)),
        [m["mean"] for m in means],
        [[m["mean"] - m["low"] for m in means], [m["high"] - m["mean"] for m in means]],
        marker="o",
        capsize=4,
    )
    axes.set_xticks(range(len(means)), list(amounts))
    return _svg(figure)


def people_plot(users: list[dict[str, Any]]) -> str:
    """Return a plot of every person's reduction, sorted."""
    figure, axes = _axes("people", "perplexity reduction")
    axes.bar(range(len(users)), sorted(u["amounts"]["all"]["reduction"] for u in users))
    return _svg(figure)


def exact_match_plot(summary: dict[str, Any]) -> str:
    """Return a plot of ExactMatch@N at half of the places."""
    figure, axes = _axes("words N", "ExactMatch@N, shown at half of the places")
    typing = summary["typing"]
    for system, label in (("global", "global LM"), ("mixed", "personalised")):
        half = next(c for c in typing["curves"][system] if c["coverage"] == 0.5)
        axes.plot(range(1, typing["longest"] + 1), half["by_length"], marker="o", label=label)
    axes.legend()
    return _svg(figure)


def coverage_plot(summary: dict[str, Any]) -> str:
    """Return a plot of mean ExactMatch against coverage."""
    figure, axes = _axes("share of places with a suggestion", "ExactMatch, mean over lengths")
    for system, label in (("global", "global LM"), ("mixed", "personalised")):
        curve = summary["typing"]["curves"][system]
        shown = [c["coverage"] for c in curve], [c["exact_match"] for c in curve]
        axes.plot(*shown, marker="o", label=label)
    axes.legend()
    return _svg(figure)


def _table(caption: str, head: list[str], rows: list[list[str]]) -> str:
    def row(cells: list[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(c)}</{kind}>" for c in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f"<table><caption>{html.escape(caption)}</caption>{row(head, 'th')}{body}</table>"


def _axes(x: str, y: str) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("the report's plots", "evaluate") from None
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return figure, axes


def _svg(figure: Any) -> str:
    drawn = io.StringIO()
    # without a date the same figures give the same bytes
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()[drawn.getvalue().index("<svg") :]
