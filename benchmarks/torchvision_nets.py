"""torchvision's MobileNetV3 and ShuffleNetV2 at many widths, each family as a space of one gene.

They are what a search has to beat: one network, scaled to a budget. As made for 224 pixels they halve the image five
times, 28 pixels down to one; so each family is here a second time with the first halvings left out, as is usual for
small images. As a space, hwnas trains, profiles and exports them like any other.
"""

from __future__ import annotations

from torch import nn
from torchvision.models import MobileNetV3, ShuffleNetV2
from torchvision.models.mobilenetv3 import _mobilenet_v3_conf

from hwnas.supernet import Arch, ChoiceSpace, Layer, Node

WIDTHS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.75, 1.0)
SIZE_PX, CLASSES = 28, 10


def mobilenet_v3(width: float, stride: int) -> nn.Module:
    """MobileNetV3-Small (https://arxiv.org/abs/1905.02244, table 2) for grey images, its first `stride` 2 or 1."""
    settings, last = _mobilenet_v3_conf("mobilenet_v3_small", width_mult=width)
    network = MobileNetV3(settings, last, num_classes=CLASSES)
    network.features[0][0] = nn.Conv2d(1, network.features[0][0].out_channels, 3, stride, 1, bias=False)
    return network


def shufflenet_v2(width: float, stride: int) -> nn.Module:
    """ShuffleNetV2 (https://arxiv.org/abs/1807.11164, table 5) for grey images; `stride` 1: no first pooling."""
    channels = [24, *(2 * round(width * c / 2) for c in (116, 232, 464, 1024))]
    network = ShuffleNetV2([4, 8, 4], channels, num_classes=CLASSES)
    network.conv1[0] = nn.Conv2d(1, 24, 3, stride, 1, bias=False)
    if stride == 1:
        network.maxpool = nn.Identity()
    return network


FAMILIES = {"mobilenet_v3": mobilenet_v3, "shufflenet_v2": shufflenet_v2}


class Widths(ChoiceSpace):
    """One family; the gene is the width."""

    def __init__(self, family: str, stride: int) -> None:
        super().__init__([len(WIDTHS)])
        self.family, self.stride = family, stride

    def graph(self, arch: Arch) -> tuple[Node, ...]:
        params = (("stem_stride", self.stride), ("width", WIDTHS[arch[0]]))
        return (Node(Layer(self.family, 1, CLASSES, SIZE_PX, 0, params)),)  # stride 0: it ends in a vector

    def build(self, layer: Layer) -> nn.Module:
        return FAMILIES[layer.op](float(layer["width"]), self.stride)


MOBILENET_V3, SHUFFLENET_V2 = Widths("mobilenet_v3", 2), Widths("shufflenet_v2", 2)
MOBILENET_V3_FINE, SHUFFLENET_V2_FINE = Widths("mobilenet_v3", 1), Widths("shufflenet_v2", 1)
