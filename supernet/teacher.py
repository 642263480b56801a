"""A network of torchvision's from which a training learns besides its labels."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
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

    `fingerprint` is a digest of its weights. `size_px` is the side that it needs, None where it takes images as they
    are.
    """

    network: nn.Module
    channels: int
    fingerprint: str
    data: Data
    mean: torch.Tensor | None = None
    std: torch.Tensor | None = None
    size_px: int | None = None

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
        if self.size_px is not None:
            images = F.interpolate(images, (self.size_px, self.size_px), mode="bilinear", antialias=True)
        with evaluating(self.network):
            logits: torch.Tensor = self.network(images)
        return logits.float()

    def refuses(self, pixels: torch.Tensor) -> str | None:
        """Why it can't look at images such as these, uint8 (n, C, S, S); None where it can."""
        try:
            self(self.data.normalise(pixels))
        except Exception as error:  # networks answer images of a wrong size or number of channels in many ways
            return str(error).partition("\n")[0]
        return None


def load_teacher(spec: str, data: Data, device: torch.device) -> Teacher:
    """The teacher that `torchvision:NAME` names, with ImageNet's weights, or `torchvision:NAME=FILE.pt` with one's own.

    It looks at images as the data have them, or where it can't at the size of ImageNet's weights: some have a fixed
    size (ViT), some a least one (Inception). InputError where there is none, or it doesn't tell the classes of `data`
    apart.
    """
    name, _, file = spec.removeprefix(KIND).partition("=")
    if not spec.startswith(KIND) or data.task != "classification":
        raise InputError(f"{spec} can't teach {data.spec} ({data.task}): {HOW}")
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown_name("torchvision model", name, known)
    network = _network(spec, name, file, len(data.classes))
    channels = next(part for part in network.modules() if isinstance(part, nn.Conv2d)).in_channels
    own = () if file else (torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD))
    network = network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    teacher, images = Teacher(network, channels, weights_fingerprint(network), data, *own), data.train.images[:2]
    at_imagenets = replace(teacher, size_px=_imagenets_size_px(name, network))
    refused = teacher.refuses(images.to(device))
    if refused is None:
        return teacher
    if at_imagenets.refuses(images.to(device)) is not None:
        shape = "x".join(map(str, images.shape[1:]))
        raise InputError(f"{spec} can't look at images of {shape} ({refused}): take another")
    return at_imagenets


def _network(spec: str, name: str, file: str, count: int) -> nn.Module:
    """torchvision's network `name` for `count` classes, with the weights of a `file`, without one with ImageNet's."""
    state = read_state(Path(file)) if file else torchvision_state(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of how some draw weights, which are replaced
            network = torchvision.models.get_model(name, weights=None, num_classes=count)
        network.load_state_dict(state)
        if not file and hasattr(network, "transform_input"):  # Inception's own weights want another scale
            network.transform_input = True
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{spec} does not tell {count} classes apart ({reason}): {HOW}") from error
    if not all(torch.isfinite(tensor).all() for tensor in network.parameters()):
        raise InputError(f"{spec} has weights that are not finite: give those of a training that went well")
    return network


def _imagenets_size_px(name: str, network: nn.Module) -> int:
    """The side of the images that a network of torchvision's is meant for: of a ViT that of its patches."""
    size_px: int = torchvision.models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
    return int(getattr(network, "image_size", size_px))
