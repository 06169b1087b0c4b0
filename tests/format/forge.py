"""Writes any blob that a script asks for, sound or not.

``forge`` lets the reference reader walk over a script in the place of a stack: whatever it would
take next, the script says. The blob that would have made it take just this comes out, up to where
the reader had enough. A script is a list of steps, made by ``flag``, ``number`` and ``slot``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from tests.format.corpus import sealed
from tests.format.reference import LOW, Blob, RefusedError, Stack, Walk

Step = tuple[int, int]  # r, and the slot among 2^r


def flag(value: bool) -> list[Step]:
    return [(24, value << 23)]


def number(v: int) -> list[Step]:
    one, zero = (16, 0), (16, 2**16 - 1)  # p is never so small, or so large
    if v < 6:
        return [one] * v + [zero]
    u = v - 5
    length = u.bit_length() - 1
    steps = [one] * (6 + length) + [zero] * (length < 31)
    if length >= 1:
        steps.append(one if u >> (length - 1) & 1 else zero)
    if length >= 2:
        steps.append((length - 1, u & ((1 << (length - 1)) - 1)))
    return steps


def numbers(*values: int) -> list[Step]:
    return [step for v in values for step in number(v)]


def slot(r: int, at: int) -> list[Step]:
    return [(r, at)]


class Script(Stack):
    """A stack that always has on it what the script says next."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps[::-1]
        self.taken: list[tuple[int, int, int]] = []
        self.seen: list[tuple[int, int, int]] = []  # a slot that was looked at, but not taken yet
        self.words = []
        self.untouched = 0

    def slot(self, r: int) -> int:
        expected, at = self.steps.pop()
        assert r == expected, "the script is for another walk"
        self.seen = [(at, 1, r)]
        return at

    def take(self, start: int, size: int, r: int) -> None:
        self.seen = []
        self.taken.append((start, size, r))

    def put(self, start: int, size: int, r: int) -> None:
        raise AssertionError("a script draws no two columns of one row")

    def finish(self) -> int:
        return 0

    def bytes(self) -> bytes:
        stack = Stack(LOW.to_bytes(8, "little"), 0)
        for share in reversed(self.taken + self.seen):
            stack.put(*share)
        words = (word.to_bytes(4, "little") for word in reversed(stack.words))
        return stack.x.to_bytes(8, "little") + b"".join(words)


def forge(
    announced: Sequence[int],
    steps: list[Step],
    *,
    pruned: bool = False,
    size: int = 50,
    bos: int = 0,
    eos: int = 1,
    tokens: int = 0,
) -> bytes:
    blob = Blob(len(announced), pruned, "ab" * 16, size, bos, eos, 0, tokens, 0, "cd" * 16)
    script = Script(steps)
    walk = Walk(blob, list(announced), script)
    with contextlib.suppress(RefusedError):
        walk.read()
    assert not script.steps, "the reader stopped before the script did"
    return around(blob, b"".join(map(varint, announced)) + script.bytes())


def around(blob: Blob, payload: bytes) -> bytes:
    """Return a blob with this payload."""
    fields = (blob.size, blob.bos, blob.eos, blob.messages, blob.tokens)
    return sealed(
        b"pslm\1"
        + bytes([blob.order, blob.pruned, 0])
        + bytes.fromhex(blob.fingerprint)
        + b"".join(field.to_bytes(4, "little") for field in fields)
        + blob.created.to_bytes(8, "little")
        + bytes.fromhex(blob.digest)
        + bytes([1, 5, 0, 0])
        + len(payload).to_bytes(4, "little")
        + payload
    )


def varint(value: int) -> bytes:
    low = bytes([value & 127 | (value >= 128) << 7])
    return low + varint(value >> 7) if value >= 128 else low
