"""Figures of speed on one user: counting, beam steps, distributions, mixing, threads.

Every contender's answers are compared with perslm's before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from perslm import _backend
from perslm.bench import peers
from perslm.bench.clock import Contender, Pace, Timing, race, race_threads
from perslm.bench.corpus import SIZE, SPECIALS
from perslm.bench.report import OURS, Figure, Measurement, measurement
from perslm.bench.steps import Step
from perslm.bench.subject import METADATA, Subject
from perslm.counts import count
from perslm.errors import PerslmError
from perslm.interpolate import Float32Array, uncertainty
from perslm.model import PersonalModel
from perslm.vocabulary import Sequence as Sentence

HYPOTHESES, CANDIDATES = 8, 64
"""A beam step."""


WIDTH, ROWS = 49_152, 4
"""Of a global LM's output: its columns, and the hypotheses mixed at once."""

TOLERANCE = 1e-5
"""How far the logarithms of two toolkits may differ, absolutely and relatively."""


class Unit(NamedTuple):
    """A unit, and how seconds a call become it; ``rising``: more is better."""

    name: str
    of: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
    rising: bool = False


MICROSECONDS = Unit("µs", lambda seconds: seconds * 1e6)


def learn(subject: Subject, pace: Pace) -> Figure:
    """Sentences to a ready model (counting, Katz), in millions of tokens a second.

    The peers of this run cannot: pywrapfst does not count, and kenlm-ex comes without lmplz.
    """
    arguments = [(subject.sentences, subject.order)]
    contenders = [
        Contender(OURS, _learn, arguments, _ngrams),
        *_twin(_learn, arguments, _ngrams),
    ]
    tokens = subject.counts.tokens
    unit = Unit("M tokens/s", lambda seconds: tokens / seconds / 1e6, rising=True)
    return timed("learn", "counting and Katz estimation", subject.order, unit, contenders, pace)


def step(subject: Subject, steps: Sequence[Step], pace: Pace) -> Figure:
    """One beam step, with the next states."""
    model, twin, arcs, fst = subject.model, subject.twin, subject.arcs, subject.fst
    candidates = [s.candidates for s in steps]
    theirs = [twin.states(s.histories) for s in steps]
    lists = [(subject.places(s.histories), s.candidates.tolist()) for s in steps]
    contenders = [
        Contender(
            OURS,
            model.score,
            [(model.states(s.histories), s.candidates) for s in steps],
            _ravel_first,
        ),
        *_twin(twin.score, list(zip(theirs, candidates, strict=True)), _ravel_first),
        *_kenlm_steps(subject, steps),
        Contender("dict", arcs.step, lists, _first),
    ]
    if fst is not None:
        contenders.append(Contender("pywrapfst", fst.step, lists, _first))
    title = f"beam step, {HYPOTHESES} × {CANDIDATES} with next states"
    return timed("step", title, subject.order, MICROSECONDS, contenders, pace)


def word(subject: Subject, steps: Sequence[Step], pace: Pace) -> Figure:
    """ln p and the next state of a single word."""
    model, twin, kenlm, fst = subject.model, subject.twin, subject.kenlm, subject.fst
    words = [int(s.candidates[0, i]) for s in steps for i in range(8)]
    histories = [s.histories[0] for s in steps for _ in range(8)]
    ours = list(zip(model.states(histories).tolist(), words, strict=True))
    theirs = list(zip(twin.states(histories).tolist(), words, strict=True))
    places = list(zip(subject.places(histories), words, strict=True))
    contenders = [
        Contender(OURS, model.step, ours, _logprob),
        *_twin(twin.step, theirs, _logprob),
        Contender("dict", subject.arcs.word, places, _logprob),
    ]
    if kenlm is not None:
        out = kenlm.state(histories[0])  # overwritten by every call
        asked = [
            (kenlm.state(history), peers.NAMES[w], out)
            for history, w in zip(histories, words, strict=True)
        ]
        contenders.insert(2, Contender("kenlm-ex", kenlm.model.BaseScore, asked, kenlm.natural))
    if fst is not None:
        contenders.append(Contender("pywrapfst", fst.word, places, _logprob))
    return timed(
        "word", "one word with its next state", subject.order, MICROSECONDS, contenders, pace
    )


