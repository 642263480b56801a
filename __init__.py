"""hwnas: train one supernet, profile any device, search within its budget, export to ONNX with proof.

The names below are imported when they are first used, so that `import hwnas` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import HwnasError
    from .latency import LatencyTable, flops, memory, params
    from .search import Problem
    from .supernet import ChoiceSpace, SearchSpace, Supernet, load_space, load_supernet

__version__ = "0.1.0"

_HOMES = {
    "HwnasError": "errors",
    "LatencyTable": "latency",
    "flops": "latency",
    "memory": "latency",
    "params": "latency",
    "Problem": "search",
    "ChoiceSpace": "supernet",
    "SearchSpace": "supernet",
    "Supernet": "supernet",
    "load_space": "supernet",
    "load_supernet": "supernet",
}

__all__ = [
    "ChoiceSpace",
    "HwnasError",
    "LatencyTable",
    "Problem",
    "SearchSpace",
    "Supernet",
    "flops",
    "load_space",
    "load_supernet",
    "memory",
    "params",
]


def __getattr__(name: str) -> Any:
    if name == "search":  # the sub-package, not the function in it
        return importlib.import_module(".search", __name__)
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
