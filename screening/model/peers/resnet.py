"""Residual networks: the two that lead the PTB-XL benchmark of Strodthoff et al. 2021 (arXiv 2004.13701).

``resnet1d_wang`` is the residual network for time series of Wang, Yan and Oates 2017 (arXiv 1611.06455) in the form of
that benchmark: one convolution of 7 samples at full rate, three basic blocks of kernels 5 and 3 with 128 channels each,
the second and the third of stride 2. ``xresnet1d`` is the benchmark's xresnet1d101: a ResNet with the tricks of He et
al. 2019 (arXiv 1812.01187) in one dimension. It differs in its width, 48 for 64, so that a 10 s ECG at 100 Hz costs
190 MFLOP and not 320. Both end in concatenated pooling; the benchmark's wider classifier is replaced by the one that all
networks here share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from screening.model.classifier import Classifier, NetworkConfig
from screening.model.peers.convolutional import concat_pool, convolution


@dataclass(frozen=True)
class ResNetWangConfig(NetworkConfig):
    """What ``resnet1d_wang`` is made of; the defaults are the benchmark's."""

    kind: ClassVar[str] = "resnet1d_wang"

    channels: int = 128
    stem_kernel: int = 7
    stem_stride: int = 1
    kernels: tuple[int, ...] = (5, 3)  # of the convolutions in a block
    blocks: int = 3

    def build(self) -> ResNetWang:
        """Return a network with random weights."""
        return ResNetWang(self)


@dataclass(frozen=True)
class XResNetConfig(NetworkConfig):
    """What ``xresnet1d`` is made of; 3 + 4 + 23 + 3 blocks of 3 convolutions are the 101 layers of the name."""

    kind: ClassVar[str] = "xresnet1d"

    width: int = 48  # channels inside every block; the benchmark has 64
    expansion: int = 4  # channels between the blocks are so many times the width
    layers: tuple[int, ...] = (3, 4, 23, 3)  # blocks a stage; a stage halves the rate
    stem_channels: tuple[int, ...] = (32, 32, 64)
    kernel: int = 5

    def build(self) -> XResNet:
        """Return a network with random weights."""
        return XResNet(self)


class Residual(nn.Module):
    """The sum of a path and a shortcut, and ReLU: (b, c, t) -> (b, c', t')."""

    def __init__(self, path: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.path, self.shortcut = path, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, t) -> (b, c', t')."""
        return functional.relu(self.path(x) + self.shortcut(x), inplace=True)


def basic_block(inputs: int, channels: int, kernels: tuple[int, ...], *, stride: int) -> Residual:
    """Return a block of equally wide convolutions whose first has the stride."""
    path = nn.Sequential()
    for at, kernel in enumerate(kernels):
        if at:
            path.append(nn.ReLU(inplace=True))
        path.append(convolution(channels if at else inputs, channels, kernel, stride=1 if at else stride))
    same = stride == 1 and inputs == channels
    return Residual(path, nn.Identity() if same else convolution(inputs, channels, 1, stride=stride))


def bottleneck(inputs: int, width: int, outputs: int, kernel: int, *, stride: int) -> Residual:
    """Return a narrow-wide block with the tricks of He et al.

    The stride is in the middle convolution (ResNet-B), the shortcut averages before its projection (ResNet-D), and the
    last normalisation starts at zero, so that a fresh block is its shortcut.
    """
    last = convolution(width, outputs, 1)
    nn.init.zeros_(last.get_parameter("1.weight"))
    path = nn.Sequential(
        convolution(inputs, width, 1),
        nn.ReLU(inplace=True),
        convolution(width, width, kernel, stride=stride),
        nn.ReLU(inplace=True),
        last,
    )
    shortcut = nn.Sequential()
    if stride != 1:
        shortcut.append(nn.AvgPool1d(stride, ceil_mode=True))
    if inputs != outputs:
        shortcut.append(convolution(inputs, outputs, 1))
    return Residual(path, shortcut)


class ResNetWang(Classifier):
    """Residual network of basic blocks at full rate.

    Parameters
    ----------
    config : ResNetWangConfig
        What the network is made of.
    """

    def __init__(self, config: ResNetWangConfig | None = None) -> None:
        config = config or ResNetWangConfig()
        c = config.channels
        super().__init__(config, 2 * c)
        self.stem = nn.Sequential(
            convolution(config.leads, c, config.stem_kernel, stride=config.stem_stride), nn.ReLU(inplace=True)
        )
        self.blocks = nn.Sequential(
            *(basic_block(c, c, config.kernels, stride=2 if at else 1) for at in range(config.blocks))
        )

    def features(self, x_mV: Tensor) -> Tensor:
        """Return the pooled features: (b, leads, T) in filtered mV -> (b, 2c)."""
        x = self.stem(x_mV / self.config.scale_mV)  # (b, leads, T) -> (b, c, T)
        return concat_pool(self.blocks(x))  # (b, c, T) -> (b, c, T / 4) -> (b, 2c)


class XResNet(Classifier):
    """Deep residual network of bottlenecks.

    Parameters
    ----------
    config : XResNetConfig
        What the network is made of.
    """

    def __init__(self, config: XResNetConfig | None = None) -> None:
        config = config or XResNetConfig()
        outputs = config.width * config.expansion
        super().__init__(config, 2 * outputs)
        inputs = config.leads
        self.stem = nn.Sequential()
        for at, channels in enumerate(config.stem_channels):
            self.stem.append(convolution(inputs, channels, config.kernel, stride=1 if at else 2))
            self.stem.append(nn.ReLU(inplace=True))
            inputs = channels
        self.stem.append(nn.MaxPool1d(3, stride=2, padding=1))
        self.stages = nn.Sequential()
        for stage, blocks in enumerate(config.layers):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                self.stages.append(bottleneck(inputs, config.width, outputs, config.kernel, stride=stride))
                inputs = outputs

    def features(self, x_mV: Tensor) -> Tensor:
        """Return the pooled features: (b, leads, T) in filtered mV -> (b, 2c)."""
        x = self.stem(x_mV / self.config.scale_mV)  # (b, leads, T) -> (b, 64, T / 4)
        return concat_pool(self.stages(x))  # (b, 64, T / 4) -> (b, c, T / 32) -> (b, 2c)
