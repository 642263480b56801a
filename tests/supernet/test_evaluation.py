"""Candidates are judged alike, in any order, and leave no trace."""

from __future__ import annotations

import gc
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.supernet import ChainSpace, Data, Supernet, TrainSettings, calibrate_bn, train
from hwnas.supernet.checkpoint import weights_fingerprint
from hwnas.supernet.evaluation import accuracy, bn_images, calibrated_subnet, probe_accuracy
from hwnas.supernet.prefixes import SharedPrefixes


@pytest.fixture(scope="module")
def few(digits: Data) -> Data:
    index = torch.arange(100)
    return replace(digits, train=digits.train.take(index), val=digits.val.take(index))


@pytest.fixture(scope="module")
def supernet(tiny: ChainSpace, few: Data, tmp_path_factory: pytest.TempPathFactory) -> Supernet:
    torch.manual_seed(0)
    supernet = Supernet(tiny)
    train(supernet, few, TrainSettings(epochs=4, batch=20), tmp_path_factory.mktemp("run"))
    return supernet


def archs_of(space: ChainSpace, count: int) -> list[tuple[int, ...]]:
    rng = random.Random(0)
    return [space.sample(rng) for _ in range(count)]


@pytest.mark.parametrize(("count", "whole"), [(64, 64), (70, 64), (10, 10)])
def test_statistics_are_the_means_over_whole_batches(count: int, whole: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    images = torch.randn(count, 2, 6, 6)
    calibrate_bn(net, images, batch=16)
    seen = net[0](images[:whole]).detach().double().numpy()
    batches = np.split(seen, max(1, whole // 16))
    np.testing.assert_allclose(net[1].running_mean, np.mean([b.mean((0, 2, 3)) for b in batches], 0), rtol=1e-5)
    variances = [b.transpose(1, 0, 2, 3).reshape(3, -1).var(1, ddof=1) for b in batches]
    np.testing.assert_allclose(net[1].running_var, np.mean(variances, 0), rtol=1e-5)


def test_only_statistics_change() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, momentum=0.3), nn.Dropout(0.5)).train()
    net[1].eval()
    weights = [p.clone() for p in net.parameters()]
    calibrate_bn(net, torch.randn(8, 1, 5, 5))
    assert all(torch.equal(p, before) for p, before in zip(net.parameters(), weights, strict=True))
    assert [part.training for part in net] == [True, False, True]
    assert net[1].momentum == 0.3
    assert all(p.grad is None for p in net.parameters())


def test_calibrating_twice_changes_nothing(supernet: Supernet, few: Data) -> None:
    images = bn_images(few, 0)
    subnet = calibrated_subnet(supernet, (0, 1, 4), images)
    before = weights_fingerprint(subnet)
    calibrate_bn(subnet, images)
    assert weights_fingerprint(subnet) == before


def test_accuracy_is_the_fraction_right(few: Data) -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.eye(10)[3].expand(len(x), 10)

    assert accuracy(Constant(), few, few.val) == (few.val.labels == 3).sum().item() / 100


def test_neither_order_nor_repetition_changes_an_accuracy(tiny: ChainSpace, supernet: Supernet, few: Data) -> None:
    archs = archs_of(tiny, 8)
    forward = list(map(SharedPrefixes(supernet, few, bn_images(few, 0)), archs))
    torch.manual_seed(99)
    backward = list(map(SharedPrefixes(supernet.train(), few, bn_images(few, 0)), archs[::-1]))
    assert forward == backward[::-1] == list(map(SharedPrefixes(supernet, few, bn_images(few, 0)), archs))
    assert len(set(forward)) > 1


def test_the_supernet_is_not_touched(tiny: ChainSpace, supernet: Supernet, few: Data) -> None:
    before = weights_fingerprint(supernet)
    list(map(SharedPrefixes(supernet, few, bn_images(few, 0)), archs_of(tiny, 5)))
    probe_accuracy(supernet, few, seed=0)
    assert weights_fingerprint(supernet) == before


def test_evaluations_leave_no_tensor_behind(tiny: ChainSpace, supernet: Supernet, few: Data) -> None:
    def live_tensors() -> int:
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    list(map(SharedPrefixes(supernet, few, bn_images(few, 0)), archs_of(tiny, 2)))
    before = live_tensors()
    list(map(SharedPrefixes(supernet, few, bn_images(few, 0)), archs_of(tiny, 30)))
    assert live_tensors() == before


def test_statistics_come_from_fixed_training_images(digits: Data) -> None:
    images = bn_images(digits, 0, 50)
    assert torch.equal(images, bn_images(digits, 0, 100)[:50])
    assert not torch.equal(images, bn_images(digits, 1, 50))
    known = {row.numpy().tobytes() for row in digits.normalise(digits.train.images)}
    assert all(image.numpy().tobytes() in known for image in images)
