"""What the report has found: every figure in it, computed from protected counts, before it is put into words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from screening.report.document import HIDDEN, Cell, Estimate

if TYPE_CHECKING:
    from screening.model.bundle import Counts
    from screening.model.reference import Reference
    from screening.report.accuracy import Accuracy
    from screening.report.validation import Validation


@dataclass(frozen=True)
class Group:
    """Patients of one category and what is estimated of them; None and HIDDEN where too few are in it."""

    name: str
    patients: int | None
    flagged: int | None
    apparent: Cell = HIDDEN
    adjusted: Cell = HIDDEN  # with the group's own sensitivity and specificity, partially pooled
    shared: Cell = HIDDEN  # with those of all patients
    difference: Cell = HIDDEN  # of ``adjusted`` from all other groups together; of places only


@dataclass(frozen=True)
class Estimator:
    """One way of estimating the prevalence among all patients."""

    key: str
    name: str
    cell: Cell
    basis: str  # what it rests on, in a few words


@dataclass(frozen=True)
class ModelFacts:
    """A bundle that scored the patients: how it decides, and what is known of its errors."""

    name: str
    version: str
    bundle_sha256: str
    run_ids: tuple[str, ...]
    threshold: float
    threshold_rule: str
    calibration_prevalence: float
    counts: Counts  # the bundle's own, at its threshold
    own: Accuracy | None  # the same, where it can be used
    validation: Validation | None  # readings of this archive
    local: Accuracy | None  # the same, as sensitivity and specificity
    patients: int | None  # whose index ECG it scored, protected
    flagged: int | None
    reference: Reference | None  # what its own population looked like

    @property
    def used(self) -> Accuracy | None:
        """What the estimates are corrected with: local readings before the bundle's own counts."""
        return self.local or self.own

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Frame:
    """Of whom the report speaks, and how it was made."""

    archive: str
    catalog_id: str
    label_rule: str
    index_rule: str
    since: str | None
    until: str | None
    first_acquired: str | None
    last_acquired: str | None
    made: str  # day
    smallest_count: int
    round_to: int
    exact: bool
    index_version: int  # of RUNS/current
    seen_in_training: int | None  # index ECGs that made the model, protected
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Correction:
    """The correction of the share of flagged patients, and how firm it is."""

    raw: float | None  # before truncation at 0 and 1
    truncated: bool
    probability_of_so_few: float | None  # of so few flags or fewer, if nobody had the condition
    tipping_specificity: float | None  # at which nothing would be left
    by_specificity: Sequence[tuple[float, Cell]]
    priors: Sequence[tuple[str, Cell]]  # of the Bayesian estimate
    by_model: Sequence[tuple[str, Cell]]  # where several models scored
    disagreement: str | None  # a sentence, where the estimators disagree


@dataclass(frozen=True)
class Standardised:
    """What the prevalence would be in a reference population."""

    population: str
    source: str
    apparent: Cell
    adjusted: Cell
    bands: Sequence[str]  # age bands that were used, after merging


@dataclass(frozen=True)
class Trend:
    """Change over calendar time."""

    years: Sequence[Group]
    months: Sequence[Group]
    per_year: Cell  # change of the adjusted prevalence a year, as a fraction
    left_out: str | None


@dataclass(frozen=True)
class Findings:
    """Everything the sections are written from."""

    frame: Frame
    models: Sequence[ModelFacts]
    total: Group
    headline: Estimator
    estimators: Sequence[Estimator]
    correction: Correction
    groups: Mapping[str, Sequence[Group]]  # dimension -> categories
    standardised: Standardised
    trend: Trend


def estimate_of(cell: Cell) -> Estimate | None:
    """Return the estimate in a cell, None where there is none."""
    return cell if isinstance(cell, Estimate) else None
