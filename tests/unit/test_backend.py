"""The policy that chooses between kernel and numpy, and that the stubs say what the kernel has."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest

import perslm
from perslm import _backend
from tests.support import ROOT

WITHOUT_KERNEL = "import sys; sys.modules['perslm._kernel._native'] = None\n"
SHOW = "import perslm; print(perslm.backend)"

built = pytest.mark.skipif(_backend.native is None, reason="the kernel was not built, or is off")


def run(policy: str | None, code: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != _backend.POLICY_VARIABLE}
    if policy is not None:
        environment[_backend.POLICY_VARIABLE] = policy
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_name_says_what_runs() -> None:
    assert perslm.backend == ("numpy" if _backend.native is None else "kernel")


@built
@pytest.mark.parametrize(
    ("policy", "expected"),
    [(None, "kernel"), ("auto", "kernel"), ("on", "kernel"), ("off", "numpy")],
)
def test_the_variable_chooses(policy: str | None, expected: str) -> None:
    assert run(policy, SHOW).stdout.strip() == expected


@pytest.mark.parametrize("policy", [None, "auto", "off"])
def test_numpy_where_the_kernel_is_missing(policy: str | None) -> None:
    assert run(policy, WITHOUT_KERNEL + SHOW).stdout.strip() == "numpy"


def test_a_kernel_insisted_on_but_missing_names_the_remedy() -> None:
    done = run("on", WITHOUT_KERNEL + SHOW)
    assert done.returncode == 1
    assert "ArgumentError: PERSLM_KERNEL=on, but the kernel was not built" in done.stderr
    assert "reinstall perslm" in done.stderr


def test_no_other_policy() -> None:
    done = run("yes", SHOW)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("ArgumentError: PERSLM_KERNEL is auto, on or off")


def public_names(body: list[ast.stmt]) -> set[str]:
    return {
        node.name
        for node in body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    }


@built
def test_the_stubs_name_what_the_kernel_has() -> None:
    stubs = ast.parse((ROOT / "perslm/_kernel/_native.pyi").read_text("utf-8")).body
    native = vars(_backend.native)
    assert public_names(stubs) == {n for n in native if not n.startswith("_")}
    for stub in stubs:
        if isinstance(stub, ast.ClassDef):
            members = {n for n in vars(native[stub.name]) if not n.startswith("_")}
            assert public_names(stub.body) == members, stub.name
