"""``screening demo``."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from screening.cli import EXIT_DONE
from screening.contract import LEADS, NOTICE


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
    """Simulate an archive, screen it and show the results.

    \b
    screening demo
    screening demo --dest trial --records 500
    """
    from screening.archive.catalog import build_catalog
    from screening.archive.labels import load_rule
    from screening.cli.progress import RunProgress
    from screening.model.bundle import PRETRAINED
    from screening.run.pipeline import screen
    from screening.signal.simulate import METADATA_FILE, SimulationSettings, write_archive
    from screening.storage import Folder

    begun = time.monotonic()
    archive, catalog, runs = dest / f"archive-{records}-{seed}", dest / f"catalog-{records}-{seed}", dest / "runs"
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
    seconds = time.monotonic() - begun
    if as_json:
        click.echo(
            json.dumps({"url": outcome.url, "counts": outcome.counts, "seconds": round(seconds, 1), **found}, indent=1)
        )
        return EXIT_DONE
    click.echo(_text(outcome.url, outcome.counts, found, seconds))
    return EXIT_DONE


def _found(run: Any, catalog: str) -> dict[str, Any]:
    """Compare the scores with what the simulator knows."""
    import numpy as np

    from screening.archive.catalog import open_catalog
    from screening.run.read import iter_results
    from screening.train.evaluate import Scored, evaluate

    truth: dict[str, str] = {}
    for batch in open_catalog(catalog).iter_batches(["record_id", "label"]):
        truth |= dict(zip(batch["record_id"].to_pylist(), batch["label"].to_pylist(), strict=True))
    wanted = ["record_id", "patient_key", "logit", "flagged", "probability", *(f"importance_{lead}" for lead in LEADS)]
    rows = [row for table in iter_results(run, columns=wanted) for row in table.to_pylist() if row["logit"] is not None]
    label = np.array([truth[row["record_id"]] for row in rows])
    tasks = evaluate(
        Scored(np.array([row["logit"] for row in rows])),
        (label == "MI").astype(int),
        label,
        np.array([row["patient_key"] for row in rows]),
    )
    explained = [row for row in rows if row["importance_V2"] is not None]
    leading = Counter(max(LEADS, key=lambda lead: row[f"importance_{lead}"]) for row in explained)
    top = sorted(rows, key=lambda row: -row["logit"])[:5]
    return {
        "auroc": tasks["MI vs all other"]["auroc"],
        "sensitivity": float(np.mean([row["flagged"] for row, name in zip(rows, label, strict=True) if name == "MI"])),
        "specificity": float(
            np.mean([not row["flagged"] for row, name in zip(rows, label, strict=True) if name != "MI"])
        ),
        "leading_leads": dict(leading.most_common(4)),
        "highest": [
            {
                "record_id": row["record_id"],
                "probability": round(row["probability"], 3),
                "truth": truth[row["record_id"]],
                "leads": []
                if row["importance_V2"] is None
                else sorted(LEADS, key=lambda lead: -row[f"importance_{lead}"])[:3],
            }
            for row in top
        ],
    }


def _text(url: str, counts: dict[str, Any], found: dict[str, Any], seconds: float) -> str:
    auroc, planned = found["auroc"], f"{counts['scored'] + counts['rejected']:,}"
    python = Path(sys.executable).parent / "python"
    lines = [
        "",
        f"{planned} simulated ECGs in, {planned} outcomes out, in {seconds:.0f} s:",
        f"  {counts['scored']:,} scored, {counts['rejected']:,} rejected,",
        f"  {counts['flagged']:,} flagged, and explained lead by lead",
        "",
        "What the simulator knows, and the network, trained on real ECGs only, was never told:",
        f"  AUROC {auroc['value']:.3f} (95% interval {auroc['low']:.3f}-{auroc['high']:.3f}), infarction against all others",
        f"  at the bundle's threshold: sensitivity {found['sensitivity']:.2f}, specificity {found['specificity']:.2f}",
        "",
        "The highest scores:",
    ]
    for row in found["highest"]:
        leads = ", ".join(row["leads"])
        lines.append(
            f"  {row['record_id']}  probability {row['probability']:.3f}  leads {leads:<14}  truth {row['truth']}"
        )
    lines += [
        "",
        f"Results: {url}/results/*.parquet  (counts and hashes in manifest.json)",
        f"Read them: {python} -c \"import pandas; print(pandas.read_parquet('{url}/results'))\"",
        NOTICE,
    ]
    return "\n".join(lines)
