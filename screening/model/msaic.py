"""MSAIC-Net: a multi-scale, attention-integrated, contrastively trained network for 12-lead ECGs.

The paper (arXiv 2606.06718) gives the parts: parallel branches of dilated convolutions, channel attention inside the
blocks, concatenation, projection convolution, global average pooling, a classifier, and a projection head for the
contrastive loss. Widths, dilations and the strided stem are ours. Channel attention is that of ECA-Net (Wang et al.,
CVPR 2020, arXiv 1910.03151). The losses are in ``losses.py``.

Shapes in the comments: b records, T samples, t = T / stem_stride, c channels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class MSAICConfig:
    """What the network is made of. Everything is JSON: ``to_json`` and ``from_json`` are each other's inverse."""

    leads: int = 12
    scale_mV: float = 0.2  # root mean square of filtered ECGs; one number, so amplitudes between leads survive
    stem_kernel: int = 7  # at 100 Hz: 70 ms
    stem_stride: int = 4  # 100 Hz -> 25 Hz; 50 Hz cost twice the work and ranked no better (PTB-XL, fold 9)
    channels: int = 48  # of the stem and of every block
    dilations: tuple[int, ...] = (1, 2, 4, 8)  # one branch each
    blocks: int = 3  # a branch
    kernel: int = 5  # a branch at 25 Hz sees 0.5, 1, 2 and 3.9 s: part of a beat to several
    attention_kernel: int = 3  # channels that ECA looks at together
    projection_channels: int = 128
    embedding: int = 64  # dimensions of the contrastive space
    dropout: float = 0.1  # inside the blocks
    head_dropout: float = 0.3  # before the classifier

    def __post_init__(self) -> None:
        if any(k % 2 == 0 for k in (self.stem_kernel, self.kernel, self.attention_kernel)):
            raise ValueError("kernels must be odd, so that padding keeps the length")
        if not self.scale_mV > 0:
            raise ValueError(f"scale_mV must be positive, not {self.scale_mV}")

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as plain JSON values."""
        return {**asdict(self), "dilations": list(self.dilations)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> MSAICConfig:
        """Return the configuration that ``to_json`` wrote; an unknown key is a TypeError."""
        return cls(**{**value, "dilations": tuple(value["dilations"])}) if "dilations" in value else cls(**value)

    def receptive_field(self, dilation: int) -> int:
        """Return how many steps of the stem's output one step of a branch's output sees (without attention)."""
        return 1 + self.blocks * (self.kernel - 1) * dilation


class EfficientChannelAttention(nn.Module):
    """Weigh each channel by its own and its neighbours' mean over time (ECA-Net)."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.across_channels = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def weights(self, x: Tensor) -> Tensor:
        """Return the weight of each channel, between 0 and 1: (b, c, t) -> (b, c, 1)."""
        squeezed = x.mean(dim=2).unsqueeze(1)  # (b, c, t) -> (b, 1, c)
        return torch.sigmoid(self.across_channels(squeezed)).transpose(1, 2)  # (b, 1, c) -> (b, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Rescale the channels: (b, c, t) -> (b, c, t)."""
        weighed: Tensor = x * self.weights(x)
        return weighed


class Block(nn.Module):
    """Dilated convolution, batch normalisation, ReLU, channel attention, dropout; length and channels stay."""

    def __init__(self, config: MSAICConfig, dilation: int) -> None:
        super().__init__()
        c, k = config.channels, config.kernel
        self.conv = nn.Conv1d(c, c, k, padding=dilation * (k // 2), dilation=dilation, bias=False)
        self.norm = nn.BatchNorm1d(c)
        self.attention = EfficientChannelAttention(config.attention_kernel)
        # Whole channels: neighbouring samples of an ECG are so alike that dropping single ones drops nothing.
        self.dropout = nn.Dropout1d(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, t) -> (b, c, t)."""
        y = functional.relu(self.norm(self.conv(x)))
        kept: Tensor = self.dropout(self.attention(y))
        return kept


class MSAICNet(nn.Module):
    """Filtered 12-lead ECGs in, one logit of infarction each out.

    Parameters
    ----------
    config : MSAICConfig
        What the network is made of; it belongs in the bundle beside the weights.
    """

    def __init__(self, config: MSAICConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MSAICConfig()
        c, k, p = config.channels, config.stem_kernel, config.projection_channels
        self.stem = nn.Sequential(
            nn.Conv1d(config.leads, c, k, stride=config.stem_stride, padding=k // 2, bias=False),
            nn.BatchNorm1d(c),
            nn.ReLU(),
        )
        self.branches = nn.ModuleList(
            nn.Sequential(*(Block(config, dilation) for _ in range(config.blocks))) for dilation in config.dilations
        )
        self.projection = nn.Sequential(
            nn.Conv1d(c * len(config.dilations), p, 1, bias=False), nn.BatchNorm1d(p), nn.ReLU()
        )
        self.classifier = nn.Sequential(nn.Dropout(config.head_dropout), nn.Linear(p, 1))
        self.embedding = nn.Sequential(nn.Linear(p, p), nn.ReLU(), nn.Linear(p, config.embedding))

    def features(self, x_mV: Tensor) -> Tensor:
        """Return the pooled features: (b, leads, T) in filtered mV -> (b, p)."""
        x = self.stem(x_mV / self.config.scale_mV)  # (b, leads, T) -> (b, c, t)
        x = torch.cat([branch(x) for branch in self.branches], dim=1)  # (b, c, t) -> (b, c * branches, t)
        x = self.projection(x)  # (b, c * branches, t) -> (b, p, t)
        pooled: Tensor = x.mean(dim=2)  # (b, p, t) -> (b, p)
        return pooled

    def forward(self, x_mV: Tensor) -> Tensor:
        """Return the logit of infarction.

        Parameters
        ----------
        x_mV : Tensor, float (b, leads, T)
            ECGs at the bundle's rate, filtered as its preprocessing says, in millivolts.

        Returns
        -------
        Tensor, float (b,)
        """
        logit: Tensor = self.classifier(self.features(x_mV)).squeeze(1)  # (b, p) -> (b, 1) -> (b,)
        return logit

    def embed(self, x_mV: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logit (b,) and the contrastive embedding (b, d), whose rows have unit length."""
        pooled = self.features(x_mV)
        z = functional.normalize(self.embedding(pooled), dim=1)  # (b, p) -> (b, d)
        return self.classifier(pooled).squeeze(1), z
