"""Spaces as data: everything that may be a list is a choice, and a TOML file says all of it."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from hwnas.errors import InputError
from hwnas.export import to_onnx
from hwnas.latency import flops, params
from hwnas.supernet import ChainSpace, Supernet, load_space
from hwnas.supernet.blocks import ACTIVATIONS
from hwnas.supernet.recipe import read_toml, to_toml

ELASTIC = (
    "mobilenet:size=12-16,channels=1,classes=3,stem=4,widths=4+8-8,depths=1+2-1,head=8,"
    "kernels=3,expansions=2,se=0-1,act=relu-hswish,blocks=mbconv-fused-conv"
)
SMALL = {
    "elastic": ELASTIC,
    "shufflenet": "shufflenet:size=16,channels=1,classes=3,stem=4,widths=8-16,depths=2-1,head=8",
    "vgg": "vgg:size=16,channels=1,classes=3,widths=4-8-8,depths=2-1-1,head=8",
}


def chain(text: str) -> ChainSpace:
    space = load_space(text)
    assert isinstance(space, ChainSpace)
    return space


def everything(space: ChainSpace) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(n) for n in space.options)))


@pytest.mark.parametrize("text", SMALL.values(), ids=SMALL)
def test_size_counts_the_different_networks(text: str) -> None:
    space = chain(text)
    canonical = {space.canonical(arch) for arch in everything(space)}
    assert space.size() == len(canonical)
    assert len({space.graph(arch) for arch in canonical}) == len(canonical)


@pytest.mark.parametrize("text", SMALL.values(), ids=SMALL)
def test_canonical_is_the_same_network(text: str) -> None:
    space = chain(text)
    for arch in everything(space)[::7]:
        assert space.graph(space.canonical(arch)) == space.graph(arch)
        assert space.canonical(space.canonical(arch)) == space.canonical(arch)


@pytest.mark.parametrize("text", SMALL.values(), ids=SMALL)
def test_nodes_are_those_of_all_architectures(text: str) -> None:
    space = chain(text)
    used = {(node.slot, node.layer) for arch in everything(space) for node in space.graph(arch)}
    assert set(space.nodes()) == used


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("shufflenet", 4**20),
        ("vgg", 3**13),
        ("mobilenet:size=160-192-224", 3 * 6**5 * 7**15),
        ("mobilenet:widths=8+16-24,depths=1+2-3,kernels=3-5,expansions=6,skip=0", 2 * (2 + 2**2) * 2**3),
    ],
)
def test_published_and_closed_sizes(text: str, size: int) -> None:
    assert load_space(text).size() == size


@pytest.mark.parametrize("sharing", ["entangled", "blocks"])
@pytest.mark.parametrize("text", SMALL.values(), ids=SMALL)
def test_the_whole_way(text: str, sharing: str) -> None:
    """Trained for a step, extracted, priced, exported: the same network everywhere."""
    space = chain(text)
    torch.manual_seed(0)
    supernet = Supernet(space, sharing)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.1)
    archs = everything(space)
    images = torch.randn(space.input_shape(4))
    for arch in (archs[0], archs[len(archs) // 3], archs[-1]):
        supernet.train()(images, arch).square().sum().backward()
        optimizer.step()
        subnet = supernet.subnet(arch).eval()
        expected = supernet.eval()(images, arch)
        torch.testing.assert_close(subnet(images), expected, rtol=0, atol=0)
        assert params(space, arch) == sum(p.numel() for p in subnet.parameters())
        assert flops(space, arch) > 0
        model = to_onnx(subnet, [tuple(images.shape)]).SerializeToString()
        found = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"image": images.numpy()})[0]
        np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-4)


def test_a_toml_file_gives_the_space_back(tmp_path: Path) -> None:
    for text in (ELASTIC, "nas-bench-macro", "shufflenet", "vgg"):
        space = chain(text)
        (tmp_path / "own.toml").write_text(to_toml(space.recipe))
        again = chain(str(tmp_path / "own.toml"))
        assert again.recipe == space.recipe
        assert again.fingerprint() == space.fingerprint()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("classes = 3", "clases = 3", "unknown key 'clases'; did you mean classes"),
        ("classes = 3", "", "classes is missing"),
        ("classes = 3", 'classes = "three"', "classes is 'three'; a whole number was expected"),
        ("classes = 3", "classes = ", "is not TOML: .*line"),
        ('op = "mbconv"', 'op = "mbcnv"', "stage 1: option 1: unknown op 'mbcnv'; did you mean mbconv"),
        ('op = "mbconv"', 'op = "mbconv"\nkernl = 3', "option 1: unknown key 'kernl'; did you mean kernel"),
        ('where = "rest"', 'where = "first"', "no identity there, say where = 'rest'"),
        ('where = "rest"', 'where = "last"', "unknown where 'last'"),
        ("kernel = 3", "kernel = 4", "kernel is 4; it must be odd"),
        ("depth = 1", "depth = 0", "depth is 0; it must be at least 1"),
        ('op = "mbconv"', 'op = "head"', "option 1: a head pools the whole map"),
        ("expansion = 2", "expansion = []", "option 1: expansion is an empty list"),
        ('op = "head", act = "hswish", hidden = 8', 'op = "conv"', r"the last \[\[tail\]\] must be a head"),
        ('{ op = "head"', '{ stride = 2, op = "head"', "the head has no stride"),
        ('{ op = "head"', '{ width = 5, op = "head"', "the head has no width"),
        ("width = 4, stride = 1", "width = 4, stride = 0", "stride is 0; it must be at least 1"),
    ],
)
def test_a_mistake_in_a_toml_file_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    text = to_toml(chain(ELASTIC).recipe)
    assert old in text
    path = tmp_path / "own.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        load_space(str(path))


def test_a_missing_toml_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"there is no file .*none\.toml; a space was expected: hwnas list spaces shows"
    ):
        read_toml(tmp_path / "none.toml")


@pytest.mark.parametrize("size", [28, 30, 33])
@pytest.mark.parametrize("name", ["mobilenet", "shufflenet", "vgg", "nas-bench-macro"])
def test_maps_have_the_sizes_that_the_graph_says(name: str, size: int) -> None:
    """Pooling that rounds down made maps smaller than the layers that were priced."""
    space = chain(f"{name}:size={size}")
    arch = (0,) * len(space.options)
    with torch.device("meta"):
        x = torch.empty(space.input_shape(2))
        for node in space.graph(arch):
            assert [tuple(x.shape)] == node.layer.input_shapes(2)
            x = space.build(node.layer)(x)


def test_an_option_is_given_once() -> None:
    with pytest.raises(InputError, match=r"mbconv .* is listed twice"):
        load_space("mobilenet:kernels=3-5-3")


def test_the_fingerprint_knows_the_blocks_code(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_space(ELASTIC).fingerprint()
    assert load_space(ELASTIC).fingerprint() == before
    monkeypatch.setitem(ACTIVATIONS, "relu", torch.nn.SiLU)
    assert load_space(ELASTIC).fingerprint() != before


@pytest.mark.parametrize("settings", ["widths=16+16-24,depths=1-1", "widths=16-24,depths=2+2-1", "size=32-32"])
def test_an_option_must_be_given_once(settings: str) -> None:
    """Else the space would be recorded as a TOML file that is none."""
    with pytest.raises(InputError, match="is listed twice"):
        load_space(f"mobilenet:channels=1,{settings}")
