"""``perslm keys`` as it is called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from service.auth import Authenticator, Principal
from service.settings import Settings


def perslm(*arguments: str, folder: Path, code: int = 0) -> tuple[str, str]:
    command = [sys.executable, "-m", "perslm", "keys", *arguments]
    environment = {**os.environ, "PERSLM_KEYS": "keys.json", "COLUMNS": "200"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def test_the_life_of_a_key(tmp_path: Path) -> None:
    token = perslm("create", "frontend", "--scope", "score", folder=tmp_path)[0].strip()
    more = ("--scope", "forget", "--scope", "admin", "--tenant", "acme", "--user", "ann")
    made = json.loads(
        perslm("create", "ops", *more, "--expires", "2d", "--json", folder=tmp_path)[0]
    )
    authenticator = Authenticator(Settings(keys=str(tmp_path / "keys.json")))
    assert authenticator.authenticate(f"Bearer {token}").scopes == {"score"}
    assert authenticator.authenticate(f"Bearer {made['key']}") == Principal(
        "acme", frozenset({"forget", "admin"}), "ann", "key:ops"
    )
    listed, _ = perslm("list", folder=tmp_path)
    rows = [json.loads(line) for line in perslm("list", "--json", folder=tmp_path)[0].splitlines()]
    assert [row["name"] for row in rows] == ["frontend", "ops"]
    assert made == {**rows[1], "key": made["key"]}
    for row in rows:
        assert row["id"] in listed
        assert row["name"] in listed
    for secret in (token, made["key"]):
        assert secret.split("_", 2)[2] not in listed + (tmp_path / "keys.json").read_text()
    perslm("revoke", "frontend", folder=tmp_path)
    perslm("revoke", made["id"], folder=tmp_path)
    assert perslm("list", "--json", folder=tmp_path)[0] == ""


def test_mistakes_are_told_in_a_line(tmp_path: Path) -> None:
    for arguments, code, remedy in (
        (("create", "a", "--scope", "everything"), 2, "scope"),
        (("create", "a", "--scope", "score", "--expires", "soon"), 2, "90d"),
        (("create", "a", "--scope", "score", "--tenant", "a:b"), 2, "tenant"),
        (("create", "a"), 2, "--scope"),
        (("list",), 5, "keys.json"),
        (("revoke", "a"), 2, "keys list"),
    ):
        _, said = perslm(*arguments, folder=tmp_path, code=code)
        assert remedy in said
        assert "Traceback" not in said
    assert not list(tmp_path.iterdir())
