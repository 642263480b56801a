"""The command line: finds the command, runs it, and says in one line what went wrong. Nothing heavy is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import typer

from .cli import finding, measuring, reporting, training
from .cli.options import FIRST_HERE, SPEAKS
from .errors import NO_ROOM, HwnasError, LostRankError, is_told, write_fault
from .exits import fail, origin, usage

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": finding.demo,
    "train": training.train,
    "profile": measuring.profile,
    "validate": measuring.validate,
    "rank": training.rank,
    "search": finding.search,
    "finetune": training.finetune,
    "export": finding.export,
    "report": reporting.report,
    "list": finding.list_names,
}
STOPPED = 130  # the exit status after Ctrl-C
AFTER_STOP = {
    **dict.fromkeys(
        ("train", "profile", "validate", "search", "finetune", "rank"),
        "what is finished is kept: the same command with --resume goes on",
    ),
    "demo": "what is finished is kept: the same command goes on",
}

app = typer.Typer(
    name="hwnas",
    help="Train one supernet, profile any device, search within its latency budget, export to ONNX with proof.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def main() -> None:
    """Run a command; an error is one line on stderr and an exit status, never a traceback."""
    sys.path.append("")  # where a user's own module:attribute lies
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit status."""
    try:
        status = app(list(arguments) or ["--help"], prog_name="hwnas", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = STOPPED
    except Exception as error:
        message, status = complaint(error, arguments)
        known = hasattr(error, "format_message") or (isinstance(error, HwnasError) and error.__cause__ is None)
        if os.environ.get("HWNAS_TRACEBACK") and not known:
            raise
        return status if heard(error) else fail(message, status)
    if status == STOPPED and not SPEAKS:
        return STOPPED
    if status == STOPPED:  # some versions of typer turn Ctrl-C into this status
        command = arguments[0] if arguments else ""
        return fail(f"stopped; {AFTER_STOP.get(command, 'nothing was written')}", STOPPED)
    return status if isinstance(status, int) else 0


def complaint(error: Exception, arguments: Sequence[str]) -> tuple[str, int]:
    """What to say of an error, and the exit status."""
    if isinstance(error, HwnasError):
        return str(error), error.exit_status
    if hasattr(error, "format_message"):
        return usage(error, arguments), 2
    if isinstance(error, PermissionError) and error.filename:
        return f"no right to read or write {error.filename}: see who may, or name another place", 2
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return str(write_fault(error.filename or "the output", error)), 1
    return f"a fault in {origin(error)}, {type(error).__name__}: {error} (HWNAS_TRACEBACK=1 shows more)", 1


def heard(error: Exception) -> bool:
    """Whether another process says it. Before they have met, one on each machine speaks."""
    if isinstance(error, LostRankError):
        return not SPEAKS  # the one that has ended said why
    told = is_told(error)
    return not FIRST_HERE if told is None else told


if __name__ == "__main__":
    main()
