"""Random networks of every built-in space at its usual size, exported: what other programs compute of them.

    python benchmarks/exports.py [--nets N] [--targets onnxruntime,openvino=ENV/bin/python] [--spaces SPEC ...]

The weights are random, the means of batch norms too. Each line is the largest difference of any output from torch's,
over all networks and images of a space, beside the least deviation of a network's outputs; the first line of a space is
that between the supernet's path, the subnet and ONNX Runtime, as in a certificate. Bar: 1e-4.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hwnas.errors import HwnasError
from hwnas.export import to_onnx
from hwnas.export.certificate import compare_outputs
from hwnas.export.onnx_model import shifted
from hwnas.export.targets import TargetCheck, Wanted, check_targets, parse_targets
from hwnas.supernet import SPACES, SearchSpace, Supernet, load_space

TOLERANCE = 1e-4


def main() -> None:
    """Print a line for every space and target; the exit status is 1 where one does not agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", type=int, default=5)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--targets", default="onnxruntime")
    parser.add_argument("--spaces", nargs="+", default=sorted(SPACES))
    options = parser.parse_args()
    if options.nets < 1:
        parser.error(f"--nets {options.nets} must be at least 1")
    wanted = parse_targets(options.targets)
    failed = False
    for spec in options.spaces:
        space = load_space(spec)
        drawn = [checks_of(space, seed, options.images, wanted) for seed in range(options.nets)]
        least, apart = min(one.deviation for one in drawn), max(one.apart for one in drawn)
        failed |= apart > TOLERANCE
        paths = f"{space}: supernet path, subnet and ONNX Runtime: {len(drawn)} networks, {apart:.1e}"
        print(f"{paths}{' FAILED' * (apart > TOLERANCE)}; outputs deviate by {least:.2f}", flush=True)
        for one, checks in zip(wanted, zip(*(each.checks for each in drawn), strict=True), strict=True):
            failed |= any(check.failed for check in checks)
            print(f"{space}: {one.name}: {words(checks)}; outputs deviate by {least:.2f}", flush=True)
    sys.exit(failed)


@dataclass(frozen=True)
class Drawn:
    """What targets make of a random network, how far its three forms are `apart`, its outputs' `deviation`."""

    checks: tuple[TargetCheck, ...]
    apart: float
    deviation: float


def checks_of(space: SearchSpace, seed: int, images: int, wanted: Sequence[Wanted]) -> Drawn:
    """A random network of a space, exported and read."""
    torch.manual_seed(seed)
    arch = space.canonical(space.sample(random.Random(seed)))
    shape = space.input_shape(1)
    given = torch.randn(images, *shape[1:])
    supernet = Supernet(space, only=arch)
    network = shifted(supernet.subnet(arch)).eval()
    with torch.no_grad():
        expected = network(given).numpy()
    model = to_onnx(network, [shape]).SerializeToString()
    apart = compare_outputs(supernet, arch, network, model, given, given.numpy()).max_abs_diff
    return Drawn(check_targets(model, given.numpy(), expected, wanted, TOLERANCE), apart, float(expected.std()))


def words(checks: Sequence[TargetCheck]) -> str:
    """The largest difference of all, or what went wrong with the first of those that failed."""
    if bad := next((check for check in checks if check.failed), None):
        return f"FAILED: {bad}"
    apart = [check.max_abs_diff for check in checks if check.max_abs_diff is not None]
    return f"{len(checks)} networks {checks[0].label}" + (f", {np.max(apart):.1e}" if apart else "")


if __name__ == "__main__":
    try:
        main()
    except HwnasError as error:
        sys.exit(str(error))
