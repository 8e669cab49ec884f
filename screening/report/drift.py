"""Does the archive look like what the model was made from, and the latest run like the one before? And what to do if not.

`distances.py` says what is compared and from where a difference counts as slight or marked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from screening.report.distances import (
    Binned,
    CategoryComparison,
    Comparison,
    ShareComparison,
    Verdict,
    combined,
    compare,
    compare_bands,
    compare_categories,
    compare_share,
)
from screening.report.tallies import UNKNOWN, Histogram

if TYPE_CHECKING:
    from screening.model.reference import Reference

LOG_ODDS, AGE, SEX, FLAGGED = "log_odds", "age", "sex", "flagged"

TITLES: dict[str, str] = {
    LOG_ODDS: "Score (log-odds of the calibrated probability)",
    AGE: "Age (years)",
    SEX: "Sex",
    FLAGGED: "Flagged patients",
    "duration_s": "Length of the recording (s)",
    "source_rate_hz": "Sampling rate (Hz)",
    "missing_fraction": "Missing samples (share, worst lead)",
    "flat_fraction": "Flat (share of time, worst lead)",
    "clipped_fraction": "Clipped (share of time, worst lead)",
    "amplitude_mV": "Amplitude (mV, largest lead)",
    "einthoven_mV": "Residual of the limb leads (mV)",
    "mains_mV": "Mains interference (mV)",
    "baseline_mV": "Baseline wander (mV)",
    "noise_mV": "Noise above 40 Hz (mV)",
}
"""How features are called in a report."""

_FIXED: dict[str, np.ndarray] = {
    "duration_s": np.array([0.0, 5, 7.5, 9.99, 10.01, 12, 15, 20, 30, 60, 300, 3600]),
    "source_rate_hz": np.array(
        [0.0, 99.5, 100.5, 199.5, 200.5, 239.5, 240.5, 249.5, 250.5, 499.5, 500.5, 999.5, 1000.5, 2000]
    ),
    "missing_fraction": np.array([0.0, 1e-6, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05]),
    "flat_fraction": np.array([0.0, 1e-6, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5]),
    "clipped_fraction": np.array([0.0, 1e-6, 0.005, 0.01, 0.02, 0.05, 0.1]),
    "amplitude_mV": np.geomspace(0.2, 15, 41),
    "einthoven_mV": np.geomspace(1e-5, 1, 41),
    "mains_mV": np.geomspace(1e-4, 0.1, 41),
    "baseline_mV": np.geomspace(2e-3, 4, 41),
    "noise_mV": np.geomspace(1e-3, 0.3, 41),
    AGE: np.array([0.0, 1, *range(5, 91, 5), 95]),
    LOG_ODDS: np.arange(-8, 8.01, 0.25),
}
"""Edges of the features where no bundle has a reference."""


@dataclass(frozen=True)
class Drift:
    """All comparisons with one reference or one earlier run, and what to do about them."""

    against: str  # in words
    features: tuple[Comparison, ...]
    shares: tuple[ShareComparison, ...]
    categories: tuple[CategoryComparison, ...]
    left_out: Mapping[str, str]  # feature -> why it is not compared
    advice: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """The gravest of all."""
        verdicts = [one.verdict for one in self.features]
        verdicts += [one.verdict for one in self.shares]
        return max(verdicts + [one.verdict for one in self.categories], default=Verdict.NONE)


def feature_edges(references: Sequence[Reference]) -> Mapping[str, np.ndarray]:
    """Return the edges at which features are to be counted: those of all references, so that each can be compared exactly.

    Returns
    -------
    mapping
        Feature -> float64 (bins + 1,), ascending; fixed edges for features of which no reference tells.
    """
    edges = {name: fixed.astype(np.float64) for name, fixed in _FIXED.items()}
    for name in edges:
        known = [one.features[name].edges for one in references if name in one.features]
        if known:
            edges[name] = np.unique(np.concatenate([np.asarray(one, np.float64) for one in known]))
    return edges


def over_runs(features: Mapping[str, Mapping[str, Binned]], run_ids: Sequence[str]) -> dict[str, Histogram]:
    """Return each feature's histogram over several runs (feature -> run -> histogram), of those in which it can be shown."""
    found = {name: combined([by_run[run] for run in run_ids if run in by_run]) for name, by_run in features.items()}
    return {name: histogram for name, histogram in found.items() if histogram is not None}


# --- What is compared ------------------------------------------------------------------------------------------------


