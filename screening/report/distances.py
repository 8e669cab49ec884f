"""How far two populations are apart, from histograms and counts that disclosure control has merged and rounded.

Histograms are compared at the edges that both have. What decides is how large
a difference is; a p-value is information only, as in a large archive everything differs. Limits of "slight" and "marked":

PSI       0.1 and 0.25: the rule of thumb of credit scoring (Siddiqi, Credit Risk Scorecards, 2006), a convention, not a test.
          A bin of a few per cent that is empty here makes it large at will, so it counts only where D is half its limit.
KS        D of 0.1 and 0.2: what a shift of a normal distribution by 0.25 and 0.5 standard deviations gives, about the small
          and medium effect of Cohen (Statistical Power Analysis for the Behavioral Sciences, 2nd ed. 1988, chapter 2).
          Total variation between categories, which D bounds from below, has the same limits.
shares    Cohen's h of 0.2 and 0.5, small and medium (chapter 6): 2 arcsin(sqrt p) - 2 arcsin(sqrt q).

Besides, a difference must be larger than chance gives in one of a hundred comparisons of like populations; the PSI of two
samples of n and m is then about (1/n + 1/m) times a chi-squared of B - 1 degrees of freedom (Yurdakul & Naranjo, Journal of
Risk Model Validation 2020;14(4)), where B is the number of bins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from scipy.stats import chi2, chi2_contingency, kstwobign

from screening.report.document import Estimate
from screening.report.prevalence import wilson
from screening.report.tallies import UNKNOWN, Histogram

PSI_LIMITS, KS_LIMITS, SHARE_LIMITS = (0.1, 0.25), (0.1, 0.2), (0.2, 0.5)
CHANCE = 0.01
PSI_BINS = 10
SMOOTHING = 0.5
"""Added to each bin before a PSI is computed, so that an empty one does not make it infinite."""
_ROUNDING = 1e-9
_BAND = 5.0  # nominal width of the last band, which is open


class Verdict(IntEnum):
    """How far two distributions are apart."""

    NONE = 0
    SLIGHT = 1
    MARKED = 2

    def __str__(self) -> str:
        return self.name.lower()


class Binned(Protocol):
    """A histogram of any kind; the first and the last bin are open."""

    @property
    def edges(self) -> Sequence[float] | np.ndarray:
        """(bins + 1,)."""

    @property
    def counts(self) -> Sequence[int] | np.ndarray:
        """(bins,)."""

    @property
    def missing(self) -> int:
        """Records without a value."""


@dataclass(frozen=True)
class Comparison:
    """A feature before (in the reference, or the previous run) and here, at the edges that both histograms have.

    Shares, quantiles and distances are of the records that have a value.
    """

    feature: str
    before: int
    here: int
    edges: tuple[float, ...]  # of about `PSI_BINS` bins of equal share before; nominal at both ends, which are open
    shares_before: tuple[float, ...]
    shares_here: tuple[float, ...]
    psi: float
    ks: float
    p_value: float  # of the KS distance, asymptotic; information only
    median_before: float | None  # None where it lies in an open bin, beyond all edges
    median_here: float | None
    iqr_before: float
    verdict: Verdict

    @property
    def shift(self) -> float | None:
        """Difference of the medians in interquartile ranges before; None where these are not known, or half share a value."""
        if self.median_before is None or self.median_here is None or self.iqr_before <= 0:
            return None
        return (self.median_here - self.median_before) / self.iqr_before


@dataclass(frozen=True)
class ShareComparison:
    """A share before and here, with 95% intervals (Wilson; of the difference Newcombe, Stat Med 1998;17:873, method 10)."""

    name: str
    before: Estimate
    here: Estimate
    difference: Estimate
    effect: float  # Cohen's h
    verdict: Verdict


@dataclass(frozen=True)
class CategoryComparison:
    """Shares of categories before and here, without what is unknown."""

    name: str
    categories: tuple[str, ...]
    shares_before: tuple[float, ...]
    shares_here: tuple[float, ...]
    total_variation: float  # half the sum of the absolute differences
    p_value: float  # chi-squared; information only
    verdict: Verdict


# --- Histograms ------------------------------------------------------------------------------------------------------


def combined(histograms: Sequence[Binned]) -> Histogram | None:
    """Return the sum of histograms at the edges that all of them have; None for none."""
    if not histograms:
        return None
    first, *rest = histograms
    edges = np.asarray(first.edges, np.float64)
    kept = np.ones(len(edges), bool)
    kept[1:-1] = [all(_has(other, edge) for other in rest) for edge in edges[1:-1]]
    counts = np.sum([_between(one, edges[kept]) for one in histograms], axis=0)
    return Histogram(edges[kept], counts.astype(np.int64), sum(int(one.missing) for one in histograms))


def _has(histogram: Binned, edge: float) -> bool:
    inner = np.asarray(histogram.edges, np.float64)[1:-1]
    return bool(np.isclose(inner, edge, rtol=1e-9, atol=1e-12).any())


def _between(histogram: Binned, edges: np.ndarray) -> np.ndarray:
    """Return counts between coarser edges, whose inner ones are among the histogram's."""
    own = np.asarray(histogram.edges, np.float64)
    cuts = [0, *(int(np.argmin(np.abs(own[1:-1] - edge))) + 1 for edge in edges[1:-1]), len(own) - 1]
    below = np.concatenate([[0], np.cumsum(np.asarray(histogram.counts, np.int64))])
    found: np.ndarray = np.diff(below[cuts])
    return found


