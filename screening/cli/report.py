"""``screening report``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from screening.cli import EXIT_DONE
from screening.cli.record import Record, audit_option, logged_url
from screening.cli.state import default_tracking_uri, state_option, tracking_option
from screening.cli.storage import storage_option
from screening.job import tell_job

if TYPE_CHECKING:
    from screening.report.assemble import Report


@click.command("report")
@click.option("--runs", required=True, help="Folder of runs, as given to `screening run --out`.")
@click.option("--catalog", required=True, help="Catalog of the archive.")
@click.option("--out", required=True, help="Folder for report.html, report.json and tables/, any fsspec URL.")
@click.option(
    "--reference-population",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV of age_from, weight and perhaps sex  [European Standard Population 2013].",
)
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="YAML file of report settings.")
@click.option(
    "--index-rule", type=click.Choice(["latest", "first", "all"]), help="Which ECG stands for a patient [latest]."
)
@click.option("--since", help="First day of the period, YYYY-MM-DD.")
@click.option("--until", help="Last day of the period, YYYY-MM-DD.")
@click.option("--smallest-count", type=int, help="Counts from 1 to this are hidden [10].")
@click.option("--round-to", type=int, help="Shown counts are multiples of this [5].")
@click.option(
    "--exact", is_flag=True, default=None, help="Show every count as it is; such a report must not be shared."
)
@click.option(
    "--worklist/--no-worklist", default=True, help="Write the private list of flagged patients too [worklist]."
)
@click.option("--worklist-plots", type=int, help="ECGs drawn in the worklist, highest scores first [50].")
@click.option("--worklist-patients", type=int, help="Flagged patients listed, highest scores first [100000].")
@click.option("--mlflow/--no-mlflow", default=True, help="Keep the report in MLflow with its screening run [mlflow].")
@storage_option
@state_option
@tracking_option
@audit_option
@click.option("--json", "as_json", is_flag=True, help="Print the headline figures and paths as JSON.")
def command(
    runs: str,
    catalog: str,
    out: str,
    reference_population: Path | None,
    config: Path | None,
    worklist: bool,
    mlflow: bool,
    storage_options: dict[str, Any],
    state: Path,
    tracking_uri: str | None,
    as_json: bool,
    record: Record,
    **overrides: Any,
) -> int:
    """Write the prevalence report of everything that was screened, and the private worklist of flagged patients.

    \b
    screening report --runs runs --catalog catalog --out report
    screening report --runs s3://bucket/runs --catalog s3://bucket/catalog --out report --since 2020-01-01
    """
    from datetime import UTC, datetime

    from screening.archive.catalog import open_catalog
    from screening.report.standardise import load_reference_population
    from screening.report.write import facts_of, keep_in_mlflow, write_all
    from screening.run.current import refresh
    from screening.settings import ReportSettings, load_settings
    from screening.storage import Folder

    settings = load_settings(ReportSettings, config, overrides)
    population = load_reference_population(reference_population)
    opened = open_catalog(catalog, storage_options=storage_options)
    folder, place = Folder(runs, storage_options).absolute(), Folder(out, storage_options).absolute()

    def stage(what: str) -> None:
        if not as_json:
            click.echo(f"{what} ...", err=True)

    where = {"runs": logged_url(runs), "out": logged_url(out), "catalog_id": opened.catalog_id}
    record("report.started", where | {"worklist": worklist})  # before patients are listed anywhere
    stage("indexing published runs")
    current = refresh(folder, memory_mb=settings.memory_mb)
    written = write_all(
        current,
        opened,
        place,
        settings=settings,
        population=population,
        today=datetime.now(UTC).date(),
        worklist=worklist,
        storage_options=storage_options,
        on_stage=stage,
    )
    record("report.made", where | {"run_ids": [run.run_id for run in current.indexed], "exact": settings.exact})
    if written.worklist is not None:
        record("worklist.exported", where | {"patients_at_most": settings.worklist_patients})
    logged = None
    if mlflow:
        logged = keep_in_mlflow(facts_of(written), place, tracking_uri=tracking_uri or default_tracking_uri(state))
    tell_job({"runs": len(current.indexed), "records": opened.records, "mlflow_run": logged or "none"})
    if as_json:
        facts = {
            "report": dict(written.paths),
            "worklist": written.worklist,
            "mlflow_run": logged,
            "waits": written.report.released.waits,
            **written.figures,
        }
        click.echo(json.dumps(facts, indent=1))
    else:
        click.echo(_text(written.report, written.paths, written.worklist, logged))
    return EXIT_DONE


def _text(report: Report, paths: Mapping[str, str], listed: str | None, logged: str | None) -> str:
    """Return what a person reads at the end."""
    from screening.report.document import HIDDEN, Remark
    from screening.report.notation import written

    findings = report.findings
    lines = [
        "Patients with a scored ECG   "
        f"{written(findings.total.patients if findings.total.patients is not None else HIDDEN, 'count')}",
        f"Flagged                      {written(findings.total.apparent, 'share_interval')}",
    ]
    lines += [
        f"{one.name:<28} {written(one.cell, 'share_interval')}"
        + ("   <- the estimate" if one is findings.headline else "")
        for one in findings.estimators[1:]
    ]
    lines += [f"Age-standardised             {written(findings.standardised.adjusted, 'share_interval')}"]
    remarks = [
        block.text
        for block in report.document.sections[0].blocks
        if isinstance(block, Remark) and block.level == "warning"
    ]
    waits = [report.released.why] if report.released.waits else []
    lines += ["", *waits, *remarks, ""] if waits or remarks else [""]
    lines.append(f"Report: {paths['html']}  (also report.json and tables/*.csv)")
    if listed is not None:
        lines.append(f"Worklist, for your eyes only: {listed}")
    if logged is not None:
        lines.append(f"Kept in MLflow: run {logged}")
    return "\n".join(lines)
