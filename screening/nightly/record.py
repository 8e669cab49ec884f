"""The record of a night: one small JSON object that says what was done, with which model, and what came of it.

It holds counts and names of models, runs and reasons; nothing of a record or a patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from math import asin, sqrt
from typing import Any, Self

from screening.errors import UserError

NIGHT_SCHEMA_VERSION = 1


class Outcome(StrEnum):
    """How a night ended."""

    PUBLISHED = "published"  # all that was to be screened tonight is published, or its hours were over
    NOTHING_NEW = "nothing_new"  # there was nothing to screen, which is success too
    UNFINISHED = "unfinished"  # some shards are left; the next attempt goes on with them
    FAILED = "failed"  # it ended with an error

    @property
    def success(self) -> bool:
        """Whether nothing is left to do tonight."""
        return self in (Outcome.PUBLISHED, Outcome.NOTHING_NEW)


@dataclass(frozen=True)
class DriftFigure:
    """One row of the report's tables of drift."""

    against: str  # `MODEL` or `LAST_RUN`
    feature: str  # as the report calls it, e.g. "Age (years)"
    psi: float | None
    ks: float | None
    verdict: str  # none, slight or marked
    effect: float | None = None  # Cohen's h, of shares


MODEL, LAST_RUN = "the model's reference", "the run before"


@dataclass(frozen=True, kw_only=True)
class Night:
    """What became of one attempt at a night."""

    date: str  # the day that names the night, YYYY-MM-DD
    attempt: int = 1
    kind: str = "nightly"  # or backfill: older records, which are compared among themselves
    outcome: Outcome
    started_at: str  # UTC, ISO 8601, to the second
    finished_at: str
    model_name: str | None = None
    model_version: str | None = None
    bundle_sha256: str | None = None
    device: str | None = None  # of the numerics fingerprint: cpu or cuda
    workers: int | None = None
    run_ids: tuple[str, ...] = ()
    planned: int = 0  # records of tonight's runs
    scored: int = 0
    rejected: int = 0
    flagged: int = 0
    explained: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    new: int = 0  # of the planned, those that no run had
    changed: int = 0  # those whose file is another
    older: int = 0  # those that another version had scored
    waiting: int = 0  # records left for later nights by the budget
    hours_over: bool = False  # the hours of the night left some of them
    shards: int = 0
    unfinished_shards: int = 0  # that storage or a fault left, not the hours
    records_this_time: int = 0  # those that this attempt screened in `seconds`
    seconds: float = 0.0  # of scoring, without start-up, scan and report
    drift: tuple[DriftFigure, ...] = ()
    error: str | None = None  # one sentence, of a `UserError` or a kind of fault

    catalog: Mapping[str, int] = field(default_factory=dict)  # records, and of a scan new, changed, unchanged, gone
    current: Mapping[str, int] = field(
        default_factory=dict
    )  # what stands now: records, scored, rejected, superseded, ...
    resumed: tuple[str, ...] = ()  # runs of earlier nights that were gone on with
    abandoned: tuple[str, ...] = ()  # those that could not be; their records were planned anew
    removed: tuple[str, ...] = ()  # runs of which no row counted any more
    report_made: bool = False
    report_waits: bool = False  # shows earlier figures, as too little has changed
    figures: Mapping[str, float] = field(default_factory=dict)  # of that report: prevalence, with its interval
    untold: int = 0  # runs and reports that MLflow is yet to be told of

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, from which `from_json` makes the same night."""
        return {
            "schema_version": NIGHT_SCHEMA_VERSION,
            **asdict(self),
            "drift": [asdict(one) for one in self.drift],
        } | {name: list(getattr(self, name)) for name in _LISTS}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the night that `to_json` wrote; keys that a later version added are passed over.

        Raises
        ------
        UserError
            It is not a night, or one of a version that this one cannot read.
        """
        known = {each.name for each in fields(cls)}
        try:
            if value["schema_version"] > NIGHT_SCHEMA_VERSION:
                raise UserError("a night was recorded by a later version of screening; update this one")
            given = {key: one for key, one in value.items() if key in known}
            given["outcome"] = Outcome(given["outcome"])
            given |= {name: tuple(given.get(name, ())) for name in _LISTS}
            given["drift"] = tuple(DriftFigure(**one) for one in given.get("drift", ()))
            return cls(**given)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"the record of a night is damaged ({type(error).__name__}); restore or remove it"
            ) from error


_LISTS = ("run_ids", "resumed", "abandoned", "removed")


def drift_figures(report: Mapping[str, Any]) -> tuple[DriftFigure, ...]:
    """Return the rows of the tables of drift in a report (report.json, schema version 2)."""
    found = []
    for section in report["sections"]:
        for block in section["blocks"]:
            key = str(block.get("key", ""))
            if section["key"] != "drift" or block["type"] != "table":
                continue
            against = LAST_RUN if key.startswith("drift_runs") else MODEL
            for row in block["records"]:
                found.append(_figure(against, row))
    return tuple(found)


def _figure(against: str, row: Mapping[str, Any]) -> DriftFigure:
    verdict = str(row["difference"])
    if "feature" in row:
        psi, ks = (float(value) if isinstance(value := row[key], (int, float)) else None for key in ("psi", "ks"))
        return DriftFigure(against, str(row["feature"]), psi, ks, verdict)
    shares = (row["before"], row["here"]["value"] if isinstance(row["here"], dict) else None)
    before, here = (2 * asin(sqrt(share)) if isinstance(share, (int, float)) else None for share in shares)
    return DriftFigure(
        against, str(row["what"]), None, None, verdict, None if before is None or here is None else here - before
    )
