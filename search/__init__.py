"""Search: the most accurate architecture within any limits, by strategies behind one interface."""

from .aging import Aging
from .bayesian import Bayesian
from .budget import Budget
from .evolution import Evolution
from .feasible import Feasible
from .grid import Grid
from .loop import STRATEGIES, search
from .nsga2 import NSGA2
from .predictor import Predictor
from .problem import Evaluation, Problem
from .progressive import Progressive
from .racing import RacedAccuracy
from .random_search import Random
from .reinforce import Reinforce
from .result import SearchResult
from .store import EvaluationStore, StoredAccuracy
from .strategy import Strategy, StrategySettings

__all__ = [
    "NSGA2",
    "STRATEGIES",
    "Aging",
    "Bayesian",
    "Budget",
    "Evaluation",
    "EvaluationStore",
    "Evolution",
    "Feasible",
    "Grid",
    "Predictor",
    "Problem",
    "Progressive",
    "RacedAccuracy",
    "Random",
    "Reinforce",
    "SearchResult",
    "StoredAccuracy",
    "Strategy",
    "StrategySettings",
    "search",
]
