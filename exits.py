"""How a command that fails ends: one line on stderr that says whose fault it is, and an exit status."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any


def origin(error: BaseException) -> str:
    """Whose code failed: hwnas itself, or a user's own file and line behind module:attribute."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        package, path = frame.f_globals.get("__name__", "").partition(".")[0], frame.f_code.co_filename
        if package in ("hwnas", "__main__"):
            break
        if package not in sys.stdlib_module_names and "site-packages" not in path and Path(path).is_file():
            return f"{path}, line {line}"
    return "hwnas itself"


def fail(message: str, status: int) -> int:
    """Say in one line on stderr what is wrong; returns the exit status."""
    print("hwnas:", " ".join(message.split()), file=sys.stderr)
    return status


def usage(error: Any, arguments: Sequence[str]) -> str:
    """A usage error with the refused value, which some versions of typer leave out, and where to read on."""
    message = error.format_message().rstrip(".")
    options = getattr(getattr(error, "param", None), "opts", ())
    words = [word for argument in arguments for word in argument.split("=", 1)]
    values = [value for option, value in pairwise(words) if option in options]
    given = f" (given: {values[-1]})" if values and values[-1] not in message else ""
    command = error.ctx.command_path if getattr(error, "ctx", None) else "hwnas"
    return f"{message}{given}; see {command} --help"
