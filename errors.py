"""Every error that hwnas raises on purpose: one line that names the value and the remedy."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


class HwnasError(Exception):
    """Root of all errors of this package; the command line prints it as one line and exits with `exit_status`."""

    exit_status = 2


class InputError(HwnasError):
    """A name, value or file that a user gave can't be used."""


class MismatchError(InputError):
    """Two things that were made for different spaces, devices or versions were brought together."""


class MissingLayerError(HwnasError):
    """A layer was asked for that was never measured or built."""


class InfeasibleError(HwnasError):
    """No architecture meets the limits; the message states what can be reached."""


class FaultError(HwnasError):
    """Something broke while running (a device, a disk); everything finished so far is kept."""

    exit_status = 1


class DivergedError(FaultError):
    """A loss or a gradient of a training is no number any more."""


class CrashError(FaultError):
    """A measuring program was ended by a signal: a runtime crashed, or the machine had no memory left."""


class LostRankError(FaultError):
    """Another process of a distributed run has ended, and said why."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not in a dictionary: the nearest names first, then all."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return InputError(f"unknown {kind} {name!r}; {hint}known: {', '.join(names)}")


def write_fault(what: object, error: OSError) -> FaultError:
    """The error for a file or folder that can't be written: the system's reason, and what to do about it."""
    remedy = "make room there" if error.errno in NO_ROOM else "see that it can be, or name another place"
    again = "then give the same command again, with --resume if it takes that"
    return FaultError(f"cannot write {what}: {error.strerror or error}; {remedy}, {again}")


def mark_told(error: Exception, told: bool) -> None:
    """Note of an error of one of several processes whether another one says it, in the same words."""
    error.__dict__["told"] = told


def is_told(error: Exception) -> bool | None:
    """What `mark_told` noted; None where nobody knows."""
    told: bool | None = error.__dict__.get("told")
    return told
