"""What a flag is worth: predictive values, work for whoever confirms, and the choice of a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from screening.report.document import Estimate, NotEstimable

PREVALENCES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)


@dataclass(frozen=True)
class Worth:
    """What flags are worth at a prevalence."""

    prevalence: Estimate
    ppv: Estimate
    npv: Estimate
    flags_per_case: Estimate | NotEstimable  # confirmations for each case found, 1 / PPV
    flags_per_1000: Estimate
    missed_per_1000: Estimate  # cases that are not flagged


def worth(prevalence: np.ndarray, errors: np.ndarray, centre: tuple[float, float, float]) -> Worth:
    """Return predictive values and workload with intervals from joint draws (Bayes' rule).

    A prevalence that was estimated with these errors hangs together with them: the higher the specificity, the fewer
    flags are false and the more are left as cases. Drawn apart from them it would give intervals of PPV that are too narrow,
    and flags per 1,000 more uncertain than their own count.

    Parameters
    ----------
    prevalence : array (draws,)
        Draws, row by row with ``errors`` (`prevalence.Drawn.corrected`), truncated here to 0-1; or one value for all.
    errors : array (draws, 2)
        Sensitivity and specificity.
    centre
        Point values of prevalence, sensitivity, specificity.
    """
    drawn = _figures(np.clip(prevalence, 0, 1), errors[:, 0], errors[:, 1])
    points = _figures(*(np.array([value]) for value in centre))
    cells = []
    for value, of in zip(points, drawn, strict=True):
        known = of[np.isfinite(of)]  # nobody flagged has no PPV
        low, high = np.quantile(known, [0.025, 0.975]).tolist() if len(known) else (float("nan"),) * 2
        middle = float(value[0])
        cells.append(Estimate(middle, min(low, middle), max(high, middle)))
    of_p, ppv, npv, flags, missed = cells
    flags_per_case = (
        Estimate(1 / ppv.value, 1 / ppv.high, 1 / ppv.low)
        if ppv.low > 0
        else NotEstimable("the prevalence may be nothing, and no number of confirmations would then find a case")
    )
    return Worth(of_p, ppv, npv, flags_per_case, flags, missed)


def _figures(p: np.ndarray, se: np.ndarray, sp: np.ndarray) -> tuple[np.ndarray, ...]:
    true, false, missed = p * se, (1 - p) * (1 - sp), p * (1 - se)
    with np.errstate(divide="ignore", invalid="ignore"):
        ppv = true / (true + false)
        npv = (1 - p) * sp / ((1 - p) * sp + missed)
    return np.broadcast_to(p, se.shape), ppv, npv, 1000 * (true + false), 1000 * missed


@dataclass(frozen=True)
class Operating:
    """What another threshold would do."""

    log_odds: float  # of the calibrated probability, at or above which is flagged
    flags_per_1000: float  # here, as counted
    sensitivity: float | None  # where the model was measured
    specificity: float | None
    ppv: float | None  # at the estimated prevalence


def workload(
    edges: Sequence[float],
    counts: Sequence[int],
    positives: Sequence[int] | None,
    negatives: Sequence[int] | None,
    prevalence: float | None,
) -> list[Operating]:
    """Return for every inner edge of the score histogram what a threshold there would flag here, and what it would be worth."""
    here = _above(counts)
    pos, neg = (_above(row) if row is not None and any(row) else None for row in (positives, negatives))
    rows = []
    for at, edge in enumerate(edges[1:-1], start=1):
        se, sp = (float(pos[at]) if pos is not None else None), (1 - float(neg[at]) if neg is not None else None)
        ppv = None
        if se is not None and sp is not None and prevalence is not None:
            flagged = prevalence * se + (1 - prevalence) * (1 - sp)
            ppv = prevalence * se / flagged if flagged else None
        rows.append(Operating(float(edge), 1000 * float(here[at]), se, sp, ppv))
    return rows


def _above(counts: Sequence[int]) -> np.ndarray:
    """Return the share at or above each edge."""
    row = np.asarray(counts, np.float64)
    found: np.ndarray = np.concatenate([np.cumsum(row[::-1])[::-1], [0.0]]) / max(row.sum(), 1.0)
    return found


@dataclass(frozen=True)
class NetBenefit:
    """Net benefit a patient at a threshold probability, in cases found (Vickers & Elkin 2006)."""

    threshold: float
    flagging: float  # with the threshold on the probability that belongs to it
    as_used: float  # with the bundle's own threshold
    everybody: float


def decision_curve(
    edges: Sequence[float],
    positives: Sequence[int],
    negatives: Sequence[int],
    *,
    prevalence: float,
    calibration_prevalence: float,
    used: tuple[float, float],
    thresholds: Sequence[float] = tuple(np.round(np.arange(0.01, 0.505, 0.01), 2).tolist()),
) -> list[NetBenefit]:
    """Return a decision curve at ``prevalence`` (Vickers & Elkin, Med Decis Making 2006;26:565).

    Net benefit = true flags - false flags x t / (1 - t), a patient: t is the probability of disease at which confirming
    is just worth its trouble. Probabilities hold at another prevalence, so that t here is the log-odds t -
    logit(prevalence) + logit(calibration prevalence) there; sensitivity and specificity are those at the nearest edge.

    Parameters
    ----------
    used
        Sensitivity and specificity of the flags as they were set.
    """
    pos, neg = _above(positives), _above(negatives)
    inner = np.asarray(edges, np.float64)[1:-1]
    prevalence = min(max(prevalence, 1e-6), 1 - 1e-6)
    shift = float(logit(calibration_prevalence) - logit(prevalence))
    rows = []
    for t in thresholds:
        at = int(np.argmin(np.abs(inner - (logit(t) + shift)))) + 1
        odds = t / (1 - t)

        def benefit(se: float, false: float, odds: float = odds) -> float:
            return se * prevalence - false * (1 - prevalence) * odds

        rows.append(
            NetBenefit(t, benefit(float(pos[at]), float(neg[at])), benefit(used[0], 1 - used[1]), benefit(1.0, 1.0))
        )
    return rows
