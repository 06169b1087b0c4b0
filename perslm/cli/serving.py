"""``perslm serve``."""

from __future__ import annotations

from typing import Annotated

import typer

from perslm.cli.common import StoreOption, WeightOption


def register(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    app.command()(serve)


def serve() -> None:
    """Answer scoring requests over HTTP until interrupted."""
