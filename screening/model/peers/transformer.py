"""A transformer encoder on patches of the ECG.

Encoder and sinusoidal positions of Vaswani et al. 2017 (arXiv 1706.03762), normalised before each part (Xiong et al. 2020,
arXiv 2002.04745), on linear patches as in Dosovitskiy et al. 2021 (arXiv 2010.11929). Layer normalisation takes the size
out of every step's features inside the branches; the size is not lost, because positions and biases stand beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from screening.model.classifier import Classifier, NetworkConfig


@dataclass(frozen=True)
class TransformerConfig(NetworkConfig):
    """What the network is made of."""

    kind: ClassVar[str] = "transformer"

    patch: int = 10  # samples a step: 0.1 s at 100 Hz; a shorter rest at the end is dropped
    channels: int = 128
    heads: int = 8
    feed_forward: int = 256
    layers: int = 4
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels % 2 or self.channels % self.heads:
            raise ValueError(f"channels must be even and a multiple of heads, not {self.channels} of {self.heads}")

    def build(self) -> TransformerNet:
        """Return a network with random weights."""
        return TransformerNet(self)


def positions(steps: int, channels: int) -> Tensor:
    """Return sines and cosines of the step at wavelengths from 2 pi to 20,000 pi: float (steps, channels)."""
    rate = torch.exp(torch.arange(0, channels, 2) * (-math.log(10_000) / channels))  # (channels / 2,)
    angle = torch.arange(steps)[:, None] * rate  # (steps, channels / 2)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


class TransformerNet(Classifier):
    """Linear patches, pre-norm encoder layers, mean over time.

    Parameters
    ----------
    config : TransformerConfig
        What the network is made of.
    """

    def __init__(self, config: TransformerConfig | None = None) -> None:
        config = config or TransformerConfig()
        c = config.channels
        super().__init__(config, c)
        self.patches = nn.Conv1d(config.leads, c, config.patch, stride=config.patch)
        self.dropout = nn.Dropout(config.dropout)
        # Not nn.TransformerEncoder, whose layers start as copies of one.
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    c,
                    config.heads,
                    config.feed_forward,
                    config.dropout,
                    activation="gelu",
                    batch_first=True,
                    norm_first=True,
                )
                for _ in range(config.layers)
            )
        )
        self.norm = nn.LayerNorm(c)

    def features(self, x_mV: Tensor) -> Tensor:
        """Return the pooled features: (b, leads, T) in filtered mV -> (b, c)."""
        x = self.patches(x_mV / self.config.scale_mV).transpose(1, 2)  # (b, leads, T) -> (b, t, c)
        x = self.dropout(x + positions(x.shape[1], x.shape[2]).to(x.device))  # float32 again, if it was less
        pooled: Tensor = self.norm(self.layers(x)).mean(dim=1)  # (b, t, c) -> (b, c)
        return pooled