def distribution(subject: Subject, steps: Sequence[Step], pace: Pace) -> Figure:
    """ln p of every word of the vocabulary after one state."""
    model, twin, kenlm, fst = subject.model, subject.twin, subject.kenlm, subject.fst
    histories = [s.histories[0] for s in steps]
    theirs = twin.states(histories)
    contenders = [
        Contender(OURS, model.distribution, _singly(model.states(histories)), np.ravel),
        Contender("numpy.full", np.full, [((1, SIZE), -np.inf, np.float32)]),
        *_twin(twin.distribution, _singly(theirs), np.ravel),
    ]
    if kenlm is not None:
        states = [(kenlm.state(history),) for history in histories]
        contenders.append(Contender("kenlm-ex", kenlm.distribution, states, kenlm.natural))
    if fst is not None:
        walked = [(state,) for state in subject.places(histories)]
        contenders.append(Contender("pywrapfst", fst.distribution, walked, np.ravel))
    title = f"distribution over {SIZE:,} words"
    return timed("distribution", title, subject.order, MICROSECONDS, contenders, pace)


def continuations(subject: Subject, steps: Sequence[Step], pace: Pace) -> Figure:
    """The eight likeliest words after one state."""
    model, twin, kenlm = subject.model, subject.twin, subject.kenlm
    histories = [s.histories[0] for s in steps]
    ours = [(state, 8) for (state,) in _singly(model.states(histories))]
    theirs = [(state, 8) for (state,) in _singly(twin.states(histories))]
    contenders = [
        Contender(OURS, model.continuations, ours, _logprobs),
        *_twin(twin.continuations, theirs, _logprobs),
    ]
    if kenlm is not None:
        states = [(kenlm.state(history), 8) for history in histories]
        contenders.append(Contender("kenlm-ex", kenlm.continuations, states, kenlm.natural))
    title = "the 8 likeliest continuations"
    return timed("continuations", title, subject.order, MICROSECONDS, contenders, pace)


def mix(subject: Subject, steps: Sequence[Step], pace: Pace) -> list[Figure]:
    """Mixing four hypotheses' global log-probabilities: into another array, and in place.

    numpy's contender is told λ, which perslm finds out by state and by what the rows know.
    """
    model, twin = subject.model, subject.twin
    chance = np.random.default_rng(3)
    logits = chance.normal(size=(ROWS, WIDTH)) * 4
    rows = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    buffer: Float32Array = np.empty_like(rows)
    histories = [s.histories[:ROWS] for s in steps]
    ours = [model.states(h) for h in histories]
    theirs = [twin.states(h) for h in histories]

    def into(mixer: PersonalModel) -> Callable[[Any], Float32Array]:
        return lambda states: mixer.mix(states, rows, out=buffer)

    def in_place(mixer: PersonalModel) -> Callable[[Any], Float32Array]:
        return lambda states: mixer.mix(states, buffer, out=buffer)

    def restore() -> None:
        np.copyto(buffer, rows)

    sure = uncertainty(rows)
    dense = []
    for states in theirs:
        weight = twin.weights(states, uncertainty=sure)[:, None]
        scaled = twin.distribution(states)[:, :WIDTH] + np.log(weight)
        dense.append((scaled, np.log1p(-weight)))

    def logaddexp(scaled: Float32Array, rest: Float32Array) -> Float32Array:
        np.logaddexp(rows + rest, scaled, out=buffer)
        return buffer

    each, copied = [(states,) for states in ours], [(buffer, rows)]
    outside = [
        Contender(OURS, into(model), each, np.array),
        Contender("numpy.copyto", np.copyto, copied),
        Contender("numpy.logaddexp", logaddexp, dense, np.array),
        *_twin(into(twin), [(s,) for s in theirs], np.array),
    ]
    inside = [
        Contender(OURS, in_place(model), each, np.array, restore),
        Contender("numpy.copyto", np.copyto, copied, None, restore),
    ]
    size = f"{ROWS} × {WIDTH:,} log-probabilities"
    return [
        timed("mix", f"mixing {size}", subject.order, MICROSECONDS, outside, pace),
        timed("mix_in_place", f"mixing {size} in place", subject.order, MICROSECONDS, inside, pace),
    ]


def threads(
    subjects: Sequence[Subject], steps: Sequence[Sequence[Step]], key: str, pace: Pace
) -> Figure:
    """Two threads that score a user each, against one that does the work of both."""
    ours, kenlms = [], []
    for subject, own in zip(subjects, steps, strict=True):
        model = subject.model
        arguments = [(model.states(s.histories), s.candidates) for s in own]
        ours.append(Contender(OURS, model.score, arguments))
        kenlms += _kenlm_steps(subject, own)[1:]
    measured = [_scaling(OURS, ours, pace, None)]
    if kenlms:
        measured.append(_scaling("kenlm-ex", kenlms, pace, measured[0]))
    hypotheses = len(steps[0][0].histories)
    title = f"2 threads, a user each, {hypotheses:,} × {CANDIDATES} a call"
    return Figure(key, title, subjects[0].order, "times one thread", tuple(measured))


