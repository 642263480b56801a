"""Load an ONNX model and run it once, in a process that does nothing else: python footprint.py MODEL.onnx

Imports nothing of hwnas. Prints one line of JSON: `load_ms`, `first_ms`, `peak_bytes` (None where unknown).
"""

from __future__ import annotations

import json
import re
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnxruntime as ort

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes() -> int | None:
    """The most memory that this process has held since `forget`; only Linux tells."""
    with suppress(OSError):
        match = re.search(r"^VmHWM:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)
        return int(match[1]) * 1024 if match else None
    return None


def forget() -> bool:
    """Let the peak begin anew at what is held now; whether that can be done here."""
    with suppress(OSError):
        FORGET.write_text("5")
        return True
    return False


def main() -> None:
    """Measure the model that is named."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    before = peak_bytes() if forget() else None
    start = time.perf_counter()
    session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    loaded = time.perf_counter()
    feeds = {
        entry.name: np.zeros([size if isinstance(size, int) else 1 for size in entry.shape], np.float32)
        for entry in session.get_inputs()
    }
    session.run(None, feeds)
    first, after = time.perf_counter(), peak_bytes()
    peak = None if before is None or after is None else after - before
    print(json.dumps({"load_ms": 1e3 * (loaded - start), "first_ms": 1e3 * (first - loaded), "peak_bytes": peak}))


if __name__ == "__main__":
    main()
