"""Measuring on another machine, whatever the wire: the work goes there, the samples come back as they are taken.

All that a wire must do is run a program there. Files travel through tar and tail, which every Linux, macOS and
Android has.
"""

from __future__ import annotations

import io
import json
import secrets
import tarfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..errors import CrashError, FaultError
from ..files import write_bytes
from . import timer
from .local import crashed, last_words, read_description

PLAN, SAMPLES, RESULT = "plan.json", "samples.jsonl", "result.json"
PLACE = "remote-folder.txt"  # in the local folder: the name of the folder there, so that a later call finds it
NOT_FOUND = 127  # a shell's answer to the name of a program that it does not know
KILLED = -1  # the status that Paramiko tells of a program that a signal ended
FETCH_S = 2.0  # how often samples come over
PAUSE_S = 1.0  # between attempts to reach a machine
ATTEMPTS = 50  # that end without a new sample, before a connection made is no progress any more

T = TypeVar("T")


class DroppedError(Exception):
    """The wire broke, or the machine can't be reached at the moment."""


class FailedError(Exception):
    """A program there ended with a status other than 0."""

    def __init__(self, words: Sequence[str], status: int, said: str) -> None:
        super().__init__(said)
        self.words, self.status, self.said = words, status, said


class Wire(Protocol):
    """A connection to a machine."""

    def execute(self, words: Sequence[str], given: bytes = b"") -> Iterator[str]:
        """Run a program there with standard input `given`; its output, line by line, as soon as it comes.

        Raises FailedError if it ends with a status other than 0, DroppedError if the wire breaks.
        """


class RemoteHost(ABC):
    """A machine behind a wire: `python` are the words that start Python there, `folder` is where the work goes.

    A wire that breaks is connected again for as long as new samples keep coming, and `patience_s` longer.
    """

    python: tuple[str, ...]
    folder: str
    patience_s: float

    @abstractmethod
    def connect(self) -> AbstractContextManager[Wire]:
        """A connection for as long as the block lasts; DroppedError where the machine can't be reached."""

    def describe(self, program: Sequence[Path], options: Mapping[str, Any]) -> dict[str, str]:
        """What a measuring program says of the machine; FaultError at once where it can't be reached at all."""

        def ask(wire: Wire, there: str) -> str:
            _send(wire, program, there)
            return "".join(wire.execute([*self.python, f"{there}/{program[0].name}", json.dumps(options)]))

        said = self._held(ask, f"{self.folder}/{secrets.token_hex(8)}")
        return read_description(
            said, "its shell's start files (~/.bashrc) must print nothing where no one is logged in"
        )

    def work(self, program: Sequence[Path], folder: Path, listen: Callable[[str], None], keep: bool) -> None:
        """Run a measuring program there on a copy of `folder`, as `Host.work` says."""
        timer.read_samples(folder / SAMPLES)  # cuts off a line that is not whole

        def attempt(wire: Wire, there: str) -> None:
            self._attempt(wire, there, program, folder, listen)

        self._held(attempt, f"{self.folder}/{_place(folder)}", keep, folder / SAMPLES)

    def _held(self, do: Callable[[Wire, str], T], place: str, keep: bool = False, grows: Path | None = None) -> T:
        """What `do` gives in a folder there, over a wire that is connected again where it breaks.

        That goes on as long as the file `grows`, or a connection is made, and a while longer. Without a file it goes on
        for that while, and a machine that can't be reached the first time is not waited for.
        """
        last_s, had, reached, attempt = time.monotonic(), _size(grows), False, 0
        while True:
            connected, attempt = False, attempt + 1
            try:
                with self.connect() as wire, _folder(wire, place, keep) as there:
                    connected = reached = True
                    return do(wire, there)
            except DroppedError as error:
                have = _size(grows)
                if have > had or (grows and connected and attempt < ATTEMPTS):
                    last_s, had = time.monotonic(), have
                if time.monotonic() - last_s > self.patience_s or not (grows or reached):
                    raise FaultError(f"cannot be reached: {error}") from error
                time.sleep(PAUSE_S)

    def _attempt(
        self, wire: Wire, there: str, program: Sequence[Path], folder: Path, listen: Callable[[str], None]
    ) -> None:
        """Send what is missing there, run the program, fetch what it finds."""
        _send(wire, _missing(wire, there, program, folder), there)
        fetched_s = time.monotonic()
        try:
            for line in wire.execute([*self.python, f"{there}/{program[0].name}", there]):
                if time.monotonic() - fetched_s > FETCH_S:
                    _fetch_samples(wire, there, folder)
                    fetched_s = time.monotonic()
                listen(line)
        finally:
            with suppress(DroppedError, FailedError):
                _fetch_samples(wire, there, folder)
        write_bytes(folder / RESULT, "".join(wire.execute(["cat", f"{there}/{RESULT}"])).encode())


