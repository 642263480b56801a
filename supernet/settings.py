"""How a network is trained, as values."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError, unknown_name
from .sampling import SAMPLING

LARGEST = 1e30  # beyond it, a setting alone takes weights out of the range of float32
PRECISIONS = ("fp32", "bf16", "fp16")
STRONGEST = 30  # of RandAugment's magnitudes


@dataclass(frozen=True)
class TrainSettings:
    """How a supernet is trained: SGD with linear warm-up, then a cosine to zero; on shifted and mirrored images.

    Without `augment` images are taken as they are: what has few epochs left is better refined on those (He et al.
    2019, https://arxiv.org/abs/1909.09148). `accumulate` is the number of parts of a batch that go through the network
    one after the other, or on as many processes; each part has batch norm statistics of its own. `ema` is the decay of
    an average of the weights over the steps, which is what the run then holds. `randaugment` is a magnitude of
    https://arxiv.org/abs/1909.13719, `mixup` and `cutmix` the alpha of https://arxiv.org/abs/1710.09412 and
    https://arxiv.org/abs/1905.04899 (with both, each part of a batch takes one or the other). 0 is none of it. With a
    `teacher` (`load_teacher`) `teacher_share` of the loss is by what it says (https://arxiv.org/abs/1503.02531, section
    2, of temperature 1). For the share `largest_first` of all steps the largest path alone is trained, as once-for-all
    begins (https://arxiv.org/abs/1908.09791, section 3.3), then paths by `sampling`.
    """

    epochs: int = 30
    batch: int = 32
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 4e-5
    label_smoothing: float = 0.1
    clip_norm: float = 5.0
    warmup: float = 0.05
    sampling: str = "uniform"
    augment: bool = True
    seed: int = 0
    accumulate: int = 1
    precision: str = "fp32"
    ema: float = 0.0
    randaugment: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    teacher: str = ""
    teacher_share: float = 0.5
    largest_first: float = 0.0

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLING:
            raise unknown_name("sampling", self.sampling, SAMPLING)
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        for name in ("epochs", "batch", "lr", "clip_norm", "accumulate"):
            if not 0 < getattr(self, name) <= LARGEST:
                raise InputError(f"{name}={getattr(self, name)} must be positive, and at most {LARGEST:g}")
        for name, most in (("ema", 1), ("randaugment", STRONGEST + 1), ("mixup", LARGEST), ("cutmix", LARGEST)):
            if not 0 <= getattr(self, name) < most:
                raise InputError(f"{name}={getattr(self, name)} must be at least 0, and less than {most:g}")
        for name in ("teacher_share", "largest_first"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)} must be a share, from 0 to 1")
        if self.batch % self.accumulate or self.batch // self.accumulate < 2:
            raise InputError(
                f"a batch of {self.batch} is no {self.accumulate} parts of equal size and 2 images at least: "
                "give another --batch, or --accumulate"
            )
