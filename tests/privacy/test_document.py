"""docs/privacy.md is true: its commands run, in order, and its numbers are those of the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from builders import hygiene
from perslm.store import MOST_PENDING, open_store
from tests.privacy.canaries import ANNOUNCED, BARE
from tests.support import FIXTURES, ROOT

DOCUMENT = (ROOT / "docs" / "privacy.md").read_text("utf-8")


def test_a_reviewer_can_follow_it(tmp_path: Path, store_url: str) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.S)
    assert len(blocks) >= 7
    script = "".join(blocks).replace("MAIL", str(FIXTURES / "mail" / "nora-engineer.mbox"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if "PERSLM" not in name}
    environment |= {"PATH": path, "PERSLM_STORE": store_url, "COLUMNS": "200"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "opted out: nothing is kept or learned" in done.stderr
    assert done.stdout.count("\nme\n") == 1  # perslm users, of who opted in again
    with open_store(store_url) as store:
        assert list(store.users()) == ["me"]
        assert store.rules(None).phrases == {"project zephyr"}
        assert not store.rules("me")
        info = store.info("me")
    assert info is not None
    assert info.messages > 100
    (ledger,) = (tmp_path / "ledger").iterdir()
    assert all(path.stat().st_mode & 0o077 == 0 for path in (ledger, *ledger.iterdir()))


def test_its_numbers_are_those_of_the_code() -> None:
    for number in (
        f"passages of {hygiene.PASSAGE} tokens",
        f"in {hygiene.OFTEN} messages",
        f"more than {hygiene.MOST_TOKENS:,} tokens",
        f"more than {hygiene.MOST_REPEATS} times",
        f"at most {MOST_PENDING}",
        f"{len(ANNOUNCED)} formats of announced",
        f"and {len(BARE)} that only",
        f"announced, {2 * len(ANNOUNCED)}",
        f"bare, {2 * len(BARE)}",
    ):
        assert number in " ".join(DOCUMENT.split()), number


def test_its_contents_are_its_sections() -> None:
    listed = re.findall(r"^\d+\. \[(.*)\]\(#(.*)\)$", DOCUMENT, re.M)
    sections = re.findall(r"^## (.*)$", DOCUMENT, re.M)
    assert [title for title, _ in listed] == sections
    anchors = {re.sub(r"[^\w -]", "", s.lower()).replace(" ", "-") for s in sections}
    assert set(re.findall(r"\(#([\w-]+)\)", DOCUMENT)) <= anchors
