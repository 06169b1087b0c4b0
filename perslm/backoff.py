"""Backing off into the global LM: counts that know when to speak. The readable reference.

Katz (``perslm.katz``) says what a user would write next, as if there was nobody else. This
estimator ends its backoff chain in the global LM instead of in the user's own words:

    p(w | h) = (1 − γ(h)) · max(c(hw) − d, 0) / C(h)  +  left(h) · p(w | h')
    left(h)  = 1 − (1 − γ(h)) · Σ_w max(c(hw) − d, 0) / C(h)
    p(w | nothing) as above for the empty context, with p_global(w) in the place of p(w | h')

The *gate* γ(h) is the share that a context gives away whatever was seen after it; the discount d
of the order frees the rest of what it leaves. A sum of products takes the global LM out again:

    λ(h)             = 1 − Π left(g), g = h, h', …, the empty context
    p_personal(w|h)  = (p(w | h) with 0 in the place of p_global) / λ(h)

so that λ·p_personal + (1 − λ)·p_global is p(w | h), and callers need to know nothing of it.
p_personal is a backoff automaton like any other: ln α(h) = ln(left(h) · λ(h') / λ(h)).

Counts are raw at the highest order and after contexts that begin with ``<s>``. Elsewhere c(hw) is
how many different words were seen before hw, at least 1 (Kneser and Ney 1995): a word is asked for
there because a longer context did not know it, and then what follows everything counts.

Pruned counts no longer know how many different words were cut, but how many events. Each is taken
for a word of its own, which is what most were: so C(h), the number of words seen after h and that
of words seen before hw stay nearly what they were, and so do the gates.

The gate is logistic in few features of a context (:func:`features`), so that it is smooth and needs
few numbers. Once λ is found it moves: ln(λ / (1 − λ)) by a polynomial of how large the model is, so
that who has just begun is not overrated, and by others of what is known of a place besides its
context (:func:`shift`). p_personal stays what it is. All these numbers are :class:`Gates`, fitted
together over many users by ``builders/gates.py``, shipped in ``gates.json``. Nothing of it is about
anybody.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from perslm import _backend
from perslm.counts import Counts, Int64Array, UInt32Array
from perslm.errors import ArgumentError
from perslm.interpolate import Float32Array
from perslm.smoothing import Float64Array

FEATURES = 8
"""Numbers that a gate has a coefficient for."""

FURTHEST = 15
"""Where the logistic function is cut off: no context is silent, so every state has a p_personal."""

LONGEST_POSITION = 255
"""From this token of a text on, a position makes no difference."""

LARGEST_ENTROPY = 12
"""Of a global LM's row, in nats: more makes no difference."""


@dataclass(frozen=True, slots=True, eq=False)
class Gates:
    """The numbers of the estimator for one order of model, as fitted over many users.

    ``table`` is float64[order, FEATURES + 1]: for contexts of k words row k, the coefficients of
    :func:`features` and then the discount, 0 to 1. The others are what ln(λ / (1 − λ)) moves by:
    ``size`` float64[3] for :func:`size_features`, ``position`` float64[3] for
    :func:`position_features`, ``row`` float64[5] for :func:`row_features`.
    """

    table: Float64Array
    size: Float64Array
    position: Float64Array
    row: Float64Array


@dataclass(frozen=True, slots=True, eq=False)
class Backoff:
    """The parameters of a model, aligned with the levels of the counts as those of ``Katz`` are.

    ``logprob`` and ``log_backoff`` are those of p_personal. ``weight[k]`` is λ of each k-gram as a
    context, k = 0 … order−1, float64, moved by the size of the model.
    """

    logprob: tuple[Float64Array, ...]
    log_backoff: tuple[Float64Array, ...]
    weight: tuple[Float64Array, ...]


@cache
def population(order: int) -> Gates:
    """Return the gates that come with perslm, for models of ``order``."""
    fitted = json.loads(files("perslm").joinpath("gates.json").read_text("utf-8"))[str(order)]
    return Gates(
        *(np.array(fitted[name], np.float64) for name in ("gates", "size", "position", "row"))
    )


