"""``screening audit``: the log of what was done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from screening.cli import EXIT_DONE, EXIT_USAGE
from screening.cli.record import log_at, path_option
from screening.cli.state import state_option
from screening.cli.storage import storage_option


@click.group("audit")
def command() -> None:
    """Show or verify the log of runs, publications, promotions, exports and erasures.

    Both commands take --json.

    \b
    screening audit show --last 20
    screening audit verify --expect 0c4f...
    """


@command.command("show")
@click.option("--last", default=20, show_default=True, type=click.IntRange(1), help="Entries shown.")
@click.option("--event", help="Only events that begin so, e.g. run or model.promoted.")
@storage_option
@state_option
@path_option
@click.option("--json", "as_json", is_flag=True, help="Print the entries as lines of JSON.")
def show(
    last: int, event: str | None, storage_options: dict[str, Any], state: Path, audit_log: str | None, as_json: bool
) -> int:
    """Show the last entries.

    \b
    screening audit show
    screening audit show --event worklist --last 100 --json
    """
    from collections import deque

    chosen = (entry for entry in log_at(audit_log, storage_options).entries() if entry["event"].startswith(event or ""))
    for entry in deque(chosen, last):
        if as_json:
            click.echo(json.dumps(entry))
            continue
        what = ", ".join(f"{key} {value}" for key, value in entry["what"].items() if value not in (None, "", []))
        click.echo(f"{entry['n']:>6}  {entry['at']}  {entry['who']}  {entry['event']}: {what}")
    return EXIT_DONE


@command.command("verify")
@click.option("--expect", metavar="SHA256", help="Hash that the log's last entry had; the log must still hold it.")
@click.option("--at-least", type=click.IntRange(0), default=0, help="Entries that the log held.")
@storage_option
@state_option
@path_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def verify(
    expect: str | None,
    at_least: int,
    storage_options: dict[str, Any],
    state: Path,
    audit_log: str | None,
    as_json: bool,
) -> int:
    """Find what was edited, put in, taken out or moved. Exit code 1 if anything was.

    What is cut off the end shows only beside a hash or number that was noted elsewhere: this command prints both.

    \b
    screening audit verify
    screening audit verify --expect 0c4f... --at-least 120
    """
    log = log_at(audit_log, storage_options)
    found = log.verify()
    faults = list(found.faults)
    if found.entries < at_least:
        faults.append(f"there are {found.entries} entries, and there were {at_least}")
    if expect and all(entry["sha256"] != expect for entry in log.entries()):
        faults.append("the entry that --expect names is gone")
    if as_json:
        facts = {"log": log.url, "entries": found.entries, "head": found.head, "torn": found.torn, "faults": faults}
        click.echo(json.dumps(facts, indent=1))
    else:
        for fault in faults:
            click.echo(fault)
        if found.torn:
            click.echo(f"{found.torn} lines were cut off when a writer was killed; the entries after them say so")
        click.echo(f"{log.url}: {found.entries:,} entries, " + (f"{len(faults)} faults" if faults else "unbroken"))
        click.echo(f"Note elsewhere, for --at-least and --expect: {found.entries} {found.head}")
    return EXIT_USAGE if faults else EXIT_DONE
