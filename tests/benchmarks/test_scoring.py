"""What the roofline counts."""

from __future__ import annotations

import torch
from torch import nn

from tests.benchmarks.bench_scoring import Traffic


def test_operators_move_what_they_read_and_write_and_views_nothing() -> None:
    layer, x = nn.Linear(10, 5), torch.zeros(2, 10)
    with torch.no_grad(), Traffic() as traffic:
        layer(x)  # bias 5, x 20, weights 50 as a transposed view, result 10
    assert traffic.bytes == 4 * (5 + 20 + 50 + 10)
    with torch.no_grad(), Traffic() as traffic:
        x.add_(1.0)  # in place: read and written
    assert traffic.bytes == 4 * 2 * 20
