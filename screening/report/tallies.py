"""Exact counts of a population, as `population.py` takes them from catalog and results.

They are private: `disclosure.py` rounds and hides before anything is computed or shown from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from screening.contract import LEADS, TERRITORIES

UNKNOWN, OTHER = "(unknown)", "(other)"
"""Categories for what the archive does not state, and for the small ones together; brackets keep them apart from names."""

DIMENSIONS = ("sex", "age", "site", "device", "conduction", "year", "month")
"""What patients and records are divided by. Months are YYYY-MM, years YYYY; the first of each is the earliest."""


NO_TERRITORY = "none"
LEADING: dict[str, tuple[str, ...]] = {"territory": (*TERRITORIES, NO_TERRITORY), "wave": (), "lead": LEADS}
"""Operators whose importances are summed up -> the parts by which patients are counted. The lead of greatest importance may be
below zero; a territory leads only above."""


@dataclass(frozen=True)
class CountTable:
    """Counts by category and column.

    Columns are parts that exclude each other and add up to the row, e.g. ("flagged", "unflagged"). Rows are categories that
    exclude each other and add up to the table's total, unless ``partition`` is False (a record may have several flags).
    ``parents`` names for each row the larger row it is a part of in another table (a month's year).
    """

    key: str  # e.g. "patients by sex"
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: np.ndarray  # int64 (rows, columns)
    partition: bool = True
    parents: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.counts.shape != (len(self.rows), len(self.columns)):
            raise ValueError(f"{self.key}: {self.counts.shape} counts for {len(self.rows)} x {len(self.columns)} cells")


@dataclass(frozen=True)
class ScreenedBy:
    """A bundle that scored current rows, and in which runs."""

    name: str
    version: str
    bundle_sha256: str
    run_ids: tuple[str, ...]  # in the order in which they entered `current`


@dataclass(frozen=True)
class Histogram:
    """Counts between edges: bin i holds edges[i] <= x < edges[i + 1]; the first and last bins are open to infinity."""

    edges: np.ndarray  # float64 (bins + 1,)
    counts: np.ndarray  # int64 (bins,)
    missing: int = 0


@dataclass(frozen=True)
class Importance:
    """Importance of an operator's parts over the flagged index ECGs of a category that it explained."""

    operator: str  # of `LEADING`
    dimension: str  # "all", "sex" or "site"
    category: str
    patients: int
    mean: np.ndarray  # float64 (parts,), in logits, in contract.OPERATORS
    sd: np.ndarray  # float64 (parts,), between patients
    leading: (
        np.ndarray
    )  # int64 (of `LEADING`,), patients by the part of greatest importance; they add up to the patients


@dataclass(frozen=True)
class Tallies:
    """Everything that a report is computed from."""

    models: tuple[ScreenedBy, ...]
    flow: Mapping[str, int]
    """Records: catalogued = outside_period + not_screened + changed + rejected + scored; scored = duplicates + repeats +
    index. Patients (in the period): patients_catalogued = patients_without_score + patients_with_score. Beside these: undated,
    future_dated, without_patient_key, forgotten (left out of all the others), gone (current rows of records that the catalog no
    longer has), seen_in_training (index ECGs whose bytes made one of the models)."""
    records: Mapping[str, CountTable]
    """"all" and each dimension -> columns scored, rejected, not_screened, changed; counts of records."""
    reasons: Mapping[str, CountTable]
    """"all" and each dimension -> columns are the reasons found; counts of rejected records."""
    patients: Mapping[str, CountTable]
    """"all", each dimension, and "age and sex" (rows "60-69|female") -> for model i columns "flagged i", "unflagged i".
    A patient is counted once, by the index ECG; by year and month once in each, by the index rule within it."""
    quality_flags: CountTable  # rows are flags, columns "with" and "without"; scored records; partition=False
    scores: tuple[Histogram, ...]  # a model: log-odds of the calibrated probability of index ECGs
    features: Mapping[str, Mapping[str, Histogram]]
    """Feature (a quality column, age, log_odds) -> run id -> scored records, at the edges that were asked for."""
    importance: tuple[Importance, ...]
    first_acquired: str | None = None  # month, YYYY-MM, of the records in the frame, without future dates
    last_acquired: str | None = None
    clustering: Mapping[str, float] = field(default_factory=dict)
    """Only with the index rule "all": design effect of counting every ECG of a patient, by category of dimension "all"."""
