"""OpenFst: a model as a weighted acceptor, and back. The only pywrapfst of the project.

The acceptor has the shape of OpenGrm NGram's models, so that its tools (``ngramprint``,
``ngramapply``, ``ngramrandgen``, …) and every OpenFst operation take it:

* one state per context, numbered as in ``perslm.automaton``; state 0 is the empty context, the
  start state is that of ``<s>``;
* label = token id + 1, for OpenFst keeps 0 for ε; arcs sorted by label;
* the backoff arc has label 0 and weight −ln α and comes first. Composed as ε it may be taken even
  where a word has an arc of its own; exact is to take it as a failure (φ) arc, for which another
  label can be chosen with ``backoff_label``;
* final weights are −ln p(</s>); ``<s>`` and ``</s>`` label no arc.

Weights are float32 in OpenFst's usual arc types: a model that went through a file differs by 6e-8
of each weight. With a vocabulary, the acceptor carries a symbol table of all its tokens, the same
for all users, so that models and grammars compose; tokens are written as in ARPA files
(``perslm.arpa.escape``).

:func:`load` trusts no file. OpenFst ends the process when a length in a file is damaged, so all
lengths are checked before it reads; then every invariant is.

pywrapfst comes with pynini: ``pip install 'perslm[interop]'``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from perslm import arpa
from perslm.arpa import TOLERANCE
from perslm.automaton import ROOT, Automaton
from perslm.counts import MAX_ORDER, Specials
from perslm.errors import ArgumentError, InteropError, MissingExtraError
from perslm.model import PersonalModel

EPSILON = 0
"""The label of ε, and of backoff arcs unless another is chosen."""

_WEIGHT_BYTES = {"standard": 4, "log": 4, "log64": 8}  # by arc type

EPSILON_SYMBOL, BACKOFF_SYMBOL = "<epsilon>", "<backoff>"


def _pywrapfst() -> Any:
    """Return the module; raises MissingExtraError where it is not installed."""
    try:
        import pywrapfst
    except ImportError as error:
        raise MissingExtraError("OpenFst interop", "interop") from error
    return pywrapfst


def symbols(specials: Specials, token: Callable[[int], str]) -> Any:
    """Return the pywrapfst.SymbolTable of a vocabulary: ``<epsilon>``, then id + 1 for each id.

    ``<s>`` and ``</s>`` have these names, whatever ``token`` calls them; ids for which it raises
    ArgumentError, as ``Vocabulary.token`` does, have none. Raises InteropError if two ids have the
    same token, and MissingExtraError without pywrapfst.
    """
    table = _pywrapfst().SymbolTable(name="perslm")
    table.add_symbol(EPSILON_SYMBOL, EPSILON)
    special = {specials.bos: arpa.OPEN, specials.eos: arpa.CLOSE}
    for i in range(specials.size):
        try:
            symbol = special[i] if i in special else _symbol(token(i))
        except ArgumentError:
            continue  # the ids of some tokenizers have holes
        if table.add_symbol(symbol, i + 1) != i + 1:
            raise InteropError(f"the token of id {i} is also that of another id")
    return table


def to_fst(
    model: PersonalModel | Automaton,
    token: Callable[[int], str] | None = None,
    *,
    arc_type: str = "standard",
    backoff_label: int = EPSILON,
) -> Any:
    """Return the model as a pywrapfst.VectorFst.

    ``token`` gives the text of an id (``Vocabulary.token``) for the symbol table; there is none
    without it. ``arc_type`` is OpenFst's: "standard" (tropical), "log" or "log64". Another
    ``backoff_label`` than ε must not be that of a word. Cost: linear in the number of arcs. Raises
    MissingExtraError without pywrapfst, ArgumentError for a label or arc type that cannot be.
    """
    openfst = _pywrapfst()
    source = model.automaton if isinstance(model, PersonalModel) else model
    if backoff_label != EPSILON and not source.specials.size < backoff_label < 1 << 31:
        raise ArgumentError("backoff_label must be 0 or above all labels, which are token id + 1")
    if arc_type not in _WEIGHT_BYTES:
        raise ArgumentError(f"arc_type must be one of {', '.join(_WEIGHT_BYTES)}")
    fst = openfst.VectorFst(arc_type=arc_type)
    kind = fst.weight_type()
    fst.add_states(source.states)
    fst.set_start(source.start)
    for state in range(source.states):
        if state != ROOT:
            target = int(source.backoff_state[state])
            weight = openfst.Weight(kind, float(source.backoff_weight[state]))
            fst.add_arc(state, openfst.Arc(backoff_label, backoff_label, weight, target))
        if np.isfinite(source.final_weight[state]):
            fst.set_final(state, openfst.Weight(kind, float(source.final_weight[state])))
    for state, label, value, target in zip(
        source.arc_state.tolist(),
        (source.label.astype(np.int64) + 1).tolist(),
        source.weight.tolist(),
        source.next_state.tolist(),
        strict=True,
    ):
        fst.add_arc(state, openfst.Arc(label, label, openfst.Weight(kind, value), target))
    fst.arcsort()
    if token is not None:
        table = symbols(source.specials, token)
        if backoff_label != EPSILON:
            table.add_symbol(BACKOFF_SYMBOL, backoff_label)
        fst.set_input_symbols(table)
        fst.set_output_symbols(table)
    return fst


def from_fst(
    fst: Any,
    specials: Specials,
    *,
    id_of: Callable[[str], int | None] | None = None,
    backoff_label: int = EPSILON,
    tolerance: float = TOLERANCE,
) -> Automaton:
    """Return an acceptor of the shape above as an automaton that passes ``validate(tolerance)``.

    The states may be numbered in any way, as OpenGrm's are. ``id_of`` gives the id of a token
    (``Vocabulary.id``) and then the symbol table decides what a label means; without it, a label is
    an id + 1. The order is that of the longest n-grams there are. OpenFst models hold no counts:
    ``total`` is the number of distinct events after each context, the least there can have been.
    Raises InteropError for any other acceptor, and MissingExtraError without pywrapfst.
    """
    openfst = _pywrapfst()
    try:
        importer = _Importer(fst, specials, id_of, backoff_label)
    except (openfst.FstError, UnicodeDecodeError) as error:  # final weights, symbols
        raise InteropError("OpenFst cannot make sense of the acceptor") from error
    model = importer.automaton()
    arpa.check(model, tolerance)
    return model


def dump(
    model: PersonalModel | Automaton,
    path: str | os.PathLike[str],
    token: Callable[[int], str] | None = None,
) -> None:
    """Write :func:`to_fst` to a binary ``.fst`` file (type vector, arc type standard).

    Raises MissingExtraError without pywrapfst and InteropError if the file cannot be written.
    """
    fst = to_fst(model, token)
    try:
        Path(path).write_bytes(fst.write_to_string())
    except OSError as error:
        raise InteropError(f"cannot write the OpenFst file: {error.strerror}") from error


def load(
    path: str | os.PathLike[str],
    specials: Specials,
    *,
    id_of: Callable[[str], int | None] | None = None,
    backoff_label: int = EPSILON,
    tolerance: float = TOLERANCE,
) -> Automaton:
    """Return the model of a binary ``.fst`` file of type vector, as :func:`from_fst` does.

    Raises InteropError if the file cannot be read or is not such a model, and MissingExtraError
    without pywrapfst.
    """
    openfst = _pywrapfst()
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InteropError(f"cannot read the OpenFst file: {error.strerror}") from error
    _check_lengths(data)
    try:
        fst = openfst.Fst.read_from_string(data)
    except openfst.FstError as error:
        raise InteropError("OpenFst cannot read the file") from error
    return from_fst(fst, specials, id_of=id_of, backoff_label=backoff_label, tolerance=tolerance)


def _symbol(token: str) -> str:
    if token in (EPSILON_SYMBOL, BACKOFF_SYMBOL):
        return rf"\x{{3c}}{token[1:]}"
    return arpa.escape(token)


class _Importer:
    """Turns one acceptor into an automaton, states in the order that ``perslm.automaton`` has."""

    def __init__(
        self,
        fst: Any,
        specials: Specials,
        id_of: Callable[[str], int | None] | None,
        backoff_label: int,
    ) -> None:
        self._specials = specials
        self._id_of = id_of
        self._symbols = fst.input_symbols()
        if id_of is not None and self._symbols is None:
            raise InteropError("the acceptor has no symbol table: read it without id_of")
        self._start = fst.start()
        states = list(fst.states())
        if not 0 <= self._start < len(states):
            raise InteropError("the acceptor has no start state")
        self._ids: dict[int, int] = {}
        self._arcs: list[list[tuple[int, float, int]]] = [[] for _ in states]  # id, weight, target
        self._backoff: dict[int, tuple[int, float]] = {}
        self._final = [float(fst.final(state)) for state in states]
        for state in states:
            for arc in fst.arcs(state):
                if arc.ilabel != arc.olabel or not 0 <= arc.nextstate < len(states):
                    raise InteropError("this is not an acceptor")
                weight = float(arc.weight)
                if arc.ilabel != backoff_label:
                    self._arcs[state].append((self._id(arc.ilabel), weight, arc.nextstate))
                elif state in self._backoff:
                    raise InteropError("a state has more than one backoff arc")
                else:
                    self._backoff[state] = (arc.nextstate, weight)

    def automaton(self) -> Automaton:
        """Return the automaton, its weights unchecked."""
        depth = self._depths()
        context = self._contexts(depth)
        order = sorted(range(len(depth)), key=lambda state: (depth[state], context[state]))
        number = {state: i for i, state in enumerate(order)}
        number_of_arcs = [len(self._arcs[state]) for state in order]
        arcs = [arc for state in order for arc in sorted(self._arcs[state])]
        root_backoff = (order[ROOT], float("inf"))
        backoff = [self._backoff.get(state, root_backoff) for state in order]
        final = np.array([self._final[state] for state in order])
        return Automaton(
            specials=self._specials,
            order=max(depth) + 1,
            start=number[self._start],
            arc_begin=np.concatenate([[0], np.cumsum(number_of_arcs)]).astype(np.int64),
            label=np.array([label for label, _, _ in arcs], np.uint32),
            weight=np.array([weight for _, weight, _ in arcs], np.float64),
            next_state=np.array([number[target] for _, _, target in arcs], np.uint32),
            backoff_state=np.array([number[target] for target, _ in backoff], np.uint32),
            backoff_weight=np.array([weight for _, weight in backoff]),
            final_weight=final,
            state_order=np.array([depth[state] for state in order], np.uint8),
            total=np.array(number_of_arcs, np.int64) + np.isfinite(final),
        )

    def _id(self, label: int) -> int:
        """Return the token id that a label means."""
        if label not in self._ids:
            token_id: int | None = label - 1
            if self._id_of is not None:
                symbol = self._symbols.find(label)
                token_id = self._id_of(arpa.unescape(symbol)) if symbol else None
            if token_id is None or not 0 <= token_id < self._specials.size:
                raise InteropError(
                    f"label {label} is no word of the vocabulary: read the model with the "
                    "vocabulary it was made for"
                )
            self._ids[label] = token_id
        return self._ids[label]

    def _depths(self) -> list[int]:
        """Return how many backoff arcs lead from each state to the root: words in its context."""
        root = self._start
        for _ in range(MAX_ORDER):
            root = self._backoff.get(root, (root, 0.0))[0]
        depth = [0] * len(self._arcs)
        for state in range(len(depth)):
            here = state
            while here in self._backoff:
                here = self._backoff[here][0]
                depth[state] += 1
                if depth[state] >= MAX_ORDER:
                    raise InteropError(f"backoff arcs lead in a circle, or above order {MAX_ORDER}")
            if here != root:
                raise InteropError("two states have no backoff arc, where only the root may")
        if depth[self._start] > 1:
            raise InteropError("the start state must be that of <s>, or the root")
        return depth

    def _contexts(self, depth: list[int]) -> list[tuple[int, ...]]:
        """Return the ids of each state's context, read off the arcs that lead to it."""
        known: dict[int, tuple[int, ...]] = {
            self._start: (self._specials.bos,) * depth[self._start]
        }
        known[depth.index(0)] = ()
        for state in sorted(range(len(depth)), key=depth.__getitem__):
            if state not in known:
                raise InteropError("a state is not reached by an arc from a shorter context")
            for token_id, _, target in self._arcs[state]:
                if depth[target] == depth[state] + 1:
                    known.setdefault(target, (*known[state], token_id))
        return [known[state] for state in range(len(depth))]


