"""A training step of a path in the supernet against the same layers as a plain nn.Sequential.

    python benchmarks/supernet_step.py [--space SPACE] [--batch N] [--archs N] [--rounds N]

Both do all of a step: forward, backward, clipping, SGD. Each round times both, in random order, for every
architecture; the figure is the median ratio of a round. Bar: 1.05.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

from hwnas.supernet import Arch, Supernet, TrainSettings, load_space
from hwnas.supernet.training import make_optimizer


def step(forward, parameters, optimizer, images, labels) -> float:
    """One training step; its seconds."""
    start = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    F.cross_entropy(forward(images), labels, label_smoothing=0.1).backward()
    nn.utils.clip_grad_norm_(parameters, 5.0)
    optimizer.step()
    return time.perf_counter() - start


def ratios(supernet: Supernet, arch: Arch, images, labels, rounds: int) -> list[float]:
    """Seconds of the supernet's step over those of the plain network's, round by round."""
    subnet = supernet.subnet(arch).to(memory_format=torch.channels_last).train()
    sides = {
        "supernet": (
            lambda x: supernet(x, arch),
            list(supernet.parameters()),
            make_optimizer(supernet, TrainSettings()),
        ),
        "plain": (subnet, list(subnet.parameters()), make_optimizer(subnet, TrainSettings())),
    }
    found = []
    for round_number in range(rounds + 2):
        seconds = {}
        for name in random.Random(round_number).sample(sorted(sides), 2):
            seconds[name] = step(*sides[name], images, labels)
        if round_number >= 2:  # two rounds of warm-up
            found.append(seconds["supernet"] / seconds["plain"])
    return found


def main() -> None:
    """Print one line per architecture and the median over all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--space", default="mobilenet:size=28,channels=1,classes=10,widths=24-40-80,depths=2-3-3,head=256"
    )
    parser.add_argument("--sharing", default="entangled")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--archs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.manual_seed(0)
    space = load_space(options.space)
    supernet = Supernet(space, options.sharing).to(memory_format=torch.channels_last).train()
    images = torch.randn(space.input_shape(options.batch)).to(memory_format=torch.channels_last)
    labels = torch.randint(space.classes(), (options.batch,))
    rng, everything = random.Random(0), []
    for _ in range(options.archs):
        arch = space.sample(rng)
        found = ratios(supernet, arch, images, labels, options.rounds)
        everything.append(statistics.median(found))
        print(f"{'-'.join(map(str, arch)):20} {everything[-1]:.3f}")
    print(
        f"median over {options.archs} architectures: {statistics.median(everything):.3f} (worst {max(everything):.3f})"
    )


if __name__ == "__main__":
    main()
