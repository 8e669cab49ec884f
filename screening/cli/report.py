"""``screening report``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from screening.cli import EXIT_DONE
from screening.cli.state import default_tracking_uri, state_option, tracking_option
from screening.cli.storage import storage_option


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
@click.option("--mlflow/--no-mlflow", default=True, help="Keep the report in MLflow with its screening run [mlflow].")
@storage_option
@state_option
@tracking_option
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
    **overrides: Any,
) -> int:
    """Write the prevalence report of everything that was screened, and the private worklist of flagged patients.

    \b
    screening report --runs runs --catalog catalog --out report
    screening report --runs s3://bucket/runs --catalog s3://bucket/catalog --out report --since 2020-01-01
    """