def features(
    total: Float64Array, distinct: Float64Array, opens: npt.NDArray[np.bool_]
) -> Float64Array:
    """Return what a gate goes by, float64[n, FEATURES].

    ``total`` is C(h) > 0, ``distinct`` how many different events were seen after h, ``opens``
    whether h begins with ``<s>``.
    """
    size, variety = np.log2(total) / 8, distinct / total
    return np.stack(
        [
            np.ones_like(size),
            size,
            variety,
            size * size,
            size * variety,
            variety * variety,
            np.log2(distinct) / 8,
            opens.astype(np.float64),
        ],
        axis=1,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What the estimator goes by of one level: of its n-grams, and of their contexts.

    ``used`` int64 is c(hw), by n-gram (``<s>`` has 0). By context, float64: ``kept`` the sum of its
    n-grams' counts, ``total`` C(h), which is more if some were pruned, and ``distinct``, how many
    n-grams are left; bool: ``opens``, whether it begins with ``<s>``.
    """

    used: Int64Array
    kept: Float64Array
    total: Float64Array
    distinct: Float64Array
    opens: npt.NDArray[np.bool_]

    @property
    def variety(self) -> Float64Array:
        """Return how many different events were seen after each context, those cut included."""
        return self.distinct + (self.total - self.kept)


def seen(counts: Counts) -> Iterator[Seen]:
    """Yield what was seen at each level, the lowest first."""
    opens = np.zeros(1, bool)
    for k, level in enumerate(counts.levels):
        contexts, highest = len(opens), k + 1 == counts.order
        used = level.count
        if not highest:
            above = counts.levels[k + 1]
            before = np.bincount(above.suffix, minlength=len(level))
            if counts.cut is not None:
                known = np.bincount(above.suffix, above.count, len(level))
                before = before + (level.count - known.astype(np.int64))
            used = np.where(opens[level.context], used, np.maximum(before, 1))
        is_bos = (level.word == counts.specials.bos) & (k == 0)
        used = np.where(is_bos, 0, used)
        kept = np.bincount(level.context, used, contexts).astype(np.float64)
        distinct = np.bincount(level.context[used > 0], minlength=contexts).astype(np.float64)
        cut = 0 if counts.cut is None else counts.cut[k]
        yield Seen(used, kept, kept + cut, distinct, opens)
        opens = opens[level.context] if k else is_bos


def estimate(counts: Counts, gates: Gates) -> Backoff:
    """Return the model of ``counts``; one linear pass over the n-grams of each order."""
    logprob: list[Float64Array] = []
    log_backoff: list[Float64Array] = [np.zeros(1)]
    weight: list[Float64Array] = []  # before it moves
    factor = 1.0  # by which λ / (1 − λ) moves
    mass = np.zeros(0)  # of each n-gram: p(w | h) with 0 in the place of p_global
    to_global = np.ones(1)  # of each context: Π left
    for k, (level, facts) in enumerate(zip(counts.levels, seen(counts), strict=True)):
        *coefficients, discount = gates.table[k]
        live = facts.distinct > 0
        total = facts.total[live]
        z = features(total, facts.variety[live], facts.opens[live]) @ np.array(coefficients)
        speaks = np.zeros(len(live))  # (1 − γ(h)) / C(h)
        speaks[live] = 1 / (1 + np.exp(np.clip(z, -FURTHEST, FURTHEST))) / total
        own = speaks[level.context] * np.maximum(facts.used - discount, 0)
        left = 1 - speaks * (facts.kept - discount * facts.distinct)
        with np.errstate(divide="ignore", invalid="ignore"):  # nobody wrote anything
            if k == 0:
                factor = float(np.exp(size_features(facts.total) @ gates.size)[0])
                mass, to_global = own, left
            else:
                shorter = counts.levels[k - 1].suffix
                mass = own + left[level.context] * mass[level.suffix]
                to_global = left * to_global[shorter]
                log_backoff.append(np.log(left * weight[-1][shorter] / (1 - to_global)))
            weight.append(1 - to_global)
            logprob.append(np.log(mass / weight[-1][level.context]))
    moved = tuple(lam * factor / (lam * factor + (1 - lam)) for lam in weight)
    return Backoff(tuple(logprob), tuple(log_backoff), moved)


def shift(
    weights: Float32Array,
    gates: Gates,
    positions: npt.ArrayLike | None = None,
    uncertainty: npt.ArrayLike | None = None,
) -> Float32Array:
    """Return λ for a place in a text, float32[n], from λ of the states and what is known of places.

    ``positions``, int[n], are how many tokens of the text came before: a neural LM knows little of
    a text that has just begun, and more with every word of it; so a personal model is worth more
    early on than late. ``uncertainty``, float[n, 2], is what ``perslm.interpolate.uncertainty``
    says of the global LM's rows: it is worth more where the global LM does not know, too.

    ln(λ / (1 − λ)) moves by a polynomial of the position's logarithm, by one of the greatest
    probability and by one of the entropy. Over the texts of many people they are 0 in the mean: who
    does not know the one or the other leaves it out, and λ is still right. λ of 0 and 1 stay what
    they are. Raises ArgumentError for arrays of another shape, and positions that are no integers.
    """
    shifted = np.array(weights, np.float32)
    places = None if positions is None else _places(positions, len(shifted))
    rows = None if uncertainty is None else _rows(uncertainty, len(shifted))
    if _backend.native is not None:
        _backend.native.shift(shifted, places, factors(gates), rows, gates.row)
        return shifted
    by = np.ones(len(shifted)) if places is None else factors(gates)[places]
    if rows is not None:
        by = by * np.exp(row_features(rows) @ gates.row)
    lam = shifted.astype(np.float64)
    shifted[:] = lam * by / (lam * by + (1 - lam))
    return shifted


@lru_cache(maxsize=8)
def factors(gates: Gates) -> Float64Array:
    """Return what λ / (1 − λ) is multiplied by at each position, float64[LONGEST_POSITION + 1]."""
    return np.exp(position_features(np.arange(LONGEST_POSITION + 1)) @ gates.position)


def size_features(total: npt.ArrayLike) -> Float64Array:
    """Return what :attr:`Gates.size` has a number for, float64[n, 3], of C(h) of the empty h."""
    return np.vander(np.log2(np.maximum(np.asarray(total, np.float64), 1)) / 8, 3, increasing=True)


def position_features(positions: npt.ArrayLike) -> Float64Array:
    """Return what :attr:`Gates.position` has a number for, float64[n, 3]."""
    place = np.clip(np.asarray(positions, np.float64), 0, LONGEST_POSITION)
    return np.vander(np.log2(1 + place) / 4, 3, increasing=True)


def row_features(uncertainty: npt.NDArray[np.floating]) -> Float64Array:
    """Return what :attr:`Gates.row` has a number for, float64[n, 5], of float[n, 2]."""
    known = np.where(np.isnan(uncertainty), [-np.inf, 0], uncertainty)
    top = np.exp(np.minimum(known[:, 0].astype(np.float64), 0))
    entropy = np.clip(known[:, 1].astype(np.float64), 0, LARGEST_ENTROPY) / 4
    return np.stack([np.ones_like(top), top, top * top, entropy, entropy * entropy], axis=1)


def _places(positions: npt.ArrayLike, n: int) -> UInt32Array:
    place = np.asarray(positions)
    if place.shape != (n,) or (n and place.dtype.kind not in "ui"):
        raise ArgumentError(f"positions need the shape ({n},) of integers")
    places: UInt32Array = np.clip(place, 0, LONGEST_POSITION).astype(np.uint32)
    return places


def _rows(uncertainty: npt.ArrayLike, n: int) -> Float32Array:
    try:
        rows = np.ascontiguousarray(uncertainty, np.float32)
    except (ValueError, TypeError):  # not chained: it would repeat what was given
        rows = np.empty(0, np.float32)
    if rows.shape != (n, 2):
        raise ArgumentError(f"uncertainty needs the shape ({n}, 2) of numbers")
    return rows
