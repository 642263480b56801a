"""Where networks run: devices, and the one method by which they measure time."""

from __future__ import annotations

from dataclasses import asdict

from ..errors import unknown_name
from ..names import parse_settings
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
    return device(**parse_settings(settings, asdict(device()), f"device {kind}"))
