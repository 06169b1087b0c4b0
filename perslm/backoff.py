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

Pruned counts no longer know how many different words were cut, but how many
events. Each is taken for a word of its own, which is what most were: so C(h), the number of words
seen after h and that of words seen before hw stay nearly what they were, and so do the gates.

The gate is logistic in few features of a context (:func:`features`), so that it is smooth and needs
few numbers: :class:`Gates`, fitted over many users by ``builders/gates.py``, shipped in
``gates.json``. Nothing of it is about anybody.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from perslm.counts import Counts, Int64Array
from perslm.errors import ArgumentError
from perslm.smoothing import Float64Array

FEATURES = 8
"""Numbers that a gate has a coefficient for."""

FURTHEST = 15
"""Where the logistic function is cut off: no context is silent, so every state has a p_personal."""

LONGEST_POSITION = 255
"""From this token of a text on, a position makes no difference."""


@dataclass(frozen=True, slots=True, eq=False)
class Gates:
    """The numbers of the estimator for one order of model, as fitted over many users.

    ``table`` is float64[order, FEATURES + 1]: for contexts of k words row k, the coefficients of
    :func:`features` and then the discount, 0 to 1. ``position`` is float64[3]: see :func:`shift`.
    """

    table: Float64Array
    position: Float64Array


@dataclass(frozen=True, slots=True, eq=False)
class Backoff:
    """The parameters of a model, aligned with the levels of the counts as those of ``Katz`` are.

    ``logprob`` and ``log_backoff`` are those of p_personal. ``weight[k]`` is λ of each k-gram as a
    context, k = 0 … order−1, float64.
    """

    logprob: tuple[Float64Array, ...]
    log_backoff: tuple[Float64Array, ...]
    weight: tuple[Float64Array, ...]


@cache
def population(order: int) -> Gates:
    """Return the gates that come with perslm, for models of ``order``."""
    fitted = json.loads(files("perslm").joinpath("gates.json").read_text("utf-8"))[str(order)]
    return Gates(np.array(fitted["gates"]), np.array(fitted["position"]))


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
    weight: list[Float64Array] = []
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
                mass, to_global = own, left
            else:
                shorter = counts.levels[k - 1].suffix
                mass = own + left[level.context] * mass[level.suffix]
                to_global = left * to_global[shorter]
                log_backoff.append(np.log(left * weight[-1][shorter] / (1 - to_global)))
            weight.append(1 - to_global)
            logprob.append(np.log(mass / weight[-1][level.context]))
    return Backoff(tuple(logprob), tuple(log_backoff), tuple(weight))


def shift(
    weights: npt.NDArray[np.float32], positions: npt.ArrayLike, gates: Gates
) -> npt.NDArray[np.float32]:
    """Return λ for a place in a text: float32[n], from λ of the states and the places.

    A neural LM knows little of a text that has just begun, and more with every word of it; so a
    personal model is worth more early on than late. ``positions`` is how many tokens of the text
    came before, int[n]. ln(λ / (1 − λ)) is moved by a polynomial of the position's logarithm;
    0 and 1 stay what they are. Raises ArgumentError for positions that are not int[n].
    """
    place = np.asarray(positions)
    if place.shape != weights.shape or (place.size and place.dtype.kind not in "ui"):
        raise ArgumentError(f"positions need the shape {weights.shape} of integers")
    moved = factors(gates)[np.clip(place, 0, LONGEST_POSITION).astype(np.intp)]
    lam = weights.astype(np.float64)
    shifted: Float64Array = lam * moved / (lam * moved + (1 - lam))
    return shifted.astype(np.float32)


@lru_cache(maxsize=8)
def factors(gates: Gates) -> Float64Array:
    """Return what λ / (1 − λ) is multiplied by at each position, float64[LONGEST_POSITION + 1]."""
    powers = positions_of(np.arange(LONGEST_POSITION + 1))
    return np.exp(np.polynomial.polynomial.polyval(powers, gates.position))


def positions_of(positions: npt.ArrayLike) -> Float64Array:
    """Return what :func:`shift` takes powers of: a logarithm of the position, 0 to 2."""
    return np.log2(1 + np.clip(np.asarray(positions, np.float64), 0, LONGEST_POSITION)) / 4
