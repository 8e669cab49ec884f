"""``screening models``: what the registry holds, and how its champions came and went."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from screening.cli.changes import change_json, show_change
from screening.cli.state import default_tracking_uri, state_option, tracking_option
from screening.errors import UserError


@click.command("models")
@click.argument("name", required=False)
@click.option("--history", "with_history", is_flag=True, help="Show who made which version of NAME champion, and why.")
@state_option
@tracking_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON; of a history, the full change records.")
def command(name: str | None, with_history: bool, state: Path, tracking_uri: str | None, as_json: bool) -> None:
    """List the registered versions of model NAME, or of every model, newest first.

    \b
    screening models
    screening models msaic-mi --history --json
    """
    from screening.train.promotion import CHANGE_TAG, changes_of
    from screening.train.registry import versions

    uri = tracking_uri or default_tracking_uri(state)
    if with_history:
        if name is None:
            raise UserError("--history is of one model; write screening models NAME --history.")
        _history(name, uri, as_json=as_json)
        return
    found = versions(uri, name)
    if as_json:
        changes = {each: changes_of([v for v in found if v.name == each]) for each in {v.name for v in found}}
        listed = []
        for version in found:
            tags = {key: value for key, value in version.tags.items() if not key.startswith(CHANGE_TAG)}
            own = [change_json(each) for each in changes[version.name] if each.to_version == version.version]
            at = version.registered_at.isoformat()
            listed.append(asdict(version) | {"registered_at": at, "tags": tags, "changes": own})
        click.echo(json.dumps(listed, indent=2))
        return
    if not found:
        click.echo(
            "No model is registered yet; `screening train` registers what it trains, `screening register` the shipped "
            "model. Runs use the shipped model."
        )
        return
    width = max(5, *(len(version.name) for version in found))
    click.echo(
        f"{'model':<{width}}  {'version':>7}  {'alias':<10} {'bundle':<12}  {'AUROC':>6}  {'AUPRC':>6}  registered"
    )
    for v in found:
        auroc, auprc = (f"{v.figures[key]:.4f}" if key in v.figures else "-" for key in ("auroc", "auprc"))
        click.echo(
            f"{v.name:<{width}}  {v.version:>7}  {','.join(v.aliases):<10} {v.bundle_sha256[:12]:<12}  "
            f"{auroc:>6}  {auprc:>6}  {v.registered_at:%Y-%m-%d %H:%M} UTC"
        )


def _history(name: str, uri: str, *, as_json: bool) -> None:
    from screening.train.promotion import change_record, history
    from screening.train.registry import champion

    changes = history(name, tracking_uri=uri)[::-1]
    present = champion(name, tracking_uri=uri)
    if as_json:
        listed: list[dict[str, Any]] = []
        for change in changes:
            entry = change_json(change)
            try:
                entry["full_record"] = change_record(name, change, tracking_uri=uri)
            except UserError as error:  # an auditor wants the others, and to know
                entry |= {"full_record": None, "problem": str(error)}
            listed.append(entry)
        click.echo(json.dumps({"model": name, "champion": present, "changes": listed}, indent=1))
        return
    click.echo(f"{name}: {'no champion yet' if present is None else f'version {present} is champion'}")
    moved = next((change for change in changes if change.moved), None)
    if present is not None and (moved is None or moved.to_version != present):
        click.echo(f"No change record explains version {present}: another program moved the alias.")
    for change in changes:
        click.echo()
        show_change(change)
