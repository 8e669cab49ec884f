"""``screening evaluate``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from screening.cli.folds import folds_option
from screening.cli.state import model_folder, state_option, tracking_option
from screening.cli.storage import storage_option


@click.command("evaluate")
@click.option("--catalog", required=True, help="Labelled catalog made by `screening catalog --labels RULE`.")
@click.option("--model", "model_ref", help="Bundle folder or models:/name@alias; default: the bundle that ships.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for evaluation.json and the plot.")
@folds_option("Folds to measure on, e.g. 9 or 1,2,3 [all].")
@click.option("--allow-seen", is_flag=True, help="Measure on records the model was made from, too.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where the network runs [auto]."
)
@storage_option
@state_option
@tracking_option
@click.option("--json", "as_json", is_flag=True, help="Print the evaluation as JSON.")
def command(
    catalog: str,
    model_ref: str | None,
    out: Path,
    folds: tuple[int, ...] | None,
    allow_seen: bool,
    device: str,
    storage_options: dict[str, Any],
    state: Path,
    tracking_uri: str | None,
    as_json: bool,
) -> int:
    """Measure a model on labelled records that it has not seen.

    \b
    screening evaluate --catalog catalog --model models:/msaic-mi@champion --folds 10 --out evaluation
    screening evaluate --catalog catalog --model bundle --out evaluation --json
    """
    from screening.archive.catalog import open_catalog
    from screening.model.bundle import load_bundle
    from screening.run.fingerprint import choose_device
    from screening.storage import Folder
    from screening.train.data import load_training_set
    from screening.train.figures import evaluation_plot
    from screening.train.measure import measure, refuse_seen

    bundle = load_bundle(
        model_folder(model_ref, state=state, tracking_uri=tracking_uri, storage_options=storage_options)
    )
    opened = open_catalog(catalog, storage_options=storage_options)
    records = load_training_set(catalog, bundle.preprocessing, folds=folds, storage_options=storage_options)
    if not allow_seen:
        refuse_seen(bundle, records)
    found, probability = measure(bundle, records, device=choose_device(device))
    found["catalog"] = {"catalog_id": opened.catalog_id, "label_rule": opened.label_rule.name, "folds": folds}
    found["allow_seen"] = allow_seen
    written = ["evaluation.json"]
    folder = Folder(str(out))
    folder.write("evaluation.json", (json.dumps(found, indent=1) + "\n").encode())
    if found["calibration"] is not None:
        folder.write("evaluation.png", evaluation_plot(found["calibration"], probability, records.target))
        written.append("evaluation.png")
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return 0
    click.echo(f"{bundle.name} {bundle.version}, bundle {bundle.sha256[:12]}, {len(records):,} records")
    for task, of in found["tasks"].items():
        click.echo(f"{task}: {of['n']:,} records, {of['patients']:,} patients, {of['positives']:,} positive")
        for name, value in of.items():
            if isinstance(value, dict):
                click.echo(f"  {name:<35} {value['value']:.4f}  ({value['low']:.4f} to {value['high']:.4f})")
    for line in _groups(found):
        click.echo(line)
    if allow_seen:
        click.echo("Records that the model was made from are included (--allow-seen): the figures flatter it.")
    click.echo(f"Written: {', '.join(str(out / name) for name in written)}")
    return 0


def _groups(found: Mapping[str, Any]) -> Iterator[str]:
    """Say in short what the threshold catches: all patients, by sex, where it is known to fail, and with arms swapped."""
    from screening.train.reversal import ARMS
    from screening.train.subgroups import KNOWN_FAILURES

    counts, shares = found["counts_one_ecg_a_patient"], found["rates_one_ecg_a_patient"]
    overall = counts["overall"]
    yield "At the threshold, one ECG a patient: " + ", ".join(f"{key} {count:,}" for key, count in overall.items())
    rows = [("all", overall, shares["overall"])] + [
        (group, of, shares[kind][group])
        for kind in ("sex", KNOWN_FAILURES)
        for group, of in counts.get(kind, {}).items()
    ]
    yield f"  {'':<36} {'n':>7}  {'sensitivity (95%)':<21}  specificity (95%)"
    for group, of, rates in rows:
        yield f"  {group:<36} {sum(of.values()):>7,}  {_rate(rates, 'sensitivity'):<21}  {_rate(rates, 'specificity')}"
    swapped = found["exchanged_electrodes_one_ecg_a_patient"][ARMS]["negatives"]
    if swapped["n"]:
        before, after, noticed = (swapped[key] / swapped["n"] for key in ("flagged", "flagged_exchanged", "noticed"))
        yield (
            f"With arm electrodes exchanged, {after:.1%} of those without infarction are flagged instead of {before:.1%}; "
            f"the quality check notices {noticed:.1%} of the exchanges."
        )


def _rate(rates: Mapping[str, Mapping[str, float]], name: str) -> str:
    of = rates.get(name)
    return f"{of['value']:.3f} ({of['low']:.3f}-{of['high']:.3f})" if of else "-"
