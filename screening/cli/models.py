"""``screening models``: what the registry holds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from screening.cli.state import default_tracking_uri, state_option, tracking_option


@click.command("models")
@click.argument("name", required=False)
@state_option
@tracking_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def command(name: str | None, state: Path, tracking_uri: str | None, as_json: bool) -> None:
    """List the registered versions of model NAME, or of every model, newest first.

    \b
    screening models
    screening models msaic-mi --json
    """
    from screening.train.registry import versions

    found = versions(tracking_uri or default_tracking_uri(state), name)
    if as_json:
        click.echo(json.dumps([asdict(v) | {"registered_at": v.registered_at.isoformat()} for v in found], indent=2))
        return
    if not found:
        click.echo("No model is registered yet; `screening train` registers the first. Runs use the shipped model.")
        return
    click.echo(f"{'model':<20} {'version':>7}  {'alias':<10} {'bundle':<12}  {'AUROC':>6}  {'AUPRC':>6}  registered")
    for v in found:
        auroc, auprc = (f"{v.figures[key]:.4f}" if key in v.figures else "-" for key in ("auroc", "auprc"))
        click.echo(
            f"{v.name:<20} {v.version:>7}  {','.join(v.aliases):<10} {v.bundle_sha256[:12]:<12}  "
            f"{auroc:>6}  {auprc:>6}  {v.registered_at:%Y-%m-%d %H:%M} UTC"
        )
