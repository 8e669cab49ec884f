"""Which patients are to be read: a stratified random sample of flagged and unflagged ones.

Phase two of a two-phase design (Neyman, J Am Stat Assoc 33:101, 1938); `validation.py` says why unflagged patients
belong to it.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

from screening.errors import UserError
from screening.report.tallies import OTHER, UNKNOWN

UNFLAGGED_BANDS, FLAGGED_BANDS = (0.5, 0.8, 0.95), (0.5,)
"""Quantiles of the score at which each side is cut: finer towards the threshold, where infarcts are missed."""
LEAST_READINGS = 4
"""Of a stratum, where it has as many patients."""
LEAST_SHARE = 0.05
"""An anticipated share of infarcts nearer to 0 or 1 than this counts as this: the calibration may not hold here."""


@dataclass(frozen=True)
class Stratum:
    """Patients of one flag, one score band and, where asked for, one site."""

    flagged: bool
    low: float | None  # log-odds, included; None where the band is open
    high: float | None  # log-odds, excluded
    site: str | None  # None: all sites
    patients: int
    sampled: int

    @property
    def name(self) -> str:
        """What the stratum is, in words."""
        ends = ("" if self.low is None else f"{self.low:.2f} <= ", "" if self.high is None else f" < {self.high:.2f}")
        band = f"{ends[0]}log-odds{ends[1]}" if any(ends) else "all log-odds"
        return f"{'flagged' if self.flagged else 'unflagged'}, {band}" + (f", {self.site}" if self.site else "")


@dataclass(frozen=True)
class Sample:
    """Who is to be read, in the random order of the sheets."""

    strata: tuple[Stratum, ...]
    row: np.ndarray  # int64 (n,), of the frame
    stratum: np.ndarray  # int64 (n,)

    @property
    def inclusion_probability(self) -> np.ndarray:
        """Of each drawn patient, float64 (n,)."""
        share = np.array([s.sampled / s.patients for s in self.strata])
        chosen: np.ndarray = share[self.stratum]
        return chosen


def draw(
    log_odds: np.ndarray, flagged: np.ndarray, *, readings: int, seed: int, site: np.ndarray | None = None
) -> Sample:
    """Draw a stratified random sample of patients without replacement.

    Readings go to the strata by Neyman's rule (J R Stat Soc 97:558, 1934; exact in whole numbers: Wright, Am Stat 66:217,
    2012), with the calibrated probabilities as anticipated shares of infarcts. The same frame in the same order and the same
    seed give the same sample; without sites, more readings of the same seed give a sample that holds the smaller one.

    Parameters
    ----------
    log_odds, flagged : array (n,)
        Of the index ECG of every patient in the frame: log-odds of the calibrated probability, and whether it is flagged.
    readings : int
        Patients to draw; all of them where there are fewer.
    seed : int
        Of the random numbers.
    site : array of str or None (n,), optional
        Makes every larger site a stratum of its own; small ones are drawn from together.

    Raises
    ------
    UserError
        There is nobody on one side of the threshold, or there are too few readings for the strata.
    """
    log_odds, flagged = np.asarray(log_odds, np.float64), np.asarray(flagged, bool)
    readings = min(readings, len(log_odds))
    strata, member = _stratify(log_odds, flagged, _grouped(site, readings) if site is not None else None)
    patients = np.array([s.patients for s in strata])
    least = np.minimum(patients, LEAST_READINGS)
    if readings < least.sum():
        raise UserError(
            f"{readings} readings are too few for {len(strata)} strata of {LEAST_READINGS} and more; "
            f"ask for at least {least.sum()} with --readings."
        )
    anticipated = np.bincount(member, expit(log_odds), len(strata)) / patients
    sampled = allocate(patients, np.clip(anticipated, LEAST_SHARE, 1 - LEAST_SHARE), start=least, total=readings)
    rows = [
        np.random.default_rng((seed, h)).permutation(np.flatnonzero(member == h))[: sampled[h]]
        for h in range(len(strata))
    ]
    order = np.random.default_rng((seed, len(strata))).permutation(readings)
    return Sample(
        strata=tuple(replace(s, sampled=int(n)) for s, n in zip(strata, sampled, strict=True)),
        row=np.concatenate(rows)[order],
        stratum=np.repeat(np.arange(len(strata)), sampled)[order],
    )


def allocate(patients: np.ndarray, share: np.ndarray, *, start: np.ndarray, total: int) -> np.ndarray:
    """Return how many readings each stratum gets so that the prevalence's variance is least.

    Parameters
    ----------
    patients, share : array (strata,)
        Patients, and the anticipated share of infarcts, of each stratum.
    start : array (strata,)
        Readings that each has in any case, at least 1.
    total : int
        Readings together, at least those of ``start`` and at most all patients.
    """
    readings = np.array(start, np.int64)
    variance = (np.asarray(patients, np.float64) ** 2 * share * (1 - share)).tolist()

    def gain(h: int) -> float:
        return variance[h] / (int(readings[h]) * (int(readings[h]) + 1))

    queue = [(-gain(h), h) for h in range(len(readings)) if readings[h] < patients[h]]
    heapq.heapify(queue)
    for _ in range(total - int(readings.sum())):
        _, h = heapq.heappop(queue)
        readings[h] += 1
        if readings[h] < patients[h]:
            heapq.heappush(queue, (-gain(h), h))
    return readings


def _grouped(site: np.ndarray, readings: int) -> np.ndarray:
    """Return the sites with the small ones as one, so that the strata's least readings take half of all at most."""
    named = np.array([UNKNOWN if s is None else str(s) for s in site.tolist()], dtype=object)
    sites, counts = np.unique(named.astype(str), return_counts=True)
    most = max(1, readings // (2 * LEAST_READINGS * (len(UNFLAGGED_BANDS) + len(FLAGGED_BANDS) + 2)))
    if len(sites) <= most:
        return named
    kept = set(sites[np.argsort(-counts, kind="stable")][: most - 1].tolist())
    return np.array([s if s in kept else OTHER for s in named.tolist()], dtype=object)


def _stratify(log_odds: np.ndarray, flagged: np.ndarray, site: np.ndarray | None) -> tuple[list[Stratum], np.ndarray]:
    """Return the strata that have patients, and the stratum of each patient."""
    for side, word in ((True, "flagged"), (False, "unflagged")):
        if not (flagged == side).any():
            raise UserError(f"no index ECG is {word}, and a validation needs both; screen more, or use another model.")
    strata: list[Stratum] = []
    member = np.empty(len(log_odds), np.int64)
    for side, quantiles in ((False, UNFLAGGED_BANDS), (True, FLAGGED_BANDS)):
        of_side = flagged == side
        edges = np.unique(np.quantile(log_odds[of_side], quantiles, method="higher")).tolist()
        band = np.searchsorted(edges, log_odds, side="right")
        ends = [None, *edges, None]
        for b in range(len(edges) + 1):
            for name in [None] if site is None else sorted(set(site[of_side].tolist())):
                inside = of_side & (band == b)
                if name is not None:
                    inside &= site == name
                if inside.any():
                    member[inside] = len(strata)
                    strata.append(Stratum(side, ends[b], ends[b + 1], name, int(inside.sum()), 0))
    return strata, member
