"""What single paths spare: activations of one path against those of all options at once; and 1,000 candidates, flat.

    python benchmarks/memory.py [--space SPACE] [--batch N] [--candidate-space SPACE] [--candidates N] [--images N]

A step of one path keeps the activations of one network until its gradients are known. A step that weighs all options
(DARTS, https://arxiv.org/abs/1806.09055, equation 2) keeps those of every option. Counted are the bytes that autograd
saves, each storage once, weights left out; on a GPU also the peak that CUDA's allocator reports. Then as many
candidates as said, of a smaller space, are evaluated one by one on so many images, and the resident memory of the
process is read as they go: of one that has done nothing else, whose own freed memory would hide what is leaked.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from hwnas.supernet import Data, Split, Supernet, load_space
from hwnas.supernet.layer import named
from hwnas.supernet.prefixes import SharedPrefixes

PATHS = 20
STATISTICS = 128  # images for them


def main() -> None:
    """Print both figures, the second from a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="mobilenet:size=64,classes=10")
    parser.add_argument("--candidate-space", default="mobilenet:size=16,classes=10,stem=8,widths=8-16,depths=1-2")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--images", type=int, default=512, help="Validation images of a candidate.")
    parser.add_argument("--candidates-only", action="store_true")
    parser.add_argument("--accelerator", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.accelerator)
    if options.candidates_only:
        candidates(options.candidate_space, options.candidates, options.images, device)
        return
    activations(options.space, options.batch, device)
    subprocess.run([sys.executable, __file__, *sys.argv[1:], "--candidates-only"], check=True)


def activations(spec: str, batch: int, device: torch.device) -> None:
    """Print what paths keep, and what all options at once do."""
    torch.manual_seed(0)
    supernet = Supernet(load_space(spec)).to(device).train()
    images = torch.randn(supernet.space.input_shape(batch), device=device)
    rng = random.Random(0)
    archs = [supernet.space.sample(rng) for _ in range(PATHS)]
    paths = [spent(supernet, lambda arch=arch: supernet(images, arch)) for arch in archs]
    mixed = spent(supernet, lambda: all_options(supernet, images))
    for name, of_paths, of_all in zip(
        ("saved for gradients", "CUDA's peak"), zip(*paths, strict=True), mixed, strict=True
    ):
        if of_all:
            mean, largest = statistics.mean(of_paths), max(of_paths)
            print(
                f"{name}: {mean / 2**20:.1f} MiB in the mean of {PATHS} paths (largest {largest / 2**20:.1f}), "
                f"{of_all / 2**20:.1f} MiB for all options: {of_all / mean:.1f} times"
            )
    print(f"options of a choice: {statistics.mean(map(len, supernet.slots.values())):.1f} in the mean", flush=True)


def spent(supernet: Supernet, forward: Callable[[], torch.Tensor]) -> tuple[int, int]:
    """Bytes saved for a backward pass, each storage once and weights left out; and CUDA's peak beyond the weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in supernet.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    gpu = torch.cuda.is_available() and next(supernet.parameters()).is_cuda
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if gpu else 0
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward().square().mean()
    loss.backward()
    peak = torch.cuda.max_memory_allocated() - before if gpu else 0
    supernet.zero_grad(set_to_none=True)
    return sum(saved.values()), peak


def all_options(supernet: Supernet, images: torch.Tensor) -> torch.Tensor:
    """Each choice as the mean of its options, of a space whose layers follow each other."""
    x, space = images, supernet.space
    for slot, _ in named(space.graph(space.sample(random.Random(0)))):
        options = supernet.slots[slot]
        assert isinstance(options, nn.ModuleDict)
        x = torch.stack([option(x) for option in options.values()]).mean(0)
    return x


def candidates(spec: str, count: int, images: int, device: torch.device) -> None:
    """Evaluate random candidates and print the memory of the process after a tenth of them and at the end."""
    torch.manual_seed(0)
    supernet = Supernet(load_space(spec)).to(device).eval()
    _, channels, size_px, _ = supernet.space.input_shape()
    pixels = torch.randint(256, (images, channels, size_px, size_px), dtype=torch.uint8)
    split = Split(pixels, torch.arange(images) % supernet.space.classes())
    names = tuple(map(str, range(supernet.space.classes())))
    data = Data("noise", split, split, split, names, False, torch.full((channels,), 0.5), torch.full((channels,), 0.3))
    rng = random.Random(1)
    archs = (supernet.space.sample(rng) for _ in range(count))
    evaluate = SharedPrefixes(supernet, data, data.normalise(pixels[:STATISTICS]))
    for number, _ in enumerate(map(evaluate, archs), 1):
        if number in (count // 10, count):
            words = f", CUDA {torch.cuda.memory_allocated() / 2**20:.1f} MiB" if device.type == "cuda" else ""
            print(f"after {number} candidates: {resident_mib():.0f} MiB resident{words}", flush=True)


def resident_mib() -> float:
    """Resident memory of this process; where the system does not tell, its peak."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmRSS:")[2].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
