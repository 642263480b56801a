"""Networks so small that a test can time them, and a real OpenSSH server of the tests' own on loopback."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwnas.devices import Job, timer
from hwnas.devices.runtimes import OnnxRuntime
from hwnas.devices.ssh import SshHost

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
ADB = """#!{python}
import sys
from pathlib import Path

folder, words = Path({folder!r}), sys.argv[1:]
with (folder / "log").open("a") as log:
    print(*words, file=log)
if words[:2] not in (["-s", "R58N"], ["-s", "R58M"]):
    sys.exit("error: more than one device/emulator")
unplugged, ports = folder / "unplugged", folder / "forwarded"  # for so many calls; from which ports to whom
if unplugged.exists() and (left := int(unplugged.read_text())):
    unplugged.write_text(str(left - 1))
    sys.exit(f"error: device '{{words[1]}}' not found")
answers = {{"ro.product.model": "Pixel 8", "ro.build.version.release": "14", "ro.board.platform": ""}}
if words[2:4] == ["shell", "getprop"]:
    print(answers[words[4]])
elif words[2:4] == ["forward", "--list"]:
    for port in ports.iterdir():
        print(port.read_text(), port.name, "tcp:8022")
elif words[2:4] == ["forward", "--remove"]:
    (ports / words[4]).unlink()
elif words[2] == "forward":
    (ports / words[3]).write_text(words[1])
"""


def convolution(channels: int, size_px: int, batch: int | str = 1) -> bytes:
    """A 3x3 convolution as a serialized ONNX model."""
    weight = np.random.default_rng(0).normal(size=(channels, channels, 3, 3)).astype(np.float32)
    shape = [batch, channels, size_px, size_px]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight"], ["y"], kernel_shape=[3, 3], pads=[1] * 4)],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "weight")],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


@pytest.fixture
def jobs() -> list[Job]:
    return [Job("small", convolution(4, 8)), Job("large", convolution(16, 32))]


@pytest.fixture
def open_shape_job() -> Job:
    return Job("open batch", convolution(4, 8, batch="n"))


@dataclass
class Server:
    """What one needs to know to log in; `wire` is cut to drop every connection."""

    port: int
    key: Path
    known_hosts: Path
    folder: Path
    wire: Wire

    def settings(self) -> dict[str, Any]:
        """Of an SshHost that reaches the server through the wire."""
        return {
            "address": "127.0.0.1",
            "user": getpass.getuser(),
            "port": self.wire.port,
            "key": str(self.key),
            "known_hosts": str(self.known_hosts),
            "config": str(self.folder / "no-config"),
            "python": (sys.executable,),
            "folder": str(self.folder / "there"),
        }

    def by_another_wire(self) -> Server:
        """The same server, reached through a wire of its own."""
        wire = Wire(self.port)
        known = self.folder / f"known_hosts-{wire.port}"
        known.write_text(self.known_hosts.read_text().replace(f"]:{self.wire.port} ", f"]:{wire.port} "))
        return replace(self, wire=wire, known_hosts=known)

    def host(self, **changed: Any) -> SshHost:
        """A host that reaches the server through the wire."""
        return SshHost(**{**self.settings(), **changed})


@dataclass
class Wire:
    """Passes bytes on to a port; `cut` closes whatever is open, and with `stay` lets nobody in any more.

    `freeze` swallows the bytes of what is open and closes nothing, as where a network drops packets.
    """

    to: int
    listening: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    open: list[socket.socket] = field(default_factory=list)
    frozen: set[socket.socket] = field(default_factory=set)
    cuts: int = 0

    def __post_init__(self) -> None:
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.listening.getsockname()[1])

    def cut(self, stay: bool = False) -> None:
        self.cuts += 1
        if stay:
            with suppress(OSError):
                self.listening.shutdown(socket.SHUT_RDWR)
            self.listening.close()
        for one in self.open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.open.clear()

    def freeze(self) -> None:
        self.frozen.update(self.open)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self.listening.accept()
                far = socket.create_connection(("127.0.0.1", self.to))
                self.open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=(source, sink, self.frozen), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket, frozen: set[socket.socket]) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            if source not in frozen:
                sink.sendall(data)
    for one in [source] if source in frozen else [source, sink]:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """The server, with keys of its own, for as long as the block lasts."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it gives up its privileges
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
        f"PidFile none\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\nMaxStartups 100\n"
    )
    assert SSHD is not None
    command = [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "sshd.log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            _wait_for(port)
            wire = Wire(port)
            known = folder / "known_hosts"
            kind, key, *_ = (folder / "host.pub").read_text().split()
            known.write_text(f"[127.0.0.1]:{wire.port} {kind} {key}\n")
            yield Server(port, folder / "user", known, folder, wire)
            wire.cut(stay=True)
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), timeout=1)):
            return
        time.sleep(0.05)
    raise TimeoutError("sshd did not start")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real SSH server; skipped where none is installed."""
    if SSHD is None or shutil.which("ssh-keygen") is None:
        pytest.skip("needs an OpenSSH server; run: apt-get install openssh-server")
    with serving(tmp_path_factory.mktemp("sshd")) as found:
        yield found


@pytest.fixture
def phone(server: Server, tmp_path: Path) -> dict[str, Any]:
    """Settings of a phone behind a stand-in for adb; the port that it forwards is the test server's."""
    adb, ports = tmp_path / "adb", tmp_path / "forwarded"
    adb.write_text(ADB.format(python=sys.executable, folder=str(tmp_path)))
    adb.chmod(0o700)
    ports.mkdir()
    for port, serial in (("tcp:1", "R58N"), ("tcp:2", "OTHER")):
        (ports / port).write_text(serial)
    ssh = server.settings()
    kept = {name: ssh[name] for name in ("port", "user", "key", "known_hosts", "python", "folder")}
    return {"serial": "R58N", "adb": str(adb), **kept}


CRASHING = """
import os
import signal
import sys

sys.path.insert(0, os.path.dirname(__file__))
import timer


def open_model(path, plan, _):
    if path.read_bytes() == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.read_bytes() == b"later" and (path.parent / "samples.jsonl").read_text().count("runs_ms") >= 4:
        raise RuntimeError("no more")
    return lambda loops: (1.0, 1.0)


timer.main(sys.argv[1:], lambda _: {"runtime": "crashing"}, open_model)
"""


@dataclass(frozen=True)
class Crashing(OnnxRuntime):
    """A runtime that some models bring down."""

    folder: Path = Path()

    @property
    def program(self) -> tuple[Path, ...]:
        (self.folder / "program.py").write_text(CRASHING)
        for name in ("timer", "series"):
            shutil.copy(Path(timer.__file__).with_name(f"{name}.py"), self.folder)
        return self.folder / "program.py", self.folder / "timer.py", self.folder / "series.py"


@pytest.fixture
def crashing(tmp_path: Path) -> OnnxRuntime:
    """A runtime that the model `crash` brings down, and that fails with `later` in its third round."""
    return Crashing(folder=tmp_path)
