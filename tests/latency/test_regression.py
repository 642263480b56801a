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


def test_the_likeliest_noise_is_found() -> None:
    rng = np.random.default_rng(1)
    design = rng.normal(size=(200, 3))
    target = design @ [0.5, 1.0, -1.0] + rng.normal(0, 0.1, 200)
    assert regress(design, target, (0.01, 0.03, 0.1, 0.3), 0.03).noise == 0.1


@pytest.mark.parametrize(("scale", "used_up"), [(1e2, 4), (1e-6, 0)])
def test_weights_that_are_free_use_up_rows(scale: float, used_up: int) -> None:
    """One more degree of freedom is what was thought of the noise before."""
    design = scale * np.random.default_rng(0).normal(size=(12, 4))
    found = regress(design, np.zeros(12), (NOISE,), NOISE)
    assert found.freedom == pytest.approx(12 - used_up + 1, abs=1e-3)