def quantile(histogram: Binned, share: float) -> float:
    """Return a quantile by linear interpolation within its bin; NaN where the histogram is empty."""
    edges, below, at = _place(histogram, share)
    if math.isnan(below[at]):
        return math.nan
    return float(edges[at] + (edges[at + 1] - edges[at]) * (share - below[at]) / (below[at + 1] - below[at]))


def _median(histogram: Binned) -> float | None:
    """Return the median; None where it lies in an open bin. One that begins at 0 is closed: nothing measured lies below."""
    edges, _, at = _place(histogram, 0.5)
    open_below = at == 0 and edges[0] != 0
    return None if open_below or at == len(edges) - 2 else quantile(histogram, 0.5)


def interquartile_range(histogram: Binned) -> float:
    """Return the distance of the quartiles; 0 where both lie in one bin."""
    if _place(histogram, 0.25)[2] == _place(histogram, 0.75)[2]:
        return 0.0
    return quantile(histogram, 0.75) - quantile(histogram, 0.25)


def _place(histogram: Binned, share: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Return edges, the share below each, and the bin in which a quantile lies."""
    edges, counts = np.asarray(histogram.edges, np.float64), np.asarray(histogram.counts, np.float64)
    below = np.concatenate([[0.0], np.cumsum(counts)])
    if not below[-1]:
        return edges, np.full(len(edges), np.nan), 0
    below /= below[-1]
    return edges, below, int(np.clip(np.searchsorted(below, share, side="left") - 1, 0, len(counts) - 1))


# --- Distances -------------------------------------------------------------------------------------------------------


def compare(feature: str, before: Binned, here: Binned) -> Comparison | str:
    """Compare a feature's histograms, or return in a few words why they cannot be."""
    for histogram, where in ((before, "before"), (here, "here")):
        if not np.asarray(histogram.counts).sum():
            return f"no record has a value {where}"
    edges = np.asarray(here.edges, np.float64)
    inner = [edge for edge in edges[1:-1] if _has(before, edge)]
    if not inner:
        return "too few of its bins can be shown"
    edges = np.array([min(edges[0], before.edges[0]), *inner, max(edges[-1], before.edges[-1])])
    p, q = _between(before, edges), _between(here, edges)
    n, m = int(p.sum()), int(q.sum())
    ks = float(np.abs(np.cumsum(p) / n - np.cumsum(q) / m).max())
    p_value = float(kstwobign.sf(ks * math.sqrt(n * m / (n + m))))
    cuts = _equal_parts(p)
    coarse_p, coarse_q = (np.add.reduceat(row, cuts[:-1]) for row in (p, q))
    psi = population_stability_index(coarse_p, coarse_q)
    by_chance = float(chi2.isf(CHANCE, len(coarse_p) - 1)) * (1 / n + 1 / m)
    by_psi = min(_verdict(psi, PSI_LIMITS), _verdict(2 * ks, KS_LIMITS)) if psi > by_chance else Verdict.NONE
    verdict = max(by_psi, _verdict(ks, KS_LIMITS) if p_value < CHANCE else Verdict.NONE)
    return Comparison(
        feature=feature,
        before=n,
        here=m,
        edges=tuple(edges[cuts].tolist()),
        shares_before=tuple((coarse_p / n).tolist()),
        shares_here=tuple((coarse_q / m).tolist()),
        psi=psi,
        ks=ks,
        p_value=p_value,
        median_before=_median(before),
        median_here=_median(here),
        iqr_before=interquartile_range(before),
        verdict=verdict,
    )


def compare_bands(feature: str, before: Binned, here: Mapping[str, int | None]) -> Comparison | str:
    """Compare ages with counts in bands ("20-39", "90 and over"): among those bands whose counts are not hidden."""
    bands = [name for name in here if name != UNKNOWN]
    starts = [float(re.findall(r"\d+", name)[0]) for name in bands]
    shown = np.array([here[name] is not None for name in bands], bool)
    if shown.sum() < 2:
        return "too few of its bands can be shown"
    if starts != sorted(starts) or not all(_has(before, start) for start in starts[1:]):
        return "its bands begin at other ages"
    counts = _between(before, np.array([*starts, starts[-1] + _BAND]))[shown]
    kept = np.array(starts)[shown]
    edges = np.append(kept, kept[-1] + _BAND)
    return compare(
        feature, Histogram(edges, counts), Histogram(edges, np.array([here[name] or 0 for name in bands])[shown])
    )


def population_stability_index(before: np.ndarray, here: np.ndarray) -> float:
    """Return sum (q - p) ln(q / p) over bins, p and q being shares after adding `SMOOTHING` to each count."""
    p, q = (row / row.sum() for row in (np.asarray(before) + SMOOTHING, np.asarray(here) + SMOOTHING))
    return float(((q - p) * np.log(q / p)).sum())


def _equal_parts(counts: np.ndarray) -> np.ndarray:
    """Return indices of edges, the first and last among them, that come nearest to parts of equal share."""
    below = np.cumsum(counts)[:-1] / counts.sum()
    cuts = set()
    for part in np.arange(1, PSI_BINS) / PSI_BINS:
        # Of edges with nothing between them the ones next to the part: a constant then stands in its own narrow bin.
        after = int(np.searchsorted(below, part, side="right"))
        near = [at for at in (after - 1, after) if 0 <= at < len(below)]
        cuts.add(1 + min(near, key=lambda at: abs(float(below[at]) - part)))
    return np.array([0, *sorted(cuts), len(counts)])


def compare_share(name: str, before: tuple[int, int], here: tuple[int, int]) -> ShareComparison | str:
    """Compare shares, each given as (number with, number of all), or return why they cannot be."""
    if min(before[1], here[1]) <= 0:
        return "there is nobody to compare"
    shares = [wilson(min(part, whole), whole) for part, whole in (before, here)]
    was, now = shares
    difference = now.value - was.value
    interval = Estimate(
        difference,
        difference - math.hypot(now.value - now.low, was.high - was.value),
        difference + math.hypot(now.high - now.value, was.value - was.low),
    )
    effect = 2 * math.asin(math.sqrt(now.value)) - 2 * math.asin(math.sqrt(was.value))
    # h has a variance of 1/n + 1/m whatever the shares are.
    by_chance = math.sqrt(float(chi2.isf(CHANCE, 1)) * (1 / before[1] + 1 / here[1]))
    verdict = _verdict(abs(effect), SHARE_LIMITS) if abs(effect) > by_chance else Verdict.NONE
    return ShareComparison(name, was, now, interval, effect, verdict)


def compare_categories(
    name: str, before: Mapping[str, int | None], here: Mapping[str, int | None]
) -> CategoryComparison | str:
    """Compare shares of categories, or return why they cannot be; what is unknown is left out."""
    unknown = ("unknown", UNKNOWN)
    names = tuple(dict.fromkeys(one for one in (*before, *here) if one not in unknown))
    given = [[counts.get(one, 0) for one in names] for counts in (before, here)]
    if any(count is None for row in given for count in row):
        return "too few of its categories can be shown"
    p, q = (np.array(row, np.float64) for row in given)
    if not p.sum() or not q.sum():
        return "it is known of nobody"
    share_p, share_q = p / p.sum(), q / q.sum()
    distance = float(np.abs(share_p - share_q).sum() / 2)
    there = (p + q) > 0
    p_value = float(chi2_contingency(np.stack([p, q])[:, there], correction=False).pvalue) if there.sum() > 1 else 1.0
    verdict = _verdict(distance, KS_LIMITS) if p_value < CHANCE else Verdict.NONE
    return CategoryComparison(name, names, tuple(share_p.tolist()), tuple(share_q.tolist()), distance, p_value, verdict)


def _verdict(value: float, limits: tuple[float, float]) -> Verdict:
    return Verdict(sum(value >= limit - _ROUNDING for limit in limits))
