"""This machine as a host: the measuring program in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CrashError, FaultError

ON_PURPOSE = (1, 2, 13, 15)  # signals: hang-up, Ctrl-C, a pipe that nobody reads, terminate
THREAD_VARIABLES = ("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_")  # they would override the pinned threads


@dataclass(frozen=True)
class LocalHost:
    """This machine. `python` runs the program: the interpreter of another environment brings another runtime."""

    python: str = ""

    def describe(self, program: Sequence[Path], options: Mapping[str, Any]) -> dict[str, str]:
        """What the program says of this machine; FaultError if the runtime is not installed."""
        command = [*self._command(program), json.dumps(options)]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, env=_environment())
        except OSError as error:
            raise FaultError(f"cannot run {self.python}: {error.strerror}; name a Python interpreter") from error
        if ran.returncode != 0:
            raise FaultError(last_words(ran.stderr, ran.returncode))
        return read_description(ran.stdout, "what runs before it, such as sitecustomize, must print nothing")

    def work(
        self,
        program: Sequence[Path],
        folder: Path,
        listen: Callable[[str], None],
        keep: bool,  # noqa: ARG002 - nothing is left elsewhere
    ) -> None:
        """Run the program on `folder`; it ends with us, whatever happens here."""
        said = folder / "stderr.txt"  # a file, as a pipe that nobody reads may fill up and block
        with (
            said.open("wb") as stderr,
            subprocess.Popen(
                [*self._command(program), str(folder)],
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=_environment(),
                text=True,
            ) as process,
        ):
            try:
                for line in process.stdout or ():
                    listen(line)
                status = process.wait()
            finally:
                process.kill()
        if status != 0:
            kind = CrashError if crashed(status) else FaultError
            raise kind(f"the measuring program failed: {last_words(said.read_text(errors='replace'), status)}")

    def _command(self, program: Sequence[Path]) -> list[str]:
        return [self.python, str(program[0])] if self.python else [sys.executable, "-P", str(program[0])]


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(THREAD_VARIABLES)}


def read_description(said: str, remedy: str) -> dict[str, str]:
    """What a measuring program says of its machine; FaultError with a remedy where something else spoke, or nothing."""
    try:
        described: dict[str, str] = json.loads(said)
    except ValueError:
        first = next(iter(said.splitlines()), "")
        words = f"says {first!r} by itself: {remedy}" if first else "says nothing of itself: is python one there?"
        raise FaultError(f"the machine {words}") from None
    return described


def crashed(status: int) -> bool:
    """Whether a signal that nobody sent on purpose ended a program, as its parent or a shell says it."""
    number = -status if status < 0 else status - 128
    return number > 0 and number not in ON_PURPOSE


def last_words(text: str, status: int) -> str:
    """The last line that a failed program said, or that it said none."""
    silent = f"exit status {status} without a word" + " (is the disk full?)" * (status > 0)
    return next((line for line in reversed(text.split("\n")) if line.strip()), silent)
