"""What is to be expected of architectures, learnt from those that were evaluated."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, norm, rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Kernel, WhiteKernel
from sklearn.linear_model import BayesianRidge

from ..supernet.space import Arch
from .problem import Evaluation

GROWTH = 1.25  # of the known architectures, after which the kernel is fitted anew: that takes longest
FOLDS, LEAST = 5, 20  # parts of what is known, of which each is foretold by the others; evaluations for that
MOST = 600  # architectures to learn from: the time grows with their cube


class Surrogate:
    """Two regressions of accuracy on genes, whose predictions are averaged: a Gaussian process and a ridge.

    The ridge (Bayesian, MacKay 1992) knows what each option is worth by itself, from few architectures; the process
    (squared exponential kernel of the number of different genes, Rasmussen & Williams 2006, equation 2.25) how options
    go together, and how far off an architecture is. Both see accuracies as normal scores of their ranks: one that
    collapses then counts as the worst, and not as an outlier that everything bends to.
    """

    def __init__(self) -> None:
        self.columns: dict[tuple[int, int], int] = {}  # of (position, gene), as they come up
        self.kernel: Kernel | None = None
        self.fitted = 0

    def fit(self, archs: Sequence[Arch], accuracies: Sequence[float]) -> Surrogate:
        """Learn from architectures and their accuracies, all numbers."""
        best = np.argsort(-np.asarray(accuracies), kind="stable")[:MOST]
        archs, scores = [archs[i] for i in best], normal_scores(np.asarray(accuracies)[best])
        for arch in archs:
            for place in enumerate(arch):
                self.columns.setdefault(place, len(self.columns))
        rows = self._rows(archs)
        anew = self.kernel is None or len(archs) >= GROWTH * self.fitted
        kernel = FIRST if anew else self.kernel
        self.process = GaussianProcessRegressor(kernel, optimizer="fmin_l_bfgs_b" if anew else None, alpha=1e-8)
        self.ridge = BayesianRidge()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a kernel at the edge of its range serves as well
            self.process.fit(rows, scores)
            self.ridge.fit(rows, scores)
        if anew:
            self.kernel, self.fitted = self.process.kernel_, len(archs)
        return self

    def predict(self, archs: Sequence[Arch]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Expected scores (n,) and their deviations (n,), in units of the normal scores of what was learnt from."""
        rows = self._rows(archs)
        both = [self.process.predict(rows, return_std=True), self.ridge.predict(rows, return_std=True)]
        means, deviations = (np.stack(column) for column in zip(*both, strict=True))  # (2, n) each
        return means.mean(axis=0), deviations.mean(axis=0)

    def _rows(self, archs: Sequence[Arch]) -> NDArray[np.float64]:
        """One column per position and gene that was seen: (n, columns)."""
        rows = np.zeros((len(archs), len(self.columns)))
        for row, arch in zip(rows, archs, strict=True):
            for place in enumerate(arch):
                if (column := self.columns.get(place)) is not None:
                    row[column] = 1
        return rows


def held_out_tau(evaluations: Sequence[Evaluation]) -> float | None:
    """Kendall tau between accuracies and what a surrogate that has not seen them expects; None where there are few.

    Every fifth evaluation in turn is kept from it. It learns from those given up early, too, and is judged by the rest.
    """
    known = [evaluation for evaluation in evaluations if evaluation.accuracy == evaluation.accuracy]
    full = np.array([not evaluation.estimated for evaluation in known], dtype=bool)
    if len(known) < LEAST or full.sum() < LEAST // 2:
        return None
    expected = np.zeros(len(known))
    for fold in range(FOLDS):
        rest = [evaluation for i, evaluation in enumerate(known) if i % FOLDS != fold]
        surrogate = Surrogate().fit([e.arch for e in rest], [e.accuracy for e in rest])
        expected[fold::FOLDS] = surrogate.predict([e.arch for e in known[fold::FOLDS]])[0]
    truth = np.array([evaluation.accuracy for evaluation in known])[full]
    tau = float(kendalltau(expected[full], truth).statistic)
    return None if math.isnan(tau) else tau  # all alike: nothing to rank


FIRST = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(2.0, (0.5, 20)) + WhiteKernel(0.1, (1e-3, 1))


def normal_scores(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where each of the values would lie in a standard normal sample of that size, by its rank."""
    scores: NDArray[np.float64] = norm.ppf((rankdata(values) - 0.5) / len(values))
    return scores
