"""What a search is evaluating at the moment: other searches of the same run wait for it, and don't repeat it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..files import digest
from ..supernet.space import Arch

LONG_SECONDS = 600.0  # to wait for another search, which may have been stopped, before its work is repeated


class Claims:
    """A lock in `folder` for every architecture that is being evaluated under a key.

    The locks are the system's: they end with the process, however that ends. Where there are none to be had
    everything is free, and two searches at once may evaluate the same.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def taken(self, key: str, archs: Iterable[Arch]) -> Iterator[list[Arch]]:
        """Those of `archs` that nobody is at; while inside, nobody else takes them."""
        locks: dict[Arch, FileLock | None] = {}
        try:
            for arch in archs:
                with suppress(Timeout):
                    locks[arch] = self._lock(key, arch, 0.0)
            yield list(locks)
        finally:
            for lock in locks.values():
                self._release(lock)

    def wait(self, key: str, arch: Arch) -> bool:
        """Wait until nobody is at `arch` any more, LONG_SECONDS at most; whether that came."""
        try:
            lock = self._lock(key, arch, LONG_SECONDS)
        except Timeout:
            return False
        self._release(lock)
        return True

    def _lock(self, key: str, arch: Arch, seconds: float) -> FileLock | None:
        """The lock of an architecture, held; None where files can't be locked. Timeout where another has it so long."""
        lock = FileLock(self.folder / f"{digest(key, arch)}.lock", timeout=seconds)
        try:
            lock.acquire()
        except (OSError, NotImplementedError) as error:
            if isinstance(error, Timeout):  # which is an OSError
                raise
            return None
        return lock

    def _release(self, lock: FileLock | None) -> None:
        """Give a lock back, with its file, and with the folder after the last one."""
        if lock is not None:
            with suppress(OSError):
                Path(lock.lock_file).unlink()
            lock.release()
        with suppress(OSError):  # others may be at work
            self.folder.rmdir()
