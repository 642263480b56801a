"""The evaluation store: the only state of a search, shared by all searches of a run."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..errors import FaultError, InputError, MismatchError, write_fault
from ..supernet.space import Arch
from .claims import Claims
from .problem import one_each

STORE = "evaluations.sqlite"
"""The name of the store in the folder of a run."""
VERSION = 1
SCHEMA = """
CREATE TABLE evaluations (
    key TEXT NOT NULL,
    arch TEXT NOT NULL,
    accuracy REAL,
    seconds REAL NOT NULL,
    created TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (key, arch)
) WITHOUT ROWID
"""
ANSWERS = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT NOT NULL,
    arch TEXT NOT NULL,
    images INTEGER NOT NULL,
    rights BLOB NOT NULL,
    PRIMARY KEY (key, arch)
) WITHOUT ROWID
"""
WAIT_SECONDS = 60  # for another process to finish its write


class EvaluationStore:
    """Accuracies by what evaluated them and by canonical architecture, in one SQLite file.

    `key` is the fingerprint of all that decides an accuracy: weights, images, the way of evaluation. Every
    value is committed when it arrives: a killed process loses the one it was at. Several processes may use
    one file, each with a store of its own; the disk must be local, as SQLite's write-ahead log needs.
    InputError for a file that is no store, MismatchError for one of another version, FaultError where
    reading or writing fails.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.claims = Claims(self.path.with_name(f"{self.path.name}.claims"))
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=WAIT_SECONDS, isolation_level=None)
        try:
            with self._errors():
                self._open()
        except BaseException:
            self.close()
            raise

    def get(self, key: str, arch: Arch) -> float | None:
        """The stored accuracy; None where there is none."""
        with self._errors():
            row = self._database.execute(
                "SELECT accuracy FROM evaluations WHERE key = ? AND arch = ?", (key, _text(arch))
            ).fetchone()
        if row is None:
            return None
        return math.nan if row[0] is None else row[0]  # SQLite keeps a nan as NULL

    def add(self, key: str, arch: Arch, accuracy: float, seconds: float) -> float:
        """Store an accuracy and the seconds it took; the first stays. Returns the accuracy that is stored."""
        with self._errors():
            self._database.execute(
                "INSERT INTO evaluations (key, arch, accuracy, seconds) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (key, _text(arch), accuracy, seconds),
            )
        stored = self.get(key, arch)
        return accuracy if stored is None else stored

    def all(self, key: str) -> dict[Arch, float]:
        """Every architecture with an accuracy under `key`, and the accuracy, in a fixed order."""
        with self._errors():
            rows = self._database.execute("SELECT arch, accuracy FROM evaluations WHERE key = ? ORDER BY arch", (key,))
            return {tuple(json.loads(arch)): math.nan if value is None else value for arch, value in rows}

    def count(self, key: str) -> int:
        """Number of architectures with an accuracy under `key`."""
        with self._errors():
            query = "SELECT count(*) FROM evaluations WHERE key = ?"
            return int(self._database.execute(query, (key,)).fetchone()[0])

    def answers(self, key: str, arch: Arch) -> NDArray[np.bool_]:
        """Of the first images whether the network is right, of as many (n,) as it was asked about: of none, of all."""
        query = "SELECT images, rights FROM answers WHERE key = ? AND arch = ?"
        with self._errors():
            images, rights = self._database.execute(query, (key, _text(arch))).fetchone() or (0, b"")
        return np.unpackbits(np.frombuffer(rights, np.uint8), count=images).astype(np.bool_)

    def add_answers(
        self, key: str, arch: Arch, right: NDArray[np.bool_], images: int, seconds: float
    ) -> NDArray[np.bool_]:
        """Store what a network says of the first images, and its accuracy if these are all `images`.

        What is stored stays, and is added to. Returns all that is stored.
        """
        known = self.answers(key, arch)
        right = np.concatenate([known, right[len(known) :]])
        if len(right) == images:  # before the answers: there is none of them without the accuracy, whatever is killed
            self.add(key, arch, float(right.mean()), seconds)
        with self._errors():
            self._database.execute(
                "INSERT INTO answers (key, arch, images, rights) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE "
                "SET images = excluded.images, rights = excluded.rights WHERE excluded.images > images",
                (key, _text(arch), len(right), np.packbits(right).tobytes()),
            )
        return self.answers(key, arch)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other searches from what lies beside the store while inside; they wait."""
        with self._errors():
            self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            with self._errors():
                self._database.execute("COMMIT")

    def close(self) -> None:
        """Close the file; the store can't be used afterwards."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        self._write_ahead()
        # No fsync per value: a killed process loses nothing, a power cut the last values at most.
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute("BEGIN IMMEDIATE")  # of two processes, one creates the table
        with self._database:
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            tables = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if (version, tables) == (0, 0):
                self._database.execute(SCHEMA)
                self._database.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise MismatchError(
                    f"{self.path} has store version {version}, this hwnas reads {VERSION}: "
                    "move the file away to start a new one"
                )
            self._database.execute(ANSWERS)  # files of before have none

    def _write_ahead(self) -> None:
        """Switch the file to write-ahead logging; SQLite does not wait by itself while another process does so."""
        give_up = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                self._database.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.02)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns what SQLite and the system raise into one line that names the file."""
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if not all(os.access(path, os.W_OK) for path in (self.path.parent, self.path) if path.exists()):
                raise InputError(
                    f"no right to write the evaluation store {self.path}: search in a copy of its folder"
                ) from error
            if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_CANTOPEN")):
                raise InputError(
                    f"{self.path} is not a readable evaluation store ({error}): move it away to start a new one"
                ) from error
            full = name in ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC")
            remedy = "; make room there, then search again with --resume: what is stored is kept" if full else ""
            raise FaultError(f"evaluation store {self.path}: {error}{remedy}") from error
        except OSError as error:
            raise write_fault(self.path, error) from error


