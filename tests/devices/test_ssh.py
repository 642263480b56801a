"""Over SSH, against a real OpenSSH server: dropped, refused, full, and without what it needs."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwnas.devices import Effort, Job, Progress, TimedDevice, remote, ssh
from hwnas.devices.remote import SAMPLES, FailedError
from hwnas.devices.runtimes import OnnxRuntime
from hwnas.devices.timer import CRASHED
from hwnas.errors import FaultError, InputError

QUICK = Effort(min_rounds=5, max_rounds=5)
LONG, LONGER = Effort(min_rounds=60, max_rounds=60), Effort(min_rounds=300, max_rounds=300)


def samples(folder: Path) -> list[bytes]:
    (path,) = folder.glob(f"*/{SAMPLES}")
    return [line for line in path.read_bytes().splitlines(keepends=True) if b"runs_ms" in line]


def test_a_dropped_connection_is_made_again_and_repeats_no_sample(
    server: Any, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwnas.devices.remote.FETCH_S", 0.0)
    device = TimedDevice("there", server.host(), effort=LONGER)
    cuts, marks = server.wire.cuts, [10, 60]

    def cut(progress: Progress) -> None:
        if marks and progress.rounds >= marks[0]:
            marks.pop(0)
            server.wire.cut()

    measured = device.measure(jobs, cut, tmp_path)
    assert server.wire.cuts == cuts + 2
    assert {name: timing.rounds for name, timing in measured.timings.items()} == {"small": 300, "large": 300}
    visits = [(sample.name, sample.round) for sample in measured.samples]
    assert len(set(visits)) == len(visits) == 600
    assert len(samples(tmp_path)) == 600


def test_a_machine_that_stays_away_is_a_fault_and_a_later_call_goes_on(
    server: Any, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwnas.devices.remote.FETCH_S", 0.0)
    away = server.by_another_wire()
    device = TimedDevice("there", away.host(patience_s=0.0), effort=LONG)

    def cut(progress: Progress) -> None:
        if progress.rounds >= 10:
            away.wire.cut(stay=True)

    with pytest.raises(FaultError, match=r"there: cannot be reached: .* what was measured is kept.*--resume"):
        device.measure(jobs, cut, tmp_path)
    before = samples(tmp_path)
    assert before
    replace(device, host=server.host()).measure(jobs, samples=tmp_path)
    assert samples(tmp_path)[: len(before)] == before


def test_nothing_is_left_there(server: Any, jobs: list[Job]) -> None:
    device = TimedDevice("there", server.host(folder=str(server.folder / "clean")), effort=QUICK)
    device.fingerprint()
    device.measure(jobs)
    assert list((server.folder / "clean").iterdir()) == []


@pytest.mark.parametrize("kept", [True, False])
def test_what_fails_leaves_models_there_only_to_go_on_with_them(
    server: Any, jobs: list[Job], tmp_path: Path, kept: bool
) -> None:
    """An export has nowhere to go on; Ctrl-C is a failure like others."""
    device = TimedDevice("there", server.host(folder=str(tmp_path / "there")), effort=LONG)

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device.measure(jobs, interrupt, tmp_path / "samples" if kept else None)
    left = [path.name for path in tmp_path.glob("there/*/*.onnx")]
    assert len(left) == (3 if kept else 0), left  # with the reference
    assert len(list((tmp_path / "there").iterdir())) == kept


def test_a_machine_is_asked_what_it_is_again_where_the_wire_broke(server: Any, tmp_path: Path) -> None:
    away = server.by_another_wire()
    slow = tmp_path / "python"
    slow.write_text(f'#!/bin/sh\necho asked >> {tmp_path}/asked\nsleep 1\nexec {sys.executable} "$@"\n')
    slow.chmod(0o700)
    device = TimedDevice("there", away.host(python=(str(slow),), folder=str(tmp_path / "there")))
    with ThreadPoolExecutor() as pool:
        found = pool.submit(device.fingerprint)
        while not (tmp_path / "asked").exists() and not found.done():
            time.sleep(0.01)
        away.wire.cut()
        assert found.result()["name"] == "there"
    assert (tmp_path / "asked").read_text().split() == ["asked", "asked"]
    assert list((tmp_path / "there").iterdir()) == []


def test_an_alias_of_openssh_gives_the_rest(server: Any, jobs: list[Job], tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"Host board\n HostName 127.0.0.1\n Port {server.wire.port}\n User {server.settings()['user']}\n"
        f" IdentityFile {server.key}\n"
    )
    host = server.host(address="board", user="", port=0, key="", config=str(config))
    assert TimedDevice("there", host).fingerprint()["name"] == "there"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"port": 1}, r"there: cannot be reached: 127.0.0.1 port 1: Unable to connect"),
        ({"known_hosts": "/nowhere"}, r"there: the key of 127.0.0.1 is not in /nowhere: compare what `ssh-keyscan -p"),
        ({"user": "nobody-here"}, r"there: 127.0.0.1 did not let nobody-here in.*see user and key"),
        ({"python": ("python-of-no-one",)}, r"there: python-of-no-one was not found there: install it, or set python"),
        ({"python": ("false",)}, "there: exit status 1 without a word"),
        ({"folder": "/dev/full/models"}, "there: .*/dev/full"),
    ],
)
def test_what_is_wrong_there_is_said(server: Any, changed: dict[str, Any], words: str) -> None:
    device = TimedDevice("there", server.host(patience_s=0.0, **changed), effort=QUICK)
    with pytest.raises(FaultError, match=words):
        device.fingerprint()


def test_a_runtime_that_is_missing_there_is_named(server: Any) -> None:
    device = TimedDevice("there", server.host(python=(sys.executable, "-I", "-S")))
    with pytest.raises(FaultError, match=r"there: numpy and onnxruntime missing there; run there: .* -m pip install"):
        device.fingerprint()


def test_another_key_than_the_known_one_is_refused(server: Any, tmp_path: Path) -> None:
    """A machine in the middle would have one."""
    other = tmp_path / "known_hosts"
    kind, key, *_ = (server.folder / "user.pub").read_text().split()
    other.write_text(f"[127.0.0.1]:{server.wire.port} {kind} {key}\n")
    device = TimedDevice("there", server.host(known_hosts=str(other)))
    with pytest.raises(FaultError, match=r"the key of 127.0.0.1 is not the one in .*known_hosts \(it is SHA256:"):
        device.fingerprint()


def test_a_full_disk_there_is_a_fault(server: Any, jobs: list[Job], tmp_path: Path) -> None:
    """Files there may have one block: what was written goes on where there is room again."""
    pytest.importorskip("resource")
    limited = tmp_path / "python"
    limited.write_text(f'#!/bin/sh\nulimit -f 1\nexec {sys.executable} "$@"\n')
    limited.chmod(0o700)
    device = TimedDevice("there", server.host(python=(str(limited),)), effort=LONG)
    with pytest.raises(FaultError, match=r"there: cannot write in .*make room there; what was measured is kept"):
        device.measure(jobs, samples=tmp_path / "samples")
    before = samples(tmp_path / "samples")
    room = replace(device, host=server.host())
    measured = room.measure(jobs, samples=tmp_path / "samples")
    assert {timing.rounds for timing in measured.timings.values()} == {60}
    assert samples(tmp_path / "samples")[: len(before)] == before
    assert len(samples(tmp_path / "samples")) == 120


def test_a_machine_whose_shell_prints_is_told_so(server: Any, tmp_path: Path) -> None:
    loud = tmp_path / "python"
    loud.write_text(f'#!/bin/sh\necho Welcome!\nexec {sys.executable} "$@"\n')
    loud.chmod(0o700)
    device = TimedDevice("there", server.host(python=(str(loud),)))
    with pytest.raises(FaultError, match=r"says 'Welcome!' by itself: its shell's start files"):
        device.fingerprint()


def test_a_missing_key_is_named(server: Any) -> None:
    with pytest.raises(FaultError, match=r"there: there is no key /none: see key, or make one with ssh-keygen"):
        TimedDevice("there", server.host(key="/none")).fingerprint()


def test_without_paramiko_the_install_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(FaultError, match=r"there: a device over SSH needs Paramiko; run: pip install 'hwnas\[ssh\]'"):
        TimedDevice("there", ssh.SshHost("board")).fingerprint()


def test_an_address_is_needed() -> None:
    with pytest.raises(InputError, match="needs an address"):
        ssh.SshHost("")


def test_the_words_of_a_command_stay_words(server: Any, jobs: list[Job]) -> None:
    """A folder with a blank and a semicolon is a folder, not two commands."""
    marker = server.folder / "broken"
    odd = server.folder / f"a b; touch {str(marker).replace('/', '$(printf /)')} $(touch broken)"
    device = TimedDevice("there", replace(server.host(), folder=str(odd)), effort=QUICK)
    assert device.measure(jobs[:1]).timings["small"].rounds == 5
    assert odd.parent.is_dir()
    assert not marker.exists()
    assert not (Path.home() / "broken").exists()


RELAY = """#!{python}
import selectors, socket, sys

