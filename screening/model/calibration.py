"""From logits to probabilities and flags: Platt scaling, a threshold at a stated specificity, counts.

Class-aware batches and the focal loss move the network's logits away from log-odds, so a slope and an intercept are
fitted on records that training never saw, at their natural prevalence (Platt 1999). A probability is therefore always
one "at that prevalence", and the prevalence is kept beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, log_expit
from scipy.special import logit as log_odds

from screening.model.bundle import Counts


@dataclass(frozen=True)
class PlattCalibrator:
    """probability = 1 / (1 + exp(-(slope * logit + intercept))), valid at ``prevalence``."""

    slope: float
    intercept: float
    prevalence: float  # of the records it was fitted on

    def probability(self, logit: np.ndarray) -> np.ndarray:
        """Return the probability of infarction, of the shape and float type of ``logit``."""
        logit = np.asarray(logit)
        probability: np.ndarray = expit(self.slope * logit.astype(np.float64) + self.intercept)
        return probability.astype(logit.dtype)


def fit_platt(logit: np.ndarray, target: np.ndarray) -> PlattCalibrator:
    """Fit slope and intercept by maximum likelihood, on records at their natural prevalence.

    Parameters
    ----------
    logit : array, float (n,)
        Of records that the network was not trained on, one a patient.
    target : array (n,)
        1 for infarction, 0 for none.

    Returns
    -------
    PlattCalibrator

    Raises
    ------
    ValueError
        Where one class is absent, a logit is not finite, or the logits part the classes without overlap or do not
        rise with the target: then no calibration can be learnt.
    """
    from scipy.optimize import minimize  # here: a run never fits

    x, y = _checked(logit, target)
    # Fitted on standardised logits, where the problem is well scaled, and carried back.
    centre, spread = float(x.mean()), float(x.std())
    if spread == 0:
        raise ValueError("every logit is the same, so that no calibration can be learnt")
    if x[y == 1].min() > x[y == 0].max():
        raise ValueError("the logits part the classes without overlap: calibration needs more records")
    u = (x - centre) / spread
    sign = np.where(y == 1, 1.0, -1.0)

    def loss_and_slope(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (weights[0] * u + weights[1])
        pull = -sign * expit(-margin)
        return float(-log_expit(margin).mean()), np.array([(pull * u).mean(), pull.mean()])

    start = np.array([1.0, np.log(y.mean() / (1 - y.mean()))])
    found = minimize(loss_and_slope, start, jac=True, method="BFGS", options={"gtol": 1e-10})
    slope, intercept = (float(value) for value in found.x)
    if slope <= 0:
        raise ValueError("the logits do not rise with the target: this network does not find what it is calibrated for")
    return PlattCalibrator(slope / spread, intercept - slope * centre / spread, float(y.mean()))


def threshold_at_specificity(probability: np.ndarray, target: np.ndarray, specificity: float) -> float:
    """Return the lowest threshold at which at least ``specificity`` of the negative records are not flagged.

    A record is flagged at or above the threshold. The threshold lies half-way between two neighbouring values, so that
    rounding cannot turn a record of the tuning set round.

    Parameters
    ----------
    probability, target : array (n,)
        Calibrated probabilities (or any score) and their 0/1 labels.
    specificity : float
        Between 0 and 1.
    """
    score, y = _checked(probability, target)
    if not 0 <= specificity <= 1:
        raise ValueError(f"specificity must lie between 0 and 1, not {specificity}")
    negatives = np.sort(score[y == 0])
    below = int(np.ceil(specificity * len(negatives) - 1e-9))  # negatives that must stay under the threshold
    if below == 0:
        return float(score.min())
    highest_unflagged = negatives[below - 1]
    above = score[score > highest_unflagged]
    if len(above) == 0:
        return float(np.nextafter(highest_unflagged, np.inf))
    return float((highest_unflagged + above.min()) / 2)


def count_flags(flagged: np.ndarray, target: np.ndarray) -> Counts:
    """Count right and wrong flags, bool (n,), against targets of 0 and 1. Empty input gives zeros."""
    flagged, positive = np.asarray(flagged, dtype=bool), np.asarray(target) == 1
    return Counts(
        TP=int((flagged & positive).sum()),
        FN=int((~flagged & positive).sum()),
        TN=int((~flagged & ~positive).sum()),
        FP=int((flagged & ~positive).sum()),
    )


def reliability(probability: np.ndarray, target: np.ndarray, *, bins: int = 10) -> dict[str, Any]:
    """Return how well probabilities match frequencies.

    Parameters
    ----------
    probability, target : array (n,)
        Probabilities and their 0/1 labels.
    bins : int
        Bins of equal numbers of records (fewer where there are fewer records).

    Returns
    -------
    dict
        ``brier``; ``expected_calibration_error`` (mean over records of |mean probability - frequency| of their bin);
        ``log_loss``; ``slope`` and ``intercept`` of the log-odds of the target in those of the probability (1 and 0 are
        perfect; a slope below 1 is overconfidence; None where they cannot be fitted); ``bins``: for each ``n``,
        ``mean_probability``, ``frequency``.
    """
    p, y = _checked(probability, target)
    order = np.argsort(p, kind="stable")
    rows = []
    for part in np.array_split(order, min(bins, len(order))):
        rows.append(
            {"n": len(part), "mean_probability": float(p[part].mean()), "frequency": float((y[part] == 1).mean())}
        )
    clipped = np.clip(p, 1e-12, 1 - 1e-12)
    slope: float | None = None
    intercept: float | None = None
    try:
        again = fit_platt(log_odds(clipped), y)
        slope, intercept = again.slope, again.intercept
    except ValueError:
        pass  # stays None
    return {
        "slope": slope,
        "intercept": intercept,
        "brier": float(np.mean((p - y) ** 2)),
        "log_loss": float(-np.mean(np.where(y == 1, np.log(clipped), np.log1p(-clipped)))),
        "expected_calibration_error": float(
            sum(row["n"] * abs(row["mean_probability"] - row["frequency"]) for row in rows) / len(p)
        ),
        "bins": rows,
    }


def _checked(score: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(score, np.float64), np.asarray(target)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"scores and targets must be two equally long rows, not {x.shape} and {y.shape}")
    if not np.isfinite(x).all():
        raise ValueError("a score is not finite")
    if set(np.unique(y)) != {0, 1}:
        raise ValueError("targets must be 0 and 1, both present")
    return x, y
