r"""ARPA files: the text format that every n-gram toolkit reads. The only log10 of the project.

::

    \data\
    ngram 1=3                             how many n-grams of each order follow
    ngram 2=2

    \1-grams:
    -99<TAB><s><TAB>-2.69897              log10 p, the n-gram, log10 α if it is a context
    -0.30103<TAB></s>
    -0.30103<TAB>hello<TAB>-2.69897

    \2-grams:
    -0.000434511774<TAB><s> hello
    -0.000434511774<TAB>hello </s>

    \end\

**What is written.** Numbers have as many digits as a float64 needs (up to 17), so that a model that
is written and read again differs by rounding only: a few parts in 10^16. ``<s>`` and ``</s>`` are
always listed; ``<s>`` is never predicted and has −99, by which the format means zero. An n-gram has
a backoff column exactly if it is a state: none of the highest order, none that ends in ``</s>``.
Log-probabilities are never positive. Orders that the model has no n-grams of are written empty.

**Tokens** are separated by whitespace in this format, so :func:`escape` writes what a token must
not hold as ``\x{20}``, the code point in hexadecimal; ``\x{}`` is the empty token. A token that
spells ``<s>`` or ``</s>`` without being it is escaped too. Everything else stays as it is, most
backslashes included, so that other tools see the words they know.

**What is read.** Files of OpenGrm NGram, KenLM, SRILM and others, of order 1 to 5: anything before
``\data\``, blank lines, any mix of blanks and tabs, a missing backoff column (α = 1), probabilities
of −99 or less for zero (a word whose probability is zero everywhere is left out). Tools that prune
drop n-grams that longer ones still need; the reader puts them back with the probability that they
had by backing off and with α = 1, which changes no probability. What is left must be a model:
counts as announced, no n-gram twice, and every distribution sums to 1.

The automaton and its invariants live in ``perslm.automaton``; OpenFst files in ``perslm.openfst``.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple, TextIO, TypeAlias

import numpy as np

from perslm import automaton as automata
from perslm.automaton import ROOT, Automaton
from perslm.counts import MAX_ORDER, Counts, Level, Specials
from perslm.errors import AutomatonError, InteropError
from perslm.model import PersonalModel
from perslm.smoothing import Float64Array, Smoothed

LOG10_ZERO = -99.0
"""What ARPA files write for the logarithm of zero."""

TOLERANCE = 1e-4
"""How far from 1 an imported distribution may sum: other tools write 6 or 7 digits."""

OPEN, CLOSE = "<s>", "</s>"

_LN10 = math.log(10)
_ROUNDING = 1e-6  # a log10 probability may be this much above 0 and still mean 1
_UNSAFE = re.compile(r"[\s\x00-\x1f\x7f\ud800-\udfff]|\\(?=x\{[0-9a-f]{0,6}\})")
_ESCAPED = re.compile(r"\\x\{([0-9a-f]{0,6})\}")
_BLANK = " \t\r\n\f\v"  # other Unicode space may be part of a word
_BLANKS = re.compile(f"[{_BLANK}]+")
_COUNT = re.compile(r"ngram[ \t]+([0-9]{1,9})[ \t]*=[ \t]*([0-9]{1,18})")
_NO_MODEL = "the file does not hold a model whose probabilities sum to 1"

NGram: TypeAlias = tuple[int, ...]


class Entry(NamedTuple):
    """The two numbers of an n-gram, log10; ``backoff`` is None where the file has no column."""

    logprob: float
    backoff: float | None


Section: TypeAlias = dict[NGram, Entry]

_MISSING = Entry(math.nan, None)


def escape(token: str) -> str:
    r"""Return ``token`` as this format can hold it; :func:`unescape` gives it back.

    Whitespace, control characters and lone surrogates become ``\x{…}``; so does the first
    character of a token that spells ``<s>`` or ``</s>``, and a backslash that would read as an
    escape. The empty token is ``\x{}``.
    """
    if token in (OPEN, CLOSE):
        return rf"\x{{3c}}{token[1:]}"
    return _UNSAFE.sub(lambda found: rf"\x{{{ord(found[0]):x}}}", token) or r"\x{}"


def unescape(field: str) -> str:
    """Undo :func:`escape`; a field of another tool, without escapes, is the token itself."""

    def character(found: re.Match[str]) -> str:
        if not found[1]:
            return ""
        code = int(found[1], 16)
        return chr(code) if code <= sys.maxunicode else found[0]

    return _ESCAPED.sub(character, field)


def dump(model: PersonalModel | Automaton, token: Callable[[int], str], file: TextIO) -> None:
    """Write a model as ARPA text.

    ``token`` gives the text of an id, ``Vocabulary.token`` for one; it is not asked for ``<s>`` and
    ``</s>``, whatever the vocabulary calls them. Open ``file`` as UTF-8. n-grams are written by
    context, in the order of ids. Cost: linear in the number of n-grams.
    """
    source = model.automaton if isinstance(model, PersonalModel) else model
    spelled = {i: escape(token(i)) for i in source.label[: int(source.arc_begin[1])].tolist()}
    spelled[source.specials.bos] = OPEN
    contexts = [" ".join(spelled[i] for i in words) for words in context_words(source)]
    sections = [_section(source, order, contexts, spelled) for order in range(1, source.order + 1)]
    file.write("\\data\\\n")
    file.writelines(f"ngram {order}={len(lines)}\n" for order, lines in enumerate(sections, 1))
    for order, lines in enumerate(sections, 1):
        file.write(f"\n\\{order}-grams:\n")
        file.writelines(lines)
    file.write("\n\\end\\\n")


def context_words(model: Automaton) -> list[NGram]:
    """Return the ids of the context that each state stands for, oldest first."""
    order = model.state_order.astype(np.int64)
    longer = order[model.next_state] == order[model.arc_state] + 1
    words: list[NGram] = [()] * model.states
    if model.start != ROOT:
        words[model.start] = (model.specials.bos,)
    entering = zip(
        order[model.arc_state[longer]].tolist(),
        model.arc_state[longer].tolist(),
        model.label[longer].tolist(),
        model.next_state[longer].tolist(),
        strict=True,
    )
    for _, state, label, target in sorted(entering):  # shorter contexts first
        words[target] = (*words[state], label)
    return words


def _section(
    model: Automaton, order: int, contexts: list[str], spelled: dict[int, str]
) -> list[str]:
    """Return the lines of all n-grams of one order, those of a context together."""
    log_backoff = -model.backoff_weight
    lines: list[str] = []
    if order == 1:
        backoff = "" if model.start == ROOT else f"\t{_log10(log_backoff[model.start])}"
        lines.append(f"{_number(LOG10_ZERO)}\t{OPEN}{backoff}\n")
    for state in np.flatnonzero(model.state_order == order - 1).tolist():
        context = f"{contexts[state]} " if order > 1 else ""
        final = model.final_weight[state]
        if order == 1 or math.isfinite(final):
            lines.append(f"{_log10(min(-final, 0.0))}\t{context}{CLOSE}\n")
        arcs = slice(model.arc_begin[state], model.arc_begin[state + 1])
        for label, weight, target in zip(
            model.label[arcs].tolist(),
            model.weight[arcs].tolist(),
            model.next_state[arcs].tolist(),
            strict=True,
        ):
            is_state = model.state_order[target] == order
            backoff = f"\t{_log10(log_backoff[target])}" if is_state else ""
            lines.append(f"{_log10(min(-weight, 0.0))}\t{context}{spelled[label]}{backoff}\n")
    return lines


def _log10(ln: float) -> str:
    return _number(max(float(ln) / _LN10, LOG10_ZERO))


def _number(value: float) -> str:
    """Return the shortest text that reads as the same float64; whole numbers without a point."""
    return str(int(value)) if value.is_integer() else repr(value)


def load(
    file: TextIO,
    *,
    id_of: Callable[[str], int | None],
    specials: Specials,
    tolerance: float = TOLERANCE,
) -> Automaton:
    """Return the model of an ARPA file as an automaton that passes ``validate(tolerance)``.

    ``id_of`` gives the id of a token or None if there is none, ``Vocabulary.id`` for one; it is
    not asked for ``<s>`` and ``</s>``. ``<unk>`` is a word like any other. The states of the result
    are all n-grams below the highest order that do not end in ``</s>``. ARPA files hold no counts:
    ``total`` is the number of distinct events after each context, the least there can have been.

    Raises InteropError, with the line if it is one line's fault, for anything that is not a whole
    and consistent model in words that all have an id.
    """
    sections = _Reader(file, id_of, specials).read()
    _drop_zeros(sections, specials)
    _insert_missing(sections)
    model = _assemble(sections, specials)
    check(model, tolerance)
    return model


def check(model: Automaton, tolerance: float) -> None:
    """Validate an imported automaton; raises InteropError where AutomatonError would be raised."""
    if min(model.weight.min(initial=0), model.final_weight.min(initial=0)) < -tolerance:
        raise InteropError(f"{_NO_MODEL}: a probability is above 1")
    try:
        model.validate(tolerance)
    except AutomatonError as error:
        raise InteropError(f"{_NO_MODEL}: {error.problem}") from error
    if model.specials.eos >= model.specials.size and np.isfinite(model.final_weight).any():
        raise InteropError("the model closes sentences, but this vocabulary has no </s> to emit")


class _Reader:
    """Reads the sections of one file, in log10 and as they stand."""

    def __init__(
        self, file: TextIO, id_of: Callable[[str], int | None], specials: Specials
    ) -> None:
        self._lines = _numbered(file)
        self._id_of = id_of
        self._specials = specials
        self._sections: list[Section] = []

    def read(self) -> list[Section]:
        """Return the n-grams of each order."""
        announced = self._header()
        for order, count in enumerate(announced, 1):
            self._sections.append(self._section(order, count, highest=order == len(announced)))
        return self._sections

    def _header(self) -> list[int]:
        r"""Return the announced number of n-grams of each order; stops behind ``\1-grams:``."""
        if not any(text == "\\data\\" for _, text in self._lines):
            raise InteropError("the file has no \\data\\ line: is this an ARPA file?")
        announced: list[int] = []
        for number, text in self._lines:
            if text == "\\1-grams:" and announced:
                return announced
            match = _COUNT.fullmatch(text)
            if match is None or int(match[1]) != len(announced) + 1:
                raise InteropError("'ngram ORDER=COUNT' is expected, for orders 1, 2, …", number)
            if len(announced) == MAX_ORDER:
                raise InteropError(f"orders above {MAX_ORDER} are not supported", number)
            announced.append(int(match[2]))
        raise InteropError("the file ends before its first section: it is cut short")

    def _section(self, order: int, announced: int, *, highest: bool) -> Section:
        """Return the n-grams of one order; stops behind the line that opens the next."""
        marker = "\\end\\" if highest else f"\\{order + 1}-grams:"
        section: Section = {}
        listed = 0
        for number, text in self._lines:
            if text.startswith("\\"):  # an entry starts with a number
                if text != marker:
                    raise InteropError(f"{marker} is expected, or an n-gram", number)
                if listed != announced:
                    raise InteropError(
                        f"{listed} {order}-grams, where the header announces {announced}", number
                    )
                return section
            listed += 1
            words, entry = _parse(text, order, highest, number)
            ids = self._ids(words, entry.logprob, number)
            if ids is None:
                continue
            if ids in section:
                raise InteropError("this n-gram was listed before", number)
            section[ids] = entry
        raise InteropError(f"the file ends before {marker}: it is cut short")

    def _ids(self, words: list[str], logprob: float, number: int) -> NGram | None:
        """Return the ids of ``words``; None for a word without id that has no probability."""
        bos, eos = self._specials.bos, self._specials.eos
        ids: list[int] = []
        for word in words:
            if word in (OPEN, CLOSE):
                ids.append(bos if word == OPEN else eos)
                continue
            token_id = self._id_of(unescape(word))
            if token_id is None and len(words) == 1 and logprob == LOG10_ZERO:
                return None
            if token_id is None:
                raise InteropError(
                    "a word is not in the vocabulary: read the file with the vocabulary it was "
                    "made for (if it gives <unk> a probability, <unk> needs an id too)",
                    number,
                )
            if token_id in (bos, eos) or not 0 <= token_id < self._specials.size:
                raise InteropError("a word has the id of <s> or </s>, or one out of range", number)
            ids.append(token_id)
        if bos in ids[1:] or eos in ids[:-1]:
            raise InteropError("<s> comes only first and </s> only last", number)
        if len(ids) > 1 and any((i,) not in self._sections[0] for i in ids):
            raise InteropError("a word of this n-gram is not among the 1-grams", number)
        return tuple(ids)


def _numbered(file: TextIO) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of all lines that are not blank."""
    try:
        for number, line in enumerate(file, 1):
            text = line.strip(_BLANK)
            if text:
                yield number, text
    except UnicodeDecodeError as error:
        raise InteropError("the file is not UTF-8 text") from error


