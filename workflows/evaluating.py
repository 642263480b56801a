"""Evaluation of candidates: remembered in the run, and spread over all processes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch

from ..errors import DivergedError, InputError
from ..files import digest, write_bytes
from ..progress import Progress, silent
from ..search import EvaluationStore, RacedAccuracy, StoredAccuracy
from ..search.racing import Racer, Right, raced
from ..supernet import Data, Run, SearchSpace, Supernet, TrainSettings, load_run, load_supernet
from ..supernet.checkpoint import weights_fingerprint
from ..supernet.evaluation import METHOD, bn_images, inherited_accuracy
from ..supernet.metrics import METRICS, check_metric
from ..supernet.prefixes import SharedPrefixes
from ..supernet.ranks import ALONE, Ranks, dismiss, evaluate_all, serve
from ..supernet.space import Arch
from .runs import run_data
from .training import supernet_settings, train_run

TRAINED_ALONE = "alone"  # the folder in a run for its networks that were trained alone
DIVERGED = "diverged.txt"  # in a network's folder, why it has no figure: it would only happen again
LONG = 150  # characters of a folder's name: most systems take 255


@dataclass(frozen=True, eq=False)
class Evaluator:
    """The metric of a run's networks with inherited weights, `weights` being their fingerprint.

    With `trained` every network is trained from scratch instead, with these settings.
    """

    run: Run
    supernet: Supernet
    data: Data
    weights: str
    ranks: Ranks = ALONE
    trained: TrainSettings | None = None

    def stored(self, store: EvaluationStore, place: int | None = None) -> StoredAccuracy | RacedAccuracy:
        """On rank 0: evaluation that remembers every value, by all that it depends on.

        With `place` candidates race against the `place`-th best before, where a race can be decided early: where
        they are not trained, and the metric counts images.
        """
        seed, metric = self.run.train["seed"], self.data.metric
        key = [self.weights, self.run.data["fingerprint"], self.run.space["fingerprint"], seed, METHOD]
        if self.trained is not None:
            key[0] = f"trained {sorted(asdict(self.trained).items())} {self.run.teacher}"
        key += [metric] if metric != self.run.data.get("metric", "accuracy") else []
        world = self.ranks.world
        if self._by_image:
            images = len(self.data.val)
            return RacedAccuracy(
                store, digest(*key), images, lambda racers: evaluate_all(self.ranks, self._raced, racers), world, place
            )
        return StoredAccuracy(store, digest(*key), lambda archs: evaluate_all(self.ranks, self._one, archs), world)

    @contextmanager
    def helped(self) -> Iterator[None]:
        """On rank 0: the others `serve` while inside."""
        yield
        dismiss(self.ranks)  # where rank 0 fails they notice that it is gone

    def serve(self) -> None:
        """On the other ranks: evaluate what rank 0 asks for, as long as it does."""
        serve(self.ranks, self._raced if self._by_image else self._one)

    def network(self, arch: Arch) -> tuple[Run, Supernet]:
        """The run that holds the weights by which `arch` was evaluated, and the network of these weights."""
        if self.trained is None:
            return self.run, self.supernet
        space = self.supernet.space
        return train_alone(self.run, space, self.data, arch, self.trained, silent, self.ranks.device)

    @cached_property
    def _images(self) -> torch.Tensor:
        return bn_images(self.data, self.run.train["seed"])

    @cached_property
    def _inherited(self) -> SharedPrefixes:
        return SharedPrefixes(self.supernet, self.data, self._images)

    @property
    def _by_image(self) -> bool:
        return self.trained is None and METRICS[self.data.metric].right is not None

    def _raced(self, racer: Racer) -> Right:
        arch, known, rival = racer
        return raced(partial(self._inherited.right, arch), rival, known)

    def _one(self, arch: Arch) -> float:
        if self.trained is None:
            return self._inherited(arch)
        try:
            _, network = self.network(arch)
        except DivergedError:
            return math.nan
        return inherited_accuracy(network, self.data, self._images, arch)


def evaluator_of(folder: Path, metric: str | None, evaluate: str, ranks: Ranks) -> Evaluator:
    """How the networks of the supernet in a run's `folder` are evaluated: by `metric`, or by that of its data.

    `evaluate` is "supernet", or "train:EPOCHS". InputError where these can't be.
    """
    run, supernet = load_run(folder), load_supernet(folder)
    if run.arch is not None:
        raise InputError(f"{folder} holds one network and no supernet: search in the run that it was found in")
    data, weights = run_data(run, supernet.space), weights_fingerprint(supernet)
    if metric is not None:
        check_metric(data.task, metric, data.spec)
        data = replace(data, metric=metric)
    trained = trained_settings(evaluate, run, ranks.device)
    return Evaluator(run, supernet.to(ranks.device), data, weights, ranks, trained)


def train_alone(
    origin: Run,
    space: SearchSpace,
    data: Data,
    arch: Arch,
    settings: TrainSettings,
    progress: Progress,
    device: torch.device,
) -> tuple[Run, Supernet]:
    """One network trained from scratch, in a folder of its own within the run `origin`: what is there goes on.

    DivergedError where its loss is no number any more, now or when it was trained before.
    """
    run = replace(origin, folder=alone_folder(origin, arch, settings), train=asdict(settings), arch=arch, start=None)
    torch.manual_seed(settings.seed)
    network, note = Supernet(space, origin.sharing, only=arch), run.folder / DIVERGED
    if note.exists():
        raise DivergedError(note.read_text())
    try:
        train_run(run, network, data, settings, resume=True, progress=progress, ranks=Ranks(device=device), wait=True)
    except DivergedError as error:
        write_bytes(note, str(error).encode())
        raise
    return run, network


def alone_folder(origin: Run, arch: Arch, settings: TrainSettings) -> Path:
    """Where a network of a run is trained alone: with other settings than the usual ones elsewhere."""
    genes, usual = "-".join(map(str, arch)), asdict(TrainSettings(epochs=settings.epochs, seed=settings.seed))
    if len(genes) > LONG:
        genes = digest(genes)
    others = sorted(item for item in asdict(settings).items() if item not in usual.items())
    name = f"{genes}-seed{settings.seed}-{settings.epochs}epochs" + (f"-{digest(*others)}" if others else "")
    return origin.folder / TRAINED_ALONE / name


def trained_settings(evaluate: str, run: Run, device: torch.device) -> TrainSettings | None:
    """How candidates are trained for `--evaluate train:EPOCHS`, as the supernet was; None for `supernet`.

    A processor has no fp16: there it is fp32.
    """
    if evaluate == "supernet":
        return None
    match = re.fullmatch(r"train:([1-9]\d*)", evaluate)
    if match is None:
        raise InputError(f"--evaluate {evaluate} is neither supernet nor train:EPOCHS, such as train:10")
    settings = TrainSettings(
        **{**supernet_settings(run), "epochs": int(match[1]), "sampling": "uniform", "largest_first": 0.0}
    )
    return replace(settings, precision="fp32") if device.type == "cpu" and settings.precision == "fp16" else settings
