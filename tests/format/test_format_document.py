"""FORMAT.md's example is what the code writes and reads."""

from __future__ import annotations

import re

from perslm.blob import Metadata, decode, encode
from perslm.counts import Specials, count
from tests.support import ROOT, Seq


def test_the_annotated_hexdump() -> None:
    text = (ROOT / "FORMAT.md").read_text("utf-8")
    block = re.search(r"```hexdump\n(.*?)```", text, re.S)
    assert block
    documented = bytes.fromhex("".join(row.split("#")[0] for row in block[1].splitlines()))
    counts = count([Seq([5, 6], True, True), Seq([5], True, True)], 2, Specials(7, 1, 2))
    metadata = Metadata("00112233445566778899aabbccddeeff", 2, "ff" * 16, 1_700_000_000)
    assert encode(counts, metadata) == documented
    assert decode(documented).metadata == metadata


def test_every_rule_is_listed() -> None:
    files = (
        "blob.py",
        "_codec.py",
        "_coders.py",
        "_kernel/codec.cpp",
        "_kernel/coders.hpp",
        "_kernel/rans.hpp",
    )
    code = "".join((ROOT / "perslm" / name).read_text("utf-8") for name in files)
    document = (ROOT / "FORMAT.md").read_text("utf-8")
    used = {int(n) for n in re.findall(r"rule (\d+):", code)}
    table = document[document.index("| rule |") :]
    listed = {int(n) for n in re.findall(r"^\| (\d+) \|", table, re.M)}
    assert used == listed == set(range(1, 18))
