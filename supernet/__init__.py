"""Search spaces, the weight-sharing network, its training and evaluation."""

from .additive import AdditiveCost, additive
from .chain import ChainSpace
from .checkpoint import Run, load_run, load_supernet
from .data import Data, load_data
from .evaluation import calibrate_bn
from .layer import Layer, Node
from .ranks import Ranks
from .settings import TrainSettings
from .sources import Source, Split
from .space import Arch, ChoiceSpace, SearchSpace
from .spaces import SPACES, load_space
from .supernet import Supernet
from .training import train

__all__ = [
    "SPACES",
    "AdditiveCost",
    "Arch",
    "ChainSpace",
    "ChoiceSpace",
    "Data",
    "Layer",
    "Node",
    "Ranks",
    "Run",
    "SearchSpace",
    "Source",
    "Split",
    "Supernet",
    "TrainSettings",
    "additive",
    "calibrate_bn",
    "load_data",
    "load_run",
    "load_space",
    "load_supernet",
    "train",
]
