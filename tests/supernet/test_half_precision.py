"""A pass that overflows in fp16: its step is left out, figures and statistics stay numbers, and it has an end."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from hwnas.errors import DivergedError
from hwnas.supernet import Arch, ChainSpace, Data, Supernet, TrainSettings, train
from hwnas.supernet.checkpoint import read_metrics
from hwnas.supernet.training import LEAST_SCALE, TYPES, overflowed


def test_overflow_is_left_out_until_the_scale_is_spent() -> None:
    """With torch's own scaler: 2^16 and sixteen halves of it, down to 1, are tried."""
    weight = nn.Parameter(torch.ones(3))
    optimizer, scaler, left_out = torch.optim.SGD([weight]), torch.amp.GradScaler("cpu"), 0
    with pytest.raises(DivergedError, match=r"the gradient is nan at step 17 on path \(1,\); .* smaller --lr"):  # noqa: PT012
        while left_out < 100:
            optimizer.zero_grad()
            scaler.scale((weight * math.nan).sum()).backward()
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_([weight], 1.0).item()
            left_out += overflowed(norm, scaler, 0, left_out, (1,))
            scaler.step(optimizer)
            scaler.update()
    assert left_out == 17
    assert scaler.get_scale() == LEAST_SCALE / 2
    assert weight.tolist() == [1, 1, 1]
    assert not overflowed(3.0, scaler, 0, 17, (1,))


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_without_a_scaler_gradients_that_are_no_numbers_end_a_training(norm: float) -> None:
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    assert not overflowed(3.0, scaler, 0, 0, (1,))
    with pytest.raises(DivergedError, match=rf"the gradient is {norm} at step 5 on path \(1,\)"):
        overflowed(norm, scaler, 0, 5, (1,))


class Overflowing(Supernet):
    """Sees images out of range at some of its training steps."""

    steps = 0
    bad: frozenset[int] = frozenset()

    def forward(self, x: torch.Tensor, arch: Arch) -> torch.Tensor:
        if self.training:
            self.steps += 1
            x = x * (math.inf if self.steps in self.bad else 1)
        return super().forward(x, arch)


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch, digits: Data) -> Data:
    """Six steps of images; and fp16 with its scaler where there is no GPU: in bf16, which processors know."""
    monkeypatch.setitem(train.__globals__, "check_settings", lambda *_: None)
    monkeypatch.setitem(TYPES, "fp16", torch.bfloat16)
    index = torch.arange(384)
    return Data(**{**vars(digits), "train": digits.train.take(index), "val": digits.val.take(index[:60])})


def test_a_pass_that_overflows_costs_its_step(tiny: ChainSpace, half: Data, tmp_path: Path) -> None:
    """The weights stay as they were; loss and statistics are those of the other steps."""
    torch.manual_seed(0)
    supernet, weights, said = Overflowing(tiny), list[str](), list[str]()
    supernet.bad = frozenset({1, 4})

    def follow(done: float, total: float, words: str) -> None:
        weights.append(str([weight.sum().item() for weight in supernet.parameters()]))
        said.append(words.partition("loss ")[2])

    before = str([weight.sum().item() for weight in supernet.parameters()])
    train(supernet, half, TrainSettings(epochs=1, batch=64, precision="fp16"), tmp_path, follow)
    assert {step for step, (old, new) in enumerate(pairwise([before, *weights]), 1) if old == new} == supernet.bad
    assert said[0] == "nan"  # of no step yet
    assert said[3] == said[2]
    assert all(torch.isfinite(buffer).all() for buffer in supernet.buffers())
    assert 0 < read_metrics(tmp_path)[0]["loss"] < 4


def test_a_network_that_always_overflows_has_diverged(tiny: ChainSpace, half: Data, tmp_path: Path) -> None:
    supernet = Overflowing(tiny)
    supernet.bad = frozenset(range(100))
    before = [weight.detach().clone() for weight in supernet.parameters()]
    with pytest.raises(DivergedError, match="the gradient is nan at step 17 "):
        train(supernet, half, TrainSettings(epochs=4, batch=64, precision="fp16"), tmp_path)
    assert all(map(torch.equal, supernet.parameters(), before))
    assert [math.isnan(line["loss"]) for line in read_metrics(tmp_path)] == [True, True]  # epochs without a step
