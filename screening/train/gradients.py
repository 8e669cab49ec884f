"""Attributions by gradients, which the audit of explanations compares with; captum computes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from screening.attribution.operators import matrices
from screening.attribution.territories import LEADS_OF
from screening.contract import LEADS, TERRITORIES
from screening.errors import UserError
from screening.model.classifier import Classifier

INTEGRATED, SIMPLE = "integrated gradients", "gradient x input"
_STEPS, _GRADIENTS_AT_ONCE = 32, 2


@dataclass(frozen=True)
class Gradients:
    """Attributions of records by gradients, float64 (n, 4) each."""

    by_leads: np.ndarray  # summed over the leads that look at a wall
    by_territory: np.ndarray  # summed over what the territory's exchange changes, so that they add up to the whole


def need_captum() -> None:
    """Raise UserError where captum is not installed."""
    try:
        import captum.attr  # noqa: F401
    except ImportError:
        raise UserError(
            "the audit compares with captum's integrated gradients, and captum is not installed; "
            "install it: pip install captum."
        ) from None


def gradients_of(
    network: Classifier, signals_mV: np.ndarray, places: Sequence[int] | np.ndarray, *, device: str = "cpu"
) -> Mapping[str, Gradients]:
    """Return captum's integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365; from zero) and gradient x input.

    Raises
    ------
    UserError
        captum is not installed.
    """
    need_captum()
    import torch
    from captum.attr import InputXGradient, IntegratedGradients

    matrix = torch.from_numpy(matrices("territory").copy()).to(device)

    def whole(parts: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network(parts.sum(dim=1))  # (b, 4, 12, samples) -> (b,)
        return logits

    look = torch.zeros(len(LEADS), len(TERRITORIES), device=device)
    for at, wall in enumerate(TERRITORIES):
        for lead in LEADS_OF[wall]:
            look[LEADS.index(lead), at] = 1
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {INTEGRATED: [], SIMPLE: []}
    for start in range(0, len(places), _GRADIENTS_AT_ONCE):
        x = torch.from_numpy(signals_mV[list(places[start : start + _GRADIENTS_AT_ONCE])]).to(device)
        parts = torch.einsum("gij,bjt->bgit", matrix, x)
        for name, attributed in (
            (INTEGRATED, IntegratedGradients(whole).attribute(parts, n_steps=_STEPS)),
            (SIMPLE, InputXGradient(whole).attribute(parts.clone().requires_grad_())),
        ):
            of_part = attributed.detach().double().sum(dim=3)  # (b, 4, 12)
            by_leads = of_part.sum(dim=1) @ look.double()
            found[name].append((by_leads.cpu().numpy(), of_part.sum(dim=2).cpu().numpy()))
    return {
        name: Gradients(*(np.concatenate(of) for of in zip(*rows, strict=True)))
        if rows
        else Gradients(np.empty((0, 4)), np.empty((0, 4)))
        for name, rows in found.items()
    }
