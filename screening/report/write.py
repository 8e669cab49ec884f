"""A report made and put where it belongs: pages, tables, the private worklist, and the note of what was released."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from screening.archive.catalog import Catalog
from screening.report.assemble import Report, figures_for_machines, keep_release, make_report, open_population
from screening.report.render import write_report
from screening.report.standardise import ReferencePopulation
from screening.report.worklist import write_worklist
from screening.run.current import Current
from screening.settings import ReportSettings
from screening.storage import Folder


@dataclass(frozen=True)
class Written:
    """A report that is in its place."""

    report: Report
    paths: Mapping[str, str]  # "html", "json", "tables/KEY" -> path; those that may be shared
    worklist: str | None
    figures: Mapping[str, Any]  # for machines

    @property
    def run_id(self) -> str:
        """The newest run that the report covers."""
        models = self.report.findings.models
        return models[-1].run_ids[-1] if models else "none"


def write_all(
    current: Current,
    catalog: Catalog,
    place: Folder,
    *,
    settings: ReportSettings,
    population: ReferencePopulation,
    today: date,
    worklist: bool,
    made_from: str = "",
    storage_options: dict[str, Any] | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
    on_written: Callable[[Written], None] = lambda _: None,
) -> Written:
    """Make the report of everything that was screened of a catalog and write it into ``place``.

    What is released is noted last: whoever was interrupted before makes the same report again.

    Parameters
    ----------
    today
        The day on which the report is made.
    worklist
        Whether ``private/worklist.html`` is written too.
    made_from
        Noted with the release, see `assemble.release_made_from`.
    on_written
        Called when all files are in their place, before the release is noted.

    Raises
    ------
    UserError
        Results, catalog or models cannot be read, or do not fit each other.
    """
    on_stage(f"counting {catalog.records:,} records")
    listed = None
    with open_population(current, catalog, settings=settings, population=population, today=today) as of:
        report = make_report(of, settings=settings, population=population)
        paths = write_report(report.document, place)
        if worklist:
            on_stage("writing the worklist")
            listed = write_worklist(
                place.folder("private"),
                of,
                plots=settings.worklist_plots,
                patients=settings.worklist_patients,
                storage_options=storage_options,
            ).html
    written = Written(report, paths, listed, figures_for_machines(report.findings))
    on_written(written)
    keep_release(current.runs, report, made_from=made_from)
    return written


def facts_of(written: Written) -> dict[str, Any]:
    """Return what is told of a report in MLflow, as JSON: run_id, parameters, figures, tags."""
    findings = written.report.findings
    return {
        "run_id": written.run_id,
        "parameters": {f"report.{key}": value for key, value in written.report.document.facts["settings"].items()},
        "figures": dict(written.figures),
        "tags": {
            "catalog_id": findings.frame.catalog_id,
            **{f"bundle.{i}": model.bundle_sha256 for i, model in enumerate(findings.models)},
        },
    }


def keep_in_mlflow(facts: Mapping[str, Any], place: Folder, *, tracking_uri: str) -> str:
    """Keep the report that lies in ``place`` with the screening run that it ends at; return the id of the MLflow run.

    Raises
    ------
    UserError
        The registry cannot be reached.
    """
    from screening.train.tracking import log_report

    with tempfile.TemporaryDirectory() as temporary:
        files: dict[str, str | Path] = {}
        for name in ("report.html", "report.json", *(f"tables/{table}" for table in place.names("tables"))):
            path = Path(temporary) / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(place.read(name))
            files[name] = path
        return log_report(
            facts["run_id"],
            files,
            parameters=facts["parameters"],
            figures=facts["figures"],
            tags=facts["tags"],
            tracking_uri=tracking_uri,
        )