def against_reference(
    reference: Reference,
    features: Mapping[str, Binned],
    *,
    scores: Binned | None,
    sex: Mapping[str, int | None],
    flagged: tuple[int, int] | None,
    quality_flags: Mapping[str, tuple[int, int]],
    ages: Mapping[str, int | None] | None = None,
) -> Drift:
    """Compare an archive with what the model was made from.

    Parameters
    ----------
    features
        Feature -> its histogram over the archive's scored records, at `feature_edges`, protected.
    scores
        Of patients, at `model.reference.SCORE_EDGES`; None where it is hidden.
    sex
        Category -> scored records, None where hidden.
    flagged
        Flagged patients, and all; None where hidden.
    quality_flags
        Flag -> records that carry it, and all, of those that can be shown.
    ages
        Age band -> scored records, None where hidden; used where ``features`` has no ages.
    """
    measured = reference.scores
    here = {**features, LOG_ODDS: scores}
    names = [name for name in TITLES if name in reference.features]
    before = {"female": 0, "male": 0, **reference.sex}
    flags = {
        f"flag {name}": ((reference.quality_flags.get(name, 0), reference.records), counts)
        for name, counts in quality_flags.items()
    }
    if flagged is not None:
        flags[FLAGGED] = ((measured.flagged, measured.patients), flagged)
    banded = ages if ages is not None and AGE not in features and AGE in names else None
    pairs = {name: (reference.features[name], here.get(name)) for name in names if name != AGE or banded is None}
    by_band = None if banded is None else (reference.features[AGE], banded)
    return _compared(reference.data, pairs, flags, (before, sex), by_band)


def between_runs(
    before: Mapping[str, Binned], here: Mapping[str, Binned], *, same_model: bool, against: str = "the previous run"
) -> Drift:
    """Compare the records that two runs scored, by feature. Scores are left out where another model gave them."""
    names = [name for name in TITLES if (name in before or name in here) and (same_model or name != LOG_ODDS)]
    return _compared(against, {name: (before.get(name), here.get(name)) for name in names}, {}, None)


def _compared(
    against: str,
    features: Mapping[str, tuple[Binned | None, Binned | None]],
    shares: Mapping[str, tuple[tuple[int, int], tuple[int, int]]],
    sex: tuple[Mapping[str, int | None], Mapping[str, int | None]] | None,
    ages: tuple[Binned, Mapping[str, int | None]] | None = None,
) -> Drift:
    left_out: dict[str, str] = {}
    found: dict[type, list[Comparison | ShareComparison | CategoryComparison]] = {}

    def keep(name: str, one: Comparison | ShareComparison | CategoryComparison | str) -> None:
        if isinstance(one, str):
            left_out[name] = one
        else:
            found.setdefault(type(one), []).append(one)

    for name, (before, here) in features.items():
        if before is None or here is None:
            left_out[name] = "it can be shown of too few records"
            continue
        keep(name, compare(name, before, here))
        if before.missing or here.missing:
            keep(f"{name} unknown", compare_share(f"{name} unknown", _missing(before), _missing(here)))
    if ages is not None:
        keep(AGE, compare_bands(AGE, *ages))
        total = sum(count or 0 for count in ages[1].values())
        if (unknown := ages[1].get(UNKNOWN, 0)) is not None and (unknown or ages[0].missing):
            keep(f"{AGE} unknown", compare_share(f"{AGE} unknown", _missing(ages[0]), (unknown, total)))
    if sex is not None:
        keep(SEX, compare_categories(SEX, *sex))
        if (of_sex := _unknown(sex)) is not None:
            keep(f"{SEX} unknown", compare_share(f"{SEX} unknown", *of_sex))
    for name, (was, now) in shares.items():
        keep(name, compare_share(name, was, now))
    of_features = tuple(one for one in found.get(Comparison, []) if isinstance(one, Comparison))
    of_shares = tuple(one for one in found.get(ShareComparison, []) if isinstance(one, ShareComparison))
    of_categories = tuple(one for one in found.get(CategoryComparison, []) if isinstance(one, CategoryComparison))
    advice = tuple(_advice(against, of_features, of_shares, of_categories))
    return Drift(against, of_features, of_shares, of_categories, left_out, advice)


def _missing(histogram: Binned) -> tuple[int, int]:
    return histogram.missing, histogram.missing + int(np.sum(histogram.counts))


