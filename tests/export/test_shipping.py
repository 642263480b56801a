"""Fit for shipping: older opsets, pixels as they come, the mobile format, what a file weighs and says of itself."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hwnas.errors import FaultError, InputError
from hwnas.export import OfPixels, at_opset, described, running, to_int8, to_mobile, to_onnx
from hwnas.export.onnx_model import shifted
from hwnas.export.running import Images, onnx_session, run_onnx, weigh
from hwnas.supernet import Supernet, load_space

SMALL = "size=16,channels=1,classes=10"
SPACES = {
    "mobilenet": f"mobilenet:{SMALL},stem=4,widths=4-8,depths=1-2,blocks=mbconv-fused,se=1,head=16",
    "shufflenet": f"shufflenet:{SMALL},stem=4,widths=8-16,depths=2-2,head=16",
    "vgg": f"vgg:{SMALL},widths=4-8,depths=1-2,head=16",
}


def outputs(model: onnx.ModelProto, images: Images) -> Images:
    return run_onnx(onnx_session(model.SerializeToString()), images)


def network(text: str) -> nn.Module:
    torch.manual_seed(0)
    space = load_space(text)
    arch = space.sample(random.Random(0))
    return shifted(Supernet(space, only=arch).subnet(arch)).eval()


@pytest.fixture(scope="module", params=SPACES)
def model(request: pytest.FixtureRequest) -> onnx.ModelProto:
    return to_onnx(network(SPACES[request.param]), [(1, 1, 16, 16)])


@pytest.fixture(scope="module")
def images() -> Images:
    return np.random.default_rng(0).standard_normal((8, 1, 16, 16)).astype(np.float32)


@pytest.mark.parametrize(("opset", "newest_format"), [(13, 7), (15, 8), (17, 8), (18, 8), (20, 8), (21, 8)])
def test_an_older_reader_gets_the_same_outputs(
    model: onnx.ModelProto, images: Images, opset: int, newest_format: int
) -> None:
    before = model.SerializeToString()
    lowered = at_opset(model, opset)
    onnx.checker.check_model(lowered, full_check=True)
    assert [entry.version for entry in lowered.opset_import if not entry.domain] == [min(opset, 18)]
    assert lowered.ir_version <= newest_format
    np.testing.assert_array_equal(outputs(lowered, images), outputs(model, images))
    assert model.SerializeToString() == before


def test_an_open_batch_stays_open_at_an_older_opset(images: Images) -> None:
    model = to_onnx(network(SPACES["shufflenet"]), [(2, 1, 16, 16)], dynamic_batch=True)
    lowered = at_opset(model, 13)
    for count in (1, 8):
        np.testing.assert_allclose(outputs(lowered, images[:count]), outputs(model, images[:count]), atol=1e-6)


def test_an_opset_that_has_not_all_the_operators_is_refused() -> None:
    """Hard-swish came with 14: what can't be written is said, with what can."""
    model = to_onnx(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Hardswish()), [(1, 1, 4, 4)])
    assert any(node.op_type == "HardSwish" for node in at_opset(model, 14).graph.node)
    with pytest.raises((InputError, FaultError), match=r"opset 13.*ask for 18"):
        at_opset(model, 13)
    with pytest.raises(InputError, match="oldest is 13"):
        at_opset(model, 12)


def test_a_reshape_to_nothing_is_not_taken_for_one_that_keeps() -> None:
    """What a 0 in a shape means changed with opset 14: there it is not dropped in silence."""
    node = onnx.helper.make_node("Reshape", ["image", "shape"], ["logits"], allowzero=1)
    shape = onnx.numpy_helper.from_array(np.array([0, 4], np.int64), "shape")
    values = [
        onnx.helper.make_tensor_value_info("image", 1, [0, 4]),
        onnx.helper.make_tensor_value_info("logits", 1, None),
    ]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:], [shape])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    with pytest.raises((InputError, FaultError), match="ask for 18"):
        at_opset(model, 13)


