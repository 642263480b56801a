"""A network of torchvision's from which a training learns besides its labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import nn

from ..errors import InputError, unknown_name
from .checkpoint import weights_fingerprint
from .data import Data
from .network import evaluating
from .pretrained import read_state, torchvision_state

KIND = "torchvision:"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of what its own weights were trained on
HOW = "write torchvision:NAME=FILE.pt, FILE.pt being its state_dict after a training on these data"


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network, and how it wants its images: as the data are normalised, or otherwise (`mean`, `std` (C,)).

    `fingerprint` is a digest of its weights.
    """

    network: nn.Module
    channels: int
    fingerprint: str
    data: Data
    mean: torch.Tensor | None = None
    std: torch.Tensor | None = None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """What it says of images (B, C, S, S) as the training has them: logits (B, classes)."""
        if self.mean is not None and self.std is not None:
            (mean, std), (own_mean, own_std) = (
                [value.to(images.device).view(1, -1, 1, 1) for value in pair]
                for pair in ((self.data.mean, self.data.std), (self.mean, self.std))
            )
            images = (images * std + mean - own_mean) / own_std
        elif images.shape[1] == 1:
            images = images.expand(-1, self.channels, -1, -1)
        with evaluating(self.network):
            logits: torch.Tensor = self.network(images)
        return logits.float()


def load_teacher(spec: str, data: Data, device: torch.device) -> Teacher:
    """The teacher that `torchvision:NAME` names, with ImageNet's weights, or `torchvision:NAME=FILE.pt` with one's own.

    InputError where there is none, or it doesn't tell the classes of `data` apart.
    """
    name, _, file = spec.removeprefix(KIND).partition("=")
    if not spec.startswith(KIND) or data.task != "classification":
        raise InputError(f"{spec} can't teach {data.spec} ({data.task}): {HOW}")
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown_name("torchvision model", name, known)
    state = read_state(Path(file)) if file else torchvision_state(name)
    count = len(data.classes)
    try:
        network = torchvision.models.get_model(name, weights=None, num_classes=count)
        network.load_state_dict(state)
        if not file and hasattr(network, "transform_input"):  # Inception's own weights want another scale
            network.transform_input = True
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{spec} does not tell {count} classes apart ({reason}): {HOW}") from error
    if not all(torch.isfinite(tensor).all() for tensor in network.parameters()):
        raise InputError(f"{spec} has weights that are not finite: give those of a training that went well")
    channels = next(part for part in network.modules() if isinstance(part, nn.Conv2d)).in_channels
    own = () if file else (torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD))
    network = network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    teacher = Teacher(network, channels, weights_fingerprint(network), data, *own)
    try:
        teacher(data.normalise(data.train.images[:2].to(device)))
    except Exception as error:  # networks answer images of a wrong size or number of channels in many ways
        shape = "x".join(map(str, data.train.images.shape[1:]))
        raise InputError(
            f"{spec} can't look at images of {shape} ({str(error).splitlines()[0]}): take another"
        ) from error
    return teacher
