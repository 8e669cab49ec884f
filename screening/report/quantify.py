"""Prevalence from the distribution of scores alone, without a threshold: second opinions beside Rogan-Gladen.

Both rest on prior shift: cases look here as they did where the model was measured, others too, and only the share
differs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from screening.report.document import Estimate, NotEstimable

RESAMPLES = 1000
_ITERATIONS, _TOLERANCE = 500, 1e-7


def bin_log_odds(edges: Sequence[float]) -> np.ndarray:
    """Return the log-odds that stand for each bin: its middle; the open bins at both ends stand half a neighbour beyond."""
    inner = np.asarray(edges, np.float64)[1:-1]
    if len(inner) == 0:
        return np.zeros(1)
    step = np.diff(inner) if len(inner) > 1 else np.array([1.0])
    middle = (inner[1:] + inner[:-1]) / 2
    return np.concatenate([[inner[0] - step[0] / 2], middle, [inner[-1] + step[-1] / 2]])


def em(
    edges: Sequence[float], counts: Sequence[int], calibration_prevalence: float, rng: np.random.Generator
) -> Estimate | NotEstimable:
    """Return the prevalence that explains the calibrated probabilities best (Saerens et al., Neural Comput 2002;14:21).

    Expectation maximisation under prior shift: with pi_0 the prevalence of the calibration and p a probability, a
    prevalence pi makes it p' = p (pi/pi_0) / (p (pi/pi_0) + (1 - p)(1 - pi)/(1 - pi_0)), whose mean is the next pi. The
    interval is a multinomial bootstrap over the bins: that of the patients only, not of the calibration, and so narrower
    than one of an estimator that carries its errors.

    Parameters
    ----------
    edges, counts
        Histogram of the log-odds of calibrated probabilities, one ECG a patient; the first and last bin are open.
    calibration_prevalence
        At which the probabilities are calibrated.
    """
    weights, p = np.asarray(counts, np.float64), expit(bin_log_odds(edges))
    if not weights.sum():
        return NotEstimable("no score is shown")
    drawn = rng.multinomial(round(weights.sum()), weights / weights.sum(), RESAMPLES)
    values = _em(np.concatenate([weights[None], drawn]), p, calibration_prevalence)
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return Estimate(float(values[0]), float(min(low, values[0])), float(max(high, values[0])))


def _em(weights: np.ndarray, p: np.ndarray, prior: float) -> np.ndarray:
    """Return the fixed point for each row of weights."""
    share = weights / weights.sum(axis=1, keepdims=True)
    found = np.full(len(weights), prior)
    for _ in range(_ITERATIONS):
        up = p[None, :] * (found / prior)[:, None]
        after: np.ndarray = (share * up / (up + (1 - p)[None, :] * ((1 - found) / (1 - prior))[:, None])).sum(axis=1)
        done = float(np.abs(after - found).max()) < _TOLERANCE
        found = after
        if done:
            break
    return found


def pacc(
    edges: Sequence[float],
    counts: Sequence[int],
    positives: Sequence[int],
    negatives: Sequence[int],
    rng: np.random.Generator,
) -> Estimate | NotEstimable:
    """Return the prevalence by probabilistic adjusted counting (Bella et al., ICDM 2010).

    P = (mean probability here - that of measured negatives) / (that of measured positives - that of negatives):
    Rogan-Gladen with probabilities in place of flags. The interval is a bootstrap over the bins of all three.

    Parameters
    ----------
    edges, counts
        As for `em`.
    positives, negatives
        Counts of patients in the same bins, where the model was measured.
    """
    p = expit(bin_log_odds(edges))
    rows = [np.asarray(row, np.float64) for row in (counts, positives, negatives)]
    if not all(row.sum() for row in rows):
        return NotEstimable("the model carries no score distributions of positives and negatives")
    means = []
    for row in rows:
        drawn = rng.multinomial(round(row.sum()), row / row.sum(), RESAMPLES)
        means.append(np.concatenate([row[None], drawn]) @ p / row.sum())
    apart = means[1] - means[2]
    if apart[0] <= 0:
        return NotEstimable("measured positives do not score higher than negatives")
    values = (means[0] - means[2]) / np.where(apart > 0, apart, np.nan)
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    value, low, high = np.clip([values[0], low, high], 0, 1).tolist()
    return Estimate(value, min(low, value), max(high, value))


def rebinned(fine_edges: Sequence[float], fine_counts: Sequence[int], edges: Sequence[float]) -> list[int]:
    """Return counts of a fine histogram in coarser bins whose inner edges are among the fine ones."""
    fine = np.asarray(fine_edges, np.float64)
    inner = np.asarray(edges, np.float64)[1:-1]
    cuts = [0, *(int(np.argmin(np.abs(fine - edge))) for edge in inner), len(fine) - 1]
    if any(not math.isclose(fine[cut], edge, abs_tol=1e-9) for cut, edge in zip(cuts[1:-1], inner, strict=True)):
        raise ValueError("the coarser edges are not among the finer ones")
    below = np.concatenate([[0], np.cumsum(fine_counts)])
    return np.diff(below[cuts]).astype(int).tolist()


def disagreement(first: tuple[str, Estimate], others: Sequence[tuple[str, Estimate]]) -> str | None:
    """Return a sentence where another estimate's interval lies wholly outside the first's; None where none does."""
    name, one = first
    apart = [
        f"{other} {of.value:.1%} ({of.low:.1%} to {of.high:.1%})"
        for other, of in others
        if of.low > one.high or of.high < one.low
    ]
    if not apart:
        return None
    return (
        f"The estimators disagree: {name} {one.value:.1%} ({one.low:.1%} to {one.high:.1%}), but {'; '.join(apart)}. "
        "At least one of their assumptions does not hold here, most likely that the model errs, or is calibrated, "
        "as it was where it was measured."
    )