def test_pixels_are_normalised_inside(images: Images) -> None:
    module, mean, std = network(SPACES["mobilenet"]), torch.tensor([0.3]), torch.tensor([0.2])
    pixels = torch.from_numpy(images).abs().mul(80).clamp(0, 255).round()
    found = outputs(to_onnx(OfPixels(module, mean, std), [(1, 1, 16, 16)]), pixels.numpy())
    with torch.no_grad():
        expected = module((pixels / 255 - 0.3) / 0.2)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_int8_of_real_images_is_closer_than_of_random_ones(images: Images) -> None:
    """Images three times as wide as the random ones: their ranges are what counts."""
    model, wide = to_onnx(network(SPACES["vgg"]), [(1, 1, 16, 16)]), images * 3
    plain = outputs(model, wide)
    calibrated, guessed = (
        np.abs(outputs(found, wide) - plain).max() for found in (to_int8(model, wide), to_int8(model))
    )
    assert calibrated < guessed
    assert calibrated < 0.1 * np.abs(plain).max()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_mobile_format_computes_the_same(model: onnx.ModelProto, images: Images, precision: str) -> None:
    shipped = model if precision == "fp32" else to_int8(model, images)
    mobile = to_mobile(shipped.SerializeToString())
    assert mobile.model[4:8] == b"ORTM"
    close = 1e-5 if precision == "fp32" else 0.1 * np.abs(outputs(model, images)).max()
    np.testing.assert_allclose(run_onnx(onnx_session(mobile.model), images), outputs(shipped, images), atol=close)
    domains = [line.split(";")[0] for line in mobile.operators.splitlines()]
    assert "ai.onnx" in domains
    assert not any(mark in mobile.operators for mark in ("/", "#"))  # no path of this machine


def test_what_is_no_network_weighs_nothing() -> None:
    with pytest.raises(FaultError, match="could not load"):
        weigh(b"no network")
    with pytest.raises(FaultError, match="mobile format"):
        to_mobile(b"no network")


def test_a_larger_network_takes_more_memory() -> None:
    """Weights of 40 MB are held at least once, those of a few kB are not: the figure is of the model."""
    small, large = (
        weigh(to_onnx(nn.Sequential(nn.Flatten(), nn.Linear(256, width)), [(1, 1, 16, 16)]).SerializeToString())
        for width in (10, 40_000)
    )
    assert min(small.load_ms, small.first_ms, large.load_ms) > 0
    if small.peak_bytes is not None and large.peak_bytes is not None:
        assert large.peak_bytes - small.peak_bytes > 40e6


def test_a_file_says_what_it_is(model: onnx.ModelProto) -> None:
    told = described(model, {"arch": "[1, 2]", "classes": '["a"]'})
    assert {entry.key: entry.value for entry in told.metadata_props} == {
        "hwnas.arch": "[1, 2]",
        "hwnas.classes": '["a"]',
    }
    assert onnx_session(told.SerializeToString()).get_modelmeta().custom_metadata_map["hwnas.arch"] == "[1, 2]"
    assert not model.metadata_props


def test_an_open_batch_is_run_a_few_images_at_a_time(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test images of a data set all at once would not fit into memory."""
    monkeypatch.setattr(running, "AT_ONCE", 3)
    module = network(SPACES["vgg"])
    model, seen = to_onnx(module, [(2, 1, 16, 16)], dynamic_batch=True), list[int]()
    session = onnx_session(model.SerializeToString())
    run = session.run
    monkeypatch.setattr(session, "run", lambda names, fed: seen.append(len(fed["image"])) or run(names, fed))
    found = run_onnx(session, images)
    assert seen == [3, 3, 2]
    with torch.no_grad():
        np.testing.assert_allclose(found, module(torch.from_numpy(images)).numpy(), atol=1e-5)
