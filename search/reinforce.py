"""Reinforcement learning: an LSTM writes architectures gene by gene, and is paid for accurate ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..errors import InputError
from ..supernet.space import Arch, Rng, SearchSpace
from .novel import Novel
from .problem import Evaluation, Problem
from .strategy import Strategy

UNITS, LAYERS, SPREAD = 35, 2, 0.08  # of the paper's controller; its first weights are uniform in -0.08..0.08
SEEKING = 50  # networks at once, while none of them keeps the limits
PROBES = 200  # architectures that tell how many options a gene can have, where that depends on others
LONGER = 4  # times the longest of these: what is written so far is ended at random


@dataclass(frozen=True)
class Reinforce:
    """REINFORCE with an LSTM controller (Zoph & Le 2017, sections 3.1 and 3.2): https://arxiv.org/abs/1611.01578

    Two layers of 35 units; the baseline is an exponential moving average of the rewards, here in units of their
    deviation, so that `lr` doesn't depend on the scale of the accuracy. An option after which a sum over genes can't
    keep its limit is never written; what misses another limit earns its violation as a loss. The paper's learning rate
    of 6e-4 is for 12,800 networks: by default it is larger, for a few hundred. `batch` networks make one update, by
    default a twentieth of the budget, from 4 to 50.
    """

    lr: float = 0.02
    batch: int | None = None
    decay: float = 0.9
    entropy: float = 0.02

    def __post_init__(self) -> None:
        if not self.lr > 0 or not 0 <= self.decay < 1 or (self.batch is not None and self.batch < 1):
            raise InputError(f"reinforce needs lr > 0, 0 <= decay < 1 and batch of at least 1, not {self}")

    def __call__(self, problem: Problem, rng: Rng, budget: int, /) -> Strategy:
        return _ReinforceStrategy(problem, rng, self.batch or min(50, max(4, budget // 20)), self)


class _ReinforceStrategy:
    def __init__(self, problem: Problem, rng: Rng, batch: int, settings: Reinforce) -> None:
        self.space, self.novel, self.batch, self.settings = problem.space, Novel(problem, rng), batch, settings
        self.random = torch.Generator().manual_seed(int(rng.random() * 2**53))
        self.controller = Controller(_most_options(problem.space, rng), self.random)
        self.optimizer = torch.optim.Adam(self.controller.parameters(), lr=settings.lr)
        self.written: dict[Arch, tuple[torch.Tensor, torch.Tensor]] = {}  # log-probability and entropy, by canonical
        self.rng, self.longest = rng, LONGER * max(len(problem.space.sample(rng)) for _ in range(PROBES))
        self.mean: float | None = None
        self.variance, self.told = 0.0, 0

    def ask(self, n: int) -> list[Arch]:
        seeking = self.told and self.mean is None  # nothing kept the limits yet, and what misses them costs nothing
        size = min(n, SEEKING if seeking else self.batch)
        written = [(self.space.canonical(arch), said, entropy) for arch, said, entropy in self._write(size)]
        self.written = {arch: (said, entropy) for arch, said, entropy in written}
        archs = [arch for arch, _, _ in written]
        # What was evaluated before is paid again, at no cost; with nothing new, a random one keeps the search going.
        return archs if self.novel.new(archs) else self.novel.filled(archs[1:], size, n)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        self.told += len(evaluations)
        paid = [(evaluation, *self.written[evaluation.arch]) for evaluation in evaluations if self._paid(evaluation)]
        if not paid:
            return
        rewards = self._rewards([evaluation for evaluation, _, _ in paid])
        said = torch.stack([said for _, said, _ in paid])
        entropy = torch.stack([entropy for _, _, entropy in paid])
        loss = -(rewards * said).mean() - self.settings.entropy * entropy.mean()  # equation 3
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.controller.parameters(), 1.0)
        self.optimizer.step()
        self.written = {}

    def _paid(self, evaluation: Evaluation) -> bool:
        known = evaluation.accuracy == evaluation.accuracy or not evaluation.feasible
        return evaluation.arch in self.written and known

    def _rewards(self, evaluations: Sequence[Evaluation]) -> torch.Tensor:
        """Accuracies above the baseline in units of their deviation; of what misses a limit, its violation below."""
        accuracies = [evaluation.accuracy for evaluation in evaluations if evaluation.feasible]
        if accuracies:
            mean = float(np.mean(accuracies))
            before = mean if self.mean is None else self.mean
            decay = self.settings.decay
            self.mean = decay * before + (1 - decay) * mean
            self.variance = decay * self.variance + (1 - decay) * float(np.mean((np.array(accuracies) - before) ** 2))
        baseline, deviation = self.mean or 0.0, self.variance**0.5 or 1.0
        return torch.tensor(
            [(e.accuracy - baseline) / deviation if e.feasible else -1 - e.violation for e in evaluations]
        ).clamp(-5, 5)

    def _write(self, n: int) -> list[tuple[Arch, torch.Tensor, torch.Tensor]]:
        """`n` architectures, each with its log-probability and the entropy of its choices."""
        archs: list[Arch] = [()] * n
        said, entropy = torch.zeros(n), torch.zeros(n)
        state, last = None, torch.zeros(n, dtype=torch.int64)
        completions = self.novel.feasible.completions
        left = np.full(n, completions.bins if completions else 0)
        for i in itertools.count():
            options = [self.space.choices(arch) for arch in archs]
            if not any(options):
                break
            if i >= self.longest:  # of a space without end: the controller may never choose to stop
                archs = [self.space.grow(arch, self.rng) for arch in archs]
                break
            logits, state = self.controller(last, state)
            allowed = np.arange(logits.shape[1]) < np.array([[count or 1] for count in options])
            rest = None
            if completions:
                ways, rest = completions.options(i, last.numpy() - 1, left)
                fits = np.pad(ways > 0, ((0, 0), (0, logits.shape[1] - ways.shape[1])))
                allowed &= fits | ~fits.any(axis=1, keepdims=True)
            chances = torch.log_softmax(logits.masked_fill(~torch.from_numpy(allowed), -1e9), dim=1)
            genes = torch.multinomial(chances.detach().exp(), 1, generator=self.random)[:, 0]
            going = torch.tensor([count is not None for count in options])
            said = said + going * chances.gather(1, genes[:, None])[:, 0]
            entropy = entropy - going * (chances.exp() * chances.clamp(min=-50)).sum(1)
            if rest is not None:
                left = rest[np.arange(n), genes.numpy()]
            archs = [
                (*arch, int(gene)) if more is not None else arch
                for arch, gene, more in zip(archs, genes, options, strict=True)
            ]
            last = genes + 1
        return list(zip(archs, said, entropy, strict=True))


class Controller(nn.Module):
    """Reads the gene written last (0 for none), and scores the options of the next one."""

    def __init__(self, options: int, random: torch.Generator) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.read = nn.Embedding(options + 1, UNITS)
            self.lstm = nn.LSTM(UNITS, UNITS, LAYERS, batch_first=True)
            self.score = nn.Linear(UNITS, options)
        for weight in self.parameters():
            nn.init.uniform_(weight, -SPREAD, SPREAD, generator=random)

    def forward(
        self, last: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Genes (n,) -> logits (n, options), and the state to go on from."""
        output, state = self.lstm(self.read(last)[:, None], state)
        return self.score(output[:, 0]), state


def _most_options(space: SearchSpace, rng: Rng) -> int:
    if space.options is not None:
        return max(space.options)
    archs = [space.sample(rng) for _ in range(PROBES)]
    return max(space.choices(arch[:i]) or 1 for arch in archs for i in range(len(arch)))
