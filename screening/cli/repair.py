"""``screening repair``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from screening.cli import EXIT_DONE, EXIT_USAGE
from screening.cli.record import Record, audit_option, logged_url
from screening.cli.state import model_folder, state_option, tracking_option
from screening.cli.storage import storage_option


@click.command("repair")
@click.argument("run_url", metavar="RUN")
@click.option("--catalog", help="The run's catalog; needed only where files of the plan, or donors, are damaged.")
@click.option(
    "--model", "model_ref", help="The run's model, where its copy is damaged; default: the bundle that ships."
)
@storage_option
@state_option
@tracking_option
@audit_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(
    run_url: str,
    catalog: str | None,
    model_ref: str | None,
    storage_options: dict[str, Any],
    state: Path,
    tracking_uri: str | None,
    as_json: bool,
    record: Record,
) -> int:
    """Make damaged or lost files of a published run again, byte for byte as they were, from the archive.

    \b
    screening repair runs/3f2a90b1c4d5e6f7
    screening repair runs/3f2a90b1c4d5e6f7 --catalog catalog
    """
    from screening.archive.catalog import open_catalog
    from screening.model.bundle import load_bundle
    from screening.run.repair import repair
    from screening.storage import Folder

    bundle = load_bundle(
        model_folder(model_ref, state=state, tracking_uri=tracking_uri, storage_options=storage_options)
    )
    record("run.repair_started", {"run": logged_url(run_url)})
    done = repair(
        Folder(run_url, storage_options).absolute(),
        options=storage_options,
        catalog=open_catalog(catalog, storage_options=storage_options) if catalog else None,
        bundles=[bundle],
        on_file=lambda name: None if as_json else click.echo(f"making {name} again", file=sys.stderr),
    )
    left = [str(fault) for fault in done.left]
    record("run.repaired", {"run": logged_url(run_url), "made_again": done.files, "left": left})
    if as_json:
        click.echo(json.dumps({"run": run_url, "made_again": done.files, "whole": not left, "faults": left}, indent=1))
        return EXIT_USAGE if left else EXIT_DONE
    for fault in left:
        click.echo(fault)
    if left:
        hint = "" if catalog else "; --catalog CATALOG may help with files of the plan, and with donors"
        click.echo(f"{run_url}: {len(done.files)} files made again, {len(left)} faults are left{hint}")
        return EXIT_USAGE
    click.echo(f"{run_url}: whole" + (f"; {len(done.files)} files made again" if done.files else ", nothing to repair"))
    return EXIT_DONE
