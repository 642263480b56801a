"""An arm64 user-land under qemu-user, reached over SSH: catches what only holds on x86. Its times mean nothing.

scripts/arm64-userland FOLDER && HWNAS_ARM64=FOLDER python -m pytest tests/devices/test_arm64.py
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.devices import Effort, Form, TimedDevice
from hwnas.latency.profile import profile
from hwnas.supernet import load_space

pytestmark = pytest.mark.skipif("HWNAS_ARM64" not in os.environ, reason="needs HWNAS_ARM64, a folder")
SPACE = "mobilenet:size=16,channels=1,classes=10,stem=4,widths=4-8,depths=1-2,kernels=3,expansions=2,head=16"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_space_is_profiled_there(precision: str, server: Any) -> None:
    from hwnas.devices.runtimes import OnnxRuntime

    python = Path(os.environ["HWNAS_ARM64"]).resolve() / "python"
    host, runtime = server.host(python=(str(python),)), OnnxRuntime(precision=precision)
    device = TimedDevice("board", host, runtime, Effort(target=1.0, min_rounds=5, max_rounds=5), emulated=True)
    fingerprint = device.fingerprint()
    assert fingerprint["system"] == "Linux aarch64"
    assert fingerprint["label"] == "emulated"
    assert device.form == Form(1, precision)
    space = load_space(SPACE)
    table = profile(space, device, networks=3).table
    assert set(table.entries) == set(space.layers())
    assert np.all(table.predict_many([space.sample(random.Random(0))]) > 0)
