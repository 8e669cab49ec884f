"""What a bundle's own population looked like, so that another archive can be held against it: ``reference.json``.

Counts only: of records and patients between edges and in categories, never a record's values. They are exact, as the bundle's
counts of true and false flags are: what may not be known of the training data in such detail makes no bundle to be shared.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from screening.contract import QUALITY_COLUMNS, canonical_json

SCHEMA_VERSION = 1

NUMERIC_QUALITY = tuple(name for name, kind, _ in QUALITY_COLUMNS if kind == "float32")
SCORE_EDGES = tuple(np.arange(-8, 8.01, 0.25).tolist())
"""Log-odds of the calibrated probability; the first and last bin are open."""
AGE_EDGES = (0.0, 1.0, *np.arange(5.0, 91.0, 5.0).tolist(), 95.0)
"""Years. The bands of most reference populations begin at one of them; 90 stands for 90 and over."""
SEXES = ("female", "male", "unknown")

BINS = 40
TAILS = (0.005, 0.995)
FEWEST = 20
"""Records a bin has at least, in a reference of few."""
_DIGITS = 4
_WIDTH, _LEAST = 1e-3, 1e-6
"""Half width of the bin around a value that many records share, relative to it and at least."""
_CLIP = 1e-7
"""Least distance of a probability from 0 and 1 before its log-odds are taken: about the spacing of float32 below 1."""


@dataclass(frozen=True)
class Distribution:
    """Records between edges: bin i holds edges[i] <= x < edges[i + 1]; the first and last are open to infinity."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    missing: int = 0

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.edges) - 1 or np.any(np.diff(self.edges) <= 0) or min(*self.counts, 0) < 0:
            raise ValueError("a distribution needs ascending edges and a count from 0 between each two of them")


@dataclass(frozen=True)
class Scores:
    """How patients with and without the condition score, one ECG a patient: log-odds of the calibrated probability."""

    data: str  # which predictions, in words
    edges: tuple[float, ...]  # open ends, as in `Distribution`
    positive: tuple[int, ...]
    negative: tuple[int, ...]
    flagged: int  # of them together

    def __post_init__(self) -> None:
        for counts in (self.positive, self.negative):
            Distribution(self.edges, counts)

    @property
    def patients(self) -> int:
        """Number of patients."""
        return sum(self.positive) + sum(self.negative)


@dataclass(frozen=True)
class Reference:
    """What the population looked like that a bundle was made from."""

    data: str  # e.g. "PTB-XL 1.0.3, folds 1, 2, 3"
    records: int
    patients: int
    features: Mapping[str, Distribution]
    """`NUMERIC_QUALITY` and age of these records; log_odds of ``scored``."""
    scored: str
    """Patients that this very network had not trained on, one ECG a patient. The networks of an outer fold spread low scores
    otherwise, which matters to no estimate but would look like drift."""
    sex: Mapping[str, int]  # `SEXES` -> records
    quality_flags: Mapping[str, int]  # flag -> records that carry it
    scores: Scores


def make_reference(
    data: str,
    *,
    patients: int,
    quality: Mapping[str, np.ndarray],
    quality_flags: Sequence[str],
    age: np.ndarray,
    sex: Sequence[str | None],
    scored: str,
    probability: np.ndarray,
    scores: Scores,
) -> Reference:
    """Count records.

    Parameters
    ----------
    data
        What they are, in words.
    quality : mapping
        Each of `NUMERIC_QUALITY` -> float (n,).
    quality_flags : sequence of str, n
        Comma-separated names, empty where nothing is doubtful.
    age : array, float (n,)
        Years, NaN where unknown.
    scored, probability : array, float (m,)
        Of which patients, in words, and their calibrated probabilities, one ECG a patient.
    """
    features = {name: distribution(quality[name], quantile_edges(quality[name])) for name in NUMERIC_QUALITY}
    features["age"] = distribution(age, AGE_EDGES)
    features["log_odds"] = distribution(log_odds(probability), SCORE_EDGES)
    flags = Counter(flag for flags in quality_flags for flag in flags.split(",") if flag)
    sexes = Counter(one if one in SEXES else "unknown" for one in sex)
    return Reference(
        data=data,
        records=len(age),
        patients=patients,
        features=features,
        scored=scored,
        sex={name: sexes[name] for name in SEXES},
        quality_flags=dict(sorted(flags.items())),
        scores=scores,
    )


