"""``screening audit-labels``."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from screening.cli.state import model_folder, state_option, tracking_option
from screening.cli.storage import storage_option
from screening.contract import NOTICE
from screening.errors import UserError

if TYPE_CHECKING:
    from screening.archive.catalog import Catalog
    from screening.storage import Folder

COLUMNS = ("rank", "record_id", "statements", "label", "probability", "margin", "why", "plot")


@click.command("audit-labels")
@click.option("--catalog", required=True, help="Labelled catalog that the model was trained on.")
@click.option("--model", "model_ref", help="Bundle folder or models:/name@alias; default: the bundle that ships.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder to make: audit.csv, index.html, plots."
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, help="Records to show, the strongest of both kinds [50]."
)
@click.option("--plots/--no-plots", default=True, help="Draw the ECGs [plots].")
@storage_option
@state_option
@tracking_option
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    catalog: str,
    model_ref: str | None,
    out: Path,
    limit: int,
    plots: bool,
    storage_options: dict[str, Any],
    state: Path,
    tracking_uri: str | None,
    as_json: bool,
) -> int:
    """List training records whose label the model's out-of-fold predictions contradict, for a cardiologist to look at.

    \b
    screening audit-labels --catalog catalog --out audit
    screening audit-labels --catalog catalog --model models:/msaic-mi@champion --out audit --limit 200
    """
    from screening.archive.catalog import open_catalog
    from screening.model.bundle import load_bundle
    from screening.storage import Folder
    from screening.train.audit import audit_labels, to_look_at, why
    from screening.train.data import load_training_set

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder; name another one.")
    bundle = load_bundle(
        model_folder(model_ref, state=state, tracking_uri=tracking_uri, storage_options=storage_options)
    )
    predictions = bundle.out_of_fold()
    if predictions is None:
        raise UserError(
            f"model {bundle.name} {bundle.version} holds no out-of-fold predictions, which an audit needs; "
            "train it with nested cross-validation."
        )
    opened = open_catalog(catalog, storage_options=storage_options)
    records = load_training_set(catalog, bundle.preprocessing, storage_options=storage_options)
    known, found = predictions.match(records.record_sha256)
    if not known.any():
        raise UserError(
            f"none of the {len(records):,} labelled records of the catalog {catalog} is among the {len(predictions):,} "
            f"out-of-fold predictions of model {bundle.name} {bundle.version}; give the catalog it was trained on."
        )
    records = records.where(known)
    probability = found.probability
    try:
        audit = audit_labels(probability, records.target)
    except ValueError as error:
        raise UserError(f"the labels of the catalog {catalog} cannot be audited: {error}.") from None

    shown = set(to_look_at(audit, records.target, limit).tolist())
    suspects = [
        {
            "rank": rank,
            "record_id": str(records.record_id[at]),
            "statements": ", ".join(records.statements[at]) or "none",
            "label": str(records.label[at]),
            "probability": round(float(probability[at]), 4),
            "margin": round(float(margin), 4),
            "why": why(audit, int(records.target[at]), float(probability[at])),
            "plot": f"plots/{rank:04}.png" if plots and rank - 1 in shown else "",
        }
        for rank, (at, margin) in enumerate(zip(audit.suspects.tolist(), audit.margin.tolist(), strict=True), start=1)
    ]
    looked_at = [row for rank, row in enumerate(suspects) if rank in shown]
    joint = audit.estimated_joint
    summary = {
        "notice": NOTICE,
        "model": {"name": bundle.name, "version": bundle.version, "bundle_sha256": bundle.sha256},
        "catalog": {"catalog_id": opened.catalog_id, "label_rule": opened.label_rule.name},
        "records": len(records),
        "without_prediction": int((~known).sum()),
        "suspects": len(suspects),
        "suspects_by_label": {
            name: int((records.label[audit.suspects] == name).sum()) for name in sorted(set(records.label.tolist()))
        },
        "mean_self_confidence": {"without infarction": audit.thresholds[0], "infarction": audit.thresholds[1]},
        "confident_joint": audit.confident_joint.tolist(),
        "estimated_share_of_wrong_labels": float(joint[0, 1] + joint[1, 0]),
    }
    place = Folder(str(out))  # it lists patients' records: its files are the owner's alone
    if plots:
        _draw(opened, looked_at, place, storage_options, f"{bundle.name} {bundle.version}")
    place.write("audit.csv", _csv(suspects).encode())
    place.write("audit.json", (json.dumps(summary, indent=1) + "\n").encode())
    place.write("index.html", _page(summary, looked_at).encode())
    if as_json:
        click.echo(json.dumps(summary, indent=1))
        return 0
    by_label = ", ".join(f"{count:,} labelled {name}" for name, count in summary["suspects_by_label"].items())
    click.echo(f"{bundle.name} {bundle.version}, {len(records):,} records with an out-of-fold prediction")
    click.echo(f"{len(suspects):,} labels are confidently contradicted: {by_label}")
    for row in (suspects[rank] for rank in to_look_at(audit, records.target, 10)):
        click.echo(
            f"  {row['rank']:>4}  {row['label']:<5}  {row['probability']:.3f}  {row['record_id']}  {row['statements']}"
        )
    click.echo("A contradiction is no proof: the network may be wrong, and hard ECGs are among them.")
    click.echo(f"Written: {out / 'audit.csv'}, {out / 'index.html'}" + (f", {out / 'plots'}" if plots else ""))
    return 0


def _draw(
    catalog: Catalog, suspects: Sequence[dict[str, Any]], place: Folder, storage_options: dict[str, Any], model: str
) -> None:
    """Draw the ECGs as recorded; one that cannot be read any more loses its plot."""
    from screening.archive.reader import ArchiveReader
    from screening.recording import Recording
    from screening.report.ecg import ecg_plot

    wanted = {row["record_id"]: row for row in suspects}
    reader = ArchiveReader(catalog.root_url, storage_options)
    drawn: set[str] = set()
    for batch in catalog.iter_batches(["record_id"], with_location=True):
        for record_id, location in zip(batch["record_id"].to_pylist(), batch["location"].to_pylist(), strict=True):
            if record_id not in wanted or record_id in drawn:
                continue
            row = wanted[record_id]
            recording = reader.read(location, record_id)
            if not isinstance(recording, Recording):
                row["plot"] = ""
                continue
            drawn.add(record_id)
            head = (
                f"{row['rank']}. labelled {row['label']}; out-of-fold probability of infarction {row['probability']:.3f} "
                f"(model {model})",
                f"statements: {row['statements']}",
                f"record {record_id}",
            )
            place.write(row["plot"], ecg_plot(recording.signal_mV, recording.rate_hz, head=head))


def _csv(suspects: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(suspects)
    return stream.getvalue()


def _page(summary: Mapping[str, Any], suspects: Sequence[Mapping[str, Any]]) -> str:
    """Return a page to leaf through: one ECG after the other, with what was stated and what was predicted."""
    kinds = (
        ("Labelled infarction, predicted none", [row for row in suspects if row["label"] == "MI"]),
        ("Labelled without infarction, predicted one", [row for row in suspects if row["label"] != "MI"]),
    )
    entries = "\n".join(
        f"<h2>{title} ({len(rows):,} shown)</h2>\n" + "\n".join(map(_entry, rows)) for title, rows in kinds
    )
    model, confidence = summary["model"], summary["mean_self_confidence"]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Label audit</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }}
img {{ width: 100%; border: 1px solid #ddd }} section {{ margin-top: 2.5rem }} h3 {{ font-size: 1rem }}
.notice {{ border-left: 4px solid #b33; padding: .3rem 1rem; background: #fbf1f1 }}
</style></head><body>
<h1>Labels that the predictions contradict</h1>
<p class="notice">{html.escape(NOTICE)}</p>
<p>Model {html.escape(model["name"])} {html.escape(model["version"])}; {summary["records"]:,} records with a prediction by
networks that never saw them; {summary["suspects"]:,} suspects, of which the strongest of both kinds are below
(<a href="audit.csv">all of them</a>). A record is listed where the class it is not labelled as has a probability that
reaches the mean of the records labelled so ({confidence["infarction"]:.3f} for infarction,
{confidence["without infarction"]:.3f} for none). A contradiction is no proof: the network may be wrong, and hard ECGs are
among them.</p>
{entries}
</body></html>
"""


def _entry(row: Mapping[str, Any]) -> str:
    picture = f'<img src="{row["plot"]}" alt="12-lead ECG" loading="lazy">' if row["plot"] else "<p>No plot.</p>"
    return (
        f'<section id="r{row["rank"]}"><h3>{row["rank"]}. {html.escape(row["record_id"])}</h3>'
        f"<p>Labelled <b>{html.escape(row['label'])}</b>; statements: {html.escape(row['statements'])}. "
        f"Out-of-fold probability of infarction <b>{row['probability']:.3f}</b>: {html.escape(row['why'])}.</p>"
        f"{picture}</section>"
    )
