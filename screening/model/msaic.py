"""MSAIC-Net: a multi-scale, attention-integrated, contrastively trained network for 12-lead ECGs.

The paper (arXiv 2606.06718) gives the parts: parallel branches of dilated convolutions, channel attention inside the
blocks, concatenation, projection convolution, global average pooling, a classifier, and a projection head for the
contrastive loss. Widths, dilations and the strided stem are ours. Channel attention is that of ECA-Net (Wang et al.,
CVPR 2020, arXiv 1910.03151). The losses are in ``losses.py``.

Ours too is that leads stay apart (``leads_apart``) until the projection convolution: the same stem and branches read each
of the eight independent leads by itself. The filters then learn from eight times as many traces, the network cannot be shown
limb leads that contradict each other, and what a lead gives to the projection is a summand, which permutation of leads
exchanges without computing the branches again.

Shapes in the comments: b records, T samples, t = T / stem_stride, c channels, n leads read, m = b n traces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from screening.contract import INDEPENDENT_ROWS
from screening.model.classifier import Classifier, NetworkConfig

if TYPE_CHECKING:
    from screening.model.folded import FoldedMSAIC

Pooling = Literal["mean", "mean_max"]


@dataclass(frozen=True)
class MSAICConfig(NetworkConfig):
    """What the network is made of."""

    kind: ClassVar[str] = "msaic"

    stem_kernel: int = 7  # at 100 Hz: 70 ms
    stem_stride: int = 4  # 100 Hz -> 25 Hz; 50 Hz cost twice the work and ranked no better (PTB-XL, fold 9)
    leads_apart: bool = (
        True  # each independent lead by itself, all with the same weights; else all leads mixed by the stem
    )
    channels: int = 16  # of the stem and of every block, a lead where leads stay apart
    dilations: tuple[int, ...] = (1, 2, 4, 8)  # one branch each
    blocks: int = 3  # a branch
    kernel: int = 5  # a branch at 25 Hz sees 0.5, 1, 2 and 3.9 s: part of a beat to several
    attention_kernel: int | None = 3  # channels that ECA looks at together; None: no attention
    projection_channels: int = 64
    # Ours: the maximum over time beside the mean, which a wave of each beat hardly moves; as the ResNet of Wang et al. has
    # it in the benchmark of Strodthoff et al. (arXiv 2004.13701). What it gives stands in the study's tables.
    pooling: Pooling = "mean_max"
    dropout: float = 0.1  # inside the blocks

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be one of {', '.join(get_args(Pooling))}, not {self.pooling!r}")
        if any(k is not None and k % 2 == 0 for k in (self.stem_kernel, self.kernel, self.attention_kernel)):
            raise ValueError("kernels must be odd, so that padding keeps the length")

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Return the configuration that ``to_json`` wrote; an unknown key is a TypeError."""
        # All there was before they could be chosen.
        return super().from_json({"pooling": "mean", "leads_apart": False, **value})

    def build(self) -> MSAICNet:
        """Return a network with random weights."""
        return MSAICNet(self)

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
        k_across = config.attention_kernel
        self.attention = nn.Identity() if k_across is None else EfficientChannelAttention(k_across)
        # Whole channels: neighbouring samples of an ECG are so alike that dropping single ones drops nothing.
        self.dropout = nn.Dropout1d(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, t) -> (b, c, t)."""
        y = functional.relu(self.norm(self.conv(x)))
        kept: Tensor = self.dropout(self.attention(y))
        return kept


class MSAICNet(Classifier):
    """Filtered 12-lead ECGs in, one logit of infarction each out.

    Parameters
    ----------
    config : MSAICConfig
        What the network is made of; it belongs in the bundle beside the weights.
    """

    config: MSAICConfig

    def __init__(self, config: MSAICConfig | None = None) -> None:
        config = config or MSAICConfig()
        super().__init__(config, config.projection_channels * (2 if config.pooling == "mean_max" else 1))
        c, k, p = config.channels, config.stem_kernel, config.projection_channels
        self.stem = nn.Sequential(
            nn.Conv1d(
                1 if config.leads_apart else config.leads, c, k, stride=config.stem_stride, padding=k // 2, bias=False
            ),
            nn.BatchNorm1d(c),
            nn.ReLU(),
        )
        self.branches = nn.ModuleList(
            nn.Sequential(*(Block(config, dilation) for _ in range(config.blocks))) for dilation in config.dilations
        )
        maps = c * len(config.dilations) * (len(INDEPENDENT_ROWS) if config.leads_apart else 1)
        self.projection = nn.Sequential(nn.Conv1d(maps, p, 1, bias=False), nn.BatchNorm1d(p), nn.ReLU())

    def features(self, x_mV: Tensor) -> Tensor:
        """Return the pooled features: (b, leads, T) in filtered mV -> (b, p), twice p with the maximum."""
        if self.config.leads_apart:
            traces = x_mV[:, INDEPENDENT_ROWS].flatten(0, 1)  # (b, leads, T) -> (m, T)
            maps = self._maps(traces.unsqueeze(1))  # -> (m, c * branches, t)
            maps = maps.reshape(len(x_mV), -1, maps.shape[2])  # -> (b, n * c * branches, t)
        else:
            maps = self._maps(x_mV)  # (b, leads, T) -> (b, c * branches, t)
        return self._pooled(self.projection(maps))  # -> (b, p, t) -> (b, p)

    def lead_contributions(self, traces_mV: Tensor, place: Tensor) -> Tensor:
        """Return what leads give to the projection; it adds up over the leads of a record to what `merged_logits` reads.

        Parameters
        ----------
        traces_mV : Tensor, float (m, T)
            Single leads.
        place : Tensor, int (m,)
            Which lead each is: its place in ``contract.INDEPENDENT_LEADS``.

        Returns
        -------
        Tensor, float (m, t, p)
        """
        weight: Tensor = self.projection.get_parameter("0.weight")  # (p, n * c * branches, 1)
        of_lead = weight.reshape(len(weight), len(INDEPENDENT_ROWS), -1).transpose(0, 1)  # (n, p, c * branches)
        contributions: Tensor = of_lead[place] @ self._maps(traces_mV.unsqueeze(1))
        return contributions.transpose(1, 2)

    def merged_logits(self, contributions: Tensor) -> Tensor:
        """Return the logits (b,) of summed contributions (b, t, p)."""
        merged = self.projection[1:](contributions.transpose(1, 2))
        logits: Tensor = self.classifier(self._pooled(merged)).squeeze(1)
        return logits

    def for_scoring(self) -> FoldedMSAIC:
        """Return the same function of an ECG in the form that is computed fastest, with weights of its own."""
        from screening.model.folded import FoldedMSAIC

        return FoldedMSAIC(self)

    def _maps(self, x_mV: Tensor) -> Tensor:
        x = self.stem(x_mV / self.config.scale_mV)
        return torch.cat([branch(x) for branch in self.branches], dim=1)

    def _pooled(self, x: Tensor) -> Tensor:
        pooled: Tensor = x.mean(dim=2)  # (b, p, t) -> (b, p)
        return pooled if self.config.pooling == "mean" else torch.cat([pooled, x.amax(dim=2)], dim=1)
