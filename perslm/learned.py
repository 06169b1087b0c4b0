"""A published model and what came after it, as one: learned messages added, blocked phrases gone.

Whoever reads a model from a store reads it through :func:`current`. Nothing is stored of what comes
out: the next build counts the messages with all others, and has the last word.

Among messages that were just learned, a phrase counts only if the model has it already, or two of
them do: what was written once, like a code or a password, is in no distribution. Single words count
at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b

import numpy as np

from perslm import blob
from perslm.counts import Counts, Level, count, merge, pair_keys, split_keys
from perslm.errors import ArgumentError, BlobError
from perslm.rules import Rules
from perslm.store import Pending, Stored

_ENOUGH = 2  # messages that must have a phrase


def current(stored: Stored, everybody: Rules | None = None) -> bytes:
    """Return the blob of a user's model as it is now; that which is stored if nothing came since.

    ``everybody`` are the rules of all users. Messages of another vocabulary than the model's are
    left out. The metadata count the messages, and the source digest names them as well. Raises
    BlobError if the blob cannot be read.
    """
    rules = Rules() if stored.rules is None else stored.rules
    if everybody is not None:
        rules = rules | everybody
    messages = [m for m in stored.pending if m.vocabulary == stored.vocabulary]
    if not messages and not rules.blocked:
        return stored.blob
    try:
        return _joined(stored, messages, rules)
    except ArgumentError:  # ids that the vocabulary does not have, say
        raise BlobError("a learned message does not fit the model") from None


def _joined(stored: Stored, messages: Sequence[Pending], rules: Rules) -> bytes:
    decoded = blob.decode(stored.blob)
    counts, metadata = decoded.counts, decoded.metadata
    if messages:
        counts = add(counts, messages)
        digest = blake2b(bytes.fromhex(metadata.source_digest), digest_size=16)
        for message in messages:
            digest.update(message.to_bytes(message.vocabulary))
        metadata = replace(
            metadata,
            messages=metadata.messages + len(messages),
            created=max(metadata.created, *(int(max(m.sent, 0)) for m in messages)),
            source_digest=digest.hexdigest(),
        )
    left = rules.without(counts, metadata.fingerprint)
    if left is decoded.counts:
        return stored.blob
    return blob.encode(left, metadata)


def add(base: Counts, messages: Sequence[Pending]) -> Counts:
    """Return the counts of a model with those of messages that were learned since.

    An n-gram above order 1 counts if ``base`` or two of ``messages`` have it. The others are cut,
    as ``Counts.select`` cuts: what follows a context adds up to what was seen after it.
    """
    parts = [count(m.sequences, base.order, base.specials) for m in messages]
    if not parts:
        return base
    new, spread = merge(parts), merge([_once(part) for part in parts])
    levels: list[Level] = []
    kept = []
    cuts = [] if base.cut is None else [base.cut[0]]
    places, places_new = np.zeros(1, np.int64), np.zeros(1, np.int64)  # of contexts, in the sum
    for k, (old, more, times) in enumerate(
        zip(base.levels, new.levels, spread.levels, strict=True)
    ):
        keys = np.concatenate(
            [
                pair_keys(places[old.context], old.word),
                pair_keys(places_new[more.context], more.word),
            ]
        )
        suffixes = np.concatenate([places[old.suffix], places_new[more.suffix]])
        if base.cut is not None and k:
            cuts.append(np.zeros(len(levels[-1]), np.int64))
            cuts[-1][places] = base.cut[k]
        distinct, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        total, often = np.zeros(len(distinct), np.int64), np.zeros(len(distinct), np.int64)
        places, places_new = inverse[: len(old)], inverse[len(old) :]
        total[places] += old.count
        total[places_new] += more.count
        often[places] = _ENOUGH
        often[places_new] += times.count
        context, word = split_keys(distinct)
        levels.append(Level(context, word, suffixes[first].astype(np.uint32), total))
        kept.append((often >= _ENOUGH) | (k == 0))
    whole = Counts(base.specials, tuple(levels))
    if cuts:
        seen = base.count_of_counts() + whole.count_of_counts()
        seen -= Counts(base.specials, base.levels).count_of_counts()
        whole = replace(whole, cut=tuple(cuts), whole=seen)
    return whole if all(map(np.all, kept)) else whole.select(kept)


def _once(counts: Counts) -> Counts:
    """Return the counts as if every n-gram had been seen once at most."""
    levels = (Level(v.context, v.word, v.suffix, np.minimum(v.count, 1)) for v in counts.levels)
    return Counts(counts.specials, tuple(levels))
