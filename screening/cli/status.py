"""``screening status``."""

from __future__ import annotations

import json
from typing import Any

import click

from screening.cli.storage import storage_option


@click.command("status")
@click.argument("run_url", metavar="RUN")
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(run_url: str, storage_options: dict[str, Any], as_json: bool) -> None:
    """Show how far a run is and what came out of it.

    \b
    screening status runs/3f2a90b1c4d5e6f7
    screening status s3://bucket/runs/3f2a90b1c4d5e6f7 --json
    """
    from screening.run.ledger import counts, finished_shards, read_manifest
    from screening.run.plan import load_plan
    from screening.storage import Folder

    run = Folder(run_url, storage_options)
    plan, manifest = load_plan(run), read_manifest(run)
    if manifest:
        found, shards = manifest["counts"], plan.shards
    else:
        done = finished_shards(run, plan)
        found, shards = counts(done.values()), len(done)
    facts = {
        "run_id": plan.run_id,
        "published": manifest is not None,
        "records": plan.records,
        "done": found["scored"] + found["rejected"],
        "shards": plan.shards,
        "shards_done": shards,
        **{key: found[key] for key in ("scored", "rejected", "flagged", "explained", "reasons")},
        "model": plan.model,
        "settings": plan.settings,
        "finished_at": manifest["finished_at"] if manifest else None,
    }
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    state = f"published {facts['finished_at']}" if manifest else "not finished; `screening run` goes on with it"
    click.echo(f"run {plan.run_id}: {state}")
    click.echo(f"model {plan.model['name']} {plan.model['version']} ({plan.model['bundle_sha256'][:12]})")
    click.echo(f"{facts['done']:,} of {plan.records:,} records in {shards:,} of {plan.shards:,} shards")
    click.echo(f"{facts['scored']:,} scored, {facts['flagged']:,} of them flagged, {facts['explained']:,} explained")
    click.echo(f"{facts['rejected']:,} rejected")
    for reason, count in facts["reasons"].items():
        click.echo(f"  {count:>8,}  {reason}")
