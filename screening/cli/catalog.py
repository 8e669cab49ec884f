"""``screening catalog``: scan an archive once, and again only for what changed."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from screening.cli.storage import storage_option

if TYPE_CHECKING:
    from screening.archive.build import CatalogSummary
    from screening.archive.identity import PseudonymKey


@click.command("catalog")
@click.argument("archive_url")
@click.option("--out", required=True, metavar="CATALOG", help="Folder (or URL) of the catalog, made or renewed.")
@click.option(
    "--metadata", metavar="TABLE", help="CSV or Parquet table of the records; PTB-XL's and MIMIC-IV-ECG's are found."
)
@click.option("--mapping", metavar="FILE", help="YAML: which column of the table is path, patient_id, age, sex, ...")
@click.option(
    "--labels",
    metavar="RULE",
    help="ptbxl-mi, ptbxl-mi-no-injury, snomed-mi, ptbdb-mi, none, or a YAML file; without it, no labels.",
)
@click.option("--deidentified", is_flag=True, help="The archive is public: plain record ids, no key needed.")
@click.option(
    "--key-file",
    metavar="FILE",
    help="Pseudonym key; made if absent. Default: $SCREENING_PSEUDONYM_KEY, then ~/.config/screening/pseudonym.key.",
)
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    archive_url: str,
    out: str,
    metadata: str | None,
    mapping: str | None,
    labels: str | None,
    deidentified: bool,
    key_file: str | None,
    storage_options: dict[str, Any],
    as_json: bool,
) -> None:
    """Make or renew the catalog of an archive: one row for every record.

    Patient ids, and record ids unless --deidentified, are written only as keyed pseudonyms.

    \b
    Examples:
      screening catalog /data/ptb-xl --out ptbxl.catalog --deidentified --labels ptbxl-mi
      screening catalog s3://hospital/ecg --out /srv/ecg.catalog --metadata list.csv --mapping columns.yaml
    """
    from screening.archive.build import build_catalog
    from screening.archive.labels import load_rule
    from screening.archive.mapping import load_mapping

    counter = _Counter(enabled=sys.stderr.isatty() and not as_json)
    rule = load_rule(labels) if labels else None
    columns = load_mapping(mapping) if mapping else None
    key, note = key_for(key_file, deidentified)
    if note:
        click.echo(note, err=True)
    summary = build_catalog(
        archive_url,
        out,
        metadata=metadata,
        mapping=columns,
        labels=rule,
        deidentified=deidentified,
        key=key,
        storage_options=storage_options,
        progress=counter,
    )
    counter.clear()
    click.echo(_as_json(summary) if as_json else _as_text(summary, labelled=rule is not None))


def key_for(key_file: str | None, deidentified: bool) -> tuple[PseudonymKey | None, str | None]:
    """Return the key, if any: a public archive needs none, so none is made for it; one that is named is used."""
    from screening.archive.identity import load_key

    if deidentified and key_file is None:
        return None, None
    return load_key(key_file, os.environ.get("SCREENING_PSEUDONYM_KEY"))


class _Counter:
    """One line on a terminal that counts records while the scan runs."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled

    def __call__(self, records: int) -> None:
        if self._enabled:
            click.echo(f"\r{records:,} records", nl=False, err=True)

    def clear(self) -> None:
        if self._enabled:
            click.echo("\r\033[K", nl=False, err=True)


def _as_json(summary: CatalogSummary) -> str:
    from dataclasses import asdict

    from screening.contract import NOTICE

    return json.dumps({"notice": NOTICE, **asdict(summary)}, indent=2)


def _as_text(summary: CatalogSummary, *, labelled: bool) -> str:
    from screening.contract import NOTICE

    by_class = ", ".join(f"{name} {count:,}" for name, count in summary.labels.items() if name != "none" or count)
    lines = [
        f"{summary.records:,} records found by {summary.found_by}, {summary.bytes / 1e6:,.1f} MB "
        f"(new {summary.new:,}, changed {summary.changed:,}, unchanged {summary.unchanged:,}, gone {summary.gone:,})",
        f"Labels by {summary.label_rule}: {by_class}" if labelled else "No labels: training needs --labels",
    ]
    if summary.without_metadata:
        lines.append(f"{summary.without_metadata:,} records without age, sex or statements")
    lines += [f"Note: {warning}" for warning in summary.warnings]
    lines += [
        f"Catalog {summary.catalog_id[:12]} written to {summary.path}",
        f"Next: screening run --catalog {summary.path} --out runs",
        NOTICE,
    ]
    return "\n".join(lines)
