"""An Android phone on a cable or over adb's network: its Termux is reached by SSH through a port that adb forwards."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FaultError
from .remote import DroppedError, RemoteHost, Wire
from .ssh import KEY_SCAN, SshHost

PROPERTIES = {"phone": "ro.product.model", "board": "ro.board.platform", "os": "ro.build.version.release"}
ADB_S = 30  # an adb that says nothing for so long has lost the phone


class TakenError(FaultError):
    """A port of this machine leads to another phone."""


@dataclass(frozen=True)
class AdbHost(RemoteHost):
    """A phone with Termux and its SSH server, reached through adb.

    `serial` says which phone, as `adb devices` lists it (empty: the only one). adb forwards `port` of this machine to
    `termux_port` there; with several phones at once each has a port of its own. `python` may begin with
    `taskset`. The rest is as over SSH.
    """

    serial: str = ""
    port: int = 8022
    termux_port: int = 8022
    user: str = ""
    key: str = ""
    known_hosts: str = "~/.ssh/known_hosts"
    python: tuple[str, ...] = ("python",)
    folder: str = ".cache/hwnas"
    patience_s: float = 60.0
    adb: str = "adb"

    def describe(self, program: Sequence[Path], options: Mapping[str, Any]) -> dict[str, str]:
        """What the program says there, and what Android says of the phone."""
        machine = super().describe(program, options)
        told = {name: self._adb("shell", "getprop", key).strip() for name, key in PROPERTIES.items()}
        return {**machine, **{name: value for name, value in told.items() if value}}

    @contextmanager
    def connect(self) -> Iterator[Wire]:
        """A connection through a port of this machine; the forwarding ends with it, as it does with the cable."""
        here = f"tcp:{self.port}"
        try:
            self._check_port(here)
            self._adb("forward", here, f"tcp:{self.termux_port}")
        except FaultError as error:
            if shutil.which(self.adb) is None or isinstance(error, TakenError):
                raise
            raise DroppedError(str(error)) from error  # unplugged, perhaps
        host = SshHost("127.0.0.1", self.user, self.port, self.key, self.known_hosts, config="")
        try:
            with host.connect() as wire:
                yield wire
        except FaultError as error:
            if KEY_SCAN not in str(error):
                raise
            which = f" -s {self.serial}" if self.serial else ""
            raise FaultError(
                f"{error}; before that, `{self.adb}{which} forward {here} tcp:{self.termux_port}`"
            ) from error
        finally:
            with suppress(FaultError):  # the phone may be gone
                self._adb("forward", "--remove", here)

    def _check_port(self, here: str) -> None:
        """TakenError where the port leads to another phone, which may be at work."""
        taken = [line.split() for line in self._adb("forward", "--list").splitlines()]
        others = [row[0] for row in taken if len(row) == 3 and row[1] == here and row[0] != self.serial]
        if others and self.serial:
            raise TakenError(f"port {self.port} leads to the phone {others[0]}: give each phone a port of its own")

    def _adb(self, *words: str) -> str:
        """What adb answers; FaultError with its own words where it fails."""
        which = ["-s", self.serial] if self.serial else []
        try:
            ran = subprocess.run([self.adb, *which, *words], capture_output=True, text=True, timeout=ADB_S)
        except FileNotFoundError:
            raise FaultError(f"there is no {self.adb}; run: apt-get install adb, or say where it is") from None
        except subprocess.TimeoutExpired:
            raise FaultError(f"adb gave no answer for {ADB_S} s: plug the phone in again") from None
        if ran.returncode != 0:
            said = (ran.stderr or ran.stdout).strip().splitlines() or ["adb failed without a word"]
            raise FaultError(f"{said[-1]}; see what `adb devices` lists, and allow USB debugging on the phone")
        return ran.stdout
