"""``screening demo``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from screening.cli import EXIT_DONE
from screening.contract import NOTICE

if TYPE_CHECKING:
    from screening.storage import Folder

READINGS = 300


@click.command("demo")
@click.option(
    "--dest",
    default="demo",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to work in.",
)
@click.option("--records", default=2000, show_default=True, type=click.IntRange(200), help="ECGs to simulate.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the simulation.")
@click.option("--json", "as_json", is_flag=True, help="Print what came out as JSON.")
def command(dest: Path, records: int, seed: int, as_json: bool) -> int:
    """Simulate an archive, screen it, have a sample read by the simulator, and report the prevalence.

    \b
    screening demo
    screening demo --dest trial --records 500
    """
    from screening.archive.build import build_catalog
    from screening.archive.labels import load_rule
    from screening.cli.progress import RunProgress
    from screening.model.bundle import PRETRAINED
    from screening.run.pipeline import screen
    from screening.signal.simulate import METADATA_FILE, SimulationSettings, write_archive
    from screening.storage import Folder

    begun = time.monotonic()
    archive, catalog, runs = (dest / f"{what}-{records}-{seed}" for what in ("archive", "catalog", "runs"))
    with RunProgress(quiet=as_json) as progress:
        progress.stage(f"simulating {records:,} ECGs, one in ten with an infarction, in {archive}")
        if not (archive / METADATA_FILE).exists():  # written last
            write_archive(str(archive), SimulationSettings(records=records, prevalence=0.1, seed=seed))
        progress.stage(f"cataloguing them in {catalog}")
        build_catalog(str(archive), str(catalog), labels=load_rule("ptbxl-mi"), deidentified=True)
        outcome = screen(
            str(catalog), str(runs), model_path=str(PRETRAINED), on_stage=progress.stage, on_progress=progress.update
        )
        if not outcome.published:
            raise click.ClickException("the demo's run was not finished; start it again")
        found = _found(Folder(outcome.url), str(catalog))
        progress.stage(f"reading a sample of {READINGS} ECGs, as a cardiologist would, and writing the report")
        found["report"] = _report(Folder(str(runs)).absolute(), str(catalog), dest / "report", seed)
    seconds = time.monotonic() - begun
    if as_json:
        click.echo(
            json.dumps({"url": outcome.url, "counts": outcome.counts, "seconds": round(seconds, 1), **found}, indent=1)
        )
        return EXIT_DONE
    click.echo(_text(outcome.url, outcome.counts, found, seconds))
    return EXIT_DONE


def _report(runs: Folder, catalog: str, out: Path, seed: int) -> dict[str, Any]:
    """Let the simulator read a drawn sample, and report; the truth is used for nothing else."""
    from datetime import UTC, datetime

    from screening.archive.catalog import open_catalog
    from screening.report.assemble import make_report, open_population
    from screening.report.candidates import candidates
    from screening.report.document import Estimate
    from screening.report.readings import INFARCT, NONE, by_stratum
    from screening.report.render import write_report
    from screening.report.sampling import draw
    from screening.report.standardise import load_reference_population
    from screening.report.validation import Validation, store_validation
    from screening.run.bundles import fetch_bundle
    from screening.settings import ReportSettings

    opened, today = open_catalog(catalog), datetime.now(UTC).date()
    truth = _truth(catalog)
    found = candidates(runs, opened, index_rule="latest", today=today)
    drawn = draw(found.ecgs["log_odds"].to_numpy(), found.ecgs["flagged"].to_numpy(), readings=READINGS, seed=seed)
    ids = found.ecgs["record_id"].to_pylist()
    read = {
        sheet: INFARCT if truth[ids[row]].label == "MI" else NONE
        for sheet, row in enumerate(drawn.row.tolist(), start=1)
    }
    bundle = fetch_bundle(runs, found.bundle_sha256)
    store_validation(
        runs,
        Validation(
            date=today.isoformat(),
            bundle_sha256=bundle.sha256,
            model=f"{bundle.name} {bundle.version}",
            threshold=bundle.threshold,
            catalog_id=opened.catalog_id,
            index_rule="latest",
            reference="what the simulator knows",
            readers=("the simulator",),
            strata=by_stratum(drawn.strata, drawn.stratum.tolist(), read),
        ),
    )
    settings = ReportSettings()  # type: ignore[call-arg]
    population = load_reference_population()
    with open_population(found.current, opened, settings=settings, population=population, today=today) as of:
        report = make_report(of, settings=settings, population=population)
    paths = write_report(report.document, out)
    estimators = {
        one.key: [one.cell.value, one.cell.low, one.cell.high]
        for one in report.findings.estimators
        if isinstance(one.cell, Estimate)
    }
    return {
        "html": paths["html"],
        "readings": len(read),
        "known_prevalence": sum(truth[record].label == "MI" for record in ids) / len(ids),
        "estimates": estimators,
    }


class _Truth(NamedTuple):
    label: str  # MI, NORM or other
    infarct: str  # code of the infarction, empty without one


def _truth(catalog: str) -> dict[str, _Truth]:
    from screening.archive.catalog import open_catalog
    from screening.signal.population import TERRITORY_CODES

    truth: dict[str, _Truth] = {}
    for batch in open_catalog(catalog).iter_batches(["record_id", "label", "labels"]):
        for row in batch.to_pylist():
            infarct = next((code for code in row["labels"] or () if code in TERRITORY_CODES), "")
            truth[row["record_id"]] = _Truth(row["label"], infarct)
    return truth


def _found(run: Any, catalog: str) -> dict[str, Any]:
    """Compare scores and explanations with what the simulator knows."""
    import numpy as np

    from screening.run.read import iter_results
    from screening.train.evaluate import Scored, evaluate
    from screening.train.explanation_checks import INFARCT_WALLS

    known = _truth(catalog)
    wanted = ["record_id", "patient_key", "logit", "flagged", "probability", "leading_territory", "findings"]
    rows = [row for table in iter_results(run, columns=wanted) for row in table.to_pylist() if row["logit"] is not None]
    label = np.array([known[row["record_id"]].label for row in rows])
    tasks = evaluate(
        Scored(np.array([row["logit"] for row in rows])),
        (label == "MI").astype(int),
        label,
        np.array([row["patient_key"] for row in rows]),
    )
    flagged = np.array([row["flagged"] for row in rows])
    placed = [
        row["leading_territory"] in INFARCT_WALLS[known[row["record_id"]].infarct]
        for row in rows
        if row["flagged"] and known[row["record_id"]].infarct in INFARCT_WALLS
    ]
    return {
        "auroc": tasks["MI vs all other"]["auroc"],
        "sensitivity": float(flagged[label == "MI"].mean()),
        "specificity": float((~flagged[label != "MI"]).mean()),
        "flagged_infarcts": len(placed),
        "right_territory": sum(placed),
        "highest": [
            {
                "record_id": row["record_id"],
                "probability": round(row["probability"], 3),
                "truth": known[row["record_id"]].infarct or known[row["record_id"]].label,
                "leading_territory": row["leading_territory"],
                "findings": row["findings"],
            }
            for row in sorted(rows, key=lambda row: -row["logit"])[:5]
        ],
    }


def _text(url: str, counts: dict[str, Any], found: dict[str, Any], seconds: float) -> str:
    auroc, planned = found["auroc"], f"{counts['scored'] + counts['rejected']:,}"
    python = Path(sys.executable).parent / "python"
    lines = [
        "",
        f"{planned} simulated ECGs in, {planned} outcomes out, in {seconds:.0f} s:",
        f"  {counts['scored']:,} scored, {counts['rejected']:,} rejected,",
        f"  {counts['flagged']:,} flagged, and explained by lead, territory and wave",
        "",
        "What the simulator knows, and the network, trained on real ECGs only, was never told:",
        f"  AUROC {auroc['value']:.3f} (95% interval {auroc['low']:.3f}-{auroc['high']:.3f}), infarction against all others",
        f"  at the bundle's threshold: sensitivity {found['sensitivity']:.2f}, specificity {found['specificity']:.2f}",
        f"  in {found['right_territory']} of {found['flagged_infarcts']} flagged infarctions the leading territory is right",
        "",
        "The highest scores:",
    ]
    for row in found["highest"]:
        lines.append(
            f"  {row['record_id']}  probability {row['probability']:.3f}  {row['leading_territory'] or 'none leads':<8}  "
            f"truth {row['truth']}"
        )
        if row["findings"]:
            lines.append(f"    {row['findings']}")
    lines += [
        "",
        f"Results: {url}/results/*.parquet  (counts and hashes in manifest.json)",
        f"Read them: {python} -c \"import pandas; print(pandas.read_parquet('{url}/results'))\"",
        "",
        f"Prevalence among the patients, which the simulator knows to be {found['report']['known_prevalence']:.1%}:",
        *_estimates(found["report"]),
        "",
        f"Report: {found['report']['html']}",
        NOTICE,
    ]
    return "\n".join(lines)


def _estimates(report: dict[str, Any]) -> list[str]:
    named = {
        "apparent": "share flagged, uncorrected",
        "own": "corrected with the model's own counts, from real ECGs, which do not hold here",
        "prevalence": f"corrected by {report['readings']} readings of these ECGs",
    }
    return [
        f"  {100 * of[0]:5.1f}% ({100 * of[1]:.1f}-{100 * of[2]:.1f})  {words}"
        for key, words in named.items()
        if (of := report["estimates"].get(key)) is not None
    ]
