"""An average of the weights over the steps of a training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """An exponential moving average of a module's weights; with a decay of 0 there is none.

    The first steps weigh more: their decay is at most (1 + t) / (10 + t). torch's own AveragedModel keeps a second
    module and copies every statistic at each step, which takes longer than a small path.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.own = dict(module.named_parameters()) if decay else {}
        self.weights = {name: parameter.detach().clone() for name, parameter in self.own.items()}

    def update(self) -> None:
        """Take a step's weights in."""
        if not self.decay:
            return
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        now = [parameter.detach() for parameter in self.own.values()]
        get_ema_multi_avg_fn(decay)(list(self.weights.values()), now, torch.tensor(self.steps))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the module's weights and their average; a second time brings them back."""
        for name, parameter in self.own.items():
            kept = parameter.clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"steps": self.steps, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for name, weight in self.weights.items():
            weight.copy_(state["weights"][name])
        self.steps = int(state["steps"])
