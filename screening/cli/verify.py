"""``screening verify``."""

from __future__ import annotations

import json
from typing import Any

import click

from screening.cli import EXIT_DONE, EXIT_USAGE
from screening.cli.storage import storage_option


@click.command("verify")
@click.argument("run_url", metavar="RUN")
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(run_url: str, storage_options: dict[str, Any], as_json: bool) -> int:
    """Compare a run's files with its manifest and its plan.

    \b
    screening verify runs/3f2a90b1c4d5e6f7
    screening verify s3://bucket/runs/3f2a90b1c4d5e6f7 --json
    """
    from screening.run.read import faults
    from screening.storage import Folder

    found = list(faults(Folder(run_url, storage_options)))
    if as_json:
        click.echo(json.dumps({"run": run_url, "whole": not found, "faults": found}, indent=1))
    else:
        for fault in found:
            click.echo(fault)
        click.echo(f"{run_url}: {len(found)} faults" if found else f"{run_url}: whole; every file is as published")
    return EXIT_USAGE if found else EXIT_DONE
