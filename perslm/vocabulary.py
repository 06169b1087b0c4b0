"""Token ids: a word list of our own, or the tokenizer of the global LM.

Every model, blob and request is over the ids of one ``Vocabulary``, named by its ``fingerprint``.
There are two kinds with one interface:

``words``
    Ids 0 to 2 are ``<unk>``, ``<s>``, ``</s>``, then come ``ENTITY_TOKENS``, then the words. A
    sequence is a sentence. A word outside the vocabulary is ``<unk>``, counted as a word like any
    other. Text is cut by ``perslm.tokenize``, whose version is part of the fingerprint.

``tokenizer``
    Ids are those of a Hugging Face ``tokenizer.json``. A sequence is a whole text, its hard-wrapped
    lines joined, cut exactly as the tokenizer cuts it. Entities that must not be learned break it:
    the ids that touch one are left out, the piece before does not close and the piece after does
    not open. These are entities of every kind except dates, times and numbers of at most four
    digits, which say nothing about a person, and runs of letters and digits that the tokenizer cuts
    to crumbs: what it has no words for is no word, but may be a password. Special tokens that a
    user types break it as well.

    ``bos`` and ``eos`` are the tokenizer's own where it has them. Where it has none, or one id for
    both, which is then taken for ``eos``, they are *virtual*: ``bos`` is ``size`` and ``eos`` is
    ``size + 1``, ids that no text produces and that have no column in the global LM's output.

Only encoding and decoding with an imported tokenizer need the ``tokenizers`` package: a service
that compares fingerprints does not. Building a word list from mail is in ``builders.vocabulary``.
"""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple

from perslm._files import replacing
from perslm.errors import ArgumentError, MissingExtraError, VocabularyError
from perslm.tokenize import (
    ENTITY_TOKENS,
    TOKENIZER,
    Entity,
    detokenize,
    entities,
    sentences,
    unfinished,
    unwrap,
)
from perslm.tokenizer_json import REMEDY, Ends, canonical, find_ends, list_tokens, parse, refuse

__all__ = ["BOS", "EOS", "SPECIALS", "UNK", "Sequence", "Vocabulary"]

UNK, BOS, EOS = "<unk>", "<s>", "</s>"
SPECIALS = (UNK, BOS, EOS, *ENTITY_TOKENS)
"""The tokens that every word vocabulary begins with, in the order of their ids."""

Kind = Literal["words", "tokenizer"]

_FORMAT = "perslm-vocabulary"
_VERSION = 1


class Sequence(NamedTuple):
    """Ids to count. ``opens``: ``<s>`` stands before them; ``closes``: ``</s>`` after them.

    Neither is among ``ids``.
    """

    ids: tuple[int, ...]
    opens: bool
    closes: bool

    def __repr__(self) -> str:
        return f"Sequence({len(self.ids)} ids, opens={self.opens}, closes={self.closes})"