def _unknown(
    sex: tuple[Mapping[str, int | None], Mapping[str, int | None]],
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return (unknown, all) before and here; None where a count is hidden or nothing is unknown in either."""
    pairs = []
    for counts in sex:
        if any(count is None for count in counts.values()):
            return None
        total = sum(count or 0 for count in counts.values())
        pairs.append((sum(count or 0 for name, count in counts.items() if name.strip("()") == "unknown"), total))
    return (pairs[0], pairs[1]) if pairs[0][0] or pairs[1][0] else None


# --- What to do about it ---------------------------------------------------------------------------------------------

_FACTORS = (1e-3, 0.1, 0.5, 2.0, 10.0, 1e3)
"""Of amplitudes, by which a unit or a gain is mistaken."""
_NEAR = 0.15  # of a factor, as a difference of logarithms
_DISTURBANCE = (
    "mains_mV",
    "noise_mV",
    "baseline_mV",
    "einthoven_mV",
    "clipped_fraction",
    "flat_fraction",
    "missing_fraction",
)
_FORMAT = ("source_rate_hz", "duration_s")


def _advice(
    against: str,
    features: Sequence[Comparison],
    shares: Sequence[ShareComparison],
    categories: Sequence[CategoryComparison],
) -> Iterable[str]:
    """Yield a sentence or two for each kind of difference."""
    apart = {one.feature: one for one in features if one.verdict}
    shares_apart = {one.name: one for one in shares if one.verdict}
    patients = [AGE] * (AGE in apart) + [one.name for one in categories if one.verdict]
    signals = [name for name in apart if name not in (LOG_ODDS, AGE)]
    if "amplitude_mV" in apart:
        yield _amplitude(apart["amplitude_mV"], against)
    if other := [name for name in _DISTURBANCE if name in apart]:
        yield (
            f"{_differ(other)} from {against}: other devices, filters or electrodes, or their upkeep. Compare "
            "rejections and quality flags by device and site before prevalence is compared between these."
        )
    if other := [name for name in _FORMAT if name in apart]:
        yield (
            f"{_differ(other)} from {against}: another device or export. See in a local validation sample "
            "that the model errs no more on these recordings."
        )
    if patients:
        yield (
            f"Other patients than in {against} ({' and '.join(patients)}): prevalence differs for that reason alone. Read the "
            "figures by age and sex and the standardised ones beside the total."
        )
    if lost := [name for name in shares_apart if name.endswith(" unknown")]:
        yield (
            f"The share of records with {' and '.join(lost)} is another than in {against}: look into the feed of "
            "metadata, as these records are missing from the figures by group."
        )
    if flags := [name.removeprefix("flag ") for name in shares_apart if name.startswith("flag ")]:
        yield (
            f"Quality flags are raised at another rate than in {against} ({', '.join(flags)}): look at such records by "
            "device and site, and at what a reader says of some of them."
        )
    if LOG_ODDS in apart or FLAGGED in shares_apart:
        yield _scores(apart.get(LOG_ODDS), shares_apart.get(FLAGGED), against, signals=signals, patients=patients)
    if not apart and not shares_apart and not patients:
        yield (
            f"Nothing that was compared differs from {against} by more than the limits. That speaks for, but does not show, an "
            "accuracy that holds here: only readings of a local sample do."
        )


def _amplitude(amplitude: Comparison, against: str) -> str:
    medians = f"median {_written(amplitude.median_here)} against {_written(amplitude.median_before)} mV"
    ratio = (amplitude.median_here or math.nan) / (amplitude.median_before or math.nan)
    factor = [one for one in _FACTORS if abs(math.log(max(ratio, 1e-9) / one)) < _NEAR]
    if factor:
        return (
            f"Amplitudes are about {factor[0]:g} times those of {against}, which no patients explain: a gain or a unit is "
            "probably mistaken. Check `unit_source` in the results, the headers of some files, and scores by device before "
            "using any figure."
        )
    return (
        f"Amplitudes differ from those of {against} ({medians}): compare them by device and by `unit_source`; a mistaken "
        "gain shows as a factor such as 2, other patients or filters do not."
    )


def _scores(
    scores: Comparison | None,
    flagged: ShareComparison | None,
    against: str,
    *,
    signals: Sequence[str],
    patients: Sequence[str],
) -> str:
    what = []
    if scores is not None:
        medians = f"{_written(scores.median_here)} against {_written(scores.median_before)}"
        what.append(f"scores are spread otherwise (median log-odds {medians})")
    if flagged is not None:
        what.append(f"{flagged.here.value:.1%} of patients are flagged, against {flagged.before.value:.1%}")
    told = f"Against {against}, {' and '.join(what)}"
    sample = "raw a local validation sample (`screening validate sample`)"
    if signals:
        return (
            f"{told}; the signals differ too. Settle these first, since scores may follow from them, and d{sample} in any "
            "case: sensitivity and specificity measured elsewhere are then least likely to hold."
        )
    if patients:
        return (
            f"{told}; {' and '.join(patients)} differ too. Part of it may be case mix: compare within groups of age and "
            f"sex. D{sample}, as scores cannot tell more cases from more errors."
        )
    return (
        f"{told}, while signals and patients are alike: there are more or fewer cases, or the model errs more, and "
        f"scores cannot tell which. D{sample}."
    )


def _written(median: float | None) -> str:
    return "beyond the limits" if median is None else f"{median:.2g}"


def _differ(names: Sequence[str]) -> str:
    """Return "Noise differs" or "Noise and mains interference differ"."""
    titles = [TITLES[name].split(" (")[0] for name in names]
    titles = [titles[0], *(title[0].lower() + title[1:] for title in titles[1:])]
    if len(titles) == 1:
        return f"{titles[0]} differs"
    return f"{', '.join(titles[:-1])} and {titles[-1]} differ"
