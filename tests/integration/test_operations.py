"""docs/operations.md is true: its commands run, in order, and its settings exist."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from perslm.store import open_store
from service.keyfile import SCOPES
from service.settings import Settings
from tests.support import FIXTURES, ROOT

DOCUMENT = (ROOT / "docs" / "operations.md").read_text("utf-8")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.skipif(
    shutil.which("openssl") is None or shutil.which("curl") is None,
    reason="the document uses openssl and curl",
)
def test_a_stranger_can_follow_it(tmp_path: Path, store_url: str) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.S)
    assert len(blocks) > 8
    mail = str(FIXTURES / "mail" / "nora-engineer.mbox")
    script = "trap 'kill $(jobs -p)' EXIT\n" + "".join(blocks)
    script = script.replace("MAIL", mail)
    for port in ("8443", "8444", "8446", "8447"):
        script = script.replace(port, str(free_port()))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if "PERSLM" not in name}
    environment |= {"PATH": path, "PERSLM_STORE": store_url, "COLUMNS": "200"}
    done = subprocess.run(
        ["bash", "-eu", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert "listening on https://0.0.0.0:" in said
    assert said.count("ok True") == 2
    records = (tmp_path / "etc" / "audit.log").read_text().splitlines()
    assert len(records) == 1
    assert f"\n{records[0]}\n" in said
    assert "evictions/s" in said.split(records[0])[1]
    for secret in ("frontend.key", "ops.key", "me.token"):
        assert (tmp_path / "etc" / secret).read_text().strip() not in said + done.stderr
    with open_store(store_url) as store:
        assert list(store.users()) == []
        assert list(store.of_tenant("acme").users()) == ["me"]


def test_its_variables_and_options_exist() -> None:
    named = set(re.findall(r"\bPERSLM_([A-Z_]+)\b", DOCUMENT))
    others = {"TOKEN", "TENANT", "STORE", "LEDGER", "LANGUAGES", "KEEP"}  # not of the service
    others.add("KEEP_GENERATIONS_SECONDS")
    assert named - others <= {name.upper() for name in Settings.__dataclass_fields__}
    for field in Settings.__dataclass_fields__:
        if field.startswith(("jwt", "tls", "audit", "keys", "behind", "insecure")):
            assert field.upper() in named
    shown = subprocess.run(
        [sys.executable, "-m", "perslm", "serve", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "COLUMNS": "200"},
    ).stdout
    table = DOCUMENT.split("## All settings")[1]
    for option in re.findall(r"`(--[a-z-]+)`", table):
        assert option in shown


def test_its_scopes_are_all_there_are() -> None:
    table = DOCUMENT.split("| scope | allows |")[1].split("\n\n")[0]
    first = "".join(line.split("|")[1] for line in table.splitlines()[2:])
    assert set(re.findall(r"`([a-z:]+)`", first)) == set(SCOPES)
