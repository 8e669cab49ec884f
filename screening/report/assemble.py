"""The report from end to end: index and catalog are counted, counts protected, estimates made from them, and put into words."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

import duckdb
import numpy as np
import scipy

import screening
from screening.archive.catalog import Catalog
from screening.contract import NOTICE, sha256_of
from screening.errors import UserError
from screening.model.bundle import Bundle
from screening.model.reference import SCORE_EDGES
from screening.report import drift
from screening.report.accuracy import of_bundle
from screening.report.disclosure import DisclosureSettings, protect_all
from screening.report.document import Document
from screening.report.estimate import Inputs, find
from screening.report.facts import FEATURES, Joined, joined
from screening.report.facts import Frame as Population
from screening.report.findings import Findings, Frame, ModelFacts
from screening.report.population import tally
from screening.report.protected import Released
from screening.report.sections.drift import drift as drift_section
from screening.report.sections.explanation import explanation
from screening.report.sections.meaning import meaning
from screening.report.sections.methods import methods
from screening.report.sections.model import model
from screening.report.sections.population import flow
from screening.report.sections.population import population as population_section
from screening.report.sections.prevalence import prevalence, summary
from screening.report.sections.strata import strata, trend
from screening.report.sections.validation import validation
from screening.report.standardise import ReferencePopulation
from screening.report.validation import accuracy, load_validations
from screening.run.bundles import fetch_bundle
from screening.run.current import Current
from screening.settings import ReportSettings
from screening.storage import Folder

RELEASES = "reports"
"""Folder beside the runs that holds what was last released, with true counts: private."""


@dataclass(frozen=True)
class Report:
    """A report before it is written anywhere."""

    document: Document
    findings: Findings
    released: Released
    release_name: str  # below the runs' folder, where `released` belongs


@contextmanager
def open_population(
    current: Current,
    catalog: Catalog,
    *,
    settings: ReportSettings,
    population: ReferencePopulation,
    today: date,
) -> Iterator[Joined]:
    """Join everything that was screened of a catalog, as report and worklist need it.

    Parameters
    ----------
    current
        The index of all published runs.
    population
        That prevalence is standardised to: ages are told in its bands.
    today
        The day on which the report is made; ECGs dated later have no usable date.

    Raises
    ------
    UserError
        Results or catalog cannot be read, or do not fit each other.
    """
    frame = Population(
        settings.index_rule,
        settings.since,
        settings.until,
        today,
        population.bands(),
        settings.most_places,
        max(2 * settings.smallest_count, 1),
    )
    with joined(current, catalog, frame, features=FEATURES, memory_mb=settings.memory_mb) as of:
        yield of


def make_report(of: Joined, *, settings: ReportSettings, population: ReferencePopulation) -> Report:
    """Count, protect, estimate and write up a population.

    Parameters
    ----------
    of
        What ``open_population`` gave for the same settings and reference population.

    Raises
    ------
    UserError
        Results or models cannot be read, or the last release cannot.
    """
    current, catalog, age_edges = of.current, of.catalog, of.frame.age_edges
    bundles = {sha: fetch_bundle(current.runs, sha) for sha in of.bundles}
    references = [one for bundle in bundles.values() if (one := bundle.reference()) is not None]
    tallies = tally(
        of,
        log_odds_edges=np.array(SCORE_EDGES),
        feature_edges=drift.feature_edges(references),
        seen={sha: frozenset().union(*bundle.seen().values()) for sha, bundle in bundles.items()},
    )
    disclosure = DisclosureSettings(
        threshold=0 if settings.exact else settings.smallest_count, round_to=1 if settings.exact else settings.round_to
    )
    name = f"{RELEASES}/{_release_key(catalog, settings, age_edges)}.json"
    released = protect_all(tallies, disclosure, previous=None if settings.exact else _last(current.runs, name))
    frame = _frame(current, catalog, settings, released, of.frame.today)
    models = [_model(i, sha, current, released, bundles[sha], settings) for i, sha in enumerate(released.models)]
    findings = find(
        Inputs(
            released=released,
            models=models,
            frame=frame,
            population=population,
            age_edges=age_edges,
            design_effect=released.design_effect,
            draws=settings.draws,
            seed=settings.seed,
        )
    )
    return Report(_document(findings, released, settings), findings, released, name)


def keep_release(runs: Folder, report: Report, *, made_from: str = "") -> None:
    """Note what is released, for the next night to be held against; not for a report that waits, nor an exact one."""
    if not report.released.waits and report.released.settings.threshold:
        values = {**report.released.to_json(), "made_from": made_from}
        runs.write(report.release_name, json.dumps(values).encode())


def release_made_from(
    runs: Folder, catalog: Catalog, *, settings: ReportSettings, population: ReferencePopulation
) -> str:
    """Return what was noted of the inputs of the last release; empty where there was none."""
    try:
        stored = json.loads(runs.read(f"{RELEASES}/{_release_key(catalog, settings, population.bands())}.json"))
    except (FileNotFoundError, ValueError):
        return ""  # what is damaged is told by whoever makes the next
    return str(stored.get("made_from", ""))


def _release_key(catalog: Catalog, settings: ReportSettings, age_edges: Sequence[int]) -> str:
    chosen = settings.model_dump(
        mode="json", include={"index_rule", "since", "until", "smallest_count", "round_to", "most_places"}
    )
    return sha256_of([catalog.root_url, catalog.patient_key_id, chosen, list(age_edges)])[:16]


def _last(runs: Folder, name: str) -> Released | None:
    try:
        return Released.from_json(json.loads(runs.read(name)))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise UserError(
            f"{name} in {runs.url}, which holds what was released last, cannot be read ({error}); restore it from a copy, or "
            "remove it if no report of these patients was shared before"
        ) from error


def _frame(current: Current, catalog: Catalog, settings: ReportSettings, released: Released, today: date) -> Frame:
    return Frame(
        archive=_archive_name(catalog.root_url),
        catalog_id=catalog.catalog_id,
        label_rule=catalog.label_rule.name,
        index_rule=settings.index_rule,
        since=settings.since.isoformat() if settings.since else None,
        until=settings.until.isoformat() if settings.until else None,
        first_acquired=released.first_acquired,
        last_acquired=released.last_acquired,
        made=today.isoformat(),
        smallest_count=settings.smallest_count,
        round_to=settings.round_to,
        exact=settings.exact,
        index_version=current.version,
        seen_in_training=released.flow.get("seen_in_training", 0),
        versions={
            "screening": screening.__version__,
            "Python": platform.python_version(),
            "DuckDB": duckdb.__version__,
            "NumPy": np.__version__,
            "SciPy": scipy.__version__,
        },
    )


def _archive_name(url: str) -> str:
    """Return the URL of an archive, of a local one its last folder: paths tell of people and machines."""
    return url.rstrip("/").rsplit("/", 1)[-1] if url.startswith("file://") else url


def _model(
    number: int, sha256: str, current: Current, released: Released, bundle: Bundle, settings: ReportSettings
) -> ModelFacts:
    runs = [run for run in current.indexed if run.model["bundle_sha256"] == sha256]
    validations = [one for one in load_validations(current.runs, sha256) if one.index_rule == settings.index_rule]
    last = validations[-1] if validations else None
    table = released.patients["all"]
    counts = [
        table.shown(table.rows[0], f"{what} {number}") if table.rows else None for what in ("flagged", "unflagged")
    ]
    return ModelFacts(
        name=bundle.name,
        version=bundle.version,
        bundle_sha256=sha256,
        run_ids=tuple(run.run_id for run in runs),
        threshold=bundle.threshold,
        threshold_rule=bundle.threshold_rule,
        calibration_prevalence=bundle.calibrator.prevalence,
        counts=bundle.operating_characteristics.overall,
        own=of_bundle(bundle),
        validation=last,
        local=accuracy(last) if last is not None else None,
        patients=None if None in counts else sum(count or 0 for count in counts),
        flagged=counts[0],
        reference=bundle.reference(),
    )


def _document(findings: Findings, released: Released, settings: ReportSettings) -> Document:
    frame = findings.frame
    waits = [released.why] if released.waits else []
    return Document(
        title="Infarction and scar on stored ECGs",
        subtitle=f"Prevalence among the patients of {frame.archive}",
        notice=NOTICE,
        facts={
            "archive": frame.archive,
            "catalog_id": frame.catalog_id,
            "made": frame.made,
            "settings": settings.model_dump(mode="json"),
            "index_version": frame.index_version,
            "models": [
                {
                    "name": one.name,
                    "version": one.version,
                    "bundle_sha256": one.bundle_sha256,
                    "threshold": one.threshold,
                    "runs": list(one.run_ids),
                    "corrected_with": one.used.source if one.used else None,
                }
                for one in findings.models
            ],
            "disclosure": {"exact": frame.exact, "smallest_count": frame.smallest_count, "round_to": frame.round_to},
            "waits": waits,
            "versions": dict(frame.versions),
        },
        sections=[
            summary(findings, waits),
            population_section(findings),
            flow(released),
            model(findings),
            prevalence(findings),
            validation(findings),
            strata(findings),
            trend(findings),
            meaning(findings, released),
            explanation(released),
            drift_section(findings, released),
            methods(findings),
        ],
    )


def figures_for_machines(findings: Findings) -> dict[str, Any]:
    """Return the headline figures as plain numbers, for MLflow and ``--json``; hidden ones are absent."""
    from screening.report.document import Estimate

    found: dict[str, Any] = {}
    for name, cell in (
        ("apparent", findings.total.apparent),
        ("prevalence", findings.headline.cell),
        ("prevalence_standardised", findings.standardised.adjusted),
    ):
        if isinstance(cell, Estimate):
            found |= {name: cell.value, f"{name}_low": cell.low, f"{name}_high": cell.high}
    if findings.total.patients is not None:
        found["patients"] = findings.total.patients
    return found
