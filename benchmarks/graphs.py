"""Many networks trained alone at once on one GPU: every step of each is a CUDA graph, replayed beside the others.

A small network leaves a GPU idle: launching its kernels takes longer than running them. Order of the images, rates,
loss and updates are those of `hwnas train` with the same settings; networks of one seed see each batch together.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hwnas.supernet import Data, SearchSpace, Supernet, TrainSettings
from hwnas.supernet.batches import prepared, steps_per_epoch, training_batches
from hwnas.supernet.evaluation import accuracy, bn_images, calibrated_subnet
from hwnas.supernet.space import Arch
from hwnas.supernet.training import make_optimizer, set_learning_rate

STREAMS = 32
WARM_UP = 3  # steps before a capture, as CUDA graphs want it


@dataclass(frozen=True, eq=False)
class Feed:
    """What all graphs of one seed read: images (B, C, S, S), labels (B,), and the learning rate ()."""

    images: torch.Tensor
    labels: torch.Tensor
    rate: torch.Tensor


@dataclass(frozen=True, eq=False)
class Network:
    """A network in training: what a step has to keep, and how it began."""

    arch: Arch
    seed: int
    module: Supernet
    velocity: list[torch.Tensor]
    first: dict[str, torch.Tensor]
    feed: Feed
    settings: TrainSettings

    def step(self) -> None:
        """Forward, backward, clipping, momentum, update: with tensors only, as a graph needs it."""
        groups = make_optimizer(self.module, self.settings).param_groups
        weights = [weight for group in groups for weight in group["params"]]
        decayed = [weight for group in groups if group["weight_decay"] for weight in group["params"]]
        for weight in weights:
            weight.grad = None
        output = self.module(self.feed.images, self.arch)
        F.cross_entropy(output, self.feed.labels, label_smoothing=self.settings.label_smoothing).backward()
        nn.utils.clip_grad_norm_(weights, self.settings.clip_norm)
        with torch.no_grad():
            torch._foreach_add_([w.grad for w in decayed], decayed, alpha=self.settings.weight_decay)
            torch._foreach_mul_(self.velocity, self.settings.momentum)
            torch._foreach_add_(self.velocity, [weight.grad for weight in weights])
            torch._foreach_sub_(weights, torch._foreach_mul(self.velocity, self.feed.rate))

    def reset(self) -> None:
        """Weights, statistics and momentum as before the first step."""
        self.module.load_state_dict(self.first)
        torch._foreach_zero_(self.velocity)


@dataclass(frozen=True, eq=False)
class Replayed:
    """A network whose step is a graph, and the stream that it runs on."""

    network: Network
    graph: torch.cuda.CUDAGraph
    stream: torch.cuda.Stream


def trained_at_once(
    space: SearchSpace, data: Data, jobs: Sequence[tuple[Arch, int]], settings: TrainSettings
) -> list[dict[str, Any]]:
    """For each (architecture, seed): its test accuracy, and its validation accuracy after every epoch."""
    feeds, captures = capture_all(space, data, jobs, settings)
    curves = train_all(captures, feeds, data, settings)
    return [{"test": tested(one.network, data), "val": curve} for one, curve in zip(captures, curves, strict=True)]


def capture_all(
    space: SearchSpace, data: Data, jobs: Sequence[tuple[Arch, int]], settings: TrainSettings
) -> tuple[dict[int, Feed], list[Replayed]]:
    """The feed of every seed, and the networks with their graphs, spread over the streams."""
    device = torch.device("cuda")
    feeds = {seed: empty_feed(data, settings, device) for _, seed in jobs}
    streams = itertools.cycle([torch.cuda.Stream() for _ in range(STREAMS)])
    networks = [new_network(space, arch, seed, settings, feeds[seed], device) for arch, seed in jobs]
    return feeds, [captured(network, stream) for network, stream in zip(networks, streams, strict=False)]


def empty_feed(data: Data, settings: TrainSettings, device: torch.device) -> Feed:
    """A feed that holds some batch, at a rate of 0."""
    images = data.normalise(data.train.images[: settings.batch]).to(device)
    return Feed(images, data.train.labels[: settings.batch].to(device, copy=True), torch.zeros((), device=device))


def new_network(
    space: SearchSpace, arch: Arch, seed: int, settings: TrainSettings, feed: Feed, device: torch.device
) -> Network:
    """A network with the first weights of its seed."""
    torch.manual_seed(seed)
    module = Supernet(space, only=arch).to(device).train()
    groups = make_optimizer(module, settings).param_groups
    velocity = [torch.zeros_like(weight) for group in groups for weight in group["params"]]
    first = {name: value.clone() for name, value in module.state_dict().items()}
    return Network(arch, seed, module, velocity, first, feed, settings)


def captured(network: Network, stream: torch.cuda.Stream) -> Replayed:
    """The graph of the network's step; the network is as it was."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            network.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        network.step()
    network.reset()
    return Replayed(network, graph, stream)


def train_all(
    captures: Sequence[Replayed], feeds: Mapping[int, Feed], data: Data, settings: TrainSettings
) -> list[list[float]]:
    """Train every network to the last epoch; their validation accuracies, epoch by epoch."""
    steps, curves = steps_per_epoch(data, settings), [list[float]() for _ in captures]
    seeded = {seed: replace(settings, seed=seed) for seed in feeds}
    batches = {seed: training_batches(data, seeded[seed]) for seed in feeds}
    rates = torch.optim.SGD([torch.zeros(1)], lr=settings.lr)
    device = next(iter(feeds.values())).images.device
    val, labels = data.normalise(data.val.images[:]).to(device), data.val.labels.to(device)
    for number in range(settings.epochs * steps):
        set_learning_rate(rates, settings, (number + 0.5) / (settings.epochs * steps))
        for seed, feed in feeds.items():
            images, answers = prepared(next(batches[seed])[0], data, seeded[seed], number, feed.images.device)
            feed.images.copy_(images)
            feed.labels.copy_(answers)
            feed.rate.fill_(rates.param_groups[0]["lr"])
        replay(captures)
        if (number + 1) % steps == 0:
            for one, curve in zip(captures, curves, strict=True):
                curve.append(read(one.network, val, labels))
            print(f"epoch {number // steps + 1} of {settings.epochs}", flush=True)
    return curves


def replay(captures: Sequence[Replayed]) -> None:
    """One step of every network, beside one another: after what the current stream did, before what it will do."""
    current = torch.cuda.current_stream()
    streams = list(dict.fromkeys(one.stream for one in captures))
    for stream in streams:
        stream.wait_stream(current)
    for one in captures:
        with torch.cuda.stream(one.stream):
            one.graph.replay()
    for stream in streams:
        current.wait_stream(stream)


@torch.no_grad()
def read(network: Network, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Accuracy with the batch norms of the training."""
    network.module.eval()
    right = (network.module(images, network.arch).argmax(1) == labels).float().mean().item()
    network.module.train()
    return right


def tested(network: Network, data: Data) -> float:
    """Test accuracy as `hwnas rank` measures it, with batch norms re-estimated."""
    subnet = calibrated_subnet(network.module, network.arch, bn_images(data, network.seed))
    return accuracy(subnet, data, data.test)
