from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from screening.attribution.operators import matrices
from screening.attribution.permutation import Importance, importances
from screening.attribution.swaps import SwapScorer
from screening.contract import OPERATORS

RNG = np.random.default_rng(0)
SAMPLES = 32
RECORDS = RNG.normal(size=(3, 12, SAMPLES)).astype(np.float32)
DONORS = RNG.normal(size=(40, 12, SAMPLES)).astype(np.float32)
WEIGHTS = RNG.normal(size=(12, SAMPLES)).astype(np.float32)


class Linear(nn.Module):
    """A network of which every importance is known in closed form; counts what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shown += len(x)
        return (x * torch.from_numpy(WEIGHTS)).sum(dim=(1, 2))


def explained(
    operator: str, orders: list[np.ndarray], *, most: int = 40, target_se: float = 0.0, donors: np.ndarray = DONORS
) -> list[Importance | None]:
    scorer = SwapScorer(Linear(), donors, device="cpu", batch_size=8)
    records = scorer.take(RECORDS)
    logits = scorer.network(records.signals).numpy()
    found = importances(scorer, [operator], records, logits, orders, most=most, target_se=target_se)
    return [of_record.get(operator) for of_record in found]


@pytest.mark.parametrize("operator", [operator for operator in OPERATORS if operator != "wave"])
def test_importance_of_a_linear_network_is_its_closed_form(operator: str) -> None:
    orders = [np.array([3, 1, 4]), np.arange(30), np.array([7, 2])]
    for record, order, found in zip(RECORDS, orders, explained(operator, orders), strict=True):
        assert found is not None
        # logit(x) - logit(x + A (d - x)) = w . A (x - d): above zero where the record has more of what the network likes.
        falls = np.array([[(WEIGHTS * (a @ (record - DONORS[d]))).sum() for a in matrices(operator)] for d in order])
        np.testing.assert_allclose(found.mean, falls.mean(axis=0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.se, falls.std(axis=0, ddof=1) / np.sqrt(len(order)), rtol=1e-4, atol=1e-4)
        assert found.donors == len(order)


@pytest.mark.parametrize("operator", ["lead", "plane"])
def test_importances_of_parts_that_fill_the_ecg_add_up_in_a_linear_network(operator: str) -> None:
    for record, found in zip(RECORDS, explained(operator, [np.arange(5)] * 3), strict=True):
        assert found is not None
        whole = (WEIGHTS * (record - DONORS[:5].mean(axis=0))).sum()
        assert found.mean.sum() == pytest.approx(whole, rel=1e-3)


def test_fewer_than_two_donors_explain_nothing() -> None:
    found = explained("lead", [np.array([5]), np.empty(0, np.int64), np.array([5, 6])])
    assert found[:2] == [None, None]
    assert found[2] is not None


def test_donors_are_added_at_checkpoints_until_the_error_is_small() -> None:
    every = np.arange(40)
    by_target = {}
    for target in (0.0, 3.0, 4.5, 1e9):
        found = explained("territory", [every] * 3, target_se=target)
        taken = [importance.donors for importance in found if importance is not None]
        assert set(taken) <= {4, 8, 16, 32, 40}
        for importance in found:
            assert importance is not None
            assert importance.donors == 40 or importance.se.max() <= target
        by_target[target] = sum(taken)
    assert by_target[0.0] == 120
    assert by_target[1e9] == 12
    assert 12 < by_target[4.5] < by_target[3.0] < 120


def test_the_first_checkpoint_that_is_good_enough_ends_it() -> None:
    target = 4.5
    for i, importance in enumerate(explained("territory", [np.arange(40)] * 3, target_se=target)):
        assert importance is not None
        for fewer in (k for k in (4, 8, 16, 32) if k < importance.donors):
            before = explained("territory", [np.arange(fewer)] * 3)[i]
            assert before is not None
            assert before.se.max() > target


def test_donors_that_agree_cost_little() -> None:
    alike = np.repeat(DONORS[:1], 40, axis=0)
    found = explained("lead", [np.arange(40)] * 3, target_se=0.01, donors=alike)
    assert [importance.donors for importance in found if importance is not None] == [4, 4, 4]


def test_a_record_takes_no_notice_of_the_others() -> None:
    orders = [np.arange(40), np.arange(40)[::-1].copy(), np.arange(0, 40, 2)]
    for i, together in enumerate(explained("independent", orders, target_se=4.5)):
        none = np.empty(0, np.int64)
        alone = explained("independent", [order if j == i else none for j, order in enumerate(orders)], target_se=4.5)[
            i
        ]
        assert together is not None
        assert alone is not None
        np.testing.assert_array_equal(together.mean, alone.mean)
        np.testing.assert_array_equal(together.se, alone.se)
        assert together.donors == alone.donors


def test_operators_stop_one_by_one_and_take_no_notice_of_each_other() -> None:
    scorer = SwapScorer(Linear(), DONORS, device="cpu", batch_size=8)
    records = scorer.take(RECORDS)
    logits, orders = scorer.network(records.signals).numpy(), [np.arange(40)] * 3
    together = importances(scorer, ["plane", "lead"], records, logits, orders, most=40, target_se=2.5)
    for operator in ("plane", "lead"):
        for of_record, alone in zip(together, explained(operator, orders, target_se=2.5), strict=True):
            assert alone is not None
            np.testing.assert_array_equal(of_record[operator].mean, alone.mean)
            assert of_record[operator].donors == alone.donors
    assert any(of_record["plane"].donors != of_record["lead"].donors for of_record in together)


def test_no_more_than_the_most_are_taken_and_shown() -> None:
    scorer = SwapScorer(network := Linear(), DONORS, device="cpu", batch_size=8)
    records = scorer.take(RECORDS)
    orders = [np.arange(40)] + [np.empty(0, np.int64)] * 2
    (found, *others) = importances(scorer, ["plane"], records, [0.0] * 3, orders, most=6, target_se=0.0)
    assert others == [{}, {}]
    assert found["plane"].donors == 6
    assert network.shown == 16 + 8  # 4 and then 2 donors, 3 exchanges each, in batches of 8