def _missing(wire: Wire, there: str, program: Sequence[Path], folder: Path) -> list[Path]:
    """The files to send: models that are not there yet, the plan, the program, and samples where they were lost."""
    present = _sizes(wire, there)
    models = [path for path in folder.iterdir() if path.suffix == ".onnx"]
    samples = [folder / SAMPLES] if present.get(SAMPLES, 0) < _size(folder / SAMPLES) else []
    return [
        *(path for path in models if present.get(path.name) != path.stat().st_size),
        folder / PLAN,
        *program,
        *samples,
    ]


def _fetch_samples(wire: Wire, there: str, folder: Path) -> None:
    """Append to the samples here the whole lines that are new there: what is cut short is cut off there, too."""
    have = _size(folder / SAMPLES)
    new = "".join(wire.execute(["tail", "-c", f"+{have + 1}", f"{there}/{SAMPLES}"])).encode()
    with (folder / SAMPLES).open("ab") as file:
        file.write(new[: new.rfind(b"\n") + 1])


def _size(path: Path | None) -> int:
    return path.stat().st_size if path and path.exists() else 0


def _place(folder: Path) -> str:
    """The name of the folder there that belongs to a local folder."""
    file = folder / PLACE
    if not file.exists():
        write_bytes(file, secrets.token_hex(8).encode())
    return file.read_text()


@contextmanager
def _folder(wire: Wire, there: str, keep: bool = False) -> Iterator[str]:
    """A folder there until the end of the block; what goes wrong inside is said in words.

    It stays where the wire breaks or the program there crashes, and with `keep` wherever something goes wrong: a later
    attempt goes on in it.
    """
    try:
        _run(wire, ["mkdir", "-p", "-m", "700", there])
        yield there
    except DroppedError:
        raise
    except BaseException as error:
        told = _in_words(error) if isinstance(error, FailedError) else error
        if not (keep or isinstance(told, CrashError)):
            _remove(wire, there)
        if told is error:
            raise
        raise told from error
    _remove(wire, there)


def _in_words(error: FailedError) -> FaultError:
    """Why a program there failed."""
    if error.status == NOT_FOUND:
        return FaultError(f"{error.words[0]} was not found there: install it, or set python")
    kind = CrashError if error.status == KILLED or crashed(error.status) else FaultError
    return kind(last_words(error.said, error.status))


def _sizes(wire: Wire, there: str) -> dict[str, int]:
    """The plain files in a folder there, with their sizes."""
    # nine columns; eight where the date is one of digits
    rows = [line.split() for line in wire.execute(["ls", "-ln", there])]
    return {row[-1]: int(row[4]) for row in rows if len(row) >= 8 and row[0].startswith("-")}


def _send(wire: Wire, paths: Iterable[Path], there: str) -> None:
    """Put files into a folder there. One cut short has another size, and is sent again the next time."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in paths:
            entry = tarfile.TarInfo(path.name)
            entry.size, entry.mode, entry.mtime = path.stat().st_size, 0o600, int(time.time())
            with path.open("rb") as file:
                archive.addfile(entry, file)
    try:
        _run(wire, ["tar", "-x", "-o", "-f", "-", "-C", there], packed.getvalue())
    except FailedError as error:
        if error.status == NOT_FOUND:
            raise
        why = error.said.strip().partition("\n")[0] or f"exit status {error.status}"
        raise FaultError(f"models could not be written to {there}: {why}; is there room?") from error


def _remove(wire: Wire, there: str) -> None:
    """Remove a folder there, if that can be done: what was wanted of it is done, or failed for another reason."""
    with suppress(DroppedError, FailedError):
        _run(wire, ["rm", "-r", "-f", there])


def _run(wire: Wire, words: Sequence[str], given: bytes = b"") -> None:
    for _ in wire.execute(words, given):
        pass
