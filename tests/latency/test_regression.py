"""Bayesian regression against the normal equations, and against fits that really leave a row out."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.latency.regression import regress

NOISE = 0.3


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    design = rng.normal(size=(12, 4))
    return design, design @ [1.0, -0.5, 0.2, 0.0] + rng.normal(0, NOISE, 12)


def test_weights_solve_the_normal_equations(rows: tuple[np.ndarray, np.ndarray]) -> None:
    design, target = rows
    found = regress(design, target, (NOISE,), NOISE)
    precision = design.T @ design / NOISE**2 + np.eye(4)
    assert found.weights == pytest.approx(np.linalg.solve(precision, design.T @ target / NOISE**2))
    assert found.covariance == pytest.approx(np.linalg.inv(precision))


def test_rows_left_out_are_foretold_by_the_others(rows: tuple[np.ndarray, np.ndarray]) -> None:
    design, target = rows
    found = regress(design, target, (NOISE,), NOISE)
    for i in range(len(target)):
        others = np.arange(len(target)) != i
        without = regress(design[others], target[others], (NOISE,), NOISE)
        assert found.missed[i] == pytest.approx(target[i] - design[i] @ without.weights)
        assert found.promised[i] == pytest.approx(without.deviation(design[i : i + 1])[0])


def test_many_rows_tell_the_noise() -> None:
    rng = np.random.default_rng(1)
    design = rng.normal(size=(200, 3))
    target = design @ [0.5, 1.0, -1.0] + rng.normal(0, 0.1, 200)
    assert regress(design, target, (0.01, 0.03, 0.1, 0.3), 0.03).noise == pytest.approx(0.1)


def test_the_variance_of_the_noise_is_its_posterior_mean() -> None:
    """By the inverse gamma posterior of a variance with a flat prior of its logarithm: sum of squares / (n - 2)."""
    target = np.random.default_rng(2).normal(0, 0.05, 12)
    found = regress(np.zeros((12, 1)), target, np.geomspace(1e-3, 10, 400), 1.0, spread=1e9)
    assert found.noise**2 == pytest.approx((target**2).sum() / 10, rel=1e-3)
