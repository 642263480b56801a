"""Where networks run: devices, and the one method by which they measure time."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..errors import InputError, unknown_name
from .device import Device, Job, Measurements, Progress, Sample, Timing
from .local import LocalDevice

__all__ = [
    "DEVICES",
    "Device",
    "Job",
    "LocalDevice",
    "Measurements",
    "Progress",
    "Sample",
    "Timing",
    "load_device",
]

DEVICES = {"local": LocalDevice}


def load_device(text: str) -> Device:
    """The device that DEVICE on the command line names: `local`, or with settings `local:threads=2`.

    Raises InputError for an unknown device or setting, or a value that doesn't fit.
    """
    kind, _, settings = text.partition(":")
    if kind not in DEVICES:
        raise unknown_name("device", kind, DEVICES)
    device = DEVICES[kind]
    types = {name: type(default) for name, default in asdict(device()).items()}
    values: dict[str, Any] = {}
    for setting in settings.split(",") if settings else []:
        name, _, value = setting.partition("=")
        if name not in types:
            raise unknown_name(f"setting of device {kind}", name, types)
        try:
            values[name] = types[name](value)
        except ValueError:
            raise InputError(f"device {kind}: {name}={value} is not of type {types[name].__name__}") from None
    return device(**values)
