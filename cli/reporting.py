"""The command that shows: a report of what the others found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import console


def report(
    paths: Annotated[list[Path], typer.Argument(help="Files of other commands, runs, or folders of them.")],
    out: Annotated[Path, typer.Option(help="The page to write (.html).")],
) -> None:
    """Show results as one page that opens offline.

    It takes tables, networks found, certificates, validations, rankings, transfer matrices, and the folders of runs.
    """
    from .. import workflows

    workflows.report(paths, out)
    console.print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, opens in any browser, offline")
