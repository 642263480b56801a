"""Files that are whole or absent: atomic writes, and JSON that carries its format and version."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from .errors import FaultError, InputError, MismatchError, write_fault

PART = ".part"
MADE_BY = {
    "table": "profile",
    "found": "search",
    "ranking": "rank",
}  # kinds of files that people name, by the command that writes them
LOCK = ".lock"
STALE_SECONDS = 3600  # nobody writes one file for so long without a word to the disk


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: readers see all or nothing."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        # no NamedTemporaryFile: a Ctrl-C that arrives while Python finalises one is lost
        number, name = tempfile.mkstemp(PART, f".{path.name}.", path.parent)
        temporary = Path(name)
        with os.fdopen(number, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise write_fault(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files beside `path` of writers that were killed long ago."""
    for left in path.parent.glob(f".{escape(path.name)}.*{PART}"):
        with suppress(OSError):  # gone already, or another user's
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    write_atomic(path, lambda file: file.write(data))


def write_json(path: Path, kind: str, version: int, data: dict[str, Any]) -> None:
    """Write `data` with its format name and version, atomically."""
    text = json.dumps({"format": f"hwnas.{kind}", "version": version, **data}, indent=2, allow_nan=False)
    write_bytes(path, text.encode() + b"\n")


def read_json(path: Path, kind: str, version: int) -> dict[str, Any]:
    """Read what `write_json` wrote; a foreign, broken or newer file is an error that names both sides."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        made = f": hwnas {MADE_BY[kind]} makes one" if kind in MADE_BY else ""
        raise InputError(f"there is no file {path}{made}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; a hwnas {kind} file was expected") from None
    except (ValueError, OSError) as error:
        raise InputError(
            f"{path} is not readable as a hwnas {kind} file ({error}): make it again, or name another"
        ) from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != f"hwnas.{kind}":
        raise InputError(f"{path} is not a hwnas {kind} file (its format says {found!r}): name one that is")
    if data.get("version") != version:
        raise MismatchError(
            f"{path} has format version {data.get('version')}, this hwnas reads {version}: write it again"
        )
    return data


def load_toml(path: Path, kind: str) -> dict[str, Any]:
    """The tables of a TOML file; InputError names the line where it is none. `kind` says what was expected."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(
            f"there is no file {path}; a {kind} was expected: hwnas list {kind}s shows those built in"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the {kind} {path} ({error}): name another file") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}") from error


@contextmanager
def exclusive(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of `folder` while inside; a FaultError if one is in it already, or `wait` for it.

    The lock is the system's: it ends with the process, however that ends.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=-1 if wait else 0)
        lock.acquire()
    except Timeout:
        raise FaultError(f"another process is at work in {folder}: wait for it, or name another folder") from None
    except OSError as error:
        raise write_fault(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def check_target(path: Path, kind: str = "") -> None:
    """InputError where no file can be written to `path`, or one of another kind would be lost.

    Said before hours of work, not after. `kind` is the format that will be written there.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is {'a folder' if path.is_dir() else 'no plain file'}: name a file to write")
    if kind and path.exists() and (other := _format(path)) != f"hwnas.{kind}":
        raise InputError(f"{path} would be overwritten, but it is no {kind} file (its format: {other}): name another")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise InputError(f"cannot write {path}: {parent} is not a folder; name another place")
    if not os.access(parent, os.W_OK):
        raise InputError(f"cannot write {path}: no right to write in {parent}; name another place")


def _format(path: Path) -> str:
    try:
        data = json.loads(path.read_bytes())
        return str(data.get("format", "unknown"))
    except (ValueError, OSError, AttributeError):
        return "unknown"


def digest(*parts: object) -> str:
    """A short fingerprint of values: the first 16 hex digits of the SHA-256 of their text or bytes."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part if isinstance(part, bytes) else repr(part).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:16]