given = sys.argv[sys.argv.index("-W") + 1] if "-W" in sys.argv else sys.argv[1]
with open({log!r}, "a") as log:
    print(*sys.argv[1:], file=log)
host, _, port = given.rpartition(":")
wire, ready = socket.create_connection((host, int(port))), selectors.DefaultSelector()
ready.register(wire, selectors.EVENT_READ)
ready.register(sys.stdin.buffer.raw, selectors.EVENT_READ)
while True:
    for key, _ in ready.select():
        data = wire.recv(65536) if key.fileobj is wire else sys.stdin.buffer.raw.read(65536)
        if not data:
            sys.exit()
        wire.sendall(data) if key.fileobj is not wire else (sys.stdout.buffer.write(data), sys.stdout.buffer.flush())
"""


JUMP = (
    "-F {config} -o BatchMode=yes -o ServerAliveInterval=5 -o ServerAliveCountMax=4 -W {to} -J first ssh://me@gate:22"
)


@pytest.mark.parametrize(
    ("way", "asked"),
    [("ProxyCommand {relay} %h:%p", "{to}"), ("ProxyJump first,me@gate:22", JUMP)],
    ids=["command", "jump"],
)
def test_a_machine_behind_another_is_reached_through_it(
    server: Any, tmp_path: Path, way: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate is a stand-in for `ssh -W`, which carries the bytes."""
    relay, log, config = tmp_path / "ssh", tmp_path / "log", tmp_path / "config"
    relay.write_text(RELAY.format(python=sys.executable, log=str(log)))
    relay.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    config.write_text(
        f"Host board\n HostName 127.0.0.1\n Port {server.wire.port}\n User {server.settings()['user']}\n"
        f" IdentityFile {server.key}\n {way.format(relay=relay)}\n"
    )
    host = server.host(address="board", user="", port=0, key="", config=str(config))
    assert TimedDevice("there", host).fingerprint()["name"] == "there"
    assert log.read_text().splitlines()[0] == asked.format(to=f"127.0.0.1:{server.wire.port}", config=config)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wire over which nothing comes counts as broken after two seconds."""
    monkeypatch.setattr(ssh, "ALIVE_S", 0.1)
    monkeypatch.setattr(ssh, "DEAD_S", 2.0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", ["", " ProxyCommand {relay} %h:%p\n"], ids=["direct", "command"])
def test_a_wire_that_falls_silent_is_made_again_and_the_work_goes_on(
    server: Any, jobs: list[Job], tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel at its other end acknowledges all the while, as adb does and a program that carries a connection."""
    monkeypatch.setattr("hwnas.devices.remote.FETCH_S", 1e9)  # which would notice, by itself
    away, relay, config = server.by_another_wire(), tmp_path / "relay", tmp_path / "config"
    relay.write_text(RELAY.format(python=sys.executable, log=str(tmp_path / "log")))
    relay.chmod(0o700)
    config.write_text(f"Host 127.0.0.1\n Port {away.wire.port}\n{way.format(relay=relay)}")
    device = TimedDevice("there", away.host(config=str(config)), effort=LONGER)

    def freeze(progress: Progress) -> None:
        if progress.rounds >= 10 and not away.wire.frozen:
            away.wire.freeze()

    with ThreadPoolExecutor() as pool:
        found = pool.submit(device.measure, jobs, freeze, tmp_path / "samples")
        try:
            measured = found.result(timeout=120)
            assert len(away.wire.frozen) == 4  # both ends of what asked for the fingerprint, and of what measured first
            assert len(away.wire.open) == 6
        finally:
            away.wire.cut(stay=True)
    assert {timing.rounds for timing in measured.timings.values()} == {300}
    visits = [(sample.name, sample.round) for sample in measured.samples]
    assert len(set(visits)) == len(visits) == 600


