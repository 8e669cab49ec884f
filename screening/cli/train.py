"""``screening train``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from screening.cli.record import Record, audit_option
from screening.cli.state import default_tracking_uri, state_option, tracking_option
from screening.cli.storage import storage_option
from screening.job import tell_job


@click.command("train")
@click.option("--catalog", required=True, help="Labelled catalog made by `screening catalog --labels RULE`.")
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="YAML file of training settings.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for a copy of the bundle; must not exist.")
@click.option(
    "--comparisons",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="tables.md of `screening study`, for the model card.",
)
@click.option("--name", help="Name of the model in the registry [msaic-mi].")
@click.option("--workers", type=int, help="Ray Train workers; 0 trains in this process [0].")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Without workers [auto].")
@click.option("--address", help="Ray cluster to use; default: this machine, or the cluster of the Ray job.")
@storage_option
@state_option
@tracking_option
@audit_option
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def command(
    catalog: str,
    config: Path | None,
    out: Path | None,
    comparisons: Path | None,
    device: str,
    address: str | None,
    storage_options: dict[str, Any],
    state: Path,
    tracking_uri: str | None,
    as_json: bool,
    record: Record,
    **overrides: Any,
) -> int:
    """Train MSAIC-Net on a labelled catalog and register the bundle; resumes where it stopped.

    \b
    screening train --catalog catalog
    screening train --catalog catalog --config train.yaml --workers 4 --tracking-uri http://mlflow:5000 --out bundle
    """
    from screening.settings import load_settings
    from screening.train.assemble import TrainSettings
    from screening.train.retrain import retrain

    def stage(what: str) -> None:
        if not as_json:
            click.echo(f"{what} ...", err=True)

    def epoch(number: int, numbers: Mapping[str, float]) -> None:
        if not as_json:
            tune = "".join(
                f"  {name} {numbers[key]:.4f}"
                for name, key in (("AUROC", "tune_auroc"), ("AUPRC", "tune_auprc"))
                if key in numbers
            )
            click.echo(f"epoch {number + 1:>3}  loss {numbers['loss']:.4f}{tune}", err=True)

    done = retrain(
        catalog,
        load_settings(TrainSettings, config, overrides),
        comparisons=comparisons.read_text(encoding="utf-8") if comparisons else "",
        trainings=state / "trainings",
        out=out,
        tracking_uri=tracking_uri or default_tracking_uri(state),
        address=address,
        device=device,
        storage_options=storage_options,
        on_stage=stage,
        on_epoch=epoch,
    )
    bundle, registered = done.bundle, done.registered
    record(
        "model.registered",
        {"model": registered.name, "version": registered.version, "bundle_sha256": bundle.sha256},
    )
    tell_job({"training_id": done.training_id, "model": registered.name, "version": registered.version})
    if as_json:
        facts = {
            "training_id": done.training_id,
            "already": done.already,
            "bundle": str(bundle.path),
            "bundle_sha256": bundle.sha256,
            "model": registered.name,
            "version": registered.version,
            "aliases": list(registered.aliases),
            "threshold": bundle.threshold,
            "figures": bundle.operating_characteristics.figures,
        }
        click.echo(json.dumps(facts, indent=1))
        return 0
    if done.already:
        click.echo("This training was finished before; nothing was left to do.")
    alias = f" ({', '.join(registered.aliases)})" if registered.aliases else ""
    click.echo(f"{registered.name} version {registered.version}{alias}, bundle {bundle.sha256[:12]} in {bundle.path}")
    for what, value in sorted(bundle.operating_characteristics.figures.items()):
        click.echo(f"  {what:<55} {value['value']:.4f}  ({value['low']:.4f} to {value['high']:.4f})")
    click.echo(f"Screen with it: --model {bundle.path}, or --model models:/{registered.name}/{registered.version}")
    return 0
