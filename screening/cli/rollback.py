"""``screening rollback``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from screening.cli.changes import by_option, change_json, now
from screening.cli.record import Record, audit_option
from screening.cli.state import default_tracking_uri, state_option, tracking_option
from screening.errors import UserError


@click.command("rollback")
@click.argument("name")
@click.option("--to", type=click.IntRange(1), help="A version that was champion once [the one before the present].")
@click.option("--why", required=True, help="Reason, for the change record.")
@by_option
@state_option
@tracking_option
@audit_option
@click.option("--json", "as_json", is_flag=True, help="Print the change as JSON.")
def command(
    name: str,
    to: int | None,
    why: str,
    by: str,
    state: Path,
    tracking_uri: str | None,
    as_json: bool,
    record: Record,
) -> int:
    """Make the champion that model NAME had before its present one the champion again, without the gate.

    Done twice it goes back twice: what was rolled back does not count as an earlier champion. To undo a rollback, name
    the version with --to.

    \b
    screening rollback msaic-mi --why "misses inferior infarctions on the new carts"
    screening rollback msaic-mi --to 2 --why "the carts were at fault" --json
    """
    from screening.train.promotion import rollback

    try:
        change = rollback(
            name,
            to=to,
            by=by,
            why=why,
            at=now(),
            tracking_uri=tracking_uri or default_tracking_uri(state),
            cache_folder=state / "models",
        )
    except UserError as error:
        record("model.rollback_refused", {"model": name, "to": to, "by": by, "why": why, "refusal": str(error)})
        raise
    record("model.rolled_back", change_json(change))
    if as_json:
        click.echo(json.dumps(change_json(change), indent=1))
        return 0
    click.echo(f"Version {change.to_version} of {name} is its champion again; version {change.from_version} is not.")
    click.echo(f"To undo: screening rollback {name} --to {change.from_version} --why REASON")
    return 0
