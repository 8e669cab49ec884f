"""What disclosure control leaves: counts that may be shared, and apart from them what the next night is held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import Field

from screening.report.histograms import Merged
from screening.report.sums import FAMILIES, Key
from screening.settings import Settings

LEDGER_VERSION = 1


class DisclosureSettings(Settings):
    """What is hidden and how coarsely the rest is rounded. Threshold 0 and rounding 1 leave exact counts."""

    threshold: int = Field(10, ge=0, description="counts from 1 to this are hidden")
    round_to: int = Field(5, ge=1, description="shown counts are multiples of this")

    def show(self, count: int) -> int:
        """Return a count above the threshold, or 0, rounded; never a number from 1 to the threshold."""
        if count == 0:
            return 0
        least = (self.threshold // self.round_to + 1) * self.round_to
        return max((2 * count + self.round_to) // (2 * self.round_to) * self.round_to, least if self.threshold else 0)


@dataclass(frozen=True)
class Protected:
    """A table that may be shared: rounded counts, None where hidden. A table that was given up has no rows."""

    key: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int | None, ...], ...]  # (rows, columns)
    row_totals: tuple[int | None, ...]
    column_totals: tuple[int | None, ...]  # None too where rows overlap and so have no total
    total: int | None
    parents: tuple[str, ...] | None = None
    given_up: bool = False

    def shown(self, row: str, column: str) -> int | None:
        """Return a count; None where it is hidden, also in a table that was given up."""
        return self.counts[self.rows.index(row)][self.columns.index(column)] if row in self.rows else None

    def row_total(self, row: str) -> int | None:
        """Return a row's total."""
        return self.row_totals[self.rows.index(row)] if row in self.rows else None


@dataclass(frozen=True)
class ProtectedHistogram:
    """A histogram whose small bins were merged with their neighbours; bin i holds edges[i] <= x < edges[i + 1]."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    missing: int  # few missing values are counted in the largest bin instead, and 0 stands here

    @property
    def total(self) -> int:
        """Return the sum of the bins."""
        return sum(self.counts)


@dataclass(frozen=True)
class ProtectedImportance:
    """Importance of an operator's parts over the flagged patients of a category; None where there are too few."""

    dimension: str
    category: str
    patients: int | None
    mean: tuple[float, ...] | None  # (parts,), in logits, to two places
    sd: tuple[float, ...] | None
    leading: tuple[int | None, ...] | None  # of tallies.LEADING, patients by the part of greatest importance
    operator: str = "lead"  # as ledgers say that name none


@dataclass(frozen=True)
class Private:
    """What the next night is held against: true counts. Never shared."""

    values: Mapping[Key, int]
    last_shown: Mapping[Key, int]  # the true count when it was last shown, in whichever release
    hidden: frozenset[Key]
    models: tuple[str, ...]
    histograms: Mapping[str, Merged]


@dataclass(frozen=True)
class Released:
    """Everything that a shareable report is computed from."""

    settings: DisclosureSettings
    flow: Mapping[str, int | None]
    about: Mapping[str, int]
    """Totals of the flow that are hidden, as coarse numbers that tell no more than that their hidden parts are small or not."""
    records: Mapping[str, Protected]
    reasons: Mapping[str, Protected]
    patients: Mapping[str, Protected]
    quality_flags: Protected
    scores: tuple[ProtectedHistogram | None, ...]  # a model; None: hidden
    features: Mapping[str, Mapping[str, ProtectedHistogram]]  # what is hidden is left out
    importance: tuple[ProtectedImportance, ...]
    models: tuple[str, ...]  # sha256 of the bundles, in the order of the columns "flagged i"
    private: Private = field(repr=False)
    first_acquired: str | None = None  # month
    last_acquired: str | None = None
    design_effect: float = 1.0
    waits: bool = False
    why: str = ""  # a sentence, where it waits

    def to_json(self) -> dict[str, Any]:
        """Return JSON values for the private ledger, with the true counts."""
        values = asdict(self)
        values["settings"] = self.settings.model_dump()
        values["private"] = {
            "values": [[*key, value] for key, value in self.private.values.items()],
            "last_shown": [[*key, value] for key, value in self.private.last_shown.items()],
            "hidden": sorted(self.private.hidden),
            "models": self.private.models,
            "histograms": {name: merged.to_json() for name, merged in self.private.histograms.items()},
        }
        return {"ledger_version": LEDGER_VERSION, **values}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Released:
        """Return what `to_json` gave.

        Raises
        ------
        ValueError
            It was written by another version, or is not a ledger.
        """
        if values.get("ledger_version") != LEDGER_VERSION:
            raise ValueError(f"ledger version {values.get('ledger_version')!r}, not {LEDGER_VERSION}")
        try:
            private = values["private"]
            return cls(
                settings=DisclosureSettings(**values["settings"]),
                flow=dict(values["flow"]),
                about={name: int(value) for name, value in values["about"].items()},
                **{name: {key: _table(table) for key, table in values[name].items()} for name in FAMILIES},
                quality_flags=_table(values["quality_flags"]),
                scores=tuple(one and _histogram(one) for one in values["scores"]),
                features={
                    name: {run: _histogram(one) for run, one in runs.items()}
                    for name, runs in values["features"].items()
                },
                importance=tuple(
                    ProtectedImportance(**{key: _frozen(value) for key, value in one.items()})
                    for one in values["importance"]
                ),
                models=tuple(values["models"]),
                private=Private(
                    values={(a, b, c, d): int(value) for a, b, c, d, value in private["values"]},
                    last_shown={(a, b, c, d): int(value) for a, b, c, d, value in private["last_shown"]},
                    hidden=frozenset((a, b, c, d) for a, b, c, d in private["hidden"]),
                    models=tuple(private["models"]),
                    histograms={name: Merged.from_json(one) for name, one in private["histograms"].items()},
                ),
                first_acquired=values["first_acquired"],
                last_acquired=values["last_acquired"],
                design_effect=float(values["design_effect"]),
                waits=bool(values["waits"]),
                why=str(values["why"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a ledger: {error}") from error


def _frozen(value: Any) -> Any:
    return tuple(_frozen(one) for one in value) if isinstance(value, list | tuple) else value


def _table(values: Mapping[str, Any]) -> Protected:
    return Protected(**{key: _frozen(value) for key, value in values.items()})


def _histogram(values: Mapping[str, Any]) -> ProtectedHistogram:
    return ProtectedHistogram(tuple(values["edges"]), tuple(values["counts"]), int(values["missing"]))
