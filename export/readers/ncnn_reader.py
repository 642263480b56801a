"""Convert a model by pnnx and run it by ncnn on the CPU, in float32. Needs numpy, ncnn and pnnx (not pnnx's torch)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
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

PACKAGES = "numpy ncnn; then --no-deps pnnx"
FOREIGN = re.compile(r"::|\.")  # in the name of a layer that pnnx left as it was: ncnn has none of that name


def version(_: dict[str, Any]) -> str:
    """Of ncnn and of the converter."""
    reading.needed("ncnn", PACKAGES)
    converter()
    return f"ncnn {reading.version_of('ncnn')}, pnnx {reading.version_of('pnnx')}"


def converter() -> Path:
    """pnnx's program. Its Python module would load torch."""
    spec = find_spec("pnnx")
    if spec is None or spec.origin is None:
        reading.not_installed(f"pnnx missing there; run there: {sys.executable} -m pip install --no-deps pnnx")
    return Path(str(spec and spec.origin)).parent / "pnnx"


def read(job: Job) -> dict[str, Any]:
    """Outputs image by image: ncnn knows no batches."""
    if job.batch != 1 and not job.dynamic:
        raise ValueError(f"ncnn takes one image at a time, this model takes {job.batch}: export it with --batch 1")
    ncnn = reading.needed("ncnn", PACKAGES)
    shape = ",".join(str(size) for size in (1, *job.images().shape[1:]))
    program = converter()
    if not os.access(program, os.X_OK):
        program.chmod(program.stat().st_mode | 0o100)  # as its own module does: a wheel may lose the bit
    said = subprocess.run(
        [str(program), str(job.model), f"inputshape=[{shape}]", "fp16=0"],
        cwd=job.folder,
        capture_output=True,
        text=True,
        errors="replace",
    )
    parameters, weights = (job.folder / f"model.ncnn.{end}" for end in ("param", "bin"))
    if said.returncode != 0 or not weights.exists():
        words = [line for line in (said.stdout + said.stderr).splitlines() if line.strip()][-1:]
        raise RuntimeError(f"pnnx ended with status {said.returncode}: {''.join(words)}")
    layers = {line.split()[0] for line in parameters.read_text().splitlines()[2:] if line.strip()}
    if foreign := sorted(name for name in layers if FOREIGN.search(name)):
        raise RuntimeError(f"ncnn has no {', '.join(foreign)}")
    job.keep(_run(ncnn, job, parameters, weights))
    return {"size_bytes": parameters.stat().st_size + weights.stat().st_size}


def _run(ncnn: Any, job: Job, parameters: Path, weights: Path) -> list[Any]:
    """The outputs for every image, each with a batch axis."""
    import numpy as np

    net = ncnn.Net()
    net.opt.num_threads = 1
    for setting in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, setting, False)
    if net.load_param(str(parameters)) or net.load_model(str(weights)):
        raise RuntimeError("ncnn does not load what pnnx made of it")
    outputs = []
    for image in job.images():
        run = net.create_extractor()
        pixels = ncnn.Mat(np.ascontiguousarray(image))
        run.input("in0", pixels)
        status, found = run.extract("out0")
        if status:
            raise RuntimeError(f"ncnn's extract ended with status {status}")
        outputs.append(np.array(found)[None])
    return outputs


if __name__ == "__main__":
    reading.main(version, read)
