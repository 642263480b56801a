"""A device from the text that names it: `local`, `local:threads=2`, or a TOML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from ..errors import InputError, unknown_name
from ..files import load_toml
from ..names import parse_settings
from .adb import AdbHost
from .by_hand import FolderDevice
from .device import Device, Form
from .local import LocalHost
from .runtimes import OnnxRuntime, TensorRT
from .ssh import SshHost
from .timed import Effort, TimedDevice

HOSTS = {"local": LocalHost, "ssh": SshHost, "adb": AdbHost}
RUNTIMES = {"onnxruntime": OnnxRuntime, "tensorrt": TensorRT}
KEYS = ("name", "emulated", "host", "runtime", "effort")
LOCAL_SETTINGS = {"name": "local", **asdict(LocalHost()), **asdict(OnnxRuntime()), **asdict(Effort())}
"""The settings that may stand behind `local:`, with their defaults."""
FOLDER_SETTINGS = asdict(Form())
"""Those that may stand behind `folder:DIR,`."""


def load_device(text: str) -> Device:
    """The device that DEVICE on the command line names.

    Raises InputError for an unknown device or setting, or a value that doesn't fit.
    """
    kind, _, rest = text.partition(":")
    if text.endswith(".toml"):
        return read_device(Path(text))
    if kind not in DEVICES:
        raise unknown_name("device", kind, DEVICES)
    return DEVICES[kind](rest)


def local_device(settings: str) -> TimedDevice:
    """ONNX Runtime on this machine's CPU."""
    host, runtime, effort = asdict(LocalHost()), asdict(OnnxRuntime()), asdict(Effort())
    given = parse_settings(settings, LOCAL_SETTINGS, "device local")

    def of(known: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in given.items() if name in known}

    name = given.get("name", "local")
    try:
        return TimedDevice(name, LocalHost(**of(host)), OnnxRuntime(**of(runtime)), Effort(**of(effort)))
    except InputError as error:
        raise InputError(f"device {name}: {error}") from None


def read_device(path: Path) -> TimedDevice:
    """The device that a TOML file describes; InputError names the key, or the line where the file is no TOML."""
    data = load_toml(path, "device")
    for key in data:
        if key not in KEYS:
            raise InputError(f"{path}: {unknown_name('key', key, KEYS)}")
    name, emulated = str(data.get("name", path.stem)), _typed(data.get("emulated", False), False, f"{path}: emulated")
    host = _part(HOSTS, data.get("host", {"kind": "local"}), f"{path}: host")
    runtime = _part(RUNTIMES, data.get("runtime", {"kind": "onnxruntime"}), f"{path}: runtime")
    effort = _made(Effort, data.get("effort", {}), f"{path}: effort")
    try:
        return TimedDevice(name, host, runtime, effort, emulated)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _part(kinds: Mapping[str, type], data: Any, where: str) -> Any:
    """A table with its `kind`, as a value of the class that has this name."""
    if not isinstance(data, dict):
        raise InputError(f"{where} is {data!r}; a table was expected, [{where.rpartition(' ')[2]}]")
    kind = str(data.get("kind"))
    if kind not in kinds:
        raise InputError(f"{where}: {unknown_name('kind', kind, kinds)}")
    return _made(kinds[kind], {key: value for key, value in data.items() if key != "kind"}, where)


def _made(kind: type, data: Mapping[str, Any], where: str) -> Any:
    """A frozen dataclass from a table; the types of its defaults decide, a field without one is a text."""
    known = {field.name: "" if field.default is MISSING else field.default for field in fields(kind)}
    for key in data:
        if key not in known:
            raise InputError(f"{where}: {unknown_name('key', key, known)}")
    missing = [field.name for field in fields(kind) if field.default is MISSING and field.name not in data]
    if missing:
        raise InputError(f"{where}: {missing[0]} is missing")
    values = {key: _typed(value, known[key], f"{where}: {key}") for key, value in data.items()}
    try:
        return kind(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _typed(value: Any, like: Any, where: str) -> Any:
    if isinstance(like, tuple):
        words = value if isinstance(value, list) else [value]
        if words and all(isinstance(word, str) for word in words):
            return tuple(words)
    elif isinstance(value, bool) == isinstance(like, bool) and isinstance(
        value, (int, float) if isinstance(like, float) else type(like)
    ):
        return type(like)(value)
    wanted = {tuple: "a list of words", str: "a text in quotes", int: "a whole number", float: "a number"}
    raise InputError(f"{where} is {value!r}; {wanted.get(type(like), 'true or false')} was expected")


def folder_device(text: str) -> FolderDevice:
    """folder:DIR or folder:DIR,batch=8,precision=fp16, a machine reached by hand: models go there, times lie there.

    Settings follow the first comma of the folder's own name, which can't have one; those above it may.
    """
    last, comma, settings = Path(text).name.partition(",")
    if not text or (comma and not last):
        raise InputError("folder: names no folder; write folder:DIR")
    folder = Path(text).parent / last if comma else Path(text)
    try:
        return FolderDevice(folder, Form(**parse_settings(settings, FOLDER_SETTINGS, f"device folder:{folder}")))
    except InputError:
        if comma and Path(text).is_dir():
            raise InputError(f"folder:{text}: a folder whose name has a comma can't be a device: rename it") from None
        raise


DEVICES: dict[str, Callable[[str], Device]] = {"local": local_device, "folder": folder_device}
"""The kinds of device that need no file, by name: what makes one of the text behind it."""
