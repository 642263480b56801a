"""A supernet that starts from a network computes what it computed; what can't be used is said, or an error."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn

from hwnas.errors import InputError
from hwnas.supernet import Arch, ChainSpace, ChoiceSpace, Data, Layer, Node, Supernet, TrainSettings, load_space, train
from hwnas.supernet.averaging import Average
from hwnas.supernet.checkpoint import CHECKPOINT, load_checkpoint
from hwnas.supernet.pretrained import initialise_from, load_weights
from hwnas.supernet.weights import channel_groups, read_blocks, sort_channels

SPEC = "mobilenet:size=16,channels=1,classes=5,stem=8,widths=8-16,depths=2-2,head=24,kernels=3-5,expansions=3-6,se=0-1"
SETTINGS = [(se, expansion, kernel) for se in (0, 1) for expansion in (3, 6) for kernel in (3, 5)]
both = pytest.mark.parametrize("sharing", ["entangled", "blocks"])


def supernet_of(spec: str, seed: int, sharing: str = "entangled") -> Supernet:
    """In evaluation mode, with statistics and affine weights of batch norm that no two options share."""
    torch.manual_seed(seed)
    space = load_space(spec)
    assert isinstance(space, ChainSpace)
    return shaken(Supernet(space, sharing))  # type: ignore[return-value]


def shaken(module: nn.Module) -> nn.Module:
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.bias, part.running_mean, part.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return module.eval()


def every(option: int, space: Any) -> Arch:
    """The architecture that takes this option everywhere."""
    return tuple(min(option, options - 1) for options in space.options)


def images(channels: int = 1, size: int = 16) -> torch.Tensor:
    return torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(0))


def saved(path: Path, state: object) -> str:
    torch.save(state, path / "net.pt")
    return str(path / "net.pt")


def weights_of(spec: str, option: int, seed: int = 1) -> tuple[nn.Module, Arch]:
    supernet = supernet_of(spec, seed)
    arch = every(option, supernet.space)
    return supernet.subnet(arch).eval(), arch


@pytest.mark.parametrize("spec", [SPEC, SPEC.replace("channels=1", "channels=3"), SPEC + ",blocks=fused"])
@both
def test_the_largest_path_computes_what_the_source_computes(tmp_path: Path, spec: str, sharing: str) -> None:
    source, arch = weights_of(spec, len(SETTINGS) - 1)
    supernet = supernet_of(spec, 2, sharing)
    done = initialise_from(supernet, saved(tmp_path, source.state_dict()))
    assert (done.fresh, done.unused) == ((), ())
    x = images(3 if "channels=3" in spec else 1)
    torch.testing.assert_close(supernet(x, arch), source(x), rtol=1e-4, atol=1e-4)


@both
def test_smaller_options_are_the_important_channels_of_the_source(tmp_path: Path, sharing: str) -> None:
    source, _ = weights_of(SPEC, len(SETTINGS) - 1)
    supernet = supernet_of(SPEC, 2, sharing)
    initialise_from(supernet, saved(tmp_path, source.state_dict()))
    small = supernet.subnet(every(SETTINGS.index((0, 3, 3)), supernet.space))
    large = source.get_submodule("1.block")
    importance = large.get_parameter("project.0.weight").abs().sum((0, 2, 3))  # (48,)
    chosen = importance.argsort(descending=True)[:24]
    for name in ("running_mean", "weight"):
        expected = getattr(large.get_submodule("depthwise.1"), name)[chosen]
        assert torch.equal(getattr(small.get_submodule("1.block.depthwise.1"), name), expected)
    kernel = large.get_parameter("depthwise.0.weight")[chosen][:, :, 1:4, 1:4]
    assert torch.equal(small.get_parameter("1.block.depthwise.0.weight"), kernel)


@both
def test_a_narrower_source_with_smaller_kernels_is_unchanged_in_a_wider_supernet(tmp_path: Path, sharing: str) -> None:
    narrow = SPEC.replace("stem=8,widths=8-16", "stem=6,widths=6-12").replace("head=24", "head=16")
    source, _ = weights_of(narrow, SETTINGS.index((1, 6, 3)))
    supernet = supernet_of(SPEC, 2, sharing)
    done = initialise_from(supernet, saved(tmp_path, source.state_dict()))
    assert (done.fresh, done.unused) == ((), ())
    assert "stage0_0.block.depthwise.0 from 1.block.depthwise.0 (36x1x3x3 into 48x1x5x5)" in done.copied
    logits = supernet(images(), every(len(SETTINGS) - 1, supernet.space))
    torch.testing.assert_close(logits, source(images()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_v2", "shufflenet_v2_x0_5", "resnet18"])
def test_sorting_leaves_the_function_of_torchvision_networks(name: str) -> None:
    torch.manual_seed(0)
    network = shaken(torchvision.models.get_model(name, weights=None, num_classes=10))
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with torch.no_grad():
        before = network(images(3, 32))
        network.load_state_dict(sort_channels(state), strict=True)
        largest = float(before.abs().max())
        torch.testing.assert_close(network(images(3, 32)) / largest, before / largest, rtol=1e-5, atol=1e-5)
    moved = any(not torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
    assert moved == (name != "resnet18")  # its shortcuts can't be read from names and shapes


def test_sorting_leaves_the_function_of_own_networks_and_sorts_them() -> None:
    for spec in (SPEC, SPEC + ",blocks=mbconv-fused-conv", "vgg:size=16,channels=1,classes=5,widths=8-8,depths=2-2"):
        supernet, rng = supernet_of(spec, 0), random.Random(0)
        for arch in [supernet.space.sample(rng) for _ in range(4)]:
            subnet = supernet.subnet(arch).eval()
            before, state = subnet(images()), sort_channels(subnet.state_dict())
            stem = next(iter(state))
            assert not torch.equal(state[stem], subnet.state_dict()[stem])
            subnet.load_state_dict(state)
            torch.testing.assert_close(subnet(images()), before, rtol=1e-5, atol=1e-5)
            for key in (key for key in state if "project.0.weight" in key):
                assert (state[key].abs().sum((0, 2, 3)).diff() < 1e-6).all()  # its inputs, the strongest first


def test_the_channels_of_one_stream_have_one_order() -> None:
    blocks = read_blocks(weights_of(SPEC, 0)[0].state_dict())
    assert [block.kind for block in blocks] == ["C", "PDP", "PDP", "PDP", "PDP", "P", "L"]
    groups = iter(channel_groups(blocks))
    ends = [[next(groups) for _ in block.parts] for block in blocks]
    reads, writes = [pairs[0][0] for pairs in ends], [pairs[-1][1] for pairs in ends]
    assert reads[0] == writes[-1] == -1
    assert writes[:-1] == reads[1:]
    assert len({writes[1], writes[2]}) == len({writes[3], writes[4]}) == 1 < len({writes[2], writes[3]})


@both
def test_foreign_weights_go_block_by_block_and_the_rest_is_said(tmp_path: Path, sharing: str) -> None:
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v3_small(weights=None)
    source = saved(tmp_path, network.state_dict())
    spec = "mobilenet:size=32,channels=1,classes=10,widths=24-40,depths=2-2,strides=2-2,head=96,kernels=3-5,se=0-1"
    supernet = supernet_of(spec, 0, sharing)
    before = supernet.slots["tail0"].state_dict()
    fresh = {name: tensor.clone() for name, tensor in before.items() if ".3." in name}
    done = initialise_from(supernet, source)
    origin = {line.split(" from ")[0]: line.split(" from ")[1].split()[0] for line in done.copied}
    assert origin["stem0.0"] == "features.0.0"
    assert origin["tail0.0.0"] == "features.12.0"
    for block in ("stage0_0", "stage0_1", "stage1_0", "stage1_1"):
        parts = [origin[f"{block}.block.{part}.0"] for part in ("expand", "depthwise", "project")]
        assert len({part.split(".")[1] for part in parts}) == 1
        assert [int(part.split(".")[3]) for part in parts[:2]] == [0, 1]
    assert "tail0.3" in done.fresh
    assert {"classifier.3.weight", "classifier.3.bias", "classifier.0.weight"} <= set(done.unused)
    after = supernet.slots["tail0"].state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in fresh.items())
    assert f"{len(done.copied)} of {len(done.copied) + len(done.fresh)} layers start from {source}" in done.summary()
    assert "fresh: " in done.summary()
    assert " more" in done.summary()


def test_grey_images_get_the_sum_of_a_stem_over_its_colours_and_back(tmp_path: Path) -> None:
    colour, grey = SPEC.replace("channels=1", "channels=3"), SPEC
    x = images()
    source, arch = weights_of(colour, len(SETTINGS) - 1)
    supernet = supernet_of(grey, 2)
    initialise_from(supernet, saved(tmp_path, source.state_dict()))
    torch.testing.assert_close(supernet(x, arch), source(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    source, arch = weights_of(grey, len(SETTINGS) - 1)
    supernet = supernet_of(colour, 2)
    initialise_from(supernet, saved(tmp_path, source.state_dict()))
    torch.testing.assert_close(supernet(x.expand(-1, 3, -1, -1), arch), source(x), rtol=1e-4, atol=1e-4)


@both
def test_a_checkpoint_of_the_same_space_is_the_same_supernet(tmp_path: Path, sharing: str) -> None:
    source, supernet = (supernet_of(SPEC, seed, sharing) for seed in (1, 2))
    done = initialise_from(supernet, saved(tmp_path, {"epoch": 3, "model": source.state_dict()}))
    assert (done.fresh, done.unused) == ((), ())
    rng = random.Random(0)
    for arch in [source.space.sample(rng) for _ in range(5)]:
        assert torch.equal(supernet(images(), arch), source(images(), arch))


@both
def test_a_checkpoint_of_a_smaller_space_keeps_its_networks(tmp_path: Path, sharing: str) -> None:
    source = supernet_of(SPEC.replace("kernels=3-5", "kernels=3"), 1, sharing)
    supernet = supernet_of(SPEC, 2, sharing)
    initialise_from(supernet, saved(tmp_path, source.state_dict()))
    arch = every(1, source.space)  # expansion 6, kernel 3
    same = every(SETTINGS.index((0, 6, 3)), supernet.space)
    torch.testing.assert_close(supernet(images(), same), source(images(), arch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "spec",
    [
        "vgg:size=16,channels=1,classes=5,widths=8-16,depths=1-2,head=16",
        "shufflenet:size=16,channels=1,classes=5,stem=8,widths=16-32,depths=2-2,head=16",
        SPEC + ",blocks=mbconv-fused-conv",
        "nas-bench-macro:size=16,channels=1,classes=5",
    ],
)
@both
def test_other_operations_start_from_their_own_networks_and_from_foreign_ones(
    tmp_path: Path, spec: str, sharing: str
) -> None:
    source, arch = weights_of(spec, 2)
    supernet = supernet_of(spec, 2, sharing)
    done = initialise_from(supernet, saved(tmp_path, source.state_dict()))
    assert len(done.copied) >= sum(len(block.parts) for block in read_blocks(source.state_dict()))
    assert done.unused == ()
    if "vgg" in spec or "shufflenet" in spec:
        torch.testing.assert_close(supernet(images(), arch), source(images()), rtol=1e-4, atol=1e-4)
    foreign = torchvision.models.squeezenet1_1(weights=None)
    other = initialise_from(supernet, saved(tmp_path, foreign.state_dict()))
    assert len(other.copied) + len(other.fresh) == len(done.copied) + len(done.fresh)
    assert all(torch.isfinite(tensor).all() for tensor in supernet.state_dict().values())


def test_a_convolution_with_bias_before_a_norm_keeps_its_function(tmp_path: Path) -> None:
    spec = "vgg:size=16,channels=1,classes=5,widths=8-8,depths=1-2,head=16"
    source, arch = weights_of(spec, 2)
    state = source.state_dict()
    for index, name in enumerate([key for key in state if key.endswith("running_mean")]):
        bias = torch.randn(len(state[name]), generator=torch.Generator().manual_seed(index))
        state = insert_before(state, name.replace("1.running_mean", "0.bias"), bias, name.replace("running_mean", ""))
        state[name] = state[name] + bias
    supernet = supernet_of(spec, 2)
    done = initialise_from(supernet, saved(tmp_path, state))
    assert done.unused == ()
    torch.testing.assert_close(supernet(images(), arch), source(images()), rtol=1e-4, atol=1e-4)


def insert_before(state: dict[str, Any], name: str, tensor: torch.Tensor, prefix: str) -> dict[str, Any]:
    """The state with one more tensor before the first whose name starts with `prefix`."""
    position = next(i for i, key in enumerate(state) if key.startswith(prefix))
    items = list(state.items())
    return dict([*items[:position], (name, tensor), *items[position:]])


def test_it_is_deterministic_and_leaves_the_global_random_state(tmp_path: Path) -> None:
    source = saved(tmp_path, weights_of(SPEC, 7)[0].state_dict())
    first, second = supernet_of(SPEC, 2), supernet_of(SPEC, 2)
    random_state = torch.get_rng_state()
    assert initialise_from(first, source) == initialise_from(second, source)
    assert torch.equal(torch.get_rng_state(), random_state)
    states = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)


def test_wrapped_and_nested_states_are_the_same_weights(tmp_path: Path) -> None:
    state = weights_of(SPEC, 0)[0].state_dict()
    plain = load_weights(saved(tmp_path, state))
    for wrapped in (
        {"state_dict": state, "epoch": 1},
        {"model_state_dict": {f"module.{key}": tensor for key, tensor in state.items()}},
        {f"_orig_mod.{key}": nn.Parameter(tensor, False) for key, tensor in state.items()},
    ):
        found = load_weights(saved(tmp_path, wrapped))
        assert list(found) == list(plain)
        assert all(torch.equal(found[key], plain[key]) for key in plain)


class Foreign:
    """A class that a file of weights must not need."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Foreign(), "not a file of weights"),
        ({"epoch": 3, "weights": {}}, "no dictionary of tensors"),
        ([torch.zeros(3)], "no dictionary of tensors"),
        ({}, "no convolution and no linear layer"),
        ({"bn.weight": torch.zeros(3)}, "no convolution and no linear layer"),
        ({"fc.weight": torch.tensor([[float("nan")]])}, "fc.weight is not finite"),
        ({"fc.weight": torch.tensor([[1.0]]), "fc.bias": torch.tensor([float("inf")])}, "fc.bias is not finite"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_without_weights_is_named_with_the_remedy(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_weights(saved(tmp_path, content))
    assert "net.pt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_and_a_truncated_file_are_named(tmp_path: Path) -> None:
    for missing in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(InputError, match="there is no file"):
            load_weights(str(missing))
    path = Path(saved(tmp_path, weights_of(SPEC, 0)[0].state_dict()))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"net\.pt is not a file of weights"):
        load_weights(str(path))


def test_a_download_that_fails_and_an_unknown_model_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    with pytest.raises(InputError, match=r"torchvision:mobilenet_v3_small can't be loaded.*no route.*FILE\.pt"):
        load_weights("torchvision:mobilenet_v3_small")
    with pytest.raises(InputError, match="unknown torchvision model 'mobilenet_v3_smal'; did you mean mobilenet_v3_sm"):
        load_weights("torchvision:mobilenet_v3_smal")


def test_a_model_of_torchvision_is_loaded_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    network = torchvision.models.mobilenet_v2(weights=None, num_classes=5)
    asked: dict[str, object] = {}

    def load(url: str, **options: object) -> dict[str, torch.Tensor]:
        asked.update(options, url=url)
        return network.state_dict()

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", load)
    done = initialise_from(supernet_of(SPEC, 0), "torchvision:mobilenet_v2")
    assert done.source == "torchvision:mobilenet_v2"
    assert "mobilenet_v2" in str(asked["url"])
    assert asked["weights_only"]  # nothing is unpickled
    assert asked["check_hash"]
    assert "stem0.0 from features.0.0 (32x3x3x3 into 8x1x3x3)" in done.copied
    assert "tail0.3 from classifier.1 (5x1280 into 5x24)" in done.copied  # as many classes


class Scaled(nn.Conv2d):
    """A convolution with a learned scale, a tensor without dimensions."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(1, layer.out_channels, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * super().forward(x)


class ScaledSpace(ChoiceSpace):
    def graph(self, arch: Arch) -> tuple[Node, ...]:
        layer = Layer("scaled", 1, (4, 8)[arch[0]], 8)
        return (Node(layer), Node(Layer("head", layer.out_channels, 3, 8, 0, {"hidden": 4, "act": "relu"}), (0,)))

    def build(self, layer: Layer) -> nn.Module:
        return Scaled(layer) if layer.op == "scaled" else super().build(layer)


def test_a_parameter_without_dimensions_is_no_obstacle(tmp_path: Path) -> None:
    source = Supernet(ScaledSpace([2]))
    torch.nn.init.constant_(source.slots["0"]["scaled 1>8 8px"].scale, 3.0)
    for name, state in {"supernet": source.state_dict(), "subnet": source.subnet((1,)).state_dict()}.items():
        torch.save(state, tmp_path / f"{name}.pt")
        target = Supernet(ScaledSpace([2]))
        assert initialise_from(target, str(tmp_path / f"{name}.pt")).copied


def test_a_shared_weight_is_filled_by_its_largest_source(tmp_path: Path) -> None:
    source, target = supernet_of(SPEC, 0, "blocks"), supernet_of(SPEC, 1, "entangled")
    torch.save(source.state_dict(), tmp_path / "blocks.pt")
    initialise_from(target, str(tmp_path / "blocks.pt"))
    checked = 0
    for slot, options in source.slots.items():
        for key, option in target.slots[slot].named_children():
            for name, weight in option.named_parameters():
                alike = [o.state_dict()[name] for o in options.children() if name in o.state_dict()]
                whole = [tensor for tensor in alike if tensor.shape == weight.shape]
                if weight.ndim == 4 and whole:
                    assert any(torch.equal(weight, tensor) for tensor in whole), (slot, key, name)
                    checked += 1
    assert checked > 20


def test_a_checkpoint_with_an_average_starts_from_the_average(tmp_path: Path, digits: Data, tiny: ChainSpace) -> None:
    """Which is what a run holds, and a search sees."""
    torch.manual_seed(0)
    train(Supernet(tiny), digits, TrainSettings(epochs=1, ema=0.99), tmp_path)
    held, found = Supernet(tiny), load_weights(str(tmp_path / CHECKPOINT))
    average = Average(held, 0.99)
    load_checkpoint(tmp_path, {"model": held, "average": average})
    raw = {name: tensor.clone() for name, tensor in held.state_dict().items()}
    average.swap()
    state = held.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.items())
    assert any(not torch.equal(tensor, raw[name]) for name, tensor in found.items())
