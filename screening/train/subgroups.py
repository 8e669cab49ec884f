"""Right and wrong flags by group: who the records are of, where they were made, and what else is on the ECG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from scipy.stats import binomtest

from screening.model.bundle import Counts
from screening.model.calibration import count_flags
from screening.train.data import TrainingSet

AGE_BANDS = ((0, 39), (40, 49), (50, 59), (60, 69), (70, 79), (80, 150))
SMALLEST_GROUP = 5  # patients below which a group is left out: its interval would span most of the scale
SMALLEST_PLACE = 20  # patients below which sites and devices are pooled as "other": archives have many small ones
MOST_PLACES = 20  # sites, and devices, that are named; the rest are "other" too

PLACE_OF_INFARCT = "infarct (positives only)"
KNOWN_FAILURES = "known failures"

INFARCT_STATEMENTS: Mapping[str, tuple[str, ...]] = {
    "anterior": ("AMI", "ASMI", "ALMI"),
    "inferior": ("IMI", "ILMI", "IPMI", "IPLMI"),
    "lateral": ("LMI", "ALMI", "ILMI", "IPLMI"),
    "posterior": ("PMI", "IPMI", "IPLMI"),
    "injury": ("INJAS", "INJAL", "INJIN", "INJLA", "INJIL"),
}
"""Where PTB-XL's statements (scp_statements.csv) place an infarct; a record may be in several groups."""

FAILURE_STATEMENTS: Mapping[str, tuple[str, ...]] = {
    "left bundle branch block": ("CLBBB", "ILBBB", "164909002", "733534002", "251120003"),
    "right bundle branch block, complete": ("CRBBB", "59118001", "713427006"),
    "paced rhythm": ("PACE", "10370003", "251266004"),
    "pre-excitation (WPW)": ("WPW", "74390002", "195060002"),
    "low QRS voltage": ("LVOLT", "251146004"),
    "left ventricular hypertrophy": ("LVH", "164873001"),
    "atrial fibrillation": ("AFIB", "164889003", "195080001"),
    "early repolarisation or ST elevation": ("STE_", "428417006", "164931005"),
    "non-specific ST-T changes": ("NST_", "NDT", "NT_", "STD_", "428750005"),
}
"""What imitates or hides an infarct on an ECG (Thygesen et al., Fourth Universal Definition of Myocardial Infarction,
2018, sections on conduction, pacing and pitfalls), in the codes of PTB-XL (scp_statements.csv) and of the PhysioNet/CinC
Challenge 2021 (SNOMED CT; dx_mapping_scored.csv and dx_mapping_unscored.csv). PTB-XL has no statement of early
repolarisation; non-specific ST elevation (STE_) stands for it."""


def counts_by_group(records: TrainingSet, flagged: np.ndarray) -> dict[str, dict[str, Counts]]:
    """Count right and wrong flags by group.

    Parameters
    ----------
    records : TrainingSet
        One ECG a patient, so that counts are of patients; that is the caller's to choose.
    flagged : array, bool (n,)
        At the model's threshold.

    Returns
    -------
    dict
        Kind -> group -> counts. Kinds are ``sex``, ``age``, ``site``, ``device``, ``infarct (positives only)`` by place,
        and ``known failures`` by what imitates or hides an infarct. Records of which a thing is unknown are in none of
        its groups; a record may be in several of the last two kinds. A kind without any group is absent. Sites and
        devices below ``SMALLEST_PLACE`` are pooled as "other"; groups below ``SMALLEST_GROUP`` are left out.
    """
    flagged = np.asarray(flagged, dtype=bool)
    if flagged.shape != (len(records),):
        raise ValueError(f"flagged must be a row of {len(records)}, not {flagged.shape}")
    positive = records.target == 1
    codes = [frozenset(of) for of in records.statements.tolist()]

    def state(wanted: tuple[str, ...]) -> np.ndarray:
        return np.array([not of.isdisjoint(wanted) for of in codes], dtype=bool)

    groups: dict[str, dict[str, np.ndarray]] = {
        "sex": {sex: records.sex == sex for sex in ("female", "male")},
        "age": {
            f"{low}-{high}" if high < 150 else f"{low} and over": (records.age >= low) & (records.age < high + 1)
            for low, high in AGE_BANDS
        },
        "site": _places(records.site),
        "device": _places(records.device),
        PLACE_OF_INFARCT: {place: positive & state(wanted) for place, wanted in INFARCT_STATEMENTS.items()},
        KNOWN_FAILURES: {what: state(wanted) for what, wanted in FAILURE_STATEMENTS.items()},
    }
    counted = {
        kind: {
            group: count_flags(flagged[mask], records.target[mask])
            for group, mask in members.items()
            if mask.sum() >= SMALLEST_GROUP
        }
        for kind, members in groups.items()
    }
    return {kind: members for kind, members in counted.items() if members}


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson 1927); the whole scale where ``n`` is 0."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def rates(counts: Counts) -> dict[str, dict[str, float]]:
    """Return ``sensitivity`` and ``specificity``, each ``value``, ``low``, ``high``; one without records is absent."""
    found = {}
    for name, right, wrong in (
        ("sensitivity", counts.TP, counts.FN),
        ("specificity", counts.TN, counts.FP),
    ):
        if right + wrong:
            low, high = wilson(right, right + wrong)
            found[name] = {"value": right / (right + wrong), "low": low, "high": high}
    return found


def _places(names: np.ndarray) -> dict[str, np.ndarray]:
    """Return the records of each site or device, the small ones and those beyond the largest together as "other"."""
    sizes = Counter(name for name in names.tolist() if name)
    shown = sorted(name for name, size in sizes.most_common(MOST_PLACES) if size >= SMALLEST_PLACE and name != "other")
    return {name: names == name for name in shown} | {
        "other": np.array([bool(name) and name not in shown for name in names.tolist()], dtype=bool)
    }
