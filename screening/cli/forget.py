"""``screening forget``."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from screening.cli import EXIT_DONE
from screening.cli.pseudonym import key_option, key_that_made
from screening.cli.record import Record, audit_option, logged_url
from screening.cli.state import state_option
from screening.cli.storage import storage_option
from screening.errors import UserError

if TYPE_CHECKING:
    from screening.archive.catalog import Catalog

NOT_FROM_HERE = (
    "Not erased from here: the archive itself, reports and worklists that were written before (write them again), sheets for "
    "readers, packs that were not named, copies and backups, and models, which hold hashes of the ECGs that they learnt from."
)


@click.command("forget")
@click.argument("patients", metavar="[PATIENT]...", nargs=-1)
@click.option("--catalog", "catalog_url", required=True, help="Catalog of the archive.")
@click.option("--runs", required=True, help="Folder of runs, as given to `screening run --out`.")
@click.option("--packed", help="Pack of the archive, as given to `screening pack --out`.")
@click.option(
    "--ids-file", type=click.File("r", encoding="utf-8-sig"), help="Patients, one a line; - for standard input."
)
@click.option("--record", "records", multiple=True, help="A record id, as the catalog spells it; may be given again.")
@click.option("--pseudonyms", is_flag=True, help="Patients are named by their keys in the catalog, not by their ids.")
@key_option
@click.option("--why", required=True, help="Reason, for the audit log; no identifiers here.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@storage_option
@state_option
@audit_option
@click.option("--json", "as_json", is_flag=True, help="Print what was erased as JSON; needs --yes.")
def command(
    patients: tuple[str, ...],
    catalog_url: str,
    runs: str,
    packed: str | None,
    ids_file: Any,
    records: tuple[str, ...],
    pseudonyms: bool,
    key_file: str | None,
    why: str,
    yes: bool,
    storage_options: dict[str, Any],
    state: Path,
    as_json: bool,
    record: Record,
) -> int:
    """Erase patients from a catalog and from all that was published: rows, plans, donors, index. It cannot be undone.

    Patients are named as in the archive; ids from --ids-file stay out of the shell's history. Later scans of the archive
    leave them out. Started again, an erasure that was interrupted is completed.

    \b
    screening forget 15709 --catalog catalog --runs runs --why "objection of 2026-11-22"
    screening forget --ids-file - --catalog s3://bucket/catalog --runs s3://bucket/runs --why "objections" --yes < ids
    """
    from screening.archive.catalog import open_catalog
    from screening.archive.forget import forget_in_catalog, held_by_catalog
    from screening.archive.pack import require_pack
    from screening.run.forget import forget_in_runs, held_by_runs
    from screening.run.packing import pack_archive
    from screening.storage import Folder

    if as_json and not yes:
        raise UserError("--json cannot ask; add --yes.")
    stated = [*patients, *(line.strip() for line in ids_file or () if line.strip())]
    if not stated and not records:
        raise UserError("nobody is named; give patients, --ids-file or --record.")
    catalog = open_catalog(catalog_url, storage_options=storage_options)
    if pseudonyms:
        _require_pseudonyms(stated, "patients named with --pseudonyms")
    if catalog.key_id is not None:
        _require_pseudonyms(records, "record ids of this catalog")
    keys = stated if pseudonyms else _keys(catalog, stated, key_file)
    folder = Folder(runs, storage_options).absolute()
    pack = Folder(packed, storage_options).absolute() if packed else None
    if pack is not None:
        require_pack(pack, root_url=catalog.root_url, key_id=catalog.key_id)
    in_catalog = held_by_catalog(catalog, record_ids=records, patient_keys=keys)
    # Records of a patient by their ids too: a run may have been made before the archive said whose they are.
    ids = sorted({*records, *(record_id for record_id, _ in in_catalog)})
    held = held_by_runs(folder, record_ids=ids, patient_keys=keys)
    known = {key for _, key in in_catalog}
    unknown = set(keys) - known - held.patient_keys - catalog.forgotten[1]
    facts = {
        "patients": len(set(keys)),
        "patients_in_catalog": len(known & set(keys)),
        "patients_unknown": len(unknown),
        "catalog_rows": len(in_catalog),
        "run_rows": held.rows,
        "donor_sets": len(held.donor_sets),
    }
    if unknown:
        click.echo(
            f"{len(unknown):,} of the patients are in neither catalog nor runs, and were not forgotten before: see how the "
            "archive spells their ids",
            err=True,
        )
    if not as_json:
        click.echo(_told(facts, held.interrupted))
        if not yes:
            click.confirm("Erase them for good?", abort=True)
    what = {"why": why, "catalog": logged_url(catalog_url), "runs": logged_url(runs), **facts}
    record("patients.forget_started", what | {"patient_keys": sorted(set(keys)), "record_ids": list(records)})
    forget_in_runs(
        folder,
        record_ids=ids,
        patient_keys=keys,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        on_run=lambda name: None if as_json else click.echo(f"rewriting run {name}", file=sys.stderr),
    )
    # Last, so that an erasure that is started again still finds the records there.
    catalog_id = forget_in_catalog(catalog, record_ids=records, patient_keys=keys)
    if pack is not None:
        # A pack holds nothing that the catalog does not name, and nobody by name.
        dropped = pack_archive(open_catalog(catalog_url, storage_options=storage_options), pack, only_drop=True).dropped
        what |= {"packed": logged_url(str(packed)), "packed_rows": dropped}
        facts["packed_rows"] = dropped
    record("patients.forgotten", what | {"catalog_id": catalog_id})
    if as_json:
        click.echo(json.dumps({**facts, "catalog_id": catalog_id, "not_from_here": NOT_FROM_HERE}, indent=1))
        return EXIT_DONE
    click.echo("Erased, and on record in the audit log.")
    if pack is not None:
        click.echo(
            f"{facts['packed_rows']:,} rows of the pack, which now holds nothing that the catalog does not name."
        )
    if held.donor_sets:
        click.echo("Donors were among them: the next run chooses others, and is a new run.")
    click.echo(NOT_FROM_HERE)
    return EXIT_DONE


def _require_pseudonyms(ids: Sequence[str], what: str) -> None:
    """Let no raw id into catalog, index and log, where it would stay."""
    if any(not re.fullmatch("[0-9a-f]{32}", one) for one in ids):
        raise UserError(f"{what} have 32 characters of 0-9 and a-f, and one given here has not; nothing was done.")


def _keys(catalog: Catalog, stated: list[str], key_file: str | None) -> list[str]:
    """Return the keys of patients who are named as in the archive."""
    from screening.archive.facts import as_id

    if not stated:
        return []
    key = key_that_made(catalog, key_file, os.environ.get("SCREENING_PSEUDONYM_KEY"))
    return [key.pseudonym("patient", as_id(patient) or patient) for patient in stated]


def _told(facts: dict[str, Any], interrupted: tuple[str, ...]) -> str:
    lines = [
        f"{facts['patients_in_catalog']:,} of {facts['patients']:,} patients are in the catalog; "
        f"{facts['catalog_rows']:,} of its records are concerned"
    ]
    lines += [f"{rows:,} rows of run {run}" for run, rows in facts["run_rows"].items()]
    if facts["donor_sets"]:
        lines.append(f"{facts['donor_sets']:,} donor sets, which are erased whole")
    lines += [f"an earlier erasure in run {run} was not completed, and will be" for run in interrupted]
    return "\n".join(lines)
