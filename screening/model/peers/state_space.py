"""A structured state space network: S4D-Lin layers in both directions.

The layer is that of Gu et al. 2022 (arXiv 2206.11893): a diagonal linear system x' = A x + B u, y = 2 Re(C x) + D u, with
A_n = -1/2 + i pi n, held between samples (zero-order hold), computed as one long convolution by FFT. Mehari and
Strodthoff 2022 (arXiv 2211.07579) brought four such layers, run in both directions, to 12-lead ECGs; theirs run at 100 Hz
with 512 channels, ours at 25 Hz with 64, which CPUs can afford.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from screening.model.classifier import Classifier, NetworkConfig
from screening.model.peers.convolutional import convolution


@dataclass(frozen=True)
class S4DConfig(NetworkConfig):
    """What the network is made of."""

    kind: ClassVar[str] = "s4d"

    stem_kernel: int = 7
    stem_stride: int = 4  # 100 Hz -> 25 Hz
    channels: int = 64
    state: int = 16  # a channel and direction: 8 complex numbers and their conjugates
    layers: int = 4
    step_range: tuple[float, ...] = (0.001, 0.1)  # of the channels' first step sizes: memories of 20 to 2000 steps
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.state < 2 or self.state % 2:
            raise ValueError(f"state must be even, because its numbers come with their conjugates, not {self.state}")

    def build(self) -> S4DNet:
        """Return a network with random weights."""
        return S4DNet(self)


class S4D(nn.Module):
    """Diagonal state space systems, one a channel and direction: (b, c, t) -> (b, c, t).

    The poles are shared by the channels, as in the authors' tied variant; step sizes and read-outs are not. Complex
    weights are kept as pairs of real ones, which optimisers, averages and files of weights all understand.
    """

    def __init__(self, channels: int, state: int, step_range: tuple[float, ...]) -> None:
        super().__init__()
        shortest, longest = (math.log(step) for step in step_range)
        n = state // 2
        self.log_step = nn.Parameter(shortest + torch.rand(channels) * (longest - shortest))
        self.log_decay = nn.Parameter(torch.full((n,), math.log(0.5)))  # its exponential is positive: always stable
        self.frequency = nn.Parameter(math.pi * torch.arange(n, dtype=torch.float32))
        self.read_out = nn.Parameter(torch.randn(2, channels, n, 2) * math.sqrt(0.5))  # C: forwards, backwards
        self.skip = nn.Parameter(torch.randn(channels))  # D

    def kernel(self, steps: int) -> Tensor:
        """Return the responses to an impulse, forwards and backwards: float (2, c, steps)."""
        pole = torch.complex(-self.log_decay.exp(), self.frequency)  # (n,), of continuous time
        exponent = self.log_step.exp()[:, None] * pole  # (c, n)
        weight = torch.view_as_complex(self.read_out) * (exponent.exp() - 1) / pole  # (2, c, n): C times held B = 1
        powers = (exponent[:, :, None] * torch.arange(steps, device=pole.device)).exp()  # (c, n, steps)
        return 2 * torch.einsum("dcn,cnt->dct", weight, powers).real

    def forward(self, u: Tensor) -> Tensor:
        """Filter in float32 whatever the autocast, because FFTs know no bfloat16."""
        with torch.autocast(u.device.type, enabled=False):
            u = u.float()
            t = u.shape[2]
            after, before = self.kernel(t)
            # A period of 2t has room for both directions: what came before at lags 0.., what follows at lags -1, -2, ...
            period = torch.cat([after, before.flip(1)], dim=1)  # (c, 2t)
            spectrum = torch.fft.rfft(u, n=2 * t) * torch.fft.rfft(period)  # (b, c, t + 1)
            y = torch.fft.irfft(spectrum, n=2 * t)[:, :, :t]
            return y + self.skip[:, None] * u


class Block(nn.Module):
    """Normalisation, S4D, GELU, dropout and a gated projection beside a shortcut: (b, c, t) -> (b, c, t)."""

    def __init__(self, config: S4DConfig) -> None:
        super().__init__()
        c = config.channels
        self.norm = nn.BatchNorm1d(c)  # of batches, not of records: a record's amplitude survives
        self.system = S4D(c, config.state, config.step_range)
        self.dropout = nn.Dropout1d(config.dropout)
        self.mix = nn.Conv1d(c, 2 * c, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, t) -> (b, c, t)."""
        y = self.dropout(functional.gelu(self.system(self.norm(x))))
        mixed: Tensor = x + functional.glu(self.mix(y), dim=1)
        return mixed


class S4DNet(Classifier):
    """Strided convolution, state space blocks, mean over time.

    Parameters
    ----------
    config : S4DConfig
        What the network is made of.
    """

    def __init__(self, config: S4DConfig | None = None) -> None:
        config = config or S4DConfig()
        c = config.channels
        super().__init__(config, c)
        self.stem = convolution(config.leads, c, config.stem_kernel, stride=config.stem_stride)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.layers)))
        self.norm = nn.BatchNorm1d(c)

    def features(self, x_mV: Tensor) -> Tensor:
        """Return the pooled features: (b, leads, T) in filtered mV -> (b, c)."""
        x = self.stem(x_mV / self.config.scale_mV)  # (b, leads, T) -> (b, c, t)
        pooled: Tensor = self.norm(self.blocks(x)).mean(dim=2)  # (b, c, t) -> (b, c)
        return pooled
