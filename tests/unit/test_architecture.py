"""The dependency direction and the public names, held by reading the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import perslm
from tests.support import ROOT

WEB = {"fastapi", "starlette", "uvicorn", "uvloop", "grpc", "aiohttp", "yarl"}
MAIL = {"email", "mailbox", "pycld2", "selectolax", "pyarrow"}
OWN = {"perslm", "builders", "service"}

ALLOWED = {
    "builders": {"perslm", "builders"},
    "service": {"perslm", "service"},
    "perslm": {"perslm"},
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def is_for_types(node: ast.AST) -> bool:
    """Tell whether this is `if TYPE_CHECKING:`, which never runs."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every imported top-level package, and whether the import runs when the module loads."""
    tree = ast.parse(path.read_text("utf-8"))
    nested = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef) or is_for_types(outer)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], id(node) not in nested
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0], id(node) not in nested


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_downwards(package: str) -> None:
    paths = modules(package)
    assert len(paths) > 3
    for path in paths:
        if "cli" in path.relative_to(ROOT).parts:
            continue
        own = {name for name, _ in imports(path)} & OWN
        assert own <= ALLOWED[package], f"{path.name} imports {own - ALLOWED[package]}"


def test_the_command_line_composes_lazily() -> None:
    for path in (ROOT / "perslm" / "cli").glob("*.py"):
        at_load = {name for name, loads in imports(path) if loads}
        assert not at_load & {"builders", "service"}, path.name


def test_the_library_knows_no_web_framework_and_no_mail() -> None:
    homes = {
        "_grpc_transport.py": {"grpc"},
        "_grpc_async.py": {"grpc"},
        "_http_async.py": {"aiohttp", "yarl"},
    }
    for path in modules("perslm"):
        known = homes.get(path.name, set())
        found = {name for name, _ in imports(path)} & (WEB | MAIL) - known
        assert not found, f"{path.name} imports {found}"


def test_one_home_for_log10_and_pywrapfst() -> None:
    for path in modules("perslm") + modules("builders") + modules("service"):
        text = path.read_text("utf-8")
        if path.name != "arpa.py":
            assert "log10(" not in text, path.name
        if path.name != "openfst.py":
            assert "import pywrapfst" not in text, path.name


def test_optional_packages_are_not_needed_to_import() -> None:
    code = (
        "import sys\n"
        "for name in ('pycld2','pyarrow','tokenizers','fastapi','pywrapfst','selectolax',\n"
        "             'grpc','google.protobuf','aiohttp'):\n"
        "    sys.modules[name] = None\n"
        "import perslm, perslm.cli\n"
        "[getattr(perslm, name) for name in perslm.__all__]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_public_names_are_pinned() -> None:
    assert sorted(perslm.__all__) == [
        "AsyncClient",
        "AsyncRemoteModel",
        "Client",
        "GlobalModel",
        "Hypothesis",
        "NullModel",
        "PersonalModel",
        "PersonalOnly",
        "PooledModel",
        "RemoteModel",
        "Scorer",
        "Store",
        "Vocabulary",
        "__version__",
        "backend",
        "errors",
        "open_store",
        "search",
    ]
    assert all(hasattr(perslm, name) for name in perslm.__all__)


def test_no_pattern_has_a_possessive_group() -> None:
    """Python before 3.11.5 matches them wrongly (CPython issue 106052)."""
    possessive = re.compile(r"\)(?:[*+?]|\{+[0-9,]+\}+)\+")
    for package in ("perslm", "builders", "service"):
        for path in (ROOT / package).rglob("*.py"):
            code = "\n".join(
                line.partition("# ")[0] for line in path.read_text("utf-8").split("\n")
            )
            assert not possessive.search(code), f"an atomic group, (?>(?>…)*), in {path.name}"
