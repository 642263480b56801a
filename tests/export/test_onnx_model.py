"""Exported networks compute what torch computes, whole and composed of layers."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from hwnas.errors import FaultError
from hwnas.export import compose, layers_to_onnx, to_onnx
from hwnas.export.onnx_model import shifted
from hwnas.supernet import ChainSpace, Supernet
from hwnas.supernet.blocks import build
from hwnas.supernet.layer import INPUT, Layer, Node
from hwnas.supernet.network import run
from hwnas.supernet.recipe import Choice, Recipe, Stage

Models = dict[Layer, onnx.ModelProto | None]


def output(model: onnx.ModelProto, images: torch.Tensor) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images.numpy()})[0]


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def subnet(tiny: ChainSpace) -> nn.Module:
    torch.manual_seed(0)
    return Supernet(tiny).subnet((1, 2, 3))


@pytest.fixture(scope="module")
def models(tiny: ChainSpace) -> Models:
    return layers_to_onnx(tiny, tiny.layers())


def test_the_model_is_one_valid_file_of_static_shape(subnet: nn.Module) -> None:
    subnet.train()
    model = to_onnx(subnet, [(1, 1, 16, 16)], opset=18)
    onnx.checker.check_model(model, full_check=True)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert [opset.version for opset in model.opset_import if not opset.domain] == [18]
    (image,), (logits,) = model.graph.input, model.graph.output
    assert [dim.dim_value for dim in image.type.tensor_type.shape.dim] == [1, 1, 16, 16]
    assert (image.name, logits.name) == ("image", "logits")
    assert subnet.training  # as it was
    np.testing.assert_allclose(output(model, images(1)), subnet.eval()(images(1)).detach(), atol=1e-5)


def test_the_memory_layout_of_a_module_leaves_no_trace() -> None:
    """Once, networks were exported channels-last, with layout nodes that no table had priced."""
    layers = [Layer("mbconv", 4, 4, 8, 1, {"kernel": 3, "expansion": 2, "se": 1, "act": "relu"})]
    layers += [Layer("head", 4, 10, 8, 0, {"hidden": 8, "act": "relu"})]
    plain = nn.Sequential(*(build(layer) for layer in layers))
    expected = [node.op_type for node in to_onnx(plain, [(1, 4, 8, 8)]).graph.node]
    trained = plain.to(memory_format=torch.channels_last)
    assert [node.op_type for node in to_onnx(trained, [(1, 4, 8, 8)]).graph.node] == expected
    weight = trained[0].block.expand[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)  # the module itself stays as it was


def test_a_model_tells_nothing_of_the_machine_it_comes_from(subnet: nn.Module) -> None:
    """Once, every node carried the paths of the code that made it, and half of a small file was that."""
    model = to_onnx(subnet, [(1, 1, 16, 16)]).SerializeToString()
    for text in (b".py", b"stack_trace", str(Path(torch.__file__).parents[1]).encode()):
        assert text not in model


def test_an_open_batch_takes_any(subnet: nn.Module) -> None:
    model = to_onnx(subnet, [(2, 1, 16, 16)], dynamic_batch=True)
    for count in (1, 3, 8):
        np.testing.assert_allclose(output(model, images(count)), subnet.eval()(images(count)).detach(), atol=1e-5)


def test_what_cannot_be_exported_is_a_fault_with_the_reason() -> None:
    class Undecided(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(FaultError, match=r"torch could not export the network to ONNX: ."):
        to_onnx(Undecided(), [(1, 1, 4, 4)])


def test_each_layer_is_a_model_of_its_own(tiny: ChainSpace, models: Models) -> None:
    assert list(models) == list(tiny.layers())
    assert [layer.op for layer, model in models.items() if model is None] == ["identity"]
    for layer, model in models.items():
        if model is not None:
            onnx.checker.check_model(model, full_check=True)
            (entry,) = model.graph.input
            shape = tuple(dim.dim_value for dim in entry.type.tensor_type.shape.dim)
            assert shape == layer.input_shapes()[0]


def test_layers_are_exported_alike_and_draw_from_no_global_generator(tiny: ChainSpace) -> None:
    layers = tiny.layers()[:2]
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first, second = (layers_to_onnx(tiny, layers) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first == second


def test_composed_networks_compute_what_their_layers_do(tiny: ChainSpace, models: Models) -> None:
    torch.manual_seed(0)
    modules = {layer: shifted(tiny.build(layer)).eval() for layer in tiny.layers()}
    rng = random.Random(0)
    for arch in [(0, 0, 4), *(tiny.sample(rng) for _ in range(5))]:
        graph = tiny.graph(arch)
        with torch.no_grad():
            expected = run(graph, [modules[node.layer] for node in graph], images(1))
        np.testing.assert_allclose(output(compose(graph, models), images(1)), expected, atol=1e-5)


def test_composing_changes_no_layer(tiny: ChainSpace, models: Models) -> None:
    before = {layer: model and model.SerializeToString(deterministic=True) for layer, model in models.items()}
    compose(tiny.graph((3, 1, 2)), models)
    assert before == {layer: model and model.SerializeToString(deterministic=True) for layer, model in models.items()}


@pytest.mark.parametrize("arch", [(0, 0), (0, 1), (1, 0)])
def test_skipped_blocks_may_come_first_and_last(arch: tuple[int, int]) -> None:
    options = (Choice("conv", (("act", ("relu",)), ("kernel", (3,)))), Choice("identity"))
    space = ChainSpace(Recipe(2, (4,), 2, (), (Stage((2,), (2,), 1, options),), ()))
    found = compose(space.graph(arch), layers_to_onnx(space, space.layers()))
    onnx.checker.check_model(found, full_check=True)
    x = torch.randn(1, 2, 4, 4)
    torch.manual_seed(0)
    modules = {layer: shifted(space.build(layer)).eval() for layer in space.layers()}
    expected = run(space.graph(arch), [modules[node.layer] for node in space.graph(arch)], x)
    np.testing.assert_allclose(output(found, x), expected.detach(), atol=1e-5)


def test_the_output_may_skip_the_last_layer_that_computes(tiny: ChainSpace) -> None:
    params = (("act", "relu"), ("kernel", 3))
    kept, unused = (Layer("conv", 1, channels, 16, params=params) for channels in (3, 5))
    models = layers_to_onnx(tiny, [kept, unused])
    models[nothing := Layer("identity", 3, 3, 16)] = None
    found = compose([Node(kept), Node(unused, (INPUT,)), Node(nothing, (0,))], models)
    onnx.checker.check_model(found, full_check=True)
    assert output(found, images(1)).shape == (1, 3, 16, 16)


def test_layers_have_what_a_trained_network_has(tiny: ChainSpace, models: Models) -> None:
    """Untrained batch norms would be folded into no bias at all, and tables be 2 % too fast."""
    convolutions = [node for model in models.values() if model for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions
    assert all(len(node.input) == 3 for node in convolutions)
