"""MSAIC-Net as it is computed where nothing is learnt: the same logits to float tolerance, in about half the time.

Two things differ from ``msaic.py``. Batch normalisation is folded into the convolution before it (Jacob et al., CVPR 2018,
arXiv 1712.05877, section 3.2). And what belongs to one moment stays together in memory, all leads and channels of it
(``channels_last``): oneDNN and cuDNN convolve few channels fastest so, with leads as groups, and the projection multiplies what
each branch gives as it lies, with nothing concatenated or transposed.

Shapes in the comments are those of ``msaic.py``; n is 1 where leads are mixed by the stem.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from screening.contract import INDEPENDENT_ROWS
from screening.model.classifier import Classifier
from screening.model.msaic import Block, EfficientChannelAttention, MSAICConfig, MSAICNet


class _Folded(NamedTuple):
    """A convolution with the normalisation that follows it."""

    weight: Tensor
    bias: Tensor


def _fold(conv: nn.Module, norm: nn.Module) -> _Folded:
    weight, gain, shift = conv.get_parameter("weight"), norm.get_parameter("weight"), norm.get_parameter("bias")
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    assert isinstance(norm, nn.BatchNorm1d)
    scale = gain.double() / torch.sqrt(variance.double() + norm.eps)
    folded = weight.double() * scale[:, None, None]
    return _Folded(folded.to(weight.dtype), (shift.double() - mean.double() * scale).to(weight.dtype))


class FoldedBlock(nn.Module):
    """A `Block` in evaluation, on one lead or on all of ``leads`` at once, which share its weights."""

    def __init__(self, block: Block, leads: int) -> None:
        super().__init__()
        weight, bias = _fold(block.conv, block.norm)
        self.weight = _fixed(weight.unsqueeze(2).repeat(leads, 1, 1, 1), torch.channels_last)  # (n * c, c, 1, k)
        self.bias = _fixed(bias.repeat(leads))
        self.padding, self.dilation = int(block.conv.padding[0]), block.conv.dilation[0]
        self.across_channels: nn.Parameter | None = None  # (c, c): a convolution so short is faster as a product
        if isinstance(block.attention, EfficientChannelAttention):
            with torch.no_grad():
                of_each = block.attention.across_channels(
                    torch.eye(len(bias), dtype=bias.dtype, device=bias.device)[:, None]
                )
            self.across_channels = _fixed(of_each.squeeze(1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c or n * c, 1, t) -> the same, both in ``channels_last``."""
        width = x.shape[1]
        leads = width // self.weight.shape[1]
        padding, dilation = (0, self.padding), (1, self.dilation)
        y = functional.conv2d(x, self.weight[:width], self.bias[:width], 1, padding, dilation, groups=leads).relu_()
        if self.across_channels is None:
            return y
        means = y.mean(dim=(2, 3)).reshape(len(y) * leads, -1)  # (m, c)
        return y.mul_((means @ self.across_channels).sigmoid_().reshape(len(y), width, 1, 1))


class FoldedMSAIC(Classifier):
    """An `MSAICNet` that only scores. It shares weights with none: changing either leaves the other.

    Parameters
    ----------
    network
        In evaluation mode or not; dropout is left out, and normalisation is that of the running statistics.
    """

    config: MSAICConfig

    def __init__(self, network: MSAICNet) -> None:
        config = network.config
        super().__init__(config, config.projection_channels * (2 if config.pooling == "mean_max" else 1))
        self.leads = len(INDEPENDENT_ROWS) if config.leads_apart else 1
        stem = _fold(network.stem[0], network.stem[1])
        self.stem_weight = _fixed(stem.weight.flatten(1).T / config.scale_mV)  # (traces mixed * k, c)
        self.stem_bias = _fixed(stem.bias)
        branches = [
            [FoldedBlock(block, self.leads) for block in branch.children() if isinstance(block, Block)]
            for branch in network.branches
        ]
        self.branches = nn.ModuleList(nn.ModuleList(blocks) for blocks in branches)
        weight, bias = _fold(network.projection[0], network.projection[1])
        by_lead = weight.reshape(len(weight), self.leads, len(branches), -1)  # (p, n, branches, c)
        self.projection_weight = _fixed(by_lead.permute(2, 1, 3, 0))  # (branches, n, c, p)
        self.projection_bias = _fixed(bias)
        self.to(bias.device, bias.dtype)
        self.classifier.load_state_dict(network.classifier.state_dict())
        self.embedding.load_state_dict(network.embedding.state_dict())
        self.requires_grad_(requires_grad=False)
        self.eval()

    def features(self, x_mV: Tensor) -> Tensor:
        """Return the pooled features: (b, leads, T) in filtered mV -> (b, width)."""
        stem = self._stem(x_mV[:, INDEPENDENT_ROWS, None] if self.leads > 1 else x_mV[:, None])
        b, _, _, t = stem.shape
        projected = self.projection_bias.repeat(b * t, 1)
        for branch, weight in zip(self._branches(stem), self.projection_weight, strict=True):
            projected.addmm_(branch.reshape(b * t, -1), weight.flatten(0, 1))  # (b * t, n * c) @ (n * c, p)
        return self._pooled(projected.relu_().reshape(b, t, -1))

    def lead_contributions(self, traces_mV: Tensor, place: Tensor) -> Tensor:
        """Return what leads give to the projection, as `MSAICNet.lead_contributions` does."""
        maps = torch.cat(list(self._branches(self._stem(traces_mV[:, None, None]))), dim=2)  # (m, t, branches * c)
        weight = self.projection_weight.transpose(0, 1).flatten(1, 2)  # (n, branches * c, p)
        contributions: Tensor = maps @ weight[place]
        return contributions

    def merged_logits(self, contributions: Tensor) -> Tensor:
        """Return the logits (b,) of summed contributions (b, t, p)."""
        logits: Tensor = self.classifier(self._pooled((contributions + self.projection_bias).relu_())).squeeze(1)
        return logits

    def _stem(self, x_mV: Tensor) -> Tensor:
        """Map (b, n, traces mixed, T) -> (b, n * c, 1, t) in ``channels_last``."""
        half = self.config.stem_kernel // 2
        windows = functional.pad(x_mV, (half, half)).unfold(3, self.config.stem_kernel, self.config.stem_stride)
        b, n, _, t, _ = windows.shape
        by_moment = windows.permute(0, 3, 1, 2, 4).reshape(
            b * t * n, -1
        )  # (b, n, traces, t, k) -> (b * t * n, traces * k)
        x = torch.addmm(self.stem_bias, by_moment, self.stem_weight).relu_()
        return x.reshape(b, 1, t, -1).permute(0, 3, 1, 2)

    def _branches(self, stem: Tensor) -> Iterator[Tensor]:
        """Yield what each branch gives: (b, c or n * c, 1, t) -> (b, t, c or n * c)."""
        for blocks in self.branches:
            x = stem
            for block in blocks.children():
                x = block(x)
            yield x.squeeze(2).transpose(1, 2)

    def _pooled(self, x: Tensor) -> Tensor:
        pooled = x.mean(dim=1)  # (b, t, p) -> (b, p)
        return pooled if self.config.pooling == "mean" else torch.cat([pooled, x.amax(dim=1)], dim=1)


def _fixed(values: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> nn.Parameter:
    return nn.Parameter(values.detach().clone(memory_format=memory_format), requires_grad=False)
