"""Which implementation does the hot work: the native kernel, or numpy.

The environment variable ``PERSLM_KERNEL`` decides, once, at import: ``auto`` (the default) takes
the kernel if it was built, ``on`` insists on it, ``off`` takes numpy. ``perslm.backend`` says what
was taken. Both give the same answers; code that has two ways asks for ``native`` at each call::

    if _backend.native is not None:
        return _backend.native.…
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Final

from perslm.errors import ArgumentError

POLICY_VARIABLE: Final = "PERSLM_KERNEL"


def _choose(policy: str) -> ModuleType | None:
    if policy not in ("auto", "on", "off"):
        raise ArgumentError(f"{POLICY_VARIABLE} is auto, on or off")
    if policy == "off":
        return None
    try:
        from perslm._kernel import _native
    except ImportError as error:
        if policy == "on":
            raise ArgumentError(
                f"{POLICY_VARIABLE}=on, but the kernel was not built: install a C++17 compiler "
                "and reinstall perslm (pip install --force-reinstall --no-cache-dir …), or unset it"
            ) from error
        return None
    return _native


native: ModuleType | None = _choose(os.environ.get(POLICY_VARIABLE) or "auto")
"""The kernel's extension module, or None."""

NAME: Final = "numpy" if native is None else "kernel"
"""What ``perslm.backend`` says."""
