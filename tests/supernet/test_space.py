"""A chain, a cell with chosen inputs and a macro space with chosen skips: one contract, one way to ONNX."""

from __future__ import annotations

import random
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import Conv2dNormActivation

from hwnas.errors import HwnasError, InputError, MissingLayerError
from hwnas.export import compose, layers_to_onnx, to_onnx
from hwnas.export.onnx_model import shifted
from hwnas.latency import analytic_cost, flops, memory, params
from hwnas.supernet import Arch, ChainSpace, ChoiceSpace, Layer, Node, SearchSpace, Supernet, sampling
from hwnas.supernet.layer import INPUT
from hwnas.supernet.network import run
from hwnas.supernet.recipe import Block, Choice, Recipe, Stage

CHANNELS, SIZE_PX, CLASSES = 4, 8, 3
CONV3 = (("act", "relu"), ("kernel", 3))
STEM = Layer("conv", 1, CHANNELS, SIZE_PX, params=CONV3)
HEAD = Layer("head", CHANNELS, CLASSES, SIZE_PX, 0, (("act", "relu"), ("hidden", 8)))


def chain() -> ChainSpace:
    options = (Choice("conv", (("act", ("relu",)), ("kernel", (3, 5)))), Choice("identity", where="rest"))
    stem, tail = Block("conv", CHANNELS, params=CONV3), Block("head", CLASSES, 0, HEAD.params)
    return ChainSpace(Recipe(1, (SIZE_PX,), CLASSES, (stem,), (Stage((6,), (2,), 2, options),), (tail,)))


