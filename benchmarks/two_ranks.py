"""Two processes of one thread against one process of two threads, the same batch: images per second of a training.

    python benchmarks/two_ranks.py [--space SPACE] [--batch N] [--steps N] [--repeats N]

Both train the same paths on the same images (Fashion-MNIST). They take turns, and the medians are printed. Where two
processes are slower, the parts of their step tell why: what the network takes, and what the exchange of gradients.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

SPACE = str(Path(__file__).with_name("fashion_mnist.toml"))


def main() -> None:
    """Compare both, or be one of the processes that are compared."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default=SPACE)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if "WORLD_SIZE" in os.environ:
        work(options.space, options.batch, options.steps)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Run both by turns, each in processes of its own, and print the medians."""
    given = [arg for name in ("space", "batch", "steps") for arg in (f"--{name}", str(getattr(options, name)))]
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    ways = {
        "one process, two threads": ([sys.executable, __file__], {"WORLD_SIZE": "1", "OMP_NUM_THREADS": "2"}),
        "two processes, one thread each": (two, {"OMP_NUM_THREADS": "1"}),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, (command, environment) in ways.items():
            said = subprocess.run(
                [*command, *given], env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True
            ).stdout
            found[name].append(json.loads(said.splitlines()[-1]))
    speeds = {}
    for name, runs in found.items():
        speeds[name] = statistics.median(run["images_per_s"] for run in runs)
        exchange = statistics.median(run["exchange"] for run in runs)
        print(f"{name}: {speeds[name]:.0f} images/s (median of {len(runs)}), {exchange:.1%} of a step for the exchange")
    one, other = speeds.values()
    print(f"two processes against one: {other / one:.3f}")


def work(spec: str, batch: int, steps: int) -> None:
    """Train as `hwnas.supernet.train` does, and print the speed, and the share of the exchange, on rank 0."""
    import torch
    from torch import nn

    from hwnas.supernet import Supernet, TrainSettings, load_data, load_space
    from hwnas.supernet.batches import prepared, training_batches
    from hwnas.supernet.memory import keep_freed_memory
    from hwnas.supernet.metrics import TASKS
    from hwnas.supernet.ranks import joined
    from hwnas.supernet.sampling import SAMPLING
    from hwnas.supernet.training import make_optimizer

    keep_freed_memory()
    with joined("cpu") as ranks:
        space = load_space(spec)
        data = load_data("fashion-mnist", space)
        settings = TrainSettings(batch=batch, accumulate=ranks.world)
        torch.manual_seed(0)
        supernet = Supernet(space).to(memory_format=torch.channels_last).train()
        weights = list(supernet.parameters())
        optimizer, task, exchange_s = make_optimizer(supernet, settings), TASKS[data.task], 0.0
        batches = training_batches(data, settings, 0, ranks.share(range(settings.accumulate)))
        for step in range(-20, steps):  # the first are a warm-up
            if step == 0:
                started, exchange_s = time.perf_counter(), 0.0
            optimizer.zero_grad(set_to_none=True)
            (one,) = SAMPLING["uniform"](space, 0, step)
            for part in next(batches):
                images, labels = prepared(part, data, settings, step, ranks.device)
                (task.loss(supernet(images, one.arch), labels, 0.1) / settings.accumulate).backward()
            ready = time.perf_counter()
            ranks.sum_([weight.grad for weight in weights if weight.grad is not None])
            exchange_s += time.perf_counter() - ready
            nn.utils.clip_grad_norm_(weights, settings.clip_norm)
            optimizer.step()
        seconds = time.perf_counter() - started
        if ranks.first:
            print(json.dumps({"images_per_s": steps * batch / seconds, "exchange": exchange_s / seconds}))


if __name__ == "__main__":
    main()
