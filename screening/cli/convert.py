"""``screening convert``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from screening.cli import EXIT_DONE, EXIT_REJECTS
from screening.cli.record import Record, audit_option, logged_url
from screening.cli.state import state_option
from screening.cli.storage import storage_option

if TYPE_CHECKING:
    from screening.archive.convert import ConvertSummary


@click.command("convert")
@click.argument("archive_url", metavar="ARCHIVE")
@click.argument("dest")
@click.option("--metadata", metavar="TABLE", help="As for `screening catalog`.")
@click.option("--mapping", metavar="FILE", help="As for `screening catalog`.")
@click.option(
    "--deidentified", is_flag=True, help="The archive is public: the table says where each record comes from."
)
@click.option("--key-file", metavar="FILE", help="Pseudonym key, as for `screening catalog`.")
@storage_option
@state_option
@audit_option
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def command(
    archive_url: str,
    dest: str,
    metadata: str | None,
    mapping: str | None,
    deidentified: bool,
    key_file: str | None,
    storage_options: dict[str, Any],
    state: Path,
    as_json: bool,
    record: Record,
) -> int:
    """Copy an archive of any format into plain WFDB records, without what identifies people.

    Every copy is read again and compared. What cannot be read stands in refused.csv with its reason, and the exit code is 2.
    Age and sex stay, and the machine's QRS duration; names, ids, dates, sites and sentences do not. Waveforms themselves can
    identify people: keep the copy as you keep the archive.

    \b
    screening convert hospital-export wfdb-copy
    screening convert s3://bucket/dicom s3://bucket/wfdb --deidentified
    """
    import tempfile

    from screening.archive.build import build_catalog
    from screening.archive.catalog import open_catalog
    from screening.archive.convert import convert_archive
    from screening.archive.mapping import load_mapping
    from screening.cli.catalog import key_for
    from screening.storage import Folder, private_folder

    key, note = key_for(key_file, deidentified)
    if note:
        click.echo(note, err=True)
    what = {"archive": logged_url(archive_url), "dest": logged_url(dest)}
    record("convert.started", what)
    shown = sys.stderr.isatty() and not as_json
    with tempfile.TemporaryDirectory(prefix="convert.", dir=private_folder()) as folder:
        build_catalog(
            archive_url,
            f"{folder}/catalog",
            metadata=metadata,
            mapping=load_mapping(mapping) if mapping else None,
            deidentified=deidentified,
            key=key,
            storage_options=storage_options,
        )
        summary = convert_archive(
            open_catalog(f"{folder}/catalog"),
            Folder(dest, storage_options).absolute(),
            storage_options=storage_options,
            on_progress=lambda done: click.echo(f"\r{done:,} records", nl=False, err=True) if shown else None,
        )
    if shown:
        click.echo("\r\033[K", nl=False, err=True)
    record("convert.done", what | {"records": summary.records, "converted": summary.converted})
    click.echo(_as_json(summary) if as_json else _as_text(summary, dest))
    return EXIT_REJECTS if summary.refused else EXIT_DONE


def _as_json(summary: ConvertSummary) -> str:
    from dataclasses import asdict

    from screening.contract import NOTICE

    return json.dumps({"notice": NOTICE, **asdict(summary)}, indent=2)


def _as_text(summary: ConvertSummary, dest: str) -> str:
    lines = [
        f"{summary.converted:,} of {summary.records:,} records copied and compared: at most "
        f"{summary.max_difference_uV:.3g} uV apart"
    ]
    lines += [f"  refused {count:>8,}  {reason}" for reason, count in sorted(summary.refused.items())]
    if summary.refused:
        lines.append("Why, record by record: refused.csv beside the copies")
    return "\n".join([*lines, f"Next: screening catalog {dest} --out catalog"])
