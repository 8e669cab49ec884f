"""``screening verify``."""

from __future__ import annotations

import json
import random
from typing import Any

import click

from screening.cli import EXIT_DONE, EXIT_USAGE
from screening.cli.storage import storage_option


@click.command("verify")
@click.argument("run_url", metavar="RUN")
@click.option(
    "--sample", default=16, show_default=True, type=click.IntRange(0), help="Records, drawn at random, scored again."
)
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(run_url: str, sample: int, storage_options: dict[str, Any], as_json: bool) -> int:
    """Compare every byte of a published run with what was published, and score a sample of its records again.

    \b
    screening verify runs/3f2a90b1c4d5e6f7
    screening verify s3://bucket/runs/3f2a90b1c4d5e6f7 --sample 0 --json
    """
    from screening.run.plan import load_plan
    from screening.run.verify import Rescored, faults, rescore
    from screening.storage import Folder

    run = Folder(run_url, storage_options)
    found = list(faults(run))
    again = Rescored(0, 0, ())
    if sample and not found:
        records = load_plan(run).records
        again = rescore(run, random.sample(range(records), min(sample, records)), options=storage_options)
    wrong = [str(fault) for fault in (*found, *again.faults)]
    if as_json:
        answer = {"run": run_url, "whole": not wrong, "faults": wrong, "scored_again": again.same, "gone": again.gone}
        click.echo(json.dumps(answer, indent=1))
        return EXIT_USAGE if wrong else EXIT_DONE
    for fault in wrong:
        click.echo(fault)
    if found:
        click.echo(f"{run_url}: {len(found)} faults; `screening repair {run_url}` makes again what can be")
        return EXIT_USAGE
    click.echo(f"{run_url}: whole; every file is as published")
    if sample:
        click.echo(
            f"{again.same} of {again.same + again.gone + len(again.faults)} records, drawn at random, come out as published"
        )
    if again.gone:
        click.echo(f"{again.gone} could not be scored again: the archive no longer holds the bytes that were scored")
    return EXIT_USAGE if wrong else EXIT_DONE
