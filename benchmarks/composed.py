"""Does a network composed of its layers' ONNX models take as long as the exported one?

    python benchmarks/composed.py [--space SPACE] [--nets N]

Tables are calibrated and validated with composed networks, which take milliseconds to make instead of seconds.
Both forms of each network are measured in one call, interleaved; printed is the ratio of their times.
"""

from __future__ import annotations

import argparse
import statistics

from hwnas.devices import Job, TimedDevice
from hwnas.export import compose, layers_to_onnx, to_onnx
from hwnas.export.onnx_model import shifted
from hwnas.latency import analytic_cost, spread
from hwnas.supernet import Supernet, load_space


def main() -> None:
    """Print a line per network and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="mobilenet")
    parser.add_argument("--nets", type=int, default=5)
    options = parser.parse_args()
    space = load_space(options.space)
    supernet, models = Supernet(space), layers_to_onnx(space, space.layers())
    archs = spread(space, analytic_cost(space, "flops"), options.nets, seed=0)
    jobs = []
    for i, arch in enumerate(archs):
        exported = to_onnx(shifted(supernet.subnet(arch)), [space.input_shape()])
        jobs.append(Job(f"exported {i}", exported.SerializeToString()))
        jobs.append(Job(f"composed {i}", compose(space.graph(arch), models).SerializeToString()))
    found = TimedDevice().measure(jobs).timings
    ratios = [found[f"composed {i}"].ratio / found[f"exported {i}"].ratio for i in range(len(archs))]
    for i, ratio in enumerate(ratios):
        print(f"network {i}: {found[f'exported {i}'].raw_ms:.3f} ms exported, composed / exported {ratio:.4f}")
    print(f"median composed / exported: {statistics.median(ratios):.4f}")


if __name__ == "__main__":
    main()
