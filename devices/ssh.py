"""A machine reached over SSH. Paramiko speaks the protocol; a host key must be known before, none is taken unseen."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FaultError, InputError
from .remote import DroppedError, FailedError, RemoteHost, Wire

if TYPE_CHECKING:
    import paramiko

CONNECT_S = 15
KEY_SCAN = "ssh-keyscan"  # the program that shows a machine's key
ALIVE_S = 5  # how often to ask a machine for a sign of life
DEAD_S = 20  # when nothing came for so long the wire counts as broken


@dataclass(frozen=True)
class SshHost(RemoteHost):
    """A machine with an SSH server and Python.

    `address` is its name, or an alias in `config` (OpenSSH's file, which may give user, port and key). Its key must
    stand in `known_hosts`. `python` are the words that start Python there, `folder` the place for models while
    they are measured. A dropped connection is made again for up to `patience_s`.
    """

    address: str
    user: str = ""
    port: int = 0
    key: str = ""
    known_hosts: str = "~/.ssh/known_hosts"
    config: str = "~/.ssh/config"
    python: tuple[str, ...] = ("python3",)
    folder: str = ".cache/hwnas"
    patience_s: float = 60.0

    def __post_init__(self) -> None:
        if not self.address or not self.python:
            raise InputError("an ssh host needs an address, and the words that start Python there")

    @contextmanager
    def connect(self) -> Iterator[Wire]:
        """A connection for as long as the block lasts; a host key that is not known is refused."""
        paramiko = _library()
        client = paramiko.SSHClient()
        known, through = Path(self.known_hosts).expanduser(), self._through()
        try:
            if known.exists():
                client.load_host_keys(str(known))
            client.set_missing_host_key_policy(paramiko.RejectPolicy())
            self._log_in(client, through)
            yield SshWire(client)
        finally:
            transport = client.get_transport()
            client.close()
            if through:
                _end(through.process, transport)

    def _log_in(self, client: paramiko.SSHClient, through: Any) -> None:
        paramiko = _library()
        to = self._target()
        limits: dict[str, Any] = dict.fromkeys(("timeout", "banner_timeout", "auth_timeout"), CONNECT_S)
        try:
            client.connect(**to, sock=through, **limits, transport_factory=_transport)
        except paramiko.BadHostKeyException as error:
            raise FaultError(
                f"the key of {to['hostname']} is not the one in {self.known_hosts} (it is {error.key.fingerprint}): "
                f"another machine answers, or its key was changed; see which before you edit that file"
            ) from error
        except EOFError as error:
            raise DroppedError(f"{to['hostname']}: the connection broke while keys were exchanged") from error
        except paramiko.SSHException as error:  # a refused login among them
            transport = client.get_transport()
            if "not found in known_hosts" not in str(error):
                if transport is None or not transport.is_active() or "timeout" in str(error):
                    raise DroppedError(f"{to['hostname']}: {error}") from error
                raise FaultError(
                    f"{to['hostname']} did not let {to['username'] or 'us'} in: {error}; see user and key"
                ) from error
            look = f"{KEY_SCAN} -p {to['port']} {to['hostname']}"
            raise FaultError(
                f"the key of {to['hostname']} is not in {self.known_hosts}: compare what `{look}` prints with the "
                f"machine's own, then add it there"
            ) from error
        except OSError as error:
            raise DroppedError(f"{to['hostname']} port {to['port']}: {error.strerror or error}") from error
        _watch(client)

    def _said(self) -> dict[str, Any]:
        """What OpenSSH's configuration says of the alias."""
        config = Path(self.config).expanduser() if self.config else None
        return (
            dict(_library().SSHConfig.from_path(str(config)).lookup(self.address))
            if config and config.is_file()
            else {}
        )

    def _through(self) -> Any:
        """The program that carries the connection where the configuration names one, or a machine to jump through."""
        said, to = self._said(), self._target()
        if (command := said.get("proxycommand", "none")) != "none":
            return _library().ProxyCommand(command)
        if (jump := said.get("proxyjump", "none")) != "none":
            *before, last = jump.split(",")
            words = ["ssh", "-F", str(Path(self.config).expanduser()), "-o", "BatchMode=yes"]
            words += ["-o", f"ServerAliveInterval={ALIVE_S}", "-o", f"ServerAliveCountMax={DEAD_S // ALIVE_S}"]
            words += ["-W", f"{to['hostname']}:{to['port']}", *(["-J", ",".join(before)] if before else [])]
            return _library().ProxyCommand(shlex.join([*words, last if "://" in last else f"ssh://{last}"]))
        return None

    def _target(self) -> dict[str, Any]:
        """Where and as whom to log in: what is set here, else what the configuration says of the alias."""
        said = self._said()
        key = Path(self.key).expanduser()
        if self.key and not key.is_file():
            raise FaultError(f"there is no key {key}: see key, or make one with ssh-keygen")
        keys = [str(key)] if self.key else [name for name in said.get("identityfile", ()) if Path(name).is_file()]
        return {
            "hostname": said.get("hostname", self.address),
            "port": self.port or int(said.get("port", 22)),
            "username": self.user or said.get("user"),
            "key_filename": keys or None,
            "allow_agent": not self.key,
            "look_for_keys": not self.key,
        }


class SshWire:
    """A connection that runs programs."""

    def __init__(self, client: paramiko.SSHClient) -> None:
        self._client = client

    def execute(self, words: Sequence[str], given: bytes = b"") -> Iterator[str]:
        """Run a program there, as `Wire` says. The server hands its command to a shell: each word is quoted."""
        paramiko = _library()
        transport = self._client.get_transport()
        assert transport is not None
        try:
            channel = transport.open_session(timeout=CONNECT_S)
            channel.exec_command(shlex.join(words))
            with suppress(OSError):  # a program that ends before it has read everything says why itself
                channel.sendall(given)
            channel.shutdown_write()
            for line in channel.makefile("rb"):
                yield line.decode(errors="replace")
            said = channel.makefile_stderr("rb").read().decode(errors="replace")
            status = channel.recv_exit_status()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise DroppedError(str(error) or "the connection broke") from error
        if status == -1 and (transport.saved_exception is not None or not transport.is_active()):
            raise DroppedError("the connection broke")
        if status != 0:
            raise FailedError(words, status, said)


def _end(process: subprocess.Popen[bytes], transport: paramiko.Transport | None) -> None:
    """End a program that carried a connection, and close what led to it: Paramiko leaves it to itself."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGTERM)  # not Popen's own, which may forget a process that Paramiko signals, too
    if transport is not None:
        transport.join(CONNECT_S)  # its thread may still read what the program wrote
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            with suppress(OSError):  # what nobody has read any more
                pipe.close()


class Heard:
    """A socket, or a program in place of one, that knows when the last bytes came over it (`time.monotonic`)."""

    def __init__(self, sock: Any) -> None:
        self._sock, self.heard_s = sock, time.monotonic()

    def recv(self, count: int) -> bytes:
        """The next bytes, as a socket gives them."""
        data: bytes = self._sock.recv(count)
        if data:
            self.heard_s = time.monotonic()
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def _transport(sock: Any, **options: Any) -> paramiko.Transport:
    transport: paramiko.Transport = _library().Transport(Heard(sock), **options)
    return transport


def _watch(client: paramiko.SSHClient) -> None:
    """Close the connection once nothing comes any more, though an answer is asked for all the time.

    TCP's own timer notices less: nothing behind adb or a program that carries the connection, whose other end is here.
    Nor does Paramiko's keepalive, which wants no answer. Two threads, as what asks may wait for the wire; both end with
    the connection.
    """
    paramiko, transport = _library(), client.get_transport()
    assert transport is not None
    wire: Any = transport.sock

    def ask() -> None:
        with suppress(paramiko.SSHException, EOFError, OSError):
            while transport.is_active():
                transport.global_request("keepalive@openssh.com")  # any answer will do, a refusal, too
                transport.join(ALIVE_S)
        transport.close()

    def listen() -> None:
        while transport.is_active():
            if time.monotonic() - wire.heard_s > DEAD_S:
                transport.close()
            transport.join(min(ALIVE_S, 1.0))

    for watching in (ask, listen):
        threading.Thread(target=watching, daemon=True, name=f"wire: {watching.__name__}").start()


def _library() -> Any:
    try:
        import paramiko
    except ImportError:
        raise FaultError("a device over SSH needs Paramiko; run: pip install 'hwnas[ssh]'") from None
    return paramiko
