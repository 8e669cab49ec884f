"""What the peers are built from: convolutions that keep the length, and concatenated pooling.

Shapes in the comments of this package: b records, T samples, t steps after the strides, c channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    """Return a convolution, padded to keep the length, and batch normalisation: (b, inputs, t) -> (b, outputs, t').

    Raises
    ------
    ValueError
        For an even kernel, which no padding on both sides keeps in place.
    """
    if kernel % 2 == 0:
        raise ValueError(f"kernels must be odd, so that padding keeps the length; one has {kernel}")
    conv = nn.Conv1d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm1d(outputs))


def concat_pool(x: Tensor) -> Tensor:
    """Return mean and maximum over time beside each other: (b, c, t) -> (b, 2c).

    Concatenated pooling as in fastai and in Strodthoff et al. 2021 (arXiv 2004.13701).
    """
    return torch.cat([x.mean(dim=2), x.amax(dim=2)], dim=1)
