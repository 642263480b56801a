"""Where networks run: devices, and the one method by which they measure time."""

from __future__ import annotations

from .description import DEVICES, LOCAL_SETTINGS, load_device
from .device import TIMED, Device, Form, Job, Measurements, Progress, Sample, Timing
from .timed import Effort, TimedDevice

__all__ = [
    "DEVICES",
    "LOCAL_SETTINGS",
    "TIMED",
    "Device",
    "Effort",
    "Form",
    "Job",
    "Measurements",
    "Progress",
    "Sample",
    "TimedDevice",
    "Timing",
    "load_device",
]
