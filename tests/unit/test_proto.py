"""The generated code of the gRPC interface is what its description makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

PROTO = "perslm/v1/scorer.proto"


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    """If not: ``python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. PROTO``."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}"]
    command += [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", str(ROOT / PROTO)]
    subprocess.run(command, check=True, timeout=60)
    for ending in (".py", ".pyi"):
        name = PROTO.replace(".proto", "_pb2" + ending)
        assert (tmp_path / name).read_text("utf-8") == (ROOT / name).read_text("utf-8")
