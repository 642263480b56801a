"""A phone over adb, played by a program that answers as adb does and forwards to a real SSH server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from hwnas.devices import Effort, Job, Progress, TimedDevice, load_device
from hwnas.devices.adb import AdbHost
from hwnas.errors import FaultError


def test_a_phone_is_measured_and_the_port_given_back(phone: dict[str, Any], jobs: list[Job], tmp_path: Path) -> None:
    device = TimedDevice("pixel8", AdbHost(**phone), effort=Effort(min_rounds=5, max_rounds=5))
    fingerprint = device.fingerprint()
    assert {"phone": "Pixel 8", "os": "14"}.items() <= fingerprint.items()
    assert "board" not in fingerprint
    assert device.measure(jobs).timings["large"].rounds == 5
    said = (tmp_path / "log").read_text().splitlines()
    forward, remove = f"-s R58N forward tcp:{phone['port']} tcp:8022", f"-s R58N forward --remove tcp:{phone['port']}"
    assert said[:2] == ["-s R58N forward --list", forward]
    assert said[-1] == remove
    assert said.count(forward) == said.count(remove) == 2


def test_what_adb_complains_of_is_said(phone: dict[str, Any], jobs: list[Job]) -> None:
    with pytest.raises(
        FaultError,
        match=r"pixel8: cannot be reached: error: more than one device/emulator; see what `adb devices` lists",
    ):
        TimedDevice("pixel8", AdbHost(**{**phone, "serial": ""})).fingerprint()
    with pytest.raises(FaultError, match=r"pixel8: there is no nowhere; run: apt-get install adb"):
        TimedDevice("pixel8", AdbHost(adb="nowhere")).measure(jobs)


def test_two_phones_are_two_files(tmp_path: Path) -> None:
    for name, port in (("one", 8022), ("two", 8023)):
        text = f"[host]\nkind = 'adb'\nserial = '{name}'\nport = {port}\npython = ['taskset', 'f0', 'python']\n"
        (tmp_path / f"{name}.toml").write_text(text)
    one, two = (load_device(str(tmp_path / f"{name}.toml")) for name in ("one", "two"))
    assert isinstance(one, TimedDevice)
    assert one.host == AdbHost("one", 8022, python=("taskset", "f0", "python"))
    assert two.name == "two"


def test_a_port_that_leads_to_another_phone_is_left_alone(phone: dict[str, Any], tmp_path: Path) -> None:
    device = TimedDevice("pixel8", AdbHost(**{**phone, "port": 2}))
    with pytest.raises(FaultError, match="pixel8: port 2 leads to the phone OTHER: give each phone a port of its own"):
        device.fingerprint()
    assert not [line for line in (tmp_path / "log").read_text().splitlines() if "tcp:2" in line]


def test_a_phone_whose_key_is_not_known_says_how_to_look_at_it(phone: dict[str, Any], tmp_path: Path) -> None:
    """The port leads there only as long as a forwarding is there."""
    (tmp_path / "known").write_text("")
    device = TimedDevice("pixel8", AdbHost(**{**phone, "known_hosts": str(tmp_path / "known")}))
    forward = rf"before that, `.*adb -s R58N forward tcp:{phone['port']} tcp:8022`"
    with pytest.raises(FaultError, match=rf"ssh-keyscan -p {phone['port']} 127.0.0.1.*{forward}"):
        device.fingerprint()


def forwarded(folder: Path) -> set[str]:
    """The ports that lead to a phone."""
    return {port.name for port in (folder / "forwarded").iterdir()}


def test_a_phone_that_was_unplugged_half_way_is_gone_on_with(
    phone: dict[str, Any], server: Any, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwnas.devices.remote.FETCH_S", 0.0)
    unplugged = tmp_path / "unplugged"

    def unplug(progress: Progress) -> None:
        if progress.rounds >= 10 and not unplugged.exists():
            unplugged.write_text("3")  # as the port is given back, and for two attempts
            server.wire.cut()

    device = TimedDevice("pixel8", AdbHost(**phone), effort=Effort(min_rounds=60, max_rounds=60))
    measured = device.measure(jobs, unplug, tmp_path / "samples")
    assert unplugged.read_text() == "0"
    assert {timing.rounds for timing in measured.timings.values()} == {60}
    visits = [(sample.name, sample.round) for sample in measured.samples]
    assert len(set(visits)) == len(visits) == 120
    assert forwarded(tmp_path) == {"tcp:1", "tcp:2"}


def test_the_port_is_given_back_after_a_fault(phone: dict[str, Any], jobs: list[Job], tmp_path: Path) -> None:
    device = TimedDevice("pixel8", AdbHost(**{**phone, "python": ("python-of-no-one",)}))
    with pytest.raises(FaultError, match=r"pixel8: python-of-no-one was not found there"):
        device.measure(jobs)
    assert f"-s R58N forward tcp:{phone['port']} tcp:8022" in (tmp_path / "log").read_text().splitlines()
    assert forwarded(tmp_path) == {"tcp:1", "tcp:2"}


def test_two_phones_are_measured_at_once(phone: dict[str, Any], server: Any, jobs: list[Job], tmp_path: Path) -> None:
    more = server.by_another_wire().settings()
    phones = phone, {**phone, "serial": "R58M", "port": more["port"], "known_hosts": more["known_hosts"]}
    effort, meet, seen = Effort(min_rounds=30, max_rounds=30), Barrier(2, timeout=60), list[set[str]]()

    def look(progress: Progress) -> None:
        if progress.rounds == 1:
            meet.wait()
            seen.append(forwarded(tmp_path))

    with ThreadPoolExecutor() as pool:
        devices = [TimedDevice(one["serial"], AdbHost(**one), effort=effort) for one in phones]
        found = [pool.submit(device.measure, jobs, look) for device in devices]
    assert [one.result().timings["large"].rounds for one in found] == [30, 30]
    assert {"tcp:1", "tcp:2", *(f"tcp:{one['port']}" for one in phones)} in seen
    assert forwarded(tmp_path) == {"tcp:1", "tcp:2"}