_MAGIC, _SYMBOLS_MAGIC = 2125659606, 2125658996
_HAS_SYMBOLS = (1, 2)  # flags: input, output
_DAMAGED = "the OpenFst file is damaged, or cut short"


class _Bytes:
    """Reads numbers and lengths from bytes; raises InteropError instead of going past the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def numbers(self, layout: str) -> tuple[int, ...]:
        """Return little-endian numbers, as ``struct`` describes them."""
        layout = f"<{layout}"
        start = self._at
        self.skip(1, struct.calcsize(layout))
        return struct.unpack_from(layout, self._data, start)

    def text(self) -> bytes:
        """Return a text that its length precedes."""
        (length,) = self.numbers("i")
        start = self._at
        self.skip(length, 1)
        return self._data[start : self._at]

    def skip(self, items: int, size: int) -> None:
        """Go past ``items`` items of ``size`` bytes each."""
        if not 0 <= items <= (len(self._data) - self._at) // size:
            raise InteropError(_DAMAGED)
        self._at += items * size


def _check_lengths(data: bytes) -> None:
    """Raise InteropError unless every length in a vector ``.fst`` file fits the file."""
    reader = _Bytes(data)
    if reader.numbers("i") != (_MAGIC,):
        raise InteropError("this is not an OpenFst file")
    kind, arc_type = reader.text(), reader.text().decode("ascii", "replace")
    if kind != b"vector" or arc_type not in _WEIGHT_BYTES:
        raise InteropError(
            "only acceptors of type vector and arc type standard, log or log64 can be read: "
            "convert the file with fstconvert --fst_type=vector"
        )
    weight = _WEIGHT_BYTES[arc_type]
    _version, flags, _properties, _start, states, _arcs = reader.numbers("iiQqqq")
    for flag in _HAS_SYMBOLS:
        if flags & flag:
            _check_symbols(reader)
    for _ in range(states):
        reader.skip(1, weight)
        (arcs,) = reader.numbers("q")
        reader.skip(arcs, 12 + weight)  # two labels, a weight, the next state
    if states < 0:
        raise InteropError("the OpenFst file does not say how many states it has")


def _check_symbols(reader: _Bytes) -> None:
    if reader.numbers("i") != (_SYMBOLS_MAGIC,):
        raise InteropError(_DAMAGED)
    reader.text()
    _next_key, size = reader.numbers("qq")
    if size < 0:
        raise InteropError(_DAMAGED)
    for _ in range(size):
        reader.text()
        reader.numbers("q")
