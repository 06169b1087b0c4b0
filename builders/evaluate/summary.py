"""One person's figures to everybody's: means with bootstrap intervals over people."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from builders.evaluate.typing import (
    LONGEST,
    Outcome,
    above,
    average_exact_match,
    exact_match,
)
from perslm.suggest import calibrate

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
    """Return the figures of a report from those of each user (``builders.evaluate.run``)."""
    typed = [user["typing"] for user in users if user.get("typing")]
    return {
        "users": len(users),
        "amounts": _by_name(users, "amounts"),
        "budgets": _by_name(users, "budgets"),
        "hindsight": _hindsight([user["amounts"]["all"] for user in users]),
        "typing": _typing(typed) if typed else None,
    }


def _by_name(users: list[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    names = {name for user in users for name in user.get(key, {})}
    return {
        name: _tallies([user[key][name] for user in users if name in user.get(key, {})])
        for name in sorted(names, key=lambda name: math.inf if name == "all" else int(name))
    }


def _tallies(tallies: list[dict[str, Any]]) -> dict[str, Any]:
    reductions = [t["reduction"] for t in tallies]
    nats = {k: sum(t[k] for t in tallies) for k in ("tokens", "global_nats", "mixed_nats")}
    pooled = 1 - math.exp((nats["mixed_nats"] - nats["global_nats"]) / max(1, nats["tokens"]))
    means = (
        *("global_perplexity", "mixed_perplexity"),
        *("global_perplexity_per_word", "mixed_perplexity_per_word"),
        *("personal_perplexity_of_known", "global_perplexity_of_known", "known_share"),
        *("mean_weight", "bytes"),
    )
    return {
        "users": len(tallies),
        "reduction": interval(reductions),
        "reduction_pooled": pooled,
        "improved": sum(r > 0 for r in reductions) / len(reductions),
        "harmed": sum(r < -HARMED for r in reductions) / len(reductions),
        "worst": min(reductions),
        "best": max(reductions),
        **{key: interval([t[key] for t in tallies]) for key in means},
        "log_perplexity": {
            f"{system}{unit}": float(
                np.mean([math.log(t[f"{system}_perplexity{unit}"]) for t in tallies])
            )
            for system in ("global", "mixed")
            for unit in ("", "_per_word")
        },
    }


def _hindsight(everything: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return how the weights by state do against the best constant λ of each person."""
    if not all("single" in user for user in everything):
        return None
    return {
        name: {
            "reduction": interval([user[name] for user in everything]),
            "weight": interval([user[f"{name}_weight"] for user in everything]),
            "beaten": sum(u["reduction"] > u[name] for u in everything) / len(everything),
        }
        for name in ("single", "single_katz")
    }


def _typing(users: list[dict[str, Any]]) -> dict[str, Any]:
    by_user = {
        system: [[Outcome.from_json(fields) for fields in user[system]] for user in users]
        for system in users[0]
    }
    together = {system: [o for own in rows for o in own] for system, rows in by_user.items()}
    curves = {
        system: [_shown(outcomes, coverage) for coverage in COVERAGES]
        for system, outcomes in together.items()
    }
    return {
        "users": len(users),
        "places": len(together["global"]),
        "longest": LONGEST,
        "curves": curves,
        "relative_gain": {
            str(was["coverage"]): _gain(by_user, was["threshold"], now["threshold"])
            for was, now in zip(curves["global"], curves["mixed"], strict=True)
        },
    }


def _shown(outcomes: list[Outcome], coverage: float) -> dict[str, Any]:
    """Return what is seen of the surest suggestions, at ``coverage`` of all places."""
    threshold = calibrate([o.confidence for o in outcomes], coverage)
    shown = above(outcomes, threshold)
    places = len(outcomes)
    return {
        "coverage": coverage,
        "threshold": threshold,
        "shown": len(shown),
        "words": sum(o.words for o in shown) / max(1, len(shown)),
        "exact_match": average_exact_match(shown),
        "by_length": exact_match(shown),
        "long": [sum(o.words >= n for o in shown) for n in range(1, LONGEST + 1)],
        "characters_saved_per_place": sum(o.saved for o in shown) / places,
        "characters_saved_by_word_per_place": sum(o.begun for o in shown) / places,
    }


def _gain(by_user: dict[str, list[list[Outcome]]], was: float, now: float) -> dict[str, float]:
    """Return the relative gain of average ExactMatch, with its 95% bootstrap interval over people.

    ``was`` and ``now`` are the thresholds of the global LM and of the mixture.
    """
    sums = np.array(
        [
            [*_right(above(alone, was)), *_right(above(mixed, now))]
            for alone, mixed in zip(by_user["global"], by_user["mixed"], strict=True)
        ],
        np.float64,
    )
    random = np.random.default_rng(0)
    drawn = [sums[random.integers(0, len(sums), len(sums))].sum(0) for _ in range(_RESAMPLES)]
    gains = [gain for gain in map(_relative, drawn) if math.isfinite(gain)]
    low, high = np.quantile(gains, (0.025, 0.975)) if gains else (math.nan, math.nan)
    return {"mean": _relative(sums.sum(0)), "low": float(low), "high": float(high)}


def _right(shown: list[Outcome]) -> tuple[int, int]:
    return sum(o.right for o in shown), sum(o.words for o in shown)


def _relative(sums: npt.NDArray[np.float64]) -> float:
    was_right, was_words, right, words = map(float, sums)
    if not was_right or not words:
        return math.nan
    return (right / words) / (was_right / was_words) - 1
