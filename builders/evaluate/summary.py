"""One person's figures to everybody's: means with bootstrap intervals over people."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from builders.evaluate.typing import (
    LONGEST,
    Outcome,
    average_exact_match,
    exact_match,
    most_confident,
)

COVERAGES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
HARMED: Final = 0.001
"""Whose perplexity rises by more than this share is harmed."""

_RESAMPLES: Final = 2000


def interval(values: npt.ArrayLike) -> dict[str, float]:
    """Return the mean and its 95% bootstrap interval over people, the same every time."""
    all_of = np.asarray(values, np.float64)
    random = np.random.default_rng(0)
    means = [
        float(all_of[random.integers(0, len(all_of), len(all_of))].mean())
        for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(means, (0.025, 0.975))
    return {"mean": float(all_of.mean()), "low": float(low), "high": float(high)}


def summarize(users: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of a report from those of each user (``run.evaluate_user``)."""
    amounts = sorted(
        {a for user in users for a in user["amounts"]},
        key=lambda a: math.inf if a == "all" else int(a),
    )
    typed = [user["typing"] for user in users if user.get("typing")]
    return {
        "users": len(users),
        "amounts": {amount: _amount(users, amount) for amount in amounts},
        "typing": _typing(typed) if typed else None,
    }


def _amount(users: list[dict[str, Any]], amount: str) -> dict[str, Any]:
    tallies = [u["amounts"][amount] for u in users if amount in u["amounts"]]
    reductions = [t["reduction"] for t in tallies]
    nats = {k: sum(t[k] for t in tallies) for k in ("tokens", "global_nats", "mixed_nats")}
    pooled = 1 - math.exp((nats["mixed_nats"] - nats["global_nats"]) / max(1, nats["tokens"]))
    return {
        "users": len(tallies),
        "reduction": interval(reductions),
        "reduction_pooled": pooled,
        "improved": sum(r > 0 for r in reductions) / len(reductions),
        "harmed": sum(r < -HARMED for r in reductions) / len(reductions),
        "worst": min(reductions),
        "best": max(reductions),
        "global_perplexity": interval([t["global_perplexity"] for t in tallies]),
        "mixed_perplexity": interval([t["mixed_perplexity"] for t in tallies]),
        "global_perplexity_per_word": interval([t["global_perplexity_per_word"] for t in tallies]),
        "mixed_perplexity_per_word": interval([t["mixed_perplexity_per_word"] for t in tallies]),
        "personal_perplexity_of_known": interval(
            [t["personal_perplexity_of_known"] for t in tallies]
        ),
        "global_perplexity_of_known": interval([t["global_perplexity_of_known"] for t in tallies]),
        "known_share": interval([t["known_share"] for t in tallies]),
        "mean_weight": interval([t["mean_weight"] for t in tallies]),
        "bytes": interval([t["bytes"] for t in tallies]),
    }


def _typing(users: list[dict[str, Any]]) -> dict[str, Any]:
    systems = {
        system: [o for user in users for o in map(Outcome.from_json, user[system])]
        for system in ("global", "mixed")
    }
    curves: dict[str, list[dict[str, Any]]] = {
        system: [
            {
                "coverage": coverage,
                "shown": len(shown),
                "exact_match": average_exact_match(shown),
                "by_length": exact_match(shown),
                "characters_saved_per_place": sum(o.saved for o in shown) / len(all_of),
            }
            for coverage in COVERAGES
            for shown in [most_confident(all_of, coverage)]
        ]
        for system, all_of in systems.items()
    }
    gains = []
    for before, after in zip(curves["global"], curves["mixed"], strict=True):
        was, now = before["exact_match"], after["exact_match"]
        gains.append(now / was - 1 if was else math.nan)
    return {
        "places": len(systems["global"]),
        "longest": LONGEST,
        "curves": curves,
        "relative_gain": dict(zip(map(str, COVERAGES), gains, strict=True)),
    }
