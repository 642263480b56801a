"""Evaluation of candidates by a run's supernet: remembered in the run, and spread over all processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch

from ..files import digest
from ..search import EvaluationStore, StoredAccuracy
from ..supernet import Data, Run, Supernet
from ..supernet.evaluation import METHOD, bn_images, inherited_accuracy
from ..supernet.ranks import ALONE, Ranks, dismiss, evaluate_all, serve
from ..supernet.space import Arch

STORE = "evaluations.sqlite"


@dataclass(frozen=True, eq=False)
class Evaluator:
    """The metric of a run's networks with inherited weights, `weights` being their fingerprint."""

    run: Run
    supernet: Supernet
    data: Data
    weights: str
    ranks: Ranks = ALONE

    def stored(self, store: EvaluationStore) -> StoredAccuracy:
        """On rank 0: evaluation that remembers every value, by all that it depends on."""
        seed, metric = self.run.train["seed"], self.data.metric
        key = [self.weights, self.run.data["fingerprint"], self.run.space["fingerprint"], seed, METHOD]
        key += [metric] if metric != self.run.data.get("metric", "accuracy") else []
        return StoredAccuracy(store, digest(*key), lambda archs: evaluate_all(self.ranks, self._one, archs))

    @contextmanager
    def helped(self) -> Iterator[None]:
        """On rank 0: the others `serve` while inside."""
        yield
        dismiss(self.ranks)  # where rank 0 fails they notice that it is gone

    def serve(self) -> None:
        """On the other ranks: evaluate what rank 0 asks for, as long as it does."""
        serve(self.ranks, self._one)

    @cached_property
    def _images(self) -> torch.Tensor:
        return bn_images(self.data, self.run.train["seed"])

    def _one(self, arch: Arch) -> float:
        return inherited_accuracy(self.supernet, self.data, self._images, arch)
