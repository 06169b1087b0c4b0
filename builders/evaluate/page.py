"""A report to read: one self-contained HTML page, and the table and plots of the README.

Plots are SVG, drawn by matplotlib (the extra ``evaluate``). A page has figures only: no text of
anybody's mail, and no ids of people.
"""

from __future__ import annotations

import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from perslm.errors import MissingExtraError

_LEGENDS = {
    "perplexity": "messages: how many were learned from, the last before the test; global, mixed: "
    "perplexity per token without and with the person's model, means over people; reduction: mean "
    "over people of how much lower it is, with its 95% bootstrap interval over people; harmed: by "
    "more than 0.1%; λ: mean weight of the person's model; KiB: a person's model in the store.",
    "words": "per word: perplexity, geometric mean over people. Known: of all tokens those that "
    "the personal model alone gives a probability, and what it and the global LM alone make of "
    "these; to the others it gives none, so alone it has no perplexity of all.",
    "hindsight": "The best constant λ of each person, chosen on the test itself: once with the "
    "same p_personal, once with Katz'. Beaten: share of people whose λ by state is better.",
    "budgets": "All mail, but no model of more bytes (perslm build --max-bytes): the reduction, "
    "and the share of that without a limit that is kept, mean over people.",
    "typing": "Asked at the same places; each system has the threshold (confidence, natural log "
    "per token) that shows suggestions at this share of them. ExactMatch is the mean over lengths "
    "N up to 15 words, weighted by how many suggestions are so long; gain is relative, with its "
    "95% bootstrap interval over people. Characters saved a place: of suggestions that are right "
    "to their end, and by word: of the beginnings that are right.",
}
_SYSTEMS: Final = {
    "global": "global LM alone",
    "personal": "personal model alone",
    "mixed": "mixed",
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 } caption { text-align: left; font-weight: 600 }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left } svg { max-width: 100%; height: auto }
.note { color: #555 }
"""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a report, with what its columns mean."""

    caption: str
    head: list[str]
    rows: list[list[str]]
    legend: str = ""

    def as_markdown(self) -> str:
        """Return the table alone as Markdown."""
        lines = [self.head, ["---", *["--:"] * (len(self.head) - 1)], *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def as_html(self) -> str:
        """Return the table, its caption and its legend as HTML."""

        def row(cells: list[str], kind: str) -> str:
            return "<tr>" + "".join(f"<{kind}>{html.escape(c)}</{kind}>" for c in cells) + "</tr>"

        body = "".join(row(cells, "td") for cells in self.rows)
        caption = f"<caption>{html.escape(self.caption)}</caption>"
        note = f"<p class='note'>{html.escape(self.legend)}</p>" if self.legend else ""
        return f"<table>{caption}{row(self.head, 'th')}{body}</table>{note}"


def page(
    report: dict[str, Any], *, before: Sequence[Table] = (), after: Sequence[Table] = ()
) -> str:
    """Return the HTML page of a report (``perslm evaluate --json`` has the same).

    ``before`` and ``after`` are tables of what others measured.
    """
    summary = report["summary"]
    plots = {
        "perplexity": lambda: perplexity_plot(summary) + people_plot(report["users"]),
        "budgets": lambda: budget_plot(summary),
        "typing": lambda: exact_match_plot(summary) + coverage_plot(summary),
    }
    made = []
    for key, table in tables(report).items():
        made.append(table.as_html() + (plots[key]() if key in plots else ""))
    return "\n".join(
        [
            "<!doctype html><html lang='en'><meta charset='utf-8'>",
            "<meta name='viewport' content='width=device-width'>",
            f"<title>perslm: what personalization is worth</title><style>{_STYLE}</style>",
            "<h1>What personalization is worth</h1>",
            f"<p>{html.escape(introduction(report))}</p>",
            *(table.as_html() for table in before),
            *made,
            *(table.as_html() for table in after),
            f"<p class='note'>{html.escape(report['made_by'])}</p></html>\n",
        ]
    )


def markdown(
    report: dict[str, Any], *, before: Sequence[Table] = (), after: Sequence[Table] = ()
) -> str:
    """Return the tables of a report as Markdown."""
    parts = [introduction(report)]
    for table in (*before, *tables(report).values(), *after):
        parts += [f"**{table.caption}**", table.as_markdown()]
        parts += [table.legend] if table.legend else []
    return "\n\n".join([*parts, report["made_by"]]) + "\n"


def introduction(report: dict[str, Any]) -> str:
    """Return what was measured, in two sentences."""
    gates = (
        "the gates that decide λ were fitted on other people's mail only"
        if report["cross_fit"]
        else "the gates that decide λ are those that come with perslm"
    )
    return (
        f"{report['summary']['users']} people; global LM {report['global_lm']}; order "
        f"{report['order']}; n-grams above order 1 come from {report['min_messages']} or more "
        f"messages. Of each person's mail the newest {report['test_share']:.0%} is the test; "
        f"models are built from the mail before it, and {gates}."
    )


def tables(report: dict[str, Any]) -> dict[str, Table]:
    """Return the tables of a report, in the order in which they are read."""
    summary = report["summary"]
    found = {
        "perplexity": ("Perplexity by amount of training mail", perplexity_rows(summary)),
        "words": ("Per word, and the personal model alone", word_rows(summary)),
    }
    if summary["hindsight"]:
        found["hindsight"] = ("The best constant λ in hindsight", hindsight_rows(summary))
    if summary["budgets"]:
        found["budgets"] = ("Bytes a person", budget_rows(summary))
    if summary["typing"]:
        places = f"{summary['typing']['places']:,} places"
        found["typing"] = (f"Suggestions, at {places} of test mail", typing_rows(summary))
        found["lengths"] = (
            "ExactMatch@N, shown at half of the places",
            length_rows(summary),
        )
    return {
        key: Table(caption, head, rows, _LEGENDS.get(key, ""))
        for key, (caption, (head, rows)) in found.items()
    }


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


def word_rows(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of perplexity per word, and of the personal model alone."""
    head = ["messages", "global, per word", "mixed, per word", "known", "personal alone on these"]
    head.append("global alone on these")
    rows = []
    for amount, a in summary["amounts"].items():
        logs = a["log_perplexity"]
        rows.append(
            [
                amount,
                f"{math.exp(logs['global_per_word']):.0f}",
                f"{math.exp(logs['mixed_per_word']):.0f}",
                f"{a['known_share']['mean']:.0%}",
                f"{a['personal_perplexity_of_known']['mean']:.1f}",
                f"{a['global_perplexity_of_known']['mean']:.1f}",
            ]
        )
    return head, rows


def hindsight_rows(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of constant λ."""
    names = {"single": "one λ, the same p_personal", "single_katz": "one λ, Katz"}
    everything = summary["amounts"]["all"]["reduction"]
    rows = [["λ by state", f"{everything['mean']:.1%}", "", ""]]
    for key, name in names.items():
        a = summary["hindsight"][key]
        rows.append(
            [
                name,
                f"{a['reduction']['mean']:.1%}",
                f"{a['weight']['mean']:.2f}",
                f"{a['beaten']:.0%}",
            ]
        )
    return ["all mail", "reduction", "mean λ", "beaten"], rows


def budget_rows(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of budgets."""
    rows = []
    for most, a in [*summary["budgets"].items(), ("none", summary["amounts"]["all"])]:
        rows.append(
            [
                most if most == "none" else f"{int(most) / 1024:g} KiB",
                f"{a['bytes']['mean'] / 1024:.1f}",
                f"{a['reduction']['mean']:.1%}",
                f"{a['reduction']['mean'] / summary['amounts']['all']['reduction']['mean']:.1%}",
                f"{a['worst']:+.1%}",
            ]
        )
    return ["limit", "KiB, mean", "reduction", "kept", "worst"], rows


def typing_rows(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of suggestions."""
    typing = summary["typing"]
    head = [
        "shown at",
        "thresholds",
        "ExactMatch, global",
        "personal alone",
        "mixed",
        "gain",
        "95%",
    ]
    head += ["words", "characters saved, global", "mixed", "by word, global", "mixed"]
    rows = []
    curves = typing["curves"]
    gains = typing["relative_gain"].values()
    systems = (curves["global"], curves["personal"], curves["mixed"], gains)
    for was, alone, now, gain in zip(*systems, strict=True):
        rows.append(
            [
                f"{was['coverage']:.0%}",
                f"{was['threshold']:.2f}, {now['threshold']:.2f}",
                f"{was['exact_match']:.1%}",
                f"{alone['exact_match']:.1%}",
                f"{now['exact_match']:.1%}",
                f"{gain['mean']:+.0%}",
                f"{100 * gain['low']:+.0f} – {100 * gain['high']:+.0f}",
                f"{was['words']:.1f}, {now['words']:.1f}",
                f"{was['characters_saved_per_place']:.2f}",
                f"{now['characters_saved_per_place']:.2f}",
                f"{was['characters_saved_by_word_per_place']:.2f}",
                f"{now['characters_saved_by_word_per_place']:.2f}",
            ]
        )
    return head, rows


def length_rows(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of ExactMatch by length."""
    global_, mixed = (_half(summary, system) for system in ("global", "mixed"))
    rows = []
    for n in range(summary["typing"]["longest"]):
        cells = [
            cell
            for half in (global_, mixed)
            for cell in (f"{half['by_length'][n]:.1%}", f"{half['long'][n]}")
        ]
        rows.append([str(n + 1), *(cell.replace("nan%", "–") for cell in cells)])
    return ["N", "global", "so long", "mixed", "so long"], rows


def _half(summary: dict[str, Any], system: str) -> dict[str, Any]:
    curve: list[dict[str, Any]] = summary["typing"]["curves"][system]
    return next(shown for shown in curve if shown["coverage"] == 0.5)


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


def budget_plot(summary: dict[str, Any]) -> str:
    """Return a plot of the mean reduction against the bytes of a model."""
    figure, axes = _axes("KiB a person, mean", "perplexity reduction")
    found = [*summary["budgets"].values(), summary["amounts"]["all"]]
    sizes = [a["bytes"]["mean"] / 1024 for a in found]
    axes.plot(sizes, [a["reduction"]["mean"] for a in found], marker="o")
    axes.set_ylim(bottom=0)
    return _svg(figure)


def exact_match_plot(summary: dict[str, Any]) -> str:
    """Return a plot of ExactMatch@N at half of the places."""
    figure, axes = _axes("words N", "ExactMatch@N, shown at half of the places")
    lengths = range(1, summary["typing"]["longest"] + 1)
    for system, label in _SYSTEMS.items():
        axes.plot(lengths, _half(summary, system)["by_length"], marker="o", label=label)
    axes.legend()
    return _svg(figure)


def coverage_plot(summary: dict[str, Any]) -> str:
    """Return a plot of mean ExactMatch against coverage."""
    figure, axes = _axes("share of places with a suggestion", "ExactMatch, mean over lengths")
    for system, label in _SYSTEMS.items():
        curve = summary["typing"]["curves"][system]
        shown = [c["coverage"] for c in curve], [c["exact_match"] for c in curve]
        axes.plot(*shown, marker="o", label=label)
    axes.legend()
    return _svg(figure)


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
