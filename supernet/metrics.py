"""What a network is judged by: the task of a data set, and the figure that a search makes as large as it can."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, recall_score

from ..errors import unknown_name

Classes = NDArray[np.int64]  # (N,), a class per image

TASKS = ("classification",)


def fraction_right(labels: Classes, predicted: Classes) -> float:
    """Fraction of the images whose class is right."""
    return float(accuracy_score(labels, predicted))


def balanced_accuracy(labels: Classes, predicted: Classes) -> float:
    """Mean over the classes among `labels` of the fraction right: a rare class counts as much as a common one."""
    return float(recall_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0))


def macro_f1(labels: Classes, predicted: Classes) -> float:
    """Mean of F1, 2 TP / (2 TP + FP + FN), over the classes among `labels` or `predicted`."""
    return float(f1_score(labels, predicted, average="macro", zero_division=0))


METRICS: dict[str, Callable[[Classes, Classes], float]] = {
    "accuracy": fraction_right,
    "balanced-accuracy": balanced_accuracy,
    "macro-f1": macro_f1,
}


def check_metric(task: str, metric: str, owner: str) -> None:
    """InputError, with the names that exist, unless hwnas knows the task and the metric of `owner`."""
    if task not in TASKS:
        raise unknown_name(f"task of {owner}", task, TASKS)
    if metric not in METRICS:
        raise unknown_name(f"metric of {owner}", metric, METRICS)