@pytest.mark.usefixtures("impatient")
def test_a_program_that_says_nothing_for_long_is_waited_for(server: Any, tmp_path: Path) -> None:
    """As its machine answers; whoever asks it ends with the connection."""
    away, slow = server.by_another_wire(), tmp_path / "python"
    slow.write_text(f'#!/bin/sh\nsleep 5\nexec {sys.executable} "$@"\n')
    slow.chmod(0o700)
    assert TimedDevice("there", away.host(python=(str(slow),))).fingerprint()["name"] == "there"
    assert len(away.wire.open) == 2
    watching = [thread for thread in threading.enumerate() if thread.name.startswith("wire: ")]
    for thread in watching:
        thread.join(10)
    assert not [thread for thread in watching if thread.is_alive()]


def test_a_model_that_brings_the_runtime_down_there_is_named(server: Any, crashing: OnnxRuntime) -> None:
    """OpenSSH tells of a signal in place of a status."""
    device = TimedDevice("there", server.host(), crashing, QUICK)
    measured = device.measure([Job("good", b"good"), Job("bad", b"crash"), Job("better", b"better")])
    assert {name: timing.rounds for name, timing in measured.timings.items()} == {"good": 5, "better": 5}
    assert measured.errors == {"bad": CRASHED}


def test_models_that_find_no_room_there_are_a_fault(tmp_path: Path) -> None:
    class Full:
        def execute(self, words: list[str], given: bytes = b"") -> Iterator[str]:
            raise FailedError(words, 2, "tar: m.onnx: No space left on device\n")

    (tmp_path / "m.onnx").write_bytes(b"model")
    with pytest.raises(FaultError, match=r"could not be written to there: tar: .*No space left on device; is there"):
        remote._send(Full(), [tmp_path / "m.onnx"], "there")
