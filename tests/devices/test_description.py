"""Devices as TOML files: what they say, and what is answered to a slip."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwnas.devices import Effort, TimedDevice, load_device
from hwnas.devices.local import LocalHost
from hwnas.devices.runtimes import OnnxRuntime
from hwnas.devices.ssh import SshHost
from hwnas.errors import InputError

WHOLE = """
name = "pi5"
emulated = true

[host]
kind = "ssh"
address = "pi5.local"
user = "pi"
port = 2222
python = ["env", "python3"]
patience_s = 5

[runtime]
kind = "onnxruntime"
threads = 4
cores = "0-3"
batch = 8
precision = "int8"

[effort]
target = 0.02
max_seconds = 90
"""


def test_all_of_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "board.toml"
    file.write_text(WHOLE)
    assert load_device(str(file)) == TimedDevice(
        "pi5",
        SshHost("pi5.local", user="pi", port=2222, python=("env", "python3"), patience_s=5.0),
        OnnxRuntime(threads=4, cores="0-3", batch=8, precision="int8"),
        Effort(target=0.02, max_seconds=90.0),
        emulated=True,
    )


def test_what_is_left_out_is_this_machine(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("")
    assert load_device(str(file)) == TimedDevice("mine", LocalHost(), OnnxRuntime(), Effort())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nam = 'a'", "unknown key 'nam'; did you mean name"),
        ("name = 'a.b'", "name is 'a.b'; letters, digits"),
        ("emulated = 'yes'", "emulated is 'yes'; true or false was expected"),
        ("host = 'ssh'", r"host is 'ssh'; a table was expected, \[host\]"),
        ("[host]\nkind = 'shs'", "host: unknown kind 'shs'; did you mean ssh"),
        ("[host]\nkind = 'ssh'", "host: address is missing"),
        ("[host]\nkind = 'ssh'\naddress = 'a'\nport = '22'", "host: port is '22'; a whole number was expected"),
        ("[host]\nkind = 'ssh'\naddress = 'a'\nprot = 22", "host: unknown key 'prot'; did you mean port"),
        ("[host]\nkind = 'ssh'\naddress = 'a'\npython = []", r"host: python is \[\]; a list of words was expected"),
        ("[runtime]\nkind = 'onnxruntime'\nthreads = 0", "runtime: threads is 0; it must be positive"),
        ("[runtime]\nkind = 'onnxruntime'\nthreads = true", "runtime: threads is True; a whole number was expected"),
        ("[effort]\ntarget = 'low'", "effort: target is 'low'; a number was expected"),
        ("[effort\n", r"is not TOML: .*line 1"),
    ],
)
def test_a_slip_is_named_with_its_place(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "board.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=rf"board\.toml.*{words}"):
        load_device(str(file))


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(
        InputError, match=r"there is no file nowhere\.toml; a device was expected: hwnas list devices shows"
    ):
        load_device("nowhere.toml")