def timed(
    key: str,
    title: str,
    order: int | None,
    unit: Unit,
    contenders: Sequence[Contender],
    pace: Pace,
) -> Figure:
    """Check that the contenders agree, time them, and return the figure; perslm comes first."""
    differences = agree(contenders)
    timings = race(contenders, pace)
    measured = [
        _measured(contender.name, timing, timings[0], unit, differences.get(contender.name))
        for contender, timing in zip(contenders, timings, strict=True)
    ]
    return Figure(key, title, order, unit.name, tuple(measured))


def agree(contenders: Sequence[Contender], calls: int = 4) -> dict[str, float]:
    """Return how far each contender's answers differ from the first one's at most.

    Compares the first ``calls`` calls. Raises PerslmError if any differs by more than TOLERANCE.
    """
    found: dict[str, float] = {}
    first = contenders[0]
    for contender in contenders[1:]:
        if contender.answer is None or first.answer is None:
            continue
        worst = 0.0
        for ours, theirs in zip(first.arguments[:calls], contender.arguments[:calls], strict=True):
            worst = max(worst, _difference(_answer(first, ours), _answer(contender, theirs)))
        if worst > TOLERANCE:
            raise PerslmError(
                f"{contender.name} and {OURS} differ by {worst:g}: these figures compare nothing"
            )
        found[contender.name] = worst
    return found


def _answer(contender: Contender, arguments: tuple[Any, ...]) -> npt.NDArray[np.float64]:
    assert contender.answer is not None
    if contender.before is not None:
        contender.before()
    return np.asarray(contender.answer(contender.call(*arguments)), np.float64)


def _difference(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> float:
    """Return the largest difference; what both call impossible is equal."""
    if ours.shape != theirs.shape:
        return np.inf
    impossible = ours < peers.IMPOSSIBLE
    if (impossible != (theirs < peers.IMPOSSIBLE)).any():
        return np.inf
    ours, theirs = ours[~impossible], theirs[~impossible]
    return float(np.max(np.abs(ours - theirs) / np.maximum(1, np.abs(ours)), initial=0.0))


def _measured(
    name: str, timing: Timing, ours: Timing, unit: Unit, difference: float | None
) -> Measurement:
    both = min(len(timing.rounds), len(ours.rounds))
    ratio = None if timing is ours else float(np.median(timing.rounds[:both] / ours.rounds[:both]))
    return measurement(
        name,
        unit.of(timing.samples),
        unit.of(timing.rounds),
        rising=unit.rising,
        ratio=ratio,
        difference=difference,
    )


def _scaling(
    name: str, contenders: Sequence[Contender], pace: Pace, ours: Measurement | None
) -> Measurement:
    ratios = np.array(race_threads(contenders, pace))
    ratio = None if ours is None else ours.median / float(np.median(ratios))
    return measurement(name, ratios, ratios, rising=True, ratio=ratio)


def _twin(
    call: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    answer: Callable[[Any], npt.ArrayLike],
) -> list[Contender]:
    """Return perslm on numpy, or nothing where that is what perslm runs on."""
    if _backend.native is None:
        return []
    return [Contender("numpy twin", peers.on_numpy(call), arguments, answer)]


def _kenlm_steps(subject: Subject, steps: Sequence[Step]) -> list[Contender]:
    """Return KenLM without and with its next states, or nothing where it is not installed."""
    kenlm = subject.kenlm
    if kenlm is None:
        return []
    arguments = [
        (
            [kenlm.state(history) for history in s.histories],
            [[peers.NAMES[i] for i in row] for row in s.candidates.tolist()],
        )
        for s in steps
    ]
    return [
        Contender("kenlm-ex", kenlm.score, arguments, kenlm.natural),
        Contender(
            "kenlm-ex, states kept",
            kenlm.step,
            arguments,
            lambda found: kenlm.natural([logprob for logprob, _ in found]),
        ),
    ]


def _learn(sentences: list[Sentence], order: int) -> PersonalModel:
    return PersonalModel.from_counts(count(sentences, order, SPECIALS), METADATA, estimator="katz")


def _ngrams(model: PersonalModel) -> npt.ArrayLike:
    return model.ngrams


def _singly(states: npt.NDArray[np.uint32]) -> list[tuple[npt.NDArray[np.uint32]]]:
    return [(states[i : i + 1].copy(),) for i in range(len(states))]


def _ravel_first(found: tuple[Float32Array, Any]) -> npt.ArrayLike:
    return found[0].ravel()


def _first(found: list[tuple[float, Any]]) -> list[float]:
    return [logprob for logprob, _ in found]


def _logprob(found: tuple[float, Any]) -> float:
    return found[0]


def _logprobs(found: tuple[Any, Float32Array]) -> npt.ArrayLike:
    return found[1].ravel()