class Add(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


class Cells(SearchSpace):
    """A cell of one to three nodes. Each has an operation and adds two earlier values, in no order.

    Genes: the number of nodes less one, then per node the operation, a value, and a value not behind it.
    """

    def choices(self, prefix: Arch = ()) -> int | None:
        if not prefix:
            return 3
        node, position = divmod(len(prefix) - 1, 3)
        if node > prefix[0]:
            return None
        return (2, node + 1, prefix[-1] + 1)[position]

    def graph(self, arch: Arch) -> tuple[Node, ...]:
        nodes, values = [Node(STEM, (INPUT,), "stem")], [0]
        for j in range(arch[0] + 1):
            op, a, b = arch[1 + 3 * j : 4 + 3 * j]
            add = Layer("add", (CHANNELS, CHANNELS), CHANNELS, SIZE_PX)
            nodes.append(Node(add, (values[a], values[b]), f"add{j}"))
            layer = Layer("conv", CHANNELS, CHANNELS, SIZE_PX, params=CONV3)
            if not op:
                layer = Layer("identity", CHANNELS, CHANNELS, SIZE_PX)
            nodes.append(Node(layer, (len(nodes) - 1,), f"node{j}"))
            values.append(len(nodes) - 1)
        return (*nodes, Node(HEAD, (len(nodes) - 1,), "head"))

    def build(self, layer: Layer) -> nn.Module:
        return Add() if layer.op == "add" else super().build(layer)


class JoinConv(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        assert isinstance(layer.in_channels, tuple)
        self.conv = Conv2dNormActivation(sum(layer.in_channels), layer.out_channels, int(layer["kernel"]))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.conv(torch.cat(inputs, 1))


class Macro(SearchSpace):
    """Four convolutions, each reading the one before and, concatenated, any chosen earlier ones."""

    options = (2, 2, 2, 2, 2, 2, 2)  # four kernels, then the skips 0>2, 0>3, 1>3

    def choices(self, prefix: Arch = ()) -> int | None:
        return 2 if len(prefix) < 7 else None

    def graph(self, arch: Arch) -> tuple[Node, ...]:
        skips = {2: [0] * arch[4], 3: [0] * arch[5] + [1] * arch[6]}
        nodes: list[Node] = []
        for i, gene in enumerate(arch[:4]):
            inputs = (i - 1, *skips.get(i, [])) if i else (INPUT,)
            in_channels = (CHANNELS,) * len(inputs) if i else (1,)
            layer = Layer("join", in_channels, CHANNELS, SIZE_PX, params=(("kernel", (3, 5)[gene]),))
            nodes.append(Node(layer, inputs))
        return (*nodes, Node(HEAD, (3,)))

    def build(self, layer: Layer) -> nn.Module:
        return JoinConv(layer) if layer.op == "join" else super().build(layer)


SPACES = {"chain": chain(), "cells": Cells(), "macro": Macro()}
SIZES = {"chain": 6, "cells": 2 + 2 * 6 + 2 * 6 * 12, "macro": 128}
RICH = {  # one network of each that has everything: identity, a value added to itself, skips
    "chain": (1, 2),
    "cells": (2, 1, 0, 0, 0, 1, 0, 1, 2, 1),
    "macro": (0, 1, 0, 1, 1, 1, 1),
}
every = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
each_name = pytest.mark.parametrize("name", SPACES)


def every_arch(space: SearchSpace, prefix: Arch = ()) -> Iterator[Arch]:
    options = space.choices(prefix)
    if options is None:
        yield prefix
    else:
        for gene in range(options):
            yield from every_arch(space, (*prefix, gene))


@each_name
def test_the_smallest_and_the_largest_are_found_from_few_random_ones(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "POOL", 3)
    space = SPACES[name]
    every_flops = [flops(space, arch) for arch in every_arch(space)]
    smallest, largest = sampling.extremes.__wrapped__(space)
    assert (flops(space, smallest), flops(space, largest)) == (min(every_flops), max(every_flops))


@each_name
def test_size_is_the_number_of_architectures(name: str) -> None:
    assert SPACES[name].size() == len(list(every_arch(SPACES[name]))) == SIZES[name]


@every
def test_samples_reach_every_architecture(space: SearchSpace) -> None:
    rng = random.Random(0)
    assert {space.sample(rng) for _ in range(20_000)} == set(every_arch(space))


@every
def test_samples_are_a_function_of_the_generator(space: SearchSpace) -> None:
    assert space.sample(random.Random(3)) == space.sample(random.Random(3))
    assert space.check(space.sample(np.random.default_rng(3)))


@every
def test_every_architecture_checks_and_no_other_does(space: SearchSpace) -> None:
    for arch in every_arch(space):
        assert space.check(list(np.array(arch))) == arch
        for wrong in (arch[:-1], (*arch, 0), (*arch[:-1], 9), (-1, *arch[1:])):
            with pytest.raises(InputError, match="architecture"):
                space.check(wrong)


@every
def test_children_are_architectures(space: SearchSpace) -> None:
    rng, archs = random.Random(0), set(every_arch(space))
    for _ in range(500):
        a, b = space.sample(rng), space.sample(rng)
        assert space.mutate(a, rng, 0.3) in archs
        assert space.cross(a, b, rng) in archs


@every
def test_a_mutation_rate_of_zero_changes_nothing_and_one_forgets_the_parent(space: SearchSpace) -> None:
    rng = random.Random(0)
    parent = space.sample(rng)
    assert space.mutate(parent, rng, 0.0) == parent
    assert {space.mutate(parent, rng, 1.0) for _ in range(20_000)} == set(every_arch(space))


@every
def test_equal_parents_have_their_like_as_child(space: SearchSpace) -> None:
    rng = random.Random(0)
    for arch in every_arch(space):
        assert space.cross(arch, arch, rng) == arch


def test_a_child_takes_its_genes_from_both_parents() -> None:
    rng, space = random.Random(0), ChoiceSpace([2] * 50)
    share = np.mean([space.cross((0,) * 50, (1,) * 50, rng) for _ in range(400)])
    assert 0.48 < share < 0.52


@every
def test_nodes_are_all_that_some_architecture_uses(space: SearchSpace) -> None:
    used = {(n.slot or str(i), n.layer) for arch in every_arch(space) for i, n in enumerate(space.graph(arch))}
    assert len(space.nodes()) == len(used)
    assert set(space.nodes()) == used
    assert set(space.layers()) == {layer for _, layer in used}


@every
def test_graphs_are_topological_and_their_shapes_fit(space: SearchSpace) -> None:
    for arch in every_arch(space):
        graph = space.graph(arch)
        shapes = {INPUT: space.input_shape()}
        for index, node in enumerate(graph):
            assert all(INPUT <= source < index for source in node.inputs)
            assert [shapes[source] for source in node.inputs] == node.layer.input_shapes()
            shapes[index] = (1, node.layer.out_channels, *[node.layer.out_size] * 2)
        assert graph[-1].layer.out_channels == space.classes() == CLASSES


def test_equal_spaces_have_equal_fingerprints() -> None:
    found = [kind().fingerprint() for kind in (chain, Cells, Macro, chain, Cells, Macro)]
    assert found[:3] == found[3:]
    assert len(set(found)) == 3


def test_a_space_too_large_to_count_says_so() -> None:
    class Wide(Cells):
        def choices(self, prefix: Arch = ()) -> int | None:
            return 1001 if len(prefix) < 2 else None

    with pytest.raises(HwnasError, match=r"Wide has over a million architectures: define its size"):
        Wide().size()


@pytest.mark.parametrize("options", [[], [3, 0]])
def test_choices_need_options(options: list[int]) -> None:
    with pytest.raises(InputError, match="at least one"):
        ChoiceSpace(options)


def test_choices_alone_are_no_network() -> None:
    with pytest.raises(MissingLayerError, match=r"ChoiceSpace\(2 choices, 6 architectures\) has choices only"):
        ChoiceSpace([2, 3]).graph((0, 1))


def test_a_layer_is_one_value_however_its_parameters_are_given() -> None:
    layer = Layer("conv", 3, 8, 15, 2, {"kernel": 3, "act": "relu"})  # type: ignore[arg-type]
    assert layer == Layer("conv", 3, 8, 15, 2, CONV3)
    assert str(layer) == "conv 3>8 15px /2 act=relu kernel=3"
    assert (layer["kernel"], layer.out_size, layer.input_shapes(2)) == (3, 8, [(2, 3, 15, 15)])


# ---- the whole way of each type


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 1, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sharing", ["entangled", "blocks"])
@each_name
def test_a_path_learns_and_its_subnet_equals_it(name: str, sharing: str) -> None:
    torch.manual_seed(0)
    supernet, labels = Supernet(SPACES[name], sharing), torch.arange(12) % CLASSES
    x = images(12) + labels.view(-1, 1, 1, 1)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(supernet(x, RICH[name]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    supernet.eval()
    assert torch.equal(supernet(x, RICH[name]), supernet.subnet(RICH[name]).eval()(x))


def multiply_accumulates(module: nn.Module, x: torch.Tensor) -> int:
    """Counted at every kernel that runs."""
    found: Counter[str] = Counter()

    def count(part: nn.Module, _: object, out: torch.Tensor) -> None:
        found["all"] += out.numel() * part.weight[0].numel()

    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.register_forward_hook(count)
    module(x)
    return found["all"]


@each_name
def test_costs_are_those_of_the_subnet(name: str) -> None:
    space, supernet, rng = SPACES[name], Supernet(SPACES[name]), random.Random(1)
    for arch in [RICH[name], *(space.sample(rng) for _ in range(5))]:
        subnet = supernet.subnet(arch).eval()
        assert flops(space, arch) == multiply_accumulates(subnet, images(1))
        assert params(space, arch) == sum(p.numel() for p in subnet.parameters())


def test_memory_holds_what_later_nodes_wait_for() -> None:
    unit = CHANNELS * SIZE_PX**2 * 4
    assert memory(SPACES["macro"], (0, 0, 0, 0, 0, 0, 0)) == 3 * unit  # input, its copy by cat, output
    assert memory(SPACES["macro"], (0, 0, 0, 0, 0, 1, 0)) == (2 + 2 + 1) * unit  # node 3 reads 0 and 2
    assert memory(SPACES["macro"], (0, 0, 0, 0, 0, 1, 1)) == (3 + 3 + 1) * unit  # node 3 reads 0, 1 and 2
    doubled = (2, 1, 0, 0, 1, 1, 1, 0, 2, 0)  # the second node adds the first to itself, the third adds the stem
    assert memory(SPACES["cells"], doubled) == (2 + 1 + 1) * unit  # two inputs, their sum, and the stem waits


@each_name
def test_a_cost_for_the_search_is_the_cost_of_each(name: str) -> None:
    archs = list(every_arch(SPACES[name]))
    for cost, price in (("flops", flops), ("params", params), ("memory", memory)):
        assert list(analytic_cost(SPACES[name], cost)(archs)) == [price(SPACES[name], arch) for arch in archs]


def test_outputs_are_freed_after_their_last_use() -> None:
    class Watch(nn.Module):
        seen: ClassVar[list[weakref.ref[torch.Tensor]]] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.alive = [ref() is not None for ref in self.seen]
            y = x + 1
            self.seen.append(weakref.ref(y))
            return y

    watches = [Watch() for _ in range(4)]
    run([Node(STEM, (i - 1,)) for i in range(4)], watches, images())
    assert watches[3].alive == [False, False, True]


def output(model: onnx.ModelProto, x: torch.Tensor) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": x.numpy()})[0]


@pytest.mark.parametrize("name", ["cells", "macro"])
def test_the_exported_network_computes_the_same(name: str) -> None:
    torch.manual_seed(1)
    subnet = Supernet(SPACES[name]).subnet(RICH[name]).eval()
    model = to_onnx(subnet, [(4, 1, SIZE_PX, SIZE_PX)])
    np.testing.assert_allclose(output(model, images()), subnet(images()).detach(), atol=1e-4)


def reference(space: SearchSpace, layers: Sequence[Layer], arch: Arch, x: torch.Tensor) -> torch.Tensor:
    """The network of the very modules that `layers_to_onnx` exports."""
    torch.manual_seed(0)
    modules = {layer: shifted(space.build(layer)).eval() for layer in layers}
    graph = space.graph(arch)
    with torch.no_grad():
        return run(graph, [modules[node.layer] for node in graph], x)


@each_name
def test_networks_composed_of_layers_compute_the_same(name: str) -> None:
    space, rng = SPACES[name], random.Random(2)
    layers = space.layers()
    models = layers_to_onnx(space, layers, batch=4)
    for arch in [RICH[name], *(space.sample(rng) for _ in range(4))]:
        found = output(compose(space.graph(arch), models), images())
        np.testing.assert_allclose(found, reference(space, layers, arch, images()), atol=1e-4)


def test_a_layer_that_nodes_did_not_list_is_named() -> None:
    class Forgetful(Cells):
        def nodes(self) -> tuple[tuple[str, Layer], ...]:
            return tuple(item for item in super().nodes() if item[0] != "node2")

    supernet = Supernet(Forgetful())
    with pytest.raises(MissingLayerError, match=r"conv 4>4 8px .* at slot node2; let Forgetful.nodes\(\) list it"):
        supernet(images(), RICH["cells"])


class Single(SearchSpace):
    """One architecture of one layer."""

    def __init__(self, layer: Layer, slot: str = "") -> None:
        self.node = Node(layer, (INPUT,), slot)

    def choices(self, prefix: Arch = ()) -> int | None:
        return None if prefix else 1

    def graph(self, arch: Arch) -> tuple[Node, ...]:
        return (self.node,)


def test_a_parameter_that_a_layer_has_not_is_named() -> None:
    with pytest.raises(InputError, match=r"the layer conv 4>4 8px kernel=3 has no act \(it has: kernel\)"):
        Supernet(Single(Layer("conv", 4, 4, 8, params={"kernel": 3})))


def test_a_slot_with_a_dot_is_refused() -> None:
    layer = Layer("conv", 4, 4, 8, params={"kernel": 3, "act": "relu"})
    with pytest.raises(InputError, match=r"the slot 'stage1\.block0' has a dot"):
        Supernet(Single(layer, slot="stage1.block0"))
