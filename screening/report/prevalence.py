"""From the share of flagged patients to prevalence: Rogan-Gladen, its interval, a Bayesian estimate, and what would tip them.

With sensitivity Se, specificity Sp and J = Se + Sp - 1, a share P of cases gives the apparent prevalence
AP = P Se + (1 - P)(1 - Sp), so that P = (AP + Sp - 1) / J (Rogan & Gladen, Am J Epidemiol 1978;107:71).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaln, logsumexp, ndtri, xlog1py, xlogy
from scipy.stats import binom

from screening.report.accuracy import Accuracy, sample
from screening.report.document import Estimate, NotEstimable

LEVEL = 0.95
_LEAST = 1e-3  # of Se + Sp - 1, below which a draw says nothing
PRIORS: dict[str, tuple[float, float]] = {
    "uniform, Beta(1, 1)": (1.0, 1.0),
    "Jeffreys, Beta(1/2, 1/2)": (0.5, 0.5),
    "few affected, Beta(1, 19), mean 5%": (1.0, 19.0),
}
"""Priors of the prevalence; the first is the one that is reported, the others show what it does."""


@dataclass(frozen=True)
class Corrected:
    """A corrected share: truncated to 0-1 for showing, and as the formula gave it."""

    estimate: Estimate
    raw: float

    @property
    def truncated(self) -> bool:
        """Whether the formula gave a value outside 0-1."""
        return not 0 <= self.raw <= 1


def wilson(x: float, n: float, *, level: float = LEVEL) -> Estimate:
    """Return a share with its score interval (Wilson, J Am Stat Assoc 1927;22:209); numbers may be effective ones."""
    if n <= 0:
        return Estimate(math.nan, 0.0, 1.0)
    z2 = float(ndtri((1 + level) / 2)) ** 2
    share = x / n
    middle = (x + z2 / 2) / (n + z2)
    half = math.sqrt(z2 * (share * (1 - share) * n + z2 / 4)) / (n + z2)
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))


def no_better_than_chance(accuracy: Accuracy) -> NotEstimable | None:
    """Return why nothing can be corrected with this accuracy, None where it can."""
    if accuracy.sensitivity + accuracy.specificity > 1:
        return None
    return NotEstimable(
        f"sensitivity and specificity ({accuracy.source}) add up to "
        f"{accuracy.sensitivity + accuracy.specificity:.2f}, so a flag tells no more than chance"
    )


def rogan_gladen(apparent: float, accuracy: Accuracy) -> float:
    """Return the corrected share, not truncated; ``no_better_than_chance`` must have been asked before."""
    return (apparent + accuracy.specificity - 1) / (accuracy.sensitivity + accuracy.specificity - 1)


def lang_reiczigel(flagged: float, n: float, accuracy: Accuracy, *, level: float = LEVEL) -> Corrected | NotEstimable:
    """Return the Rogan-Gladen estimate with the interval of Lang & Reiczigel (Prev Vet Med 2014;113:13).

    Their interval for a covariance of zero; with one, from the delta method, dP/dSe = -P/J and dP/dSp = (1 - P)/J add
    -2 P (1 - P) Cov / J^2 to the variance. ``flagged`` and ``n`` may be effective numbers (patients with several ECGs).
    """
    if (chance := no_better_than_chance(accuracy)) is not None:
        return chance
    if n <= 0:
        return NotEstimable("nobody")
    z = float(ndtri((1 + level) / 2))
    n_, se_n, sp_n = n + z * z, accuracy.n_sensitivity + 2, accuracy.n_specificity + 2
    ap = (flagged + z * z / 2) / n_
    se = (accuracy.n_sensitivity * accuracy.sensitivity + 1) / se_n
    sp = (accuracy.n_specificity * accuracy.specificity + 1) / sp_n
    j = se + sp - 1
    if j <= 0:
        return NotEstimable("sensitivity and specificity are too uncertain to tell a flag from chance")
    p = (ap + sp - 1) / j
    shift = 2 * z * z * (p * se * (1 - se) / se_n - (1 - p) * sp * (1 - sp) / sp_n)
    variance = (
        ap * (1 - ap) / n_
        + p * p * se * (1 - se) / se_n
        + (1 - p) ** 2 * sp * (1 - sp) / sp_n
        - 2 * p * (1 - p) * accuracy.covariance
    ) / j**2
    half = z * math.sqrt(max(variance, 0.0))
    raw = rogan_gladen(flagged / n, accuracy)
    low, high = (min(1.0, max(0.0, p + shift + side * half)) for side in (-1, 1))
    return Corrected(_ordered(raw, low, high), raw)


@dataclass(frozen=True)
class Drawn:
    """A group of patients, of parts that are each corrected with their own errors."""

    patients: float
    observed: float  # share flagged
    raw: float  # corrected share, not truncated
    share: np.ndarray  # float64 (draws,): of the share flagged
    corrected: np.ndarray  # float64 (draws,): of the corrected share, not truncated

    @property
    def estimate(self) -> Corrected:
        """The corrected share with the interval of its draws."""
        return Corrected(interval(self.raw, self.corrected), self.raw)


def draw(parts: Sequence[tuple[float, float, np.ndarray]], rng: np.random.Generator) -> Drawn:
    """Correct each part of a group with its own errors, and combine them by their patients.

    Parameters
    ----------
    parts
        Flagged patients, patients (or effective numbers), and joint draws of sensitivity and specificity, float64
        (draws, 2). AP is drawn from Beta(x + 1/2, n - x + 1/2) (Jeffreys). Parts, and groups, that are given the same
        array share its uncertainty draw by draw.
    """
    total = sum(n for _, n, _ in parts)
    observed = raw = 0.0
    shares, corrected = [], []
    for flagged, n, errors in parts:
        ap = rng.beta(flagged + 0.5, n - flagged + 0.5, len(errors))
        se, sp = errors.mean(axis=0).tolist()
        observed += flagged / total
        raw += n / total * (flagged / n + sp - 1) / max(se + sp - 1, _LEAST)
        shares.append(n / total * ap)
        corrected.append(n / total * (ap + errors[:, 1] - 1) / np.maximum(errors.sum(axis=1) - 1, _LEAST))
    return Drawn(total, observed, raw, np.sum(shares, axis=0), np.sum(corrected, axis=0))


def differences(groups: Sequence[Drawn], *, level: float = LEVEL) -> list[Estimate]:
    """Return by how much each group's prevalence differs from that of all other groups together, not truncated.

    The intervals hold all at once with probability ``level``, however many groups there are, so that one that leaves out
    zero is no play of chance among many: each is as many standard deviations wide as the largest deviation of any group
    has in that share of the joint draws (simultaneous bands: Montiel Olea & Plagborg-Moller, J Appl Econom 2019;34:1).
    What the groups have in common, the draws of sensitivity and specificity, cancels.

    Parameters
    ----------
    groups
        At least two, of as many draws each.
    """
    n = np.array([group.patients for group in groups])
    value, drawn = np.array([group.raw for group in groups]), np.stack([group.corrected for group in groups])
    others = (n.sum() - n)[:, None]
    value = value - (n @ value - n * value) / others[:, 0]
    drawn = drawn - (n @ drawn - n[:, None] * drawn) / others
    middle, sd = drawn.mean(axis=1), np.maximum(drawn.std(axis=1), 1e-12)
    wide = float(np.quantile((np.abs(drawn - middle[:, None]) / sd[:, None]).max(axis=0), level)) * sd
    return [
        Estimate(of, min(of, low), max(of, high))
        for of, low, high in zip(value.tolist(), (middle - wide).tolist(), (middle + wide).tolist(), strict=True)
    ]


def interval(value: float, drawn: np.ndarray, *, level: float = LEVEL) -> Estimate:
    """Return a share truncated to 0-1 with the equal-tailed interval of its draws, which holds it."""
    low, high = np.clip(np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]), 0, 1).tolist()
    return _ordered(value, low, high)


def bayes(
    flagged: float,
    n: float,
    accuracy: Accuracy,
    *,
    prior: tuple[float, float],
    rng: np.random.Generator,
    level: float = LEVEL,
) -> Estimate | NotEstimable:
    """Return the posterior mean and credible interval of the prevalence (Gelman & Carpenter, J R Stat Soc C 2020;69:1269).

    flagged ~ Binomial(n, p Se + (1 - p)(1 - Sp)), p ~ Beta(prior), Se and Sp from what was measured. The posterior of p
    is computed on a grid, averaged over draws of (Se, Sp), each weighted by how well it explains the flags.

    A credible interval never touches zero. Where cases are a tenth of the false flags or fewer, and the flags cannot
    tell, it says more than they do: with the uniform prior it holds a prevalence of 1% at a specificity of 0.85 in
    as few as 89% of studies, and in 94% and more everywhere else on the grid (``python -m
    tests.studies.coverage --bayes 4000``).
    """
    if (chance := no_better_than_chance(accuracy)) is not None:
        return chance
    errors = sample(accuracy, 2000, rng)
    edges = np.sin(np.linspace(0, np.pi / 2, 1001)) ** 2  # finer at both ends
    p = (edges[1:] + edges[:-1]) / 2
    share = p[None, :] * errors[:, :1] + (1 - p[None, :]) * (1 - errors[:, 1:])
    log = xlogy(flagged, share) + xlog1py(n - flagged, -share)
    a, b = prior
    log += xlogy(a - 1, p) + xlog1py(b - 1, -p) - betaln(a, b) + np.log(np.diff(edges))
    weight = np.exp(logsumexp(log, axis=0) - logsumexp(log))
    below = np.concatenate([[0.0], np.cumsum(weight)])
    low, high = np.interp([(1 - level) / 2, (1 + level) / 2], below, edges)
    return Estimate(float((weight * p).sum()), float(low), float(high))


def probability_of_so_few(flagged: int, n: int, accuracy: Accuracy) -> float:
    """Return how likely so few flags or fewer are among ``n`` patients of whom none is affected, at the stated specificity."""
    return float(binom.cdf(flagged, n, 1 - accuracy.specificity))


def tipping_specificity(apparent: float) -> float:
    """Return the specificity at which every flag would be false, and the estimate 0."""
    return 1 - apparent


def _ordered(raw: float, low: float, high: float) -> Estimate:
    value = min(1.0, max(0.0, raw))
    return Estimate(value, min(low, value), max(high, value))
