from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from screening.model.losses import focal_bce, fscl, supcon, supervised_minority, supervised_prototypes


def batch(n: int = 10, d: int = 5, *, positives: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    target = torch.tensor([1] * positives + [0] * (n - positives))
    return torch.nn.functional.normalize(z, dim=1), target


def slow(
    z: list[list[float]],
    positives: list[list[int]],
    tau: float,
    gamma: float,
    more: tuple[list[float], ...] = (),
) -> float:
    """Evaluate the published sum term by term; index len(z) + k in ``positives`` is ``more[k]``."""
    everyone = [*z, *more]
    total = 0.0
    for i, anchor in enumerate(z):
        if not positives[i]:
            continue
        e = {
            a: math.exp(sum(p * q for p, q in zip(anchor, other, strict=True)) / tau)
            for a, other in enumerate(everyone)
            if a != i
        }
        own = 0.0
        for p in positives[i]:
            eta = e[p] / sum(e.values())
            own += (1 - eta) ** gamma * math.log(eta)
        total -= own / len(positives[i])
    return total / len(z)


def of_class(target: Tensor) -> list[list[int]]:
    t = target.tolist()
    return [[j for j in range(len(t)) if j != i and t[j] == t[i]] for i in range(len(t))]


@pytest.mark.parametrize("tau", [0.07, 0.5])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_fscl_is_the_published_sum(tau: float, gamma: float) -> None:
    z, target = batch()
    expected = slow(z.tolist(), of_class(target), tau, gamma)
    assert float(fscl(z, target, temperature=tau, gamma_c=gamma)) == pytest.approx(expected, rel=1e-5)


def test_supcon_is_fscl_without_focus() -> None:
    z, target = batch()
    expected = slow(z.tolist(), of_class(target), 0.1, 0.0)
    assert float(supcon(z, target, temperature=0.1)) == pytest.approx(expected, rel=1e-5)
    assert float(fscl(z, target, temperature=0.1, gamma_c=0.0)) == float(supcon(z, target, temperature=0.1))


def test_supcon_closed_forms() -> None:
    # All vectors equal: every eta is 1 / (b - 1).
    same = torch.tensor([[1.0, 0.0]]).repeat(6, 1)
    assert float(supcon(same, torch.tensor([0, 0, 0, 1, 1, 1]))) == pytest.approx(math.log(5), rel=1e-6)
    # Two tight, opposite classes of two: eta = 1 / (1 + 2 exp(-2 / tau)).
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    eta = 1 / (1 + 2 * math.exp(-2 / 0.5))
    target = torch.tensor([1, 1, 0, 0])
    assert float(supcon(z, target, temperature=0.5)) == pytest.approx(-math.log(eta), rel=1e-5)
    expected = -((1 - eta) ** 2) * math.log(eta)
    assert float(fscl(z, target, temperature=0.5, gamma_c=2.0)) == pytest.approx(expected, rel=1e-4)


def test_anchors_without_positives_add_nothing() -> None:
    z, _ = batch(6)
    alone = torch.tensor([0, 0, 0, 0, 0, 1])
    assert float(fscl(z, alone)) == pytest.approx(slow(z.tolist(), of_class(alone), 0.1, 2.0), rel=1e-5)
    assert float(fscl(z, torch.arange(6))) == 0.0
    z = z.requires_grad_()
    fscl(z, torch.arange(6)).backward()
    assert z.grad is not None
    assert (z.grad == 0).all()


def test_the_larger_class_does_not_dominate() -> None:
    """Each anchor counts once, however many positives it has: |P(i)| divides its own terms."""
    z, target = batch(30, positives=3)
    per_anchor = [
        slow(z.tolist(), [p if k == i else [] for k, p in enumerate(of_class(target))], 0.1, 0) for i in range(30)
    ]
    assert float(supcon(z, target)) == pytest.approx(sum(per_anchor), rel=1e-5)


def test_supervised_minority_lets_only_the_minority_attract_itself() -> None:
    z, _ = batch(10)
    source, target = torch.arange(5).repeat(2), torch.tensor([1, 1, 0, 0, 0] * 2)
    t, s = target.tolist(), source.tolist()
    positives = [[j for j in range(10) if j != i and (t[j] == 1 if t[i] == 1 else s[j] == s[i])] for i in range(10)]
    assert [len(p) for p in positives] == [3, 3, 1, 1, 1] * 2
    expected = slow(z.tolist(), positives, 0.1, 0.0)
    assert float(supervised_minority(z, target, source)) == pytest.approx(expected, rel=1e-5)
    swapped = supervised_minority(z, 1 - target, source, minority=0)
    assert float(swapped) == pytest.approx(expected, rel=1e-5)


def test_supervised_prototypes_are_two_fixed_ends() -> None:
    z, _ = batch(10)
    v = torch.nn.functional.normalize(torch.arange(1.0, 6.0, dtype=torch.float64), dim=0)
    source, target = torch.arange(5).repeat(2), torch.tensor([1, 1, 0, 0, 0] * 2)
    positives = [[(i + 5) % 10, 10 if target[i] == 1 else 11] for i in range(10)]
    expected = slow(z.tolist(), positives, 0.1, 0.0, (v.tolist(), (-v).tolist()))
    assert float(supervised_prototypes(z, target, source, v)) == pytest.approx(expected, rel=1e-5)


def test_descent_on_prototypes_parts_the_classes_along_the_axis() -> None:
    z = torch.nn.Parameter(batch(20, 4, seed=3)[0].float())
    target, source = torch.tensor([1] * 5 + [0] * 15), torch.arange(20)
    v = torch.tensor([1.0, 0.0, 0.0, 0.0])
    optimiser = torch.optim.Adam([z], lr=0.05)
    for _ in range(100):
        optimiser.zero_grad()
        supervised_prototypes(torch.nn.functional.normalize(z, dim=1), target, source, v, temperature=0.3).backward()
        optimiser.step()
    along = torch.nn.functional.normalize(z, dim=1) @ v
    assert along[target == 1].min() > along[target == 0].max()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_contrastive_gradients_stay_finite_at_the_extremes(gamma: float, scale: float) -> None:
    """Identical positives (eta = 1 to rounding) and a very small temperature."""
    z = torch.tensor([[1.0, 0.0], [1.0, scale * 1e-3], [-1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss = fscl(torch.nn.functional.normalize(z, dim=1), torch.tensor([1, 1, 0, 0]), temperature=0.01, gamma_c=gamma)
    loss.backward()
    assert loss.isfinite()
    assert loss >= 0
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_fscl_gradient_is_that_of_its_value() -> None:
    z, target = batch(6, 3)
    assert torch.autograd.gradcheck(
        lambda x: fscl(x, target, temperature=0.5, gamma_c=2.0), (z.clone().requires_grad_(),), atol=1e-3, eps=1e-3
    )


def test_focal_bce_without_focus_is_cross_entropy() -> None:
    logit, target = torch.linspace(-8, 8, 40), torch.arange(40) % 2
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logit, target.float())
    torch.testing.assert_close(focal_bce(logit, target, gamma=0.0), expected)
    torch.testing.assert_close(focal_bce(logit, target, gamma=0.0, alpha=0.5), expected / 2)


def test_focal_bce_is_the_published_formula() -> None:
    logits, targets, alpha, gamma = [-2.0, 0.3, 1.5], [1, 0, 1], 0.25, 2.0
    expected = 0.0
    for x, y in zip(logits, targets, strict=True):
        p = 1 / (1 + math.exp(-x))
        p_t, a_t = (p, alpha) if y else (1 - p, 1 - alpha)
        expected -= a_t * (1 - p_t) ** gamma * math.log(p_t) / 3
    assert float(focal_bce(torch.tensor(logits), torch.tensor(targets), alpha=alpha, gamma=gamma)) == pytest.approx(
        expected, rel=1e-5
    )


def test_focal_bce_stays_finite_far_out() -> None:
    logit = torch.tensor([-200.0, 200.0, 200.0, -200.0], requires_grad=True)
    loss = focal_bce(logit, torch.tensor([1, 0, 1, 0]))
    loss.backward()
    assert loss.item() == pytest.approx(100.0)
    assert logit.grad is not None
    assert logit.grad.isfinite().all()
    assert logit.grad[2:].abs().max() == 0
