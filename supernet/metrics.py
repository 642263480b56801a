"""What a network is judged by: the task of a data set, and the figure that a search makes as good as it can."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    mean_absolute_error,
    precision_score,
    recall_score,
    root_mean_squared_error,
)

from ..errors import unknown_name

Classes = NDArray[np.int64]  # (N,), a class per image
Values = NDArray[np.float32]  # (N, outputs), numbers per image

BEST = 5  # classes that a network names, for top-5


@dataclass(frozen=True)
class Metric:
    """A figure for a network: `read` is what it needs of outputs (B, outputs), `score` compares that with the labels.

    `direction` is 1 where more is better, -1 where less is. Where the score is the fraction of the images for which
    the network is right, `right` tells of each (B,) whether it is.
    """

    score: Callable[[Any, Any], float]
    read: Callable[[torch.Tensor], torch.Tensor]
    task: str = "classification"
    direction: int = 1
    right: Callable[[Any, Any], NDArray[np.bool_]] | None = None

    def __call__(self, labels: NDArray[Any], read: NDArray[Any]) -> float:
        return self.score(labels, read)


def most_likely(logits: torch.Tensor) -> torch.Tensor:
    """The class (B,) of each row of logits (B, classes)."""
    return logits.argmax(1)


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The five most likely classes (B, 5), all where there are fewer."""
    return logits.topk(min(BEST, logits.shape[1]), dim=1).indices


def as_said(outputs: torch.Tensor) -> torch.Tensor:
    """The outputs themselves (B, outputs)."""
    return outputs.float()


def equal(labels: Classes, predicted: Classes) -> NDArray[np.bool_]:
    """Of each image whether its class is right."""
    return labels == predicted


def among(labels: Classes, named: Classes) -> NDArray[np.bool_]:
    """Of each image whether its class is one of those named (N, 5)."""
    found: NDArray[np.bool_] = (named == labels[:, None]).any(axis=1)
    return found


def fraction_right(labels: Classes, predicted: Classes) -> float:
    """Fraction of the images whose class is right."""
    return float(accuracy_score(labels, predicted))


def fraction_among(labels: Classes, named: Classes) -> float:
    """Fraction of the images whose class is one of those named (N, 5)."""
    return float(among(labels, named).mean())


# As scikit-learn defines them, a class that is named though no image has it counts in the three macro figures, as 0
# where there is nothing to divide by, and not in balanced accuracy. Where there is none, that is macro recall.


def balanced_accuracy(labels: Classes, predicted: Classes) -> float:
    """Mean over the classes among `labels` of the fraction right: a rare class counts as much as a common one."""
    # balanced_accuracy_score itself, but that it warns of the other classes
    return float(recall_score(labels, predicted, labels=np.unique(labels), average="macro"))


def macro_recall(labels: Classes, predicted: Classes) -> float:
    """Mean over the classes among `labels` or `predicted` of the fraction right of those that are it."""
    return float(recall_score(labels, predicted, average="macro", zero_division=0))


def macro_precision(labels: Classes, predicted: Classes) -> float:
    """Mean over the classes among `labels` or `predicted` of the fraction of those named so that are it."""
    return float(precision_score(labels, predicted, average="macro", zero_division=0))


def macro_f1(labels: Classes, predicted: Classes) -> float:
    """Mean of F1, 2 TP / (2 TP + FP + FN), over the classes among `labels` or `predicted`."""
    return float(f1_score(labels, predicted, average="macro", zero_division=0))


def rmse(values: Values, predicted: Values) -> float:
    """Root of the mean squared error; of several outputs the mean of theirs. Of what is not finite it is nan."""
    if not np.isfinite(predicted).all():
        return math.nan
    return float(root_mean_squared_error(values, predicted))


def mae(values: Values, predicted: Values) -> float:
    """Mean absolute error; of several outputs the mean of theirs. Of what is not finite it is nan."""
    if not np.isfinite(predicted).all():
        return math.nan
    return float(mean_absolute_error(values, predicted))


METRICS: dict[str, Metric] = {
    "accuracy": Metric(fraction_right, most_likely, right=equal),
    "top-5": Metric(fraction_among, likeliest, right=among),
    "balanced-accuracy": Metric(balanced_accuracy, most_likely),
    "macro-precision": Metric(macro_precision, most_likely),
    "macro-recall": Metric(macro_recall, most_likely),
    "macro-f1": Metric(macro_f1, most_likely),
    "rmse": Metric(rmse, as_said, "regression", -1),
    "mae": Metric(mae, as_said, "regression", -1),
}


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Of logits (B, classes) and classes (B,) or probabilities (B, classes)."""
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)


def squared_error(outputs: torch.Tensor, targets: torch.Tensor, _: float) -> torch.Tensor:
    """Mean squared error of outputs (B, outputs); numbers are not smoothed."""
    return F.mse_loss(outputs, targets)


@dataclass(frozen=True)
class Task:
    """What is learned: the `loss` of outputs, `imitation` (what a teacher's outputs say), the usual metric."""

    loss: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
    imitation: Callable[[torch.Tensor], torch.Tensor]
    metric: str


TASKS: dict[str, Task] = {
    "classification": Task(cross_entropy, lambda logits: logits.softmax(1), "accuracy"),
    "regression": Task(squared_error, lambda outputs: outputs, "rmse"),
}


def check_metric(task: str, metric: str, owner: str) -> None:
    """InputError, with the names that exist, unless hwnas knows the task and the metric of `owner`."""
    if task not in TASKS:
        raise unknown_name(f"task of {owner}", task, TASKS)
    if metric not in (known := [name for name, found in METRICS.items() if found.task == task]):
        raise unknown_name(f"metric of {owner}", metric, known)