class Vocabulary:
    """An immutable mapping between text, tokens and ids 0 to ``size`` - 1.

    Made by ``from_words``, ``from_tokenizer_json``, ``load`` or ``from_bytes``. Two vocabularies
    are equal if their fingerprints are. Can be pickled and shared between threads.
    """

    __slots__ = (
        "_bos",
        "_eos",
        "_fingerprint",
        "_index",
        "_settings",
        "_special_ids",
        "_tokenizer",
        "_tokens",
        "_unk",
    )

    def __init__(
        self, tokens: tuple[str | None, ...], settings: dict[str, Any] | None, ends: Ends
    ) -> None:
        self._tokens = tokens
        self._settings = settings
        self._unk, self._bos, self._eos = ends.unk, ends.bos, ends.eos
        self._index = {token: i for i, token in enumerate(tokens) if token is not None}
        self._tokenizer: Any = None
        special = {ends.bos, ends.eos, *ends.others}
        if ends.unk is not None:
            special.add(ends.unk)
        self._special_ids = frozenset(special)
        self._fingerprint = _digest(
            {"tokenizer": TOKENIZER, "tokens": tokens}
            if settings is None
            else {"settings": settings, "tokens": tokens, "bos": ends.bos, "eos": ends.eos}
        )

    # --- making one -----------------------------------------------------------------------------

    @classmethod
    def from_words(cls, words: Iterable[str]) -> Vocabulary:
        """Make a word vocabulary of ``SPECIALS`` and these words, which keep their order.

        Raises VocabularyError, with the position, for a word that occurs twice, is special,
        is empty, or holds white space or a lone surrogate.
        """
        tokens = (*SPECIALS, *words)
        seen = set(SPECIALS)
        for position, word in enumerate(tokens[len(SPECIALS) :]):
            if not isinstance(word, str) or not word or word.split() != [word]:
                raise VocabularyError(
                    f"word {position} is empty or holds white space; leave it out"
                )
            if any("\ud800" <= character <= "\udfff" for character in word):
                raise VocabularyError(f"word {position} is not valid Unicode; leave it out")
            if word in seen:
                raise VocabularyError(f"word {position} is there already; leave it out")
            seen.add(word)
        others = frozenset(range(3, len(SPECIALS)))
        return cls(tokens, None, Ends(unk=0, bos=1, eos=2, others=others))

    @classmethod
    def from_tokenizer_json(
        cls, path: str | os.PathLike[str], *, bos: str | None = None, eos: str | None = None
    ) -> Vocabulary:
        """Import the tokenizer of a global LM from its ``tokenizer.json``.

        ``bos`` and ``eos`` name its tokens for the beginning and end of a text; by default they
        are taken from its post-processor, or else recognized by name among its added tokens.
        Padding, truncation and BPE dropout are switched off, since they are not part of how the
        LM sees a text.

        Raises VocabularyError if the file is no tokenizer that the ``tokenizers`` package reads or
        has no such token, MissingExtraError if the package is not installed.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise VocabularyError(
                f"{os.fspath(path)} cannot be read: {error.strerror}; check the path"
            ) from error
        settings = parse(data)
        tokens = list_tokens(settings)
        vocabulary = cls(tokens, canonical(settings), find_ends(settings, tokens, bos, eos))
        vocabulary._loaded()
        return vocabulary

    # --- what it is -----------------------------------------------------------------------------

    @property
    def kind(self) -> Kind:
        """``words`` or ``tokenizer``."""
        return "words" if self._settings is None else "tokenizer"

    @property
    def size(self) -> int:
        """One more than the highest id of a real token; virtual ids lie above."""
        return len(self._tokens)

    @property
    def bos(self) -> int:
        """Id of ``<s>``; at least ``size`` only if virtual."""
        return self._bos

    @property
    def eos(self) -> int:
        """Id of ``</s>``; at least ``size`` only if virtual."""
        return self._eos

    @property
    def unk(self) -> int | None:
        """Id that unknown words get, None where every text can be spelled."""
        return self._unk

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that a suggestion must not show: unk, bos, eos, entities, special added tokens."""
        return self._special_ids

    @property
    def fingerprint(self) -> str:
        """Digest of tokens, specials and settings: 32 hexadecimal digits."""
        return self._fingerprint

    def __len__(self) -> int:
        return len(self._tokens)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return self._fingerprint == other._fingerprint

    def __hash__(self) -> int:
        return hash(self._fingerprint)

    def __repr__(self) -> str:
        return f"Vocabulary({self.kind}, size={self.size}, fingerprint={self._fingerprint})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Vocabulary.from_bytes, (self.to_bytes(),)

    # --- text, tokens, ids ----------------------------------------------------------------------

    def token(self, id: int) -> str:
        """Return the token of an id; ``<s>`` and ``</s>`` for virtual ones.

        Raises ArgumentError if no token has this id.
        """
        token = self._tokens[id] if 0 <= id < len(self._tokens) else None
        if token is None:
            if id == self._bos:
                return BOS
            if id == self._eos:
                return EOS
            raise ArgumentError(f"no token has id {id}: ids are below {self.size}")
        return token

    def id(self, token: str) -> int | None:
        """Return the id of a token, None if there is none."""
        return self._index.get(token)

    def encode(self, text: str, *, names: Iterable[str] = ()) -> list[Sequence]:
        """Return what is to be counted of a text, in order; no sequence is empty.

        ``names`` are the display names of correspondents, whose occurrences are not learned.
        Raises MissingExtraError with an imported tokenizer whose package is missing, else nothing.
        """
        if self._settings is not None:
            return self._pieces(text, names)
        find, unk = self._index.get, self._unk or 0
        return [
            Sequence(tuple([find(token, unk) for token in sentence]), True, True)
            for sentence in sentences(text, names=names)
        ]

    def history(self, text: str, *, names: Iterable[str] = ()) -> list[int]:
        """Return the ids that a text which goes on begins with: ``bos`` and what follows it.

        Words: the sentence that the text leaves open, so ``[bos]`` if it ends one. Imported
        tokenizer: the whole text as the global LM sees it, entities included; white space at the
        end is left out, since it belongs to the token that comes next.
        """
        if self._settings is not None:
            return [self._bos, *self._loaded().encode(_lines(text), add_special_tokens=False).ids]
        find, unk = self._index.get, self._unk or 0
        return [self._bos, *(find(token, unk) for token in unfinished(text, names=names))]

    def decode(self, ids: Iterable[int]) -> str:
        """Return readable text; the ends of sequences are left out.

        Raises ArgumentError for an id that no token has.
        """
        kept = [int(id) for id in ids if id not in (self._bos, self._eos)]
        tokens = [self.token(id) for id in kept]
        if self._settings is None:
            return detokenize(tokens)
        text: str = self._loaded().decode(kept, skip_special_tokens=False)
        return text

    def pieces(self) -> tuple[str, ...]:
        """Return what each id adds to a text that goes on before it, by id; "" if nothing.

        That is the token of a word vocabulary; the bytes of an imported tokenizer's token, with the
        space that it stands for, where U+FFFD replaces bytes that are no whole character.
        """
        if self._settings is None:
            return tuple("" if token is None else token for token in self._tokens)
        tokenizer = self._loaded()
        before = tokenizer.encode("a", add_special_tokens=False).ids[-1:]
        start = len(tokenizer.decode(before, skip_special_tokens=False))
        known = [i for i, token in enumerate(self._tokens) if token is not None]
        texts = tokenizer.decode_batch([[*before, i] for i in known], skip_special_tokens=False)
        found = [""] * self.size
        for i, text in zip(known, texts, strict=True):
            found[i] = "" if i in self._special_ids else text[start:]
        return tuple(found)

    def _pieces(self, text: str, names: Iterable[str]) -> list[Sequence]:
        text = _lines(text)
        encoding = self._loaded().encode(text, add_special_tokens=False)
        breaks = [
            (entity.start, entity.end)
            for entity in entities(text, names=names)
            if not _learnable(text, entity)
        ]
        crumbs = list(_crumbs(text, [start for start, _ in encoding.offsets]))
        if crumbs:
            breaks = _joined(breaks + crumbs)
        special = self._special_ids - {self._unk}
        found: list[Sequence] = []
        piece: list[int] = []
        opens, at = True, 0
        for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            while at < len(breaks) and breaks[at][1] <= start:
                at += 1
            touches = at < len(breaks) and breaks[at][0] < max(end, start + 1)
            if touches or id in special:
                if piece:
                    found.append(Sequence(tuple(piece), opens, False))
                    piece = []
                opens = False
            else:
                piece.append(id)
        if piece:
            # a virtual </s> is no event: the global LM cannot emit it
            found.append(Sequence(tuple(piece), opens, self._eos < self.size))
        return found

    def _loaded(self) -> Any:
        """Return the imported tokenizer, made at the first use."""
        if self._tokenizer is None:
            try:
                from tokenizers import Tokenizer
            except ImportError:
                raise MissingExtraError("importing a tokenizer", "builders") from None
            try:
                self._tokenizer = Tokenizer.from_str(json.dumps(self._settings))
            except Exception as error:
                raise VocabularyError(
                    "the installed tokenizers package cannot read this tokenizer; "
                    "upgrade it, or check that the file is a tokenizer.json"
                ) from error
        return self._tokenizer

    # --- files ----------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """Return the vocabulary as JSON in UTF-8, one token a line; the same bytes every time."""
        content: dict[str, Any] = {
            "format": _FORMAT,
            "version": _VERSION,
            "fingerprint": self._fingerprint,
            "kind": self.kind,
        }
        if self._settings is None:
            content["tokenizer"] = TOKENIZER
            content["words"] = self._tokens[len(SPECIALS) :]
        else:
            content["bos"], content["eos"] = self._bos, self._eos
            content["settings"] = self._settings
        return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Vocabulary:
        """Read what ``to_bytes`` wrote.

        Raises VocabularyError if the bytes are damaged, of another kind or of a newer version.
        """
        content = parse(data)
        if content.get("format") != _FORMAT:
            if "model" in content:
                refuse("this is a tokenizer.json", "import it first: `perslm vocab import`")
            refuse("this is no vocabulary file")
        if content.get("version") != _VERSION:
            refuse(f"its version is not {_VERSION}", "upgrade perslm, or " + REMEDY)
        if content.get("kind") == "words":
            if content.get("tokenizer") != TOKENIZER:
                refuse(f"its words were not cut by {TOKENIZER}", "build it again with this perslm")
            words = content.get("words")
            if not isinstance(words, list):
                refuse("its list of words is missing")
            vocabulary = cls.from_words(words)
        elif content.get("kind") == "tokenizer":
            settings = content.get("settings")
            if not isinstance(settings, dict):
                refuse("its tokenizer settings are missing")
            tokens = list_tokens(settings)
            ends = find_ends(settings, tokens, None, None)
            bos: Any = content.get("bos")
            eos: Any = content.get("eos")
            for end in (bos, eos):
                if type(end) is not int or not 0 <= end <= len(tokens) + 1:
                    refuse("its bos or eos is no id")
            vocabulary = cls(tokens, canonical(settings), ends._replace(bos=bos, eos=eos))
        else:
            refuse("its kind is unknown")
        if content.get("fingerprint") != vocabulary.fingerprint:
            refuse("its content does not match its fingerprint")
        return vocabulary

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a file, which is replaced in one step or not at all; others may read it.

        Raises VocabularyError if it cannot be written.
        """
        target = Path(path)
        try:
            with replacing(target, 0o644) as file:
                file.write(self.to_bytes())
        except OSError as error:
            raise VocabularyError(
                f"{target} cannot be written: {error.strerror}; "
                "make room or name another --output; what was there before is unchanged"
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Read a file that ``save`` wrote.

        Raises VocabularyError, with the path, if it cannot be read or is not intact.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise VocabularyError(
                f"{os.fspath(path)} cannot be read: {error.strerror}; "
                "check the path, or make a vocabulary with `perslm vocab build`"
            ) from error
        try:
            return cls.from_bytes(data)
        except VocabularyError as error:
            raise VocabularyError(f"{os.fspath(path)}: {error}") from error


def _learnable(text: str, entity: Entity) -> bool:
    if entity.kind == "number":
        return sum(map(str.isdigit, text[entity.start : entity.end])) <= 4
    return entity.kind in ("date", "time")


# Random letters make tokens of 1.5 letters on average, 2 at most; long words of a language that the
# tokenizer was made for hardly ever (of English ones 1 in 2000) fewer than 2.
_LONG_RUN = re.compile(r"(?<![^\W_])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{8,}+(?![^\W_])")


def _crumbs(text: str, starts: list[int]) -> Iterator[tuple[int, int]]:
    """Find runs of letters and digits that have a token for every two characters, or more.

    ``starts`` are where tokens start, ascending.
    """
    for match in _LONG_RUN.finditer(text):
        start, end = match.span()
        tokens = bisect_left(starts, end) - bisect_left(starts, start)
        if 2 * tokens >= end - start:
            yield start, end


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans in order, those that overlap as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start < found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def _lines(text: str) -> str:
    """Return the text as an imported tokenizer is given it: lines joined, valid Unicode."""
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return unwrap(text)


def _digest(content: object) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return blake2b(canonical.encode("ascii"), digest_size=16).hexdigest()
