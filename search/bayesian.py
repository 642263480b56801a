"""Bayesian optimisation by Optuna's samplers, through its own ask and tell."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, unknown_name
from ..supernet.space import Arch, Rng
from .novel import TRIES, Novel
from .problem import Evaluation, Problem
from .strategy import Strategy

SAMPLERS = ("tpe", "gp")


@dataclass(frozen=True)
class Bayesian:
    """Optuna's tree-structured Parzen estimator (`tpe`), or its Gaussian process (`gp`), over the genes.

    Bergstra et al. 2011, section 4: https://papers.nips.cc/paper/4443; one categorical parameter per gene, and per
    number of options where that depends on the genes before. The first `startup` candidates are random, by default a
    fifth of the budget, from 5 to 20; later ones come a twentieth of the budget at a time. What the sampler proposes
    again, or beyond a limit, is not evaluated; where it has nothing new, a random candidate within the limits is.
    """

    sampler: str = "tpe"
    startup: int | None = None

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise unknown_name("sampler", self.sampler, SAMPLERS)
        if self.startup is not None and self.startup < 1:
            raise InputError(f"bayesian search needs startup of at least 1, not {self.startup}")

    def __call__(self, problem: Problem, rng: Rng, budget: int, /) -> Strategy:
        startup = self.startup or min(20, max(5, budget // 5))
        return _BayesianStrategy(problem, rng, startup, max(1, budget // 20), self.sampler)


class _BayesianStrategy:
    def __init__(self, problem: Problem, rng: Rng, startup: int, batch: int, sampler: str) -> None:
        self.space, self.novel = problem.space, Novel(problem, rng)
        self.startup, self.batch, self.done = startup, batch, 0
        self.optuna = _optuna()
        seed = int(rng.random() * 2**31)
        with warnings.catch_warnings():  # of what it calls experimental
            warnings.simplefilter("ignore")
            self.study = self.optuna.create_study(sampler=_sampler(self.optuna, sampler, seed), direction="maximize")
        self.trials: dict[Arch, Any] = {}  # proposed by the sampler, not told yet

    def ask(self, n: int) -> list[Arch]:
        if self.done < self.startup:
            return self.novel.drawn(min(n, self.startup - self.done))
        size = min(n, self.batch)
        found: list[Arch] = []
        for _ in range(size + TRIES):
            if len(found) == size:
                break
            trial = self.study.ask()
            new = self.novel.new([self._suggested(trial)])
            if new and self.novel.problem.priced(new)[0].feasible:
                self.trials[new[0]] = trial
                found += new
            else:  # known, which would count twice, or beyond a limit
                self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
        return self.novel.filled(found, size, n)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            trial = self.trials.pop(evaluation.arch, None)
            self.done += evaluation.feasible
            if evaluation.accuracy == evaluation.accuracy:
                if trial is None:
                    self.study.add_trial(self._finished(evaluation))
                else:
                    self.study.tell(trial, evaluation.accuracy)
            elif trial is not None:
                self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)

    def _suggested(self, trial: Any) -> Arch:
        arch: Arch = ()
        while (options := self.space.choices(arch)) is not None:
            arch += (trial.suggest_categorical(_name(arch, options), range(options)),)
        return arch

    def _finished(self, evaluation: Evaluation) -> Any:
        """A random candidate as a trial."""
        params, distributions = {}, {}
        for i, gene in enumerate(evaluation.arch):
            options = self.space.choices(evaluation.arch[:i])
            assert options is not None
            name = _name(evaluation.arch[:i], options)
            params[name], distributions[name] = gene, self.optuna.distributions.CategoricalDistribution(range(options))
        return self.optuna.trial.create_trial(params=params, distributions=distributions, value=evaluation.accuracy)


def _name(prefix: Arch, options: int) -> str:
    """A gene's parameter: where it stands, and how many options it has there."""
    return f"gene {len(prefix)} of {options}"


def _sampler(optuna: Any, name: str, seed: int) -> Any:
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=1)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=1, multivariate=True, group=True)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise InputError("strategy bayesian needs Optuna: pip install 'hwnas[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # else a line per evaluation
    return optuna
