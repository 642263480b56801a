"""The report: results of all commands on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..files import check_target, write_bytes
from ..report import TITLE, page, read_inputs
from ..report.commands import line


def report(paths: Sequence[Path], out: Path) -> None:
    """Write what lies at `paths` (files of other commands, runs, folders of both) as one HTML page to `out`."""
    if out.suffix != ".html":
        raise InputError(f"--out {out} must end in .html: it is a page for a browser")
    check_target(out)
    if out.exists() and TITLE not in out.read_bytes()[:4096].decode(errors="replace"):
        raise InputError(f"{out} would be overwritten, but it is no report of hwnas: give --out another name")
    command = line("hwnas", "report", *map(str, paths), "--out", str(out))
    write_bytes(out, page(read_inputs(paths), command).encode())