def score_distribution(data: str, probability: np.ndarray, target: np.ndarray, flagged: np.ndarray) -> Scores:
    """Return the score distribution of patients: probability (n,), targets of 0 and 1, flags."""
    of_all, positive = log_odds(probability), np.asarray(target) == 1
    return Scores(
        data,
        SCORE_EDGES,
        distribution(of_all[positive], SCORE_EDGES).counts,
        distribution(of_all[~positive], SCORE_EDGES).counts,
        int(np.asarray(flagged, bool).sum()),
    )


def log_odds(probability: np.ndarray) -> np.ndarray:
    """Return the log-odds of probabilities, which are kept from 0 and 1."""
    p = np.clip(np.asarray(probability, np.float64), _CLIP, 1 - _CLIP)
    odds: np.ndarray = np.log(p / (1 - p))
    return odds


def distribution(values: np.ndarray, edges: Sequence[float]) -> Distribution:
    """Count values (n,) between edges; NaN and infinity count as missing."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    place = np.searchsorted(np.asarray(edges[1:-1], np.float64), known, side="right")
    counts = np.bincount(place, minlength=len(edges) - 1)
    return Distribution(tuple(edges), tuple(counts.tolist()), len(values) - len(known))


def quantile_edges(values: np.ndarray) -> tuple[float, ...]:
    """Return edges that cut values (n,) into about `BINS` parts of equal size, with narrower tails.

    A value that more records share than a part holds gets a narrow bin of its own, so that a constant's change shows on either
    side. Edges have four significant digits; the outermost are nominal, as their bins are open, and no record's value.
    """
    x = np.sort(np.asarray(values, np.float64)[np.isfinite(values)])
    if not len(x):
        return (0.0, 1.0)
    bins = int(np.clip(len(x) // FEWEST, 2, BINS))
    levels = np.arange(1, bins) / bins
    if len(x) * TAILS[0] >= FEWEST / 2:
        levels = np.concatenate([[TAILS[0]], levels, [TAILS[1]]])
    inner: set[float] = set()
    for cut in np.unique(np.quantile(x, levels, method="inverted_cdf")).tolist():
        shared = int(np.searchsorted(x, cut, "right") - np.searchsorted(x, cut, "left"))
        if shared <= len(x) / bins:
            if _rounded(cut) > x[0]:
                inner.add(_rounded(cut))
            continue
        half = max(_WIDTH * abs(cut), _LEAST)
        inner.add(_rounded(cut + half))
        if cut != 0 or x[0] < 0:
            inner.add(_rounded(cut - half))
    edges = sorted(inner) or [_rounded((x[0] + x[-1]) / 2)]
    first, last = (edges[1] - edges[0], edges[-1] - edges[-2]) if len(edges) > 1 else (abs(edges[0]) or 1.0,) * 2
    lowest = _beyond(edges[0], -first)
    if x[0] >= 0 and edges[0] > 0:
        lowest = max(lowest, 0.0)
    return (lowest, *edges, _beyond(edges[-1], last))


def _beyond(edge: float, step: float) -> float:
    while _rounded(edge + step) == edge:
        step *= 2
    return _rounded(edge + step)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS - 1}e}")


def write_reference(reference: Reference, path: Path) -> None:
    """Write a reference as JSON, in one possible spelling."""
    path.write_bytes(canonical_json({"schema_version": SCHEMA_VERSION, **asdict(reference)}) + b"\n")


def read_reference(path: Path) -> Reference:
    """Return what ``write_reference`` wrote.

    Raises
    ------
    ValueError
        It is of another version, or no reference.
    """
    facts = json.loads(path.read_bytes())
    try:
        if facts["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"version {facts['schema_version']!r}, not {SCHEMA_VERSION}")
        scores = {name: _frozen(value) for name, value in facts["scores"].items()}
        return Reference(
            data=facts["data"],
            records=facts["records"],
            patients=facts["patients"],
            features={
                name: Distribution(**{key: _frozen(value) for key, value in one.items()})
                for name, one in facts["features"].items()
            },
            scored=facts["scored"],
            sex=facts["sex"],
            quality_flags=facts["quality_flags"],
            scores=Scores(**scores),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a reference: {error}") from error


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
