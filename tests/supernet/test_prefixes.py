"""Sharing what networks have in common at the beginning changes no accuracy."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import islice

import numpy as np
import pytest
import torch

from hwnas.supernet import ChoiceSpace, Data, Layer, Node, SearchSpace, Supernet, load_space
from hwnas.supernet.evaluation import BATCH, bn_images, inherited_accuracy
from hwnas.supernet.prefixes import SharedPrefixes
from hwnas.supernet.space import Arch

SPACE = load_space("mobilenet:size=16,channels=1,classes=10,stem=4,widths=4-8,depths=2-2,kernels=3-5,se=0-1,head=16")


@pytest.fixture(scope="module")
def supernet(digits: Data) -> Supernet:
    """A supernet whose networks differ in accuracy: its head was fitted a little."""
    torch.manual_seed(0)
    network = Supernet(SPACE)
    optimizer, rng = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), random.Random(0)
    images, labels = digits.normalise(digits.train.images), digits.train.labels
    for step in range(60):
        rows = torch.randint(len(images), (64,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images[rows], SPACE.sample(rng)), labels[rows]).backward()
        optimizer.step()
    return network


def walk(count: int) -> list[Arch]:
    """Architectures each a mutation of the one before, sorted as a search sorts them."""
    rng = random.Random(1)
    archs = [SPACE.sample(rng)]
    while len(archs) < count:
        archs.append(SPACE.mutate(archs[-1], rng, 0.2))
    return sorted(archs)


@pytest.mark.parametrize("memory", [0, 200_000, 30_000_000, 1 << 30])
def test_the_same_accuracies_however_much_is_kept(supernet: Supernet, digits: Data, memory: int) -> None:
    images = bn_images(digits, 0)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    evaluate = SharedPrefixes(supernet, digits, images, memory)
    expected = [inherited_accuracy(supernet, digits, images, arch) for arch in walk(12)]
    assert [evaluate(arch) for arch in walk(12)] == expected
    assert len(set(expected)) > 3
    assert (evaluate.shared > 0) == (memory > 10_000_000)
    assert sum(map(evaluate.size, evaluate.steps)) <= memory
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def test_images_are_looked_at_as_far_as_asked_for(supernet: Supernet, digits: Data) -> None:
    """Networks that were given up leave what the next ones can use, however far those go."""
    images, rng = bn_images(digits, 0), random.Random(2)
    evaluate = SharedPrefixes(supernet, digits, images)
    batches = -(-len(digits.val) // BATCH)
    assert batches > 2
    for arch in walk(12):
        whole = np.concatenate(list(SharedPrefixes(supernet, digits, images).right(arch)))
        assert whole.mean() == inherited_accuracy(supernet, digits, images, arch)
        first = int(rng.random() * batches)  # of images before it is known already what the network says
        asked = 1 + int(rng.random() * (batches - first))
        part = np.concatenate(list(islice(evaluate.right(arch, first), asked)))
        assert np.array_equal(part, whole[first * BATCH :][: asked * BATCH])
        assert set(evaluate.steps[-1].read) >= set(range(first, first + asked))
    assert evaluate.shared > 0


def test_images_are_in_a_random_order_that_stays(supernet: Supernet, digits: Data) -> None:
    orders = [SharedPrefixes(supernet, digits, bn_images(digits, 0)).labels for _ in range(2)]
    assert np.array_equal(*orders)
    assert sorted(orders[0]) == sorted(digits.val.labels.tolist())
    assert not np.array_equal(orders[0], digits.val.labels.numpy())


def test_what_is_common_is_computed_once(supernet: Supernet, digits: Data) -> None:
    evaluate = SharedPrefixes(supernet, digits, bn_images(digits, 0))
    arch = SPACE.sample(random.Random(0))
    first = evaluate(arch)
    layers = evaluate.computed
    assert evaluate.shared == 0
    assert evaluate(arch) == first
    assert (evaluate.computed, evaluate.shared) == (layers, layers)


class Sum(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


class Forked(SearchSpace):
    """Two layers read the image: no chain."""

    def choices(self, prefix: Arch = ()) -> int | None:
        return 2 if not prefix else None

    def build(self, layer: Layer) -> torch.nn.Module:
        return Sum() if layer.op == "sum" else super().build(layer)

    def graph(self, arch: Sequence[int]) -> tuple[Node, ...]:
        kernel = {"kernel": 3 + 2 * arch[0]}
        left, right = (Layer("conv", 1, 4, 16, 2, {**kernel, "act": "relu"}) for _ in range(2))
        return (
            Node(left),
            Node(right),
            Node(Layer("sum", (4, 4), 4, 8), (0, 1)),
            Node(Layer("head", 4, 10, 8, 0, {"hidden": 16, "act": "relu"}), (2,)),
        )


def test_networks_that_are_no_chain_are_evaluated_as_ever(digits: Data) -> None:
    network = Supernet(Forked())
    images = bn_images(digits, 0)
    evaluate = SharedPrefixes(network, digits, images)
    assert [evaluate((gene,)) for gene in range(2)] == [
        inherited_accuracy(network, digits, images, (g,)) for g in range(2)
    ]
    assert evaluate.steps == []
    assert next(iter(evaluate.right((0,)))).shape == (BATCH,)


class InPlace(ChoiceSpace):
    """Some layers begin with what works in place."""

    def __init__(self) -> None:
        super().__init__([2, 2])

    def build(self, layer: Layer) -> torch.nn.Module:
        module = super().build(layer)
        return torch.nn.Sequential(torch.nn.ReLU(inplace=True), module) if layer["kernel"] == 5 else module

    def graph(self, arch: Sequence[int]) -> tuple[Node, ...]:
        first = Layer("conv", 1, 4, 16, 2, {"kernel": 3, "act": "none"})
        later = [Layer("conv", 4, 4, 8, 1, {"kernel": 3 + 2 * gene, "act": "none"}) for gene in arch]
        head = Layer("head", 4, 10, 8, 0, {"hidden": 16, "act": "relu", "kernel": 0})
        return tuple(Node(layer, (i - 1,), f"slot{i}") for i, layer in enumerate([first, *later, head]))


def test_layers_that_work_in_place_change_nothing_that_is_kept(digits: Data) -> None:
    torch.manual_seed(0)
    network, images = Supernet(InPlace(), "blocks"), bn_images(digits, 0)
    archs = [(0, 1), (0, 0), (1, 1), (1, 0), (0, 1)]
    evaluate = SharedPrefixes(network, digits, images)
    assert [evaluate(a) for a in archs] == [inherited_accuracy(network, digits, images, a) for a in archs]
