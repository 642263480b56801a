"""Training: paths, schedule and weight decay by definition; what is interrupted ends in the same bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hwnas.errors import FaultError, InputError, MismatchError
from hwnas.supernet import (
    Arch,
    ChainSpace,
    ChoiceSpace,
    Data,
    Layer,
    Node,
    Ranks,
    Run,
    Supernet,
    TrainSettings,
    load_run,
    load_space,
    load_supernet,
    train,
)
from hwnas.supernet.checkpoint import CHECKPOINT, load_checkpoint, read_metrics, save_checkpoint, weights_fingerprint
from hwnas.supernet.sampling import SAMPLING, Pass, extremes
from hwnas.supernet.sources import Split
from hwnas.supernet.spaces import space_record
from hwnas.supernet.training import make_optimizer, set_learning_rate

SETTINGS = TrainSettings(epochs=3, batch=64, seed=5)


def new(space: ChainSpace, sharing: str = "entangled") -> Supernet:
    torch.manual_seed(0)
    return Supernet(space, sharing)


def small(data: Data, count: int = 200) -> Data:
    index = torch.arange(count)
    return Data(**{**vars(data), "train": data.train.take(index), "val": data.val.take(index[:60])})


def test_the_learning_rate_warms_up_and_falls_like_a_cosine() -> None:
    settings = TrainSettings(lr=0.4, warmup=0.2)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    expected = {0.0: 0.0, 0.1: 0.2, 0.2: 0.4, 0.4: 0.4 * math.cos(math.pi / 8) ** 2, 0.6: 0.2, 1.0: 0.0}
    for done, lr in expected.items():
        set_learning_rate(optimizer, settings, done)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(lr, abs=1e-12)


def test_weight_decay_is_for_kernels_and_matrices(tiny: ChainSpace) -> None:
    supernet = new(tiny)
    kernels = {part.weight for part in supernet.modules() if isinstance(part, nn.Conv2d | nn.Linear)}
    decayed, free = make_optimizer(supernet, TrainSettings(weight_decay=1e-3)).param_groups
    assert set(decayed["params"]) == kernels
    assert set(free["params"]) == set(supernet.parameters()) - kernels
    assert (decayed["weight_decay"], free["weight_decay"]) == (1e-3, 0)


def test_digits_are_learned(digits: Data, tmp_path: Path) -> None:
    space = load_space("mobilenet:size=16,channels=1,classes=10,stem=8,widths=8-16,depths=1-1,kernels=3-5,head=32")
    assert isinstance(space, ChainSpace)
    train(new(space), digits, TrainSettings(epochs=4, batch=32), tmp_path)
    metrics = read_metrics(tmp_path)
    assert [line["epoch"] for line in metrics] == [1, 2, 3, 4]
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]
    assert metrics[-1]["val_accuracy"] > 0.5


def test_an_interrupted_training_ends_in_the_same_bits(tiny: ChainSpace, digits: Data, tmp_path: Path) -> None:
    data = small(digits)
    whole, first, second = new(tiny), new(tiny), Supernet(tiny)
    train(whole, data, SETTINGS, tmp_path / "whole")

    def stop(done: float, total: float, text: str) -> None:
        if done == total - 1:  # in the last epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(first, data, SETTINGS, tmp_path / "cut", stop)
    assert len(read_metrics(tmp_path / "cut")) == 2
    train(second, data, SETTINGS, tmp_path / "cut")
    assert weights_fingerprint(second) == weights_fingerprint(whole) != weights_fingerprint(first)
    with_seconds = [read_metrics(tmp_path / run) for run in ("whole", "cut")]
    bare = [[{**line, "seconds": 0} for line in lines] for lines in with_seconds]
    assert bare[0] == bare[1]


class Dropping(ChoiceSpace):
    """Two choices of how much is dropped."""

    def graph(self, arch: Arch) -> tuple[Node, ...]:
        first = Node(Layer("drop", 1, 8, 16, 0, {"rate": (0.2, 0.6)[arch[0]]}))
        return first, Node(Layer("answer", 8, 10, 0, 0), (0,))

    def build(self, layer: Layer) -> nn.Module:
        if layer.op == "answer":
            return nn.Linear(8, 10)
        return nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.Dropout(float(layer["rate"])))


def test_blocks_that_draw_at_random_end_in_the_same_bits(digits: Data, tmp_path: Path) -> None:
    """Dropout draws of torch's global numbers: interrupted, they went on with others."""
    space, data, settings = Dropping([2]), small(digits), TrainSettings(epochs=3, batch=64)
    torch.manual_seed(1)
    whole, first, second = (Supernet(space) for _ in range(3))
    for other in (first, second):
        other.load_state_dict(whole.state_dict())

    def stop(done: float, total: float, text: str) -> None:
        if done == total - 1:
            raise KeyboardInterrupt

    train(whole, data, settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(first, data, settings, tmp_path / "cut", stop)
    torch.rand(5)
    train(second, data, settings, tmp_path / "cut")
    assert weights_fingerprint(second) == weights_fingerprint(whole)


def test_progress_ends_at_its_total(tiny: ChainSpace, digits: Data, tmp_path: Path) -> None:
    seen: list[tuple[float, float]] = []
    train(
        new(tiny),
        small(digits),
        TrainSettings(epochs=2, batch=64),
        tmp_path,
        lambda done, total, _: seen.append((done, total)),
    )
    assert seen == [(step, 6) for step in range(1, 7)]


def test_options_off_the_path_keep_their_weights(digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = load_space("mobilenet:size=16,channels=1,classes=10,stem=4,widths=4,depths=2,head=8")
    assert isinstance(space, ChainSpace)
    path: Arch = (1, 4)
    monkeypatch.setitem(SAMPLING, "uniform", lambda *_: [Pass(path)])
    monkeypatch.setitem(train.__globals__, "probe_accuracy", lambda *_, **__: 0.0)
    supernet = new(space, "blocks")
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    train(supernet, small(digits), TrainSettings(epochs=1), tmp_path)
    changed = {name for name, tensor in supernet.state_dict().items() if not torch.equal(tensor, before[name])}
    on_path = {id(part) for module in supernet.path(path) for part in module.modules()}
    expected = {
        f"{name}.{key}"
        for name, part in supernet.named_modules()
        if id(part) in on_path and not list(part.children())
        for key in part.state_dict()
    }
    assert changed == expected


def test_a_loss_that_is_no_number_names_step_and_path(tiny: ChainSpace, digits: Data, tmp_path: Path) -> None:
    settings = TrainSettings(epochs=2, lr=1e30, clip_norm=1e30, warmup=0.4)
    with pytest.raises(FaultError, match=r"the loss is nan at step \d on path \(\d, \d, \d\); .* smaller --lr"):
        train(new(tiny), small(digits), settings, tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs=0 must be positive"),
        ({"lr": -0.1}, "lr=-0.1 must be positive"),
        ({"sampling": "unform"}, "unknown sampling 'unform'; did you mean uniform?"),
        ({"precision": "bf61"}, "unknown precision 'bf61'; did you mean bf16"),
        ({"batch": 32, "accumulate": 5}, "a batch of 32 is no 5 parts of equal size"),
        ({"batch": 32, "accumulate": 32}, "and 2 images at least"),
        ({"accumulate": 0}, "accumulate=0 must be positive"),
        ({"teacher_share": 1.5}, "teacher_share=1.5 must be a share"),
        ({"ema": 1.0}, "ema=1.0 must be at least 0, and less than 1"),
        ({"randaugment": 31}, "randaugment=31 must be at least 0, and less than 31"),
        ({"mixup": -0.2}, "mixup=-0.2 must be at least 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainSettings(**settings)  # type: ignore[arg-type]


def test_a_batch_larger_than_the_data_is_named(tiny: ChainSpace, digits: Data, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="digits has 200 training images, fewer than a batch of 256"):
        train(new(tiny), small(digits), TrainSettings(batch=256), tmp_path)


# ---- parts of a batch, averages, lower precision


def one_step(data: Data, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch, path: Path) -> Supernet:
    """A network alone after a single step on the first batch."""
    monkeypatch.setitem(train.__globals__, "steps_per_epoch", lambda *_: 1)
    monkeypatch.setitem(train.__globals__, "probe_accuracy", lambda *_, **__: 0.0)
    torch.manual_seed(0)
    network = Supernet(load_space("mobilenet:size=16,channels=1,classes=10,stem=4,widths=4,depths=1,head=8"), only=(1,))
    train(network, data, settings, path)
    return network


def test_gradients_of_parts_are_averaged(digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against plain torch: the gradient of two halves, each with batch norm statistics of its own, one step of SGD."""
    settings = TrainSettings(epochs=1, batch=32, accumulate=2, augment=False, warmup=0, weight_decay=0, clip_norm=1e6)
    trained = one_step(digits, settings, monkeypatch, tmp_path)
    torch.manual_seed(0)
    plain = Supernet(trained.space, only=(1,)).train()
    order = torch.randperm(len(digits.train), generator=torch.Generator().manual_seed(0))[:32]
    for half in order.chunk(2):
        images, labels = digits.normalise(digits.train.images[half]), digits.train.labels[half]
        (F.cross_entropy(plain(images, (1,)), labels, label_smoothing=0.1) / 2).backward()
    for name, weight in plain.named_parameters():
        expected = weight.detach() - 0.05 * weight.grad  # half of the rate, in the middle of the cosine
        torch.testing.assert_close(trained.get_parameter(name).detach(), expected, atol=1e-6, rtol=1e-5)


def test_an_average_of_weights_is_what_the_run_holds(tiny: ChainSpace, digits: Data, tmp_path: Path) -> None:
    """Against a loop over the weights after each step; interrupted or not, in the same bits."""
    data, settings = small(digits), TrainSettings(epochs=2, batch=64, seed=5, ema=0.8)
    supernet, steps, expected = new(tiny), [0], dict[str, torch.Tensor]()

    def follow(done: float, total: float, text: str) -> None:
        steps[0] += 1
        decay = min(0.8, (1 + steps[0]) / (10 + steps[0]))
        for name, weight in supernet.named_parameters():
            before = expected.get(name, start[name])
            expected[name] = decay * before + (1 - decay) * weight.detach()

    start = {name: weight.detach().clone() for name, weight in supernet.named_parameters()}
    train(supernet, data, settings, tmp_path / "whole", follow)
    for name, weight in supernet.named_parameters():
        assert torch.allclose(weight, expected[name], atol=1e-6), name
    plain = new(tiny)
    train(plain, data, TrainSettings(epochs=2, batch=64, seed=5), tmp_path / "plain")
    assert weights_fingerprint(plain) != weights_fingerprint(supernet)

    def stop(done: float, total: float, text: str) -> None:
        if done == total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(new(tiny), data, settings, tmp_path / "cut", stop)
    second = new(tiny)
    train(second, data, settings, tmp_path / "cut")
    assert weights_fingerprint(second) == weights_fingerprint(supernet)


def test_a_run_with_an_average_gives_it_back(tiny: ChainSpace, digits: Data, tmp_path: Path) -> None:
    settings, supernet = TrainSettings(epochs=1, batch=64, ema=0.9), new(tiny)
    Run(tmp_path, space_record(tiny), {"spec": "digits"}, None, "entangled", vars(settings)).save()
    train(supernet, small(digits), settings, tmp_path)
    assert weights_fingerprint(load_supernet(tmp_path)) == weights_fingerprint(supernet)


def test_bfloat16_learns(digits: Data, tmp_path: Path) -> None:
    space = load_space("mobilenet:size=16,channels=1,classes=10,stem=8,widths=8-16,depths=1-1,kernels=3-5,head=32")
    assert isinstance(space, ChainSpace)
    train(new(space), digits, TrainSettings(epochs=3, batch=32, precision="bf16"), tmp_path)
    metrics = read_metrics(tmp_path)
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]


def test_float16_needs_a_gpu(tiny: ChainSpace, digits: Data, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fp16 needs a GPU: bf16 works on both"):
        train(new(tiny), small(digits), TrainSettings(precision="fp16"), tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_learns_in_each_precision(digits: Data, tmp_path: Path, precision: str) -> None:
    space = load_space("mobilenet:size=16,channels=1,classes=10,stem=8,widths=8-16,depths=1-1,kernels=3-5,head=32")
    assert isinstance(space, ChainSpace)
    supernet, gpu = new(space), Ranks(device=torch.device("cuda", 0))
    train(supernet, digits, TrainSettings(epochs=4, batch=32, precision=precision, ema=0.9), tmp_path, ranks=gpu)
    metrics = read_metrics(tmp_path)
    assert next(supernet.parameters()).is_cuda
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]
    assert metrics[-1]["val_accuracy"] > 0.5


# ---- what a run leaves


def saved(space: ChainSpace, folder: Path) -> Supernet:
    supernet = new(space)
    save_checkpoint(folder, {"model": supernet, "optimizer": make_optimizer(supernet, SETTINGS)}, epoch=2)
    return supernet


def test_a_checkpoint_restores_weights_and_epoch(tiny: ChainSpace, tmp_path: Path) -> None:
    supernet, other = saved(tiny, tmp_path), Supernet(tiny)
    assert load_checkpoint(tmp_path, {"model": other, "optimizer": make_optimizer(other, SETTINGS)}) == 2
    assert weights_fingerprint(other) == weights_fingerprint(supernet)


def test_a_checkpoint_cut_short_is_named(tiny: ChainSpace, tmp_path: Path) -> None:
    supernet, path = saved(tiny, tmp_path), tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"checkpoint\.pt is not a checkpoint of this run"):
        load_checkpoint(tmp_path, {"model": supernet})


def test_a_checkpoint_of_another_space_is_named(tiny: ChainSpace, tmp_path: Path) -> None:
    saved(tiny, tmp_path)
    other = Supernet(load_space("mobilenet:size=16,channels=1,classes=10,widths=4,depths=1"))
    with pytest.raises(InputError, match=r"checkpoint\.pt is not a checkpoint of this run"):
        load_checkpoint(tmp_path, {"model": other})


def test_a_checkpoint_with_code_in_it_is_refused(tiny: ChainSpace, tmp_path: Path) -> None:
    torch.save({"model": Split(torch.zeros(1), torch.zeros(1)), "epoch": 1}, tmp_path / CHECKPOINT)
    with pytest.raises(InputError, match=r"checkpoint\.pt is not a checkpoint of this run"):
        load_checkpoint(tmp_path, {"model": new(tiny)})


def run_of(space: ChainSpace, folder: Path) -> Run:
    run = Run(folder, space_record(space), {"spec": "digits"}, None, "entangled", {"seed": 0})
    run.save()
    return run


def test_a_run_is_read_as_written(tiny: ChainSpace, tmp_path: Path) -> None:
    run = run_of(tiny, tmp_path)
    assert load_run(tmp_path) == run


def test_a_damaged_run_is_named(tiny: ChainSpace, tmp_path: Path) -> None:
    run_of(tiny, tmp_path)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace('"sharing"', '"sharring"'))
    with pytest.raises(InputError, match=r"run\.json is damaged \(it lacks 'sharing'\)"):
        load_run(tmp_path)


def test_a_run_gives_back_its_supernet(tiny: ChainSpace, tmp_path: Path) -> None:
    run_of(tiny, tmp_path)
    supernet = saved(tiny, tmp_path)
    found = load_supernet(tmp_path)
    assert weights_fingerprint(found) == weights_fingerprint(supernet)
    assert not found.training


def test_what_a_folder_lacks_is_named(tiny: ChainSpace, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a training run \(it has no run\.json\): make one with hwnas train"):
        load_supernet(tmp_path)
    run_of(tiny, tmp_path)
    with pytest.raises(InputError, match="has no checkpoint yet"):
        load_supernet(tmp_path)


def test_a_space_that_changed_since_is_named(tiny: ChainSpace, tmp_path: Path) -> None:
    record = {**space_record(tiny), "fingerprint": "0123456789abcdef"}
    Run(tmp_path, record, {"spec": "digits"}, None, "entangled", {}).save()
    with pytest.raises(MismatchError, match=r"0123456789abcdef, now .*: make it anew"):
        load_supernet(tmp_path)


def test_only_the_gradients_of_the_path_in_use_are_exchanged(tiny: ChainSpace, digits: Data, tmp_path: Path) -> None:
    told: list[int] = []

    class Listening(Ranks):
        def sum_(self, tensors: Sequence[torch.Tensor]) -> None:
            told.append(sum(tensor.numel() for tensor in tensors))

    supernet, settings = new(tiny), replace(SETTINGS, epochs=1)
    path = SAMPLING["uniform"](tiny, settings.seed, 0)[0].arch
    F.cross_entropy(supernet.train()(torch.randn(4, 1, 16, 16), path), torch.arange(4)).backward()
    used = sum(weight.numel() for weight in supernet.parameters() if weight.grad is not None)
    assert used < sum(weight.numel() for weight in supernet.parameters())
    train(new(tiny), small(digits), settings, tmp_path, ranks=Listening())
    assert told[0] == used


def test_the_largest_path_may_be_trained_first(tiny: ChainSpace, digits: Data, tmp_path: Path) -> None:
    """For a share of all steps, then paths by the rule: also where a training goes on in the middle of that."""
    paths: list[Arch] = []

    class Listening(Supernet):
        def forward(self, images: torch.Tensor, arch: Arch) -> torch.Tensor:
            if self.training:
                paths.append(arch)
            return super().forward(images, arch)

    settings = replace(SETTINGS, epochs=2, largest_first=0.75)
    torch.manual_seed(0)
    train(Listening(tiny), small(digits), settings, tmp_path)
    steps, (_, largest) = len(paths), extremes(tiny)
    assert steps == 2 * (200 // settings.batch)
    first = math.ceil(0.75 * steps)
    assert paths[:first] == [largest] * first
    assert paths[first:] == [SAMPLING["uniform"](tiny, settings.seed, step)[0].arch for step in range(first, steps)]