def _parse(text: str, order: int, highest: bool, number: int) -> tuple[list[str], Entry]:
    """Return the words and the numbers of one line."""
    first, *words = _BLANKS.split(text)
    logprob = _float(first, number)
    if logprob > _ROUNDING:
        raise InteropError("a probability is above 1", number)
    backoff = None
    if len(words) == order + 1 and not highest:
        backoff = _float(words.pop(), number)
        if backoff > -LOG10_ZERO:
            raise InteropError("a backoff weight is out of range", number)
    if len(words) != order:
        raise InteropError(f"this is not a {order}-gram with its weights", number)
    return words, Entry(min(logprob, 0.0), backoff)


def _float(text: str, number: int) -> float:
    """Return a number of the file; −inf, as some tools write it, is −99."""
    try:
        value = float(text)
    except ValueError as error:
        raise InteropError("a weight is not a number", number) from error
    if math.isnan(value) or value == math.inf:
        raise InteropError("a weight is not a finite number", number)
    return max(value, LOG10_ZERO)


def _drop_zeros(sections: list[Section], specials: Specials) -> None:
    """Remove the words of probability zero, and ``<s>`` if it is no context."""
    first, *longer = sections
    used = {i for section in longer for ngram in section for i in ngram}
    for ngram, entry in list(first.items()):
        if ngram == (specials.bos,):
            nothing = entry.backoff is None or not longer
        else:
            nothing = entry.logprob == LOG10_ZERO
        if nothing and ngram[0] not in used:
            del first[ngram]


