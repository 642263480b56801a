"""One function per command, for programs too: the only place that ties the folders together."""

from ..export.card import proof_lines
from ..export.targets import parse_targets
from ..search.store import STORE
from ..supernet import TrainSettings
from ..supernet.ranks import joined
from .exporting import Shipping, export
from .profiling import profile, validate
from .ranking import RankReport, rank
from .reporting import report
from .runs import last_metrics, run_data
from .searching import Searched, search
from .training import finetune, train

__all__ = [
    "STORE",
    "RankReport",
    "Searched",
    "Shipping",
    "TrainSettings",
    "export",
    "finetune",
    "joined",
    "last_metrics",
    "parse_targets",
    "profile",
    "proof_lines",
    "rank",
    "report",
    "run_data",
    "search",
    "train",
    "validate",
]
