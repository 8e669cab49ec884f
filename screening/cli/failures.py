"""``screening failures``."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import click

from screening.cli.storage import storage_option
from screening.contract import REASONS, Reason
from screening.errors import printable


@click.command("failures")
@click.argument("run_url", metavar="RUN")
@click.option("--reason", "reasons", multiple=True, type=click.Choice([r.value for r in Reason]), help="Only these.")
@click.option("--limit", default=5, show_default=True, type=click.IntRange(0), help="Records shown a reason.")
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print every rejected record as a line of JSON.")
def command(run_url: str, reasons: tuple[str, ...], limit: int, storage_options: dict[str, Any], as_json: bool) -> None:
    """Show which records were rejected, and why.

    \b
    screening failures runs/3f2a90b1c4d5e6f7
    screening failures runs/3f2a90b1c4d5e6f7 --reason missing_units --json > rejected.jsonl
    """
    from screening.run.read import iter_results
    from screening.storage import Folder

    run = Folder(run_url, storage_options)
    seen: Counter[str] = Counter()
    shown: dict[str, list[dict[str, Any]]] = {}
    for table in iter_results(run, columns=["record_id", "status", "reason", "detail", "source_format"]):
        for row in table.to_pylist():
            if row["reason"] is None or (reasons and row["reason"] not in reasons):
                continue
            seen[row["reason"]] += 1
            if as_json:
                click.echo(json.dumps({key: row[key] for key in ("record_id", "reason", "detail", "source_format")}))
            elif len(shown.setdefault(row["reason"], [])) < limit:
                shown[row["reason"]].append(row)
    if as_json:
        return
    click.echo(f"{seen.total():,} rejected records")
    for reason, count in seen.most_common():
        click.echo(f"\n{count:,}  {reason}: {REASONS[Reason(reason)]}")
        for row in shown[reason]:
            click.echo(f"    {printable(row['record_id'])}: {row['detail']}")
        if count > len(shown[reason]):
            click.echo(f"    and {count - len(shown[reason]):,} more (--limit, --json)")
