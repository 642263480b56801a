"""Latency: profile a device, predict with its table, validate; and the costs that need no device."""

from ..supernet.cost import analytic_cost, flops, memory, params
from .onboard import onboard
from .profile import profile
from .spread import spread
from .table import Estimate, Estimates, LatencyTable, Predictor
from .validation import Validation, validate

__all__ = [
    "Estimate",
    "Estimates",
    "LatencyTable",
    "Predictor",
    "Validation",
    "analytic_cost",
    "flops",
    "memory",
    "onboard",
    "params",
    "profile",
    "spread",
    "validate",
]
