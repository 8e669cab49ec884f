"""Sensitivity and specificity with their uncertainty, wherever they were measured."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import betaln, expit, logit

from screening.model.bundle import OUT_OF_FOLD, Bundle, Counts


@dataclass(frozen=True)
class Accuracy:
    """What a flag catches and what it spares, at one threshold, under one index rule.

    Either of counts (a bundle's nested out-of-fold counts: binomial, independent), or of a weighted local sample, whose
    effective sizes reproduce the variances and whose covariance comes from the design.
    """

    sensitivity: float
    specificity: float
    n_sensitivity: float  # patients, or the effective number: se (1 - se) / variance
    n_specificity: float
    covariance: float  # of the two estimates; 0 where they come from different patients
    source: str  # "nested out-of-fold counts", "tuning-fold counts" or "local validation"
    data: str  # on what records
    reference: str  # the reference standard, by name
    subgroups: Mapping[str, Mapping[str, Counts]] = field(default_factory=dict)  # kind -> group -> counts
    draws: np.ndarray | None = (
        None  # float64 (draws, 2): joint posterior draws, where there are better than the moments
    )


def of_counts(
    counts: Counts,
    *,
    source: str,
    data: str,
    reference: str,
    subgroups: Mapping[str, Mapping[str, Counts]] | None = None,
) -> Accuracy | None:
    """Return the accuracy that counts of patients show; None where there are no positives or no negatives."""
    positives, negatives = counts.TP + counts.FN, counts.TN + counts.FP
    if not positives or not negatives:
        return None
    return Accuracy(
        counts.sensitivity, counts.specificity, positives, negatives, 0.0, source, data, reference, subgroups or {}
    )


def of_bundle(bundle: Bundle) -> Accuracy | None:
    """Return what a bundle's own counts say, None where it carries none that can be used.

    Counts of nested cross-validation are of records that no part of the procedure had seen; without it they are of the
    tuning fold, which fixed the threshold, and flatter.
    """
    measured = bundle.operating_characteristics
    nested = OUT_OF_FOLD in bundle.files
    return of_counts(
        measured.overall,
        source="nested out-of-fold counts" if nested else "tuning-fold counts",
        data=measured.data,
        reference=measured.reference,
        subgroups=measured.subgroups,
    )


def sample(accuracy: Accuracy, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return joint draws of sensitivity and specificity, float64 (size, 2).

    Counts give independent Beta(x + 1, n - x + 1), the posterior under a uniform prior; a local validation brings its
    own draws, which are drawn from again. Where there is a covariance but no draws, both log-odds are drawn from a
    normal distribution whose moments are those of the two rates to first order.
    """
    if accuracy.draws is not None:
        chosen: np.ndarray = accuracy.draws[rng.integers(len(accuracy.draws), size=size)]
        return chosen
    if accuracy.covariance:
        rates = np.array([accuracy.sensitivity, accuracy.specificity])
        n = np.array([accuracy.n_sensitivity, accuracy.n_specificity])
        rates = (n * rates + 1) / (n + 2)
        slope = rates * (1 - rates)  # of a rate by its log-odds
        sd = np.sqrt(slope / (n + 3))
        correlation = np.clip(accuracy.covariance / sd.prod(), -0.999, 0.999)
        first, second = rng.standard_normal((2, size))
        both = np.stack([first, correlation * first + math.sqrt(1 - correlation**2) * second], axis=1)
        drawn: np.ndarray = expit(logit(rates) + both * sd / slope)
        return drawn
    return np.stack(
        [
            rng.beta(rate * n + 1, (1 - rate) * n + 1, size)
            for rate, n in (
                (accuracy.sensitivity, accuracy.n_sensitivity),
                (accuracy.specificity, accuracy.n_specificity),
            )
        ],
        axis=1,
    )


def band_of(band: str, groups: Iterable[str]) -> str | None:
    """Return the group of ages that holds a band: "60-69" of "60-69", "20-29" of "0-39", "90 and over" of "80 and over".

    None where no group holds the whole band.
    """
    ages = _ages(band)
    for group in groups:
        of_group = _ages(group)
        if ages is not None and of_group is not None and of_group[0] <= ages[0] and ages[1] <= of_group[1]:
            return group
    return None


def _ages(band: str) -> tuple[float, float] | None:
    numbers = [float(number) for number in re.findall(r"\d+", band)]
    return (numbers[0], numbers[1] if len(numbers) > 1 else math.inf) if numbers else None


def pooled(
    accuracy: Accuracy, kind: str, groups: Sequence[str], size: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return joint draws of sensitivity and specificity of each group, float64 (size, 2), partially pooled.

    The rates of groups are draws from a beta distribution with mean mu and strength kappa; (mu, kappa) has a flat prior
    in mu and in log kappa (5 to 2,000) and is drawn from its exact posterior on a grid, then each group's rate from its
    own beta posterior (a beta-binomial hierarchy: Gelman et al., Bayesian Data Analysis, 3rd ed., section 5.3). A group
    without counts is drawn from the population of groups, as wide as groups differ. Where fewer than two groups were
    counted, and for a local validation, which was not counted by group, all groups have the draws of everybody.
    """
    counted = accuracy.subgroups.get(kind, {}) if accuracy.draws is None else {}
    if len(counted) < 2:
        everybody = sample(accuracy, size, rng)
        return dict.fromkeys(groups, everybody)
    found = []
    for right, wrong in (("TP", "FN"), ("TN", "FP")):
        x = np.array([getattr(of, right) for of in counted.values()], np.float64)
        n = x + [getattr(of, wrong) for of in counted.values()]
        mu, kappa = _hyper(x, n, size, rng)
        of_group = {
            group: rng.beta(mu * kappa + a, (1 - mu) * kappa + b) for group, a, b in zip(counted, x, n - x, strict=True)
        }
        found.append((of_group, rng.beta(mu * kappa, (1 - mu) * kappa)))
    names = {group: band_of(group, counted) if kind == "age" else group for group in groups}
    return {
        group: np.stack([of_group.get(name or "", unknown) for of_group, unknown in found], axis=1)
        for group, name in names.items()
    }


_MU, _KAPPA = np.linspace(0.005, 0.995, 199), np.geomspace(5.0, 2000.0, 60)


def _hyper(x: np.ndarray, n: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw (mu, kappa) from their posterior given right ones ``x`` of ``n`` in each group."""
    a, b = _MU[:, None, None] * _KAPPA[None, :, None], (1 - _MU[:, None, None]) * _KAPPA[None, :, None]
    log = (betaln(a + x, b + n - x) - betaln(a, b)).sum(axis=2)
    weight = np.exp(log - log.max()).ravel()
    drawn = rng.choice(weight.size, size=size, p=weight / weight.sum())
    mu, kappa = np.unravel_index(drawn, log.shape)
    return _MU[mu], _KAPPA[kappa]
