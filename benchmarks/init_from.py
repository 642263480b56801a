"""What a pretrained start is worth: a supernet after 1 epoch from it, against 3 epochs from scratch.

    python benchmarks/init_from.py [--images N] [--seeds N] [--data-dir FOLDER]

The pretrained network is the largest one of benchmarks/fashion_mnist.toml, trained alone for 5 epochs on part of
Fashion-MNIST. Figures are the mean validation accuracy of 8 random subnets with inherited weights. Its own 5 epochs
are not counted: it is meant to be there already. Needs Debian's package dataset-fashion-mnist, or --data-dir.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from hwnas.latency import params
from hwnas.supernet import Arch, Data, SearchSpace, Supernet, TrainSettings, load_data, load_space, train
from hwnas.supernet.evaluation import bn_images, inherited_accuracy
from hwnas.supernet.pretrained import initialise_from

SPACE = str(Path(__file__).with_name("fashion_mnist.toml"))
SUBNETS = 8


def main() -> None:
    """Print the accuracy of every start, by seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=15_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    space = load_space(SPACE)
    data = load_data("fashion-mnist", space, data_dir=options.data_dir)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    data = replace(data, train=data.train.take(order[: options.images]))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.pt"
        print(f"the source, alone for 5 epochs: {pretrain(space, data, source):.4f}", flush=True)
        for seed in range(options.seeds):
            for start, epochs in ((str(source), 0), (str(source), 1), (None, 1), (None, 3)):
                words = "pretrained" if start else "from scratch"
                reached = subnets_after(space, data, start, epochs, seed)
                print(f"seed {seed}, {words}, {epochs} epochs: {reached:.4f}", flush=True)


def pretrain(space: SearchSpace, data: Data, file: Path) -> float:
    """Train the largest network alone, save its weights, return its validation accuracy."""
    largest = largest_of(space)
    network = trained(Supernet(space, only=largest), data, 5, seed=100)
    torch.save(network.subnet(largest).state_dict(), file)
    return accuracies(network, data, [largest])


def largest_of(space: SearchSpace) -> Arch:
    """The architecture whose every gene has the option with the most parameters."""
    arch = [0] * len(space.options or ())
    for i, options in enumerate(space.options or ()):
        arch[i] = max(range(options), key=lambda gene, i=i: params(space, (*arch[:i], gene, *arch[i + 1 :])))
    return tuple(arch)


def subnets_after(space: SearchSpace, data: Data, start: str | None, epochs: int, seed: int) -> float:
    """Mean accuracy of random subnets of a supernet after some epochs."""
    torch.manual_seed(seed)
    supernet = Supernet(space)
    if start:
        initialise_from(supernet, start)
    rng = random.Random(0)
    archs = [space.sample(rng) for _ in range(SUBNETS)]
    return accuracies(trained(supernet, data, epochs, seed) if epochs else supernet, data, archs)


def trained(supernet: Supernet, data: Data, epochs: int, seed: int) -> Supernet:
    """The supernet after some epochs with its own cosine."""
    with tempfile.TemporaryDirectory() as run:
        train(supernet, data, TrainSettings(epochs=epochs, seed=seed), Path(run))
    return supernet


def accuracies(supernet: Supernet, data: Data, archs: list[Arch]) -> float:
    """Mean validation accuracy with inherited weights."""
    images = bn_images(data, 0)
    return statistics.mean(inherited_accuracy(supernet, data, images, arch) for arch in archs)


if __name__ == "__main__":
    main()