def _insert_missing(sections: list[Section]) -> None:
    """Add the prefixes and suffixes that longer n-grams need, with their backed-off value."""
    steps = list(pairwise(sections))
    for below, section in reversed(steps):
        for ngram in section:
            below.setdefault(ngram[:-1], _MISSING)
            below.setdefault(ngram[1:], _MISSING)
    for below, section in steps:
        for ngram, entry in section.items():
            if math.isnan(entry.logprob):
                alpha = below[ngram[:-1]].backoff or 0.0
                section[ngram] = Entry(alpha + below[ngram[1:]].logprob, entry.backoff)


def _assemble(sections: list[Section], specials: Specials) -> Automaton:
    """Return the automaton of n-grams that are closed under taking prefixes and suffixes."""
    levels: list[Level] = []
    logprob: list[Float64Array] = []
    log_backoff: list[Float64Array] = [np.zeros(1)]
    index: dict[NGram, int] = {(): 0}
    for section in sections:
        ngrams = sorted(section)
        levels.append(
            Level(
                np.array([index[n[:-1]] for n in ngrams], np.uint32),
                np.array([n[-1] for n in ngrams], np.uint32),
                np.array([index[n[1:]] for n in ngrams], np.uint32),
                np.array([n != (specials.bos,) for n in ngrams], np.int64),
            )
        )
        logprob.append(_LN10 * np.array([section[n].logprob for n in ngrams], np.float64))
        log_backoff.append(
            _LN10 * np.array([section[n].backoff or 0.0 for n in ngrams], np.float64)
        )
        index = {ngram: i for i, ngram in enumerate(ngrams)}
    model = Smoothed(tuple(logprob), tuple(log_backoff[:-1]), ())
    return automata.build(Counts(specials, tuple(levels)), model)
