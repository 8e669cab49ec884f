"""Attributions by gradients: they add up, and of a linear network they are what arithmetic says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from screening.contract import LEADS, TERRITORIES
from screening.model.msaic import MSAICConfig, MSAICNet
from screening.train.fit import predict
from screening.train.gradients import INTEGRATED, SIMPLE, gradients_of
from tests.bundles import TINY, tiny_network


def _ecgs(n: int) -> np.ndarray:
    x = np.random.default_rng(0).normal(0, 0.3, (n, 12, 200)).astype(np.float32)
    x[:, 2], x[:, 3] = x[:, 1] - x[:, 0], -(x[:, 0] + x[:, 1]) / 2
    x[:, 4], x[:, 5] = x[:, 0] - x[:, 1] / 2, x[:, 1] - x[:, 0] / 2
    return x


def test_integrated_gradients_by_territory_add_up_to_the_logit() -> None:
    """Completeness (Sundararajan et al. 2017, proposition 1): the sum is the logit less that of the baseline."""
    network, x = tiny_network(), _ecgs(5)
    found = gradients_of(network, x, np.array([0, 3, 4]))[INTEGRATED]
    gained = predict(network, x[[0, 3, 4]]) - predict(network, np.zeros_like(x[:1]))
    assert found.by_territory.sum(axis=1) == pytest.approx(gained, abs=0.01 * float(np.abs(gained).max()))
    assert found.by_leads.shape == (3, 4)


class _Linear(MSAICNet):
    """Reads the mean of II and twice that of V5."""

    def __init__(self) -> None:
        super().__init__(MSAICConfig.from_json(TINY.to_json()))

    def forward(self, x_mV: torch.Tensor) -> torch.Tensor:
        mean = x_mV.mean(dim=2)
        return mean[:, LEADS.index("II")] + 2 * mean[:, LEADS.index("V5")]


def test_a_linear_network_is_attributed_exactly() -> None:
    x = _ecgs(3)
    mean = x.mean(axis=2)
    one, two, foot, v5 = (mean[:, LEADS.index(lead)] for lead in ("I", "II", "aVF", "V5"))
    for name in (INTEGRATED, SIMPLE):
        found = gradients_of(_Linear().eval(), x, np.arange(3))[name]
        lateral, inferior = TERRITORIES.index("lateral"), TERRITORIES.index("inferior")
        assert found.by_leads[:, inferior] == pytest.approx(two, abs=1e-5)
        assert found.by_leads[:, lateral] == pytest.approx(2 * v5, abs=1e-5)
        # Half of I stands in II = aVF + I / 2, and I belongs to lateral.
        assert found.by_territory[:, inferior] == pytest.approx(foot, abs=1e-5)
        assert found.by_territory[:, lateral] == pytest.approx(2 * v5 + one / 2, abs=1e-5)
        assert found.by_territory[:, :2] == pytest.approx(0)


def test_nothing_to_explain_gives_nothing() -> None:
    found = gradients_of(tiny_network(), _ecgs(1), np.array([], dtype=int))
    assert found[INTEGRATED].by_leads.shape == (0, 4)
