"""``screening promote``: the gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from screening.cli.changes import by_option, change_json, now, show_verdict
from screening.cli.folds import folds_option
from screening.cli.record import Record, audit_option
from screening.cli.state import default_tracking_uri, state_option, tracking_option
from screening.cli.storage import storage_option
from screening.errors import UserError


@click.command("promote")
@click.argument("name")
@click.argument("version", type=click.IntRange(1))
@click.option("--catalog", required=True, help="Labelled catalog that both are judged on, best one neither has seen.")
@folds_option("Folds to judge on, e.g. 10 or 9,10 [all].")
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="YAML file of the gate's bounds.")
@click.option("--why", default="", help="Reason, for the change record.")
@by_option
@click.option("--dry-run", is_flag=True, help="Judge and show; record and move nothing.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where the networks run [auto]."
)
@storage_option
@state_option
@tracking_option
@audit_option
@click.option("--json", "as_json", is_flag=True, help="Print the verdict and the change as JSON.")
def command(
    name: str,
    version: int,
    catalog: str,
    folds: tuple[int, ...] | None,
    config: Path | None,
    why: str,
    by: str,
    dry_run: bool,
    device: str,
    storage_options: dict[str, Any],
    state: Path,
    tracking_uri: str | None,
    as_json: bool,
    record: Record,
) -> int:
    """Judge VERSION of model NAME against its champion and, if every bound holds, make it the champion.

    Both are judged on the same labelled records, which neither has seen; a model that has seen some is judged by its
    nested out-of-fold predictions, if it has them for all. With no champion yet only the floors count. A refusal names
    the bounds that failed (exit code 1). Either outcome is kept with the version; `screening models NAME --history`.

    \b
    screening promote msaic-mi 2 --catalog catalog --folds 10 --why "trained on 2026's archive"
    screening promote msaic-mi 2 --catalog catalog --config gate.yaml --dry-run
    """
    from screening.run.fingerprint import choose_device
    from screening.settings import load_settings
    from screening.train.bounds import GateSettings
    from screening.train.promotion import judge_version, promote

    uri = tracking_uri or default_tracking_uri(state)
    verdict = judge_version(
        name,
        version,
        catalog_path=catalog,
        folds=folds,
        settings=load_settings(GateSettings, config),
        tracking_uri=uri,
        cache_folder=state / "models",
        device=choose_device(device),
        storage_options=storage_options,
        on_stage=lambda what: None if as_json else click.echo(f"{what} ...", err=True),
    )
    change = None if dry_run else promote(name, version, verdict, by=by, why=why, at=now(), tracking_uri=uri)
    if change is not None:
        record("model.promoted" if verdict.passed else "model.refused", change_json(change))
    if as_json:
        told = {"verdict": verdict.to_json(), "change": change and change_json(change)}
        click.echo(json.dumps(told, indent=1))
    else:
        show_verdict(verdict)
    if not verdict.passed:
        raise UserError(f"version {version} of {name} is not promoted. {' '.join(verdict.refusals)}")
    if as_json:
        return 0
    if change is None:
        click.echo(f"Version {version} of {name} would be promoted (--dry-run: nothing was recorded or moved).")
    else:
        after = "" if change.from_version is None else f", after version {change.from_version}"
        click.echo(f"Version {version} of {name} is its champion now{after}.")
        click.echo(f"Screen with it: --model models:/{name}@champion")
    return 0
