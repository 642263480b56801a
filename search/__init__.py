"""Search: the most accurate architecture within any limits, by strategies behind one interface."""

from .evolution import Evolution
from .loop import STRATEGIES, search
from .problem import Evaluation, Problem
from .random_search import Random
from .result import SearchResult
from .store import EvaluationStore, StoredAccuracy
from .strategy import Strategy, StrategySettings

__all__ = [
    "STRATEGIES",
    "Evaluation",
    "EvaluationStore",
    "Evolution",
    "Problem",
    "Random",
    "SearchResult",
    "StoredAccuracy",
    "Strategy",
    "StrategySettings",
    "search",
]