def read_store(path: Path) -> dict[str, dict[Arch, float]]:
    """All accuracies of a store by key and architecture; nothing is written, not even beside it.

    InputError for a file that is no store, MismatchError for one of another version.
    """
    busy = path.with_name(f"{path.name}-wal").exists()  # a search is at work in it, or was killed there
    try:
        address = f"{path.resolve().as_uri()}?{'mode=ro' if busy else 'immutable=1'}"
        with closing(sqlite3.connect(address, uri=True)) as database:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version != VERSION:
                raise MismatchError(f"{path} has store version {version}, this hwnas reads {VERSION}: move it away")
            rows = database.execute("SELECT key, arch, accuracy FROM evaluations ORDER BY key, arch").fetchall()
    except sqlite3.Error as error:
        raise InputError(f"{path} is not a readable evaluation store ({error}): move it away") from error
    stored: dict[str, dict[Arch, float]] = {}
    for key, arch, accuracy in rows:
        stored.setdefault(key, {})[tuple(json.loads(arch))] = math.nan if accuracy is None else accuracy
    return stored


class StoredAccuracy:
    """The accuracy of a Problem that evaluates only what the store does not know under `key`.

    `evaluate` takes a list of architectures, `together` at most, and gives one accuracy for each, best one by one.
    `new` are those that were evaluated, and not known before.
    """

    def __init__(
        self, store: EvaluationStore, key: str, evaluate: Callable[[list[Arch]], Iterable[float]], together: int = 1
    ) -> None:
        self.store, self.key, self.evaluate, self.together = store, key, evaluate, together
        self.new: set[Arch] = set()

    def __call__(self, batch: Iterable[Sequence[int]]) -> Iterator[float]:
        """Accuracies of a batch in its order, each stored before it is given out.

        The store is asked right before each evaluation: another search may have made it meanwhile. What another is at
        is waited for.
        """
        archs = [tuple(int(gene) for gene in arch) for arch in batch]
        for start in range(0, len(archs), self.together):
            yield from self._part(archs[start : start + self.together])

    def _part(self, archs: list[Arch]) -> list[float]:
        """Accuracies of architectures that are evaluated together: what is new is stored as soon as it arrives."""
        found = self._known(archs)
        while missing := [arch for arch in dict.fromkeys(archs) if arch not in found]:
            with self.store.claims.taken(self.key, missing) as mine:
                found |= self._known(mine)  # another may have ended in between
                found |= self._evaluated([arch for arch in mine if arch not in found])
            if not mine and not self.store.claims.wait(self.key, missing[0]):
                found |= self._evaluated(missing[:1])
            found |= self._known([arch for arch in missing if arch not in found])
        return [found[arch] for arch in archs]

    def _evaluated(self, archs: list[Arch]) -> dict[Arch, float]:
        found, start = {}, time.perf_counter()
        values = self.evaluate(archs) if archs else ()
        for accuracy, arch in zip(one_each(values, len(archs)), archs, strict=True):
            found[arch] = self.store.add(self.key, arch, accuracy, time.perf_counter() - start)
            self.new.add(arch)
            start = time.perf_counter()
        return found

    def _known(self, archs: Iterable[Arch]) -> dict[Arch, float]:
        known = {arch: self.store.get(self.key, arch) for arch in archs}
        return {arch: accuracy for arch, accuracy in known.items() if accuracy is not None}


def _text(arch: Arch) -> str:
    return json.dumps(arch, separators=(",", ":"))
