"""Run a model by OpenCV's dnn module on the CPU, as it reads by default. Needs opencv-python-headless."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from . import reading
    from .reading import Job
else:  # run by its path, where hwnas need not be installed
    sys.path.insert(0, str(Path(__file__).parent))
    import reading
    from reading import Job

    del sys.path[0]  # what else lies there shadows nothing

PACKAGES = "opencv-python-headless"


def version(_: dict[str, Any]) -> str:
    """OpenCV's."""
    return f"opencv {reading.needed('cv2', PACKAGES).__version__}"


def read(job: Job) -> dict[str, Any]:
    """Outputs by OpenCV's own kernels."""
    cv2 = reading.needed("cv2", PACKAGES)
    cv2.setNumThreads(1)
    net = cv2.dnn.readNetFromONNX(str(job.model))
    outputs = []
    for part in job.batches():
        net.setInput(part)
        outputs.append(net.forward().copy())  # the next call writes into the same memory
    job.keep(outputs)
    return {}


if __name__ == "__main__":
    reading.main(version, read)
