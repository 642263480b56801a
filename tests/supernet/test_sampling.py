"""Sampling rules by what defines them: counts of options, and gradients by a second implementation."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from hwnas.latency import flops
from hwnas.supernet import (
    Arch,
    ChainSpace,
    ChoiceSpace,
    Data,
    Node,
    SearchSpace,
    Supernet,
    TrainSettings,
    load_space,
    train,
)
from hwnas.supernet.sampling import SAMPLING, Pass, extremes, fair, sandwich, uniform

BATCH = 64


class Growing(SearchSpace):
    """One to three further choices, the first of which says how many; the last one has four options."""

    def choices(self, prefix: Arch = ()) -> int | None:
        if not prefix:
            return 3
        return None if len(prefix) > prefix[0] + 1 else 2 + len(prefix) // 3 * 2

    def graph(self, arch: Arch) -> tuple[Node, ...]:
        raise NotImplementedError


@pytest.mark.parametrize("rule", SAMPLING)
def test_passes_are_a_function_of_seed_and_step(rule: str, tiny: ChainSpace) -> None:
    draw = SAMPLING[rule]
    steps = [draw(tiny, 0, step) for step in range(50)]
    assert steps == [draw(tiny, 0, step) for step in range(50)]
    assert steps != [draw(tiny, 1, step) for step in range(50)]
    random.seed(1)
    assert steps[7] == draw(tiny, 0, 7)
    assert all(tiny.check(one.arch) == one.arch for step in steps for one in step)
    assert all(one.teacher is None or one.teacher < i for step in steps for i, one in enumerate(step))


def test_uniform_takes_every_option_equally_often() -> None:
    space = ChoiceSpace([2, 3, 7])
    drawn = [uniform(space, 0, step)[0].arch for step in range(6000)]
    for i, options in enumerate(space.options):
        counts = Counter(arch[i] for arch in drawn)
        assert stats.chisquare([counts[gene] for gene in range(options)]).pvalue > 1e-4
    pairs = Counter(drawn)
    assert stats.chisquare(list(pairs.values())).pvalue > 1e-4
    assert len(pairs) == space.size()


def test_fair_uses_every_option_exactly_once_in_each_step() -> None:
    space = ChoiceSpace([4] * 6)
    for step in range(100):
        archs = [one.arch for one in fair(space, 0, step)]
        assert len(archs) == 4
        assert all(sorted(column) == [0, 1, 2, 3] for column in zip(*archs, strict=True))


def test_fair_draws_each_of_its_orders_equally_often() -> None:
    space = ChoiceSpace([3, 3])
    orders = Counter(tuple(one.arch for one in fair(space, 0, step)) for step in range(3600))
    assert len(orders) == 36  # 3! for each choice
    assert stats.chisquare(list(orders.values())).pvalue > 1e-4


def test_fair_is_as_even_as_can_be_where_choices_differ_in_options() -> None:
    space = ChoiceSpace([2, 5, 3])
    for step in range(100):
        archs = [one.arch for one in fair(space, 0, step)]
        assert len(archs) == 5
        for i, options in enumerate(space.options):
            uses = Counter(arch[i] for arch in archs)
            assert max(uses.values()) - min(uses[gene] for gene in range(options)) <= 1


def test_fair_follows_choices_that_depend_on_others() -> None:
    space = Growing()
    for step in range(100):
        archs = [one.arch for one in fair(space, 0, step)]
        assert len(archs) == 4  # the last choice has four options, and comes up among three paths
        assert {arch[0] for arch in archs} == {0, 1, 2}
        assert all(space.check(arch) == arch for arch in archs)


def test_the_sandwich_has_the_largest_the_smallest_and_two_random_paths(tiny: ChainSpace) -> None:
    archs = sorted({tiny.sample(random.Random(i)) for i in range(2000)}, key=lambda arch: flops(tiny, arch))
    assert extremes(tiny) == (archs[0], archs[-1])
    first, second = sandwich(tiny, 0, 0), sandwich(tiny, 0, 1)
    assert first[:2] == second[:2] == [Pass(archs[-1]), Pass(archs[0], teacher=0)]
    assert [one.teacher for one in first] == [None, 0, 0, 0]
    assert first[2:] != second[2:]


def test_extremes_of_a_space_that_does_not_add_up(tiny: ChainSpace) -> None:
    class Opaque(ChainSpace):
        @property
        def options(self) -> None:  # type: ignore[override]
            return None

    assert extremes(Opaque(tiny.recipe)) == tuple(map(tiny.canonical, extremes(tiny)))


ELASTIC = "mobilenet:size=16-32,channels=1,classes=10,stem=8,widths=8+16-24+32,depths=1+2+3-2+4,head=64"
RANKING = str(Path(__file__).parents[2] / "benchmarks" / "ranking.toml")


@pytest.mark.parametrize(
    ("spec", "ends"),
    [
        (RANKING, ((0,) * 13, (1, 1, 3, 3, 2, 1, 3, 3, 3, 1, 1, 3, 3))),
        # option 6 of a block is none
        (ELASTIC, ((0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0), (1, 2, 1, 5, 5, 5, 1, 1, 5, 5, 5, 5))),
    ],
    ids=["ranking", "elastic"],
)
def test_extremes_are_the_ends_where_depth_width_and_resolution_are_choices(spec: str, ends: tuple[Arch, Arch]) -> None:
    """Of hundreds of thousands of networks hardly one is the largest: a random pool doesn't have it."""
    assert extremes(load_space(spec)) == ends


@pytest.mark.parametrize("rule", SAMPLING)
def test_a_step_descends_the_gradient_of_all_its_passes(
    rule: str, tiny: ChainSpace, digits: Data, tmp_path: Path
) -> None:
    """Against the gradient of one sum over the passes; the teacher is detached: it learns from labels alone."""
    index = torch.arange(BATCH)
    data = Data(**{**vars(digits), "train": digits.train.take(index), "val": digits.val.take(index[:20])})
    settings = TrainSettings(
        epochs=1, batch=BATCH, lr=0.1, momentum=0, weight_decay=0, clip_norm=1e9, warmup=0, sampling=rule, augment=False
    )
    torch.manual_seed(0)
    trained = Supernet(tiny)
    torch.manual_seed(0)
    other = Supernet(tiny).to(memory_format=torch.channels_last).train()
    train(trained, data, settings, tmp_path)

    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(0))
    images, labels = data.normalise(data.train.images[order]), data.train.labels[order]
    outputs: list[torch.Tensor] = []
    total = torch.zeros(())
    for one in SAMPLING[rule](tiny, 0, 0):
        logits = other(images, one.arch)
        if one.teacher is None:
            total = total + F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
        else:
            told = outputs[one.teacher].softmax(1)
            total = total - (told * logits.log_softmax(1)).sum(1).mean()
        outputs.append(logits.detach())
    total.backward()
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad  # half-way down the cosine
    for (name, mine), theirs in zip(trained.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5), name
