"""``screening explain``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import click

from screening.cli import EXIT_DONE
from screening.cli.storage import storage_option
from screening.errors import UserError, in_words

if TYPE_CHECKING:
    from screening.archive.catalog import Catalog
    from screening.recording import Recording
    from screening.report.record import Record
    from screening.run.current import Current

Form = Literal["png", "svg", "html"]
SUGGESTIONS = 3
USUAL = {"lead": "leads", "territory": "territories", "wave": "waves"}
"""Operators that an explanation rests on -> what they exchange."""


@click.command("explain")
@click.argument("record_id", metavar="RECORD")
@click.option("--runs", required=True, help="Folder of runs, as given to `screening run --out`.")
@click.option("--catalog", required=True, help="Catalog of the archive.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write, .png, .svg or .html; without it, text on the terminal.",
)
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(
    record_id: str, runs: str, catalog: str, out: Path | None, storage_options: dict[str, Any], as_json: bool
) -> int:
    """Show what a published run says of one record and why, with its ECG and measured amplitudes. Nothing is scored.

    The row is the one that counts now. The ECG is read from the archive; the file is readable for its owner alone, because
    it is about one patient.

    \b
    screening explain records500/00000/00139_hr --runs runs --catalog catalog
    screening explain records500/00000/00139_hr --runs runs --catalog catalog --out 00139.html
    """
    from screening.archive.catalog import open_catalog
    from screening.report.record import facts_of, text_of
    from screening.run.current import refresh
    from screening.storage import Folder

    form = _form(out) if out else None
    opened = open_catalog(catalog, storage_options=storage_options)
    current = refresh(Folder(runs, storage_options))
    known = _look_up(current, opened, record_id, storage_options, must_read=form is not None)
    if out and form:
        Folder(str(out.parent)).write(out.name, _drawn(known, form))
    if as_json:
        drawn = known.recording if isinstance(known.recording, str) else "drawn"
        written = {"out": str(out), "ecg": drawn} if out else {}
        click.echo(json.dumps(facts_of(known) | written, indent=1, ensure_ascii=False))
    else:
        for line in text_of(known) if out is None else [f"Written: {out}"]:
            click.echo(line)
    return EXIT_DONE


def _form(out: Path) -> Form:
    for form in get_args(Form):
        if out.suffix.lower() == f".{form}":
            return cast(Form, form)
    raise UserError(f"{out} has none of the suffixes .png, .svg and .html, which say what is written; give it one.")


# --- Finding it ------------------------------------------------------------------------------------------------------


def _look_up(
    current: Current, catalog: Catalog, record_id: str, storage_options: dict[str, Any], *, must_read: bool
) -> Record:
    from screening.contract import Status
    from screening.report.amplitudes import Measured, measured
    from screening.report.patient import model_behind
    from screening.report.record import Record
    from screening.run.current import read_row
    from screening.run.plan import read_shard

    place = current.locate(record_id)
    if place is None:
        raise UserError(_nowhere(current, catalog, record_id))
    row = read_row(current.runs, place)
    model = model_behind(current.runs, row["bundle_sha256"])
    held, recording = _read(catalog, record_id, row, storage_options, must_read=must_read)
    found, remarks = Measured(), _remarks(current, catalog, row)
    if row["status"] == Status.SCORED:
        if isinstance(recording, str):
            remarks.append(f"The amplitudes were not measured: {recording}.")
        else:
            found = measured(recording, model.preprocessing)
            if found.amplitudes is None:
                remarks.append("The amplitudes were not measured: no beats were found.")
    if held is None:
        remarks.append(f"The catalog {catalog.path} does not hold the record any more, and reports leave it out.")
    else:
        planned = read_shard(current.runs.folder(place.run_id), place.shard, columns=["version"])
        if planned["version"][place.row].as_py() != held["version"]:
            remarks.append(
                "The record has changed since it was screened, and reports leave it out until it is screened again: "
                f"screening run --catalog {catalog.path} --out {current.runs.url}"
            )
    return Record(row, model, recording, found, remarks)


def _read(
    catalog: Catalog, record_id: str, row: Mapping[str, Any], storage_options: dict[str, Any], *, must_read: bool
) -> tuple[dict[str, Any] | None, Recording | str]:
    """Return the record's row of the catalog, and its ECG or why there is none."""
    from screening.archive.reader import ArchiveReader
    from screening.report.patient import catalogued, read_as_scored

    try:
        held = catalogued(catalog, [record_id], with_location=True).get(record_id)
        location = held["location"] if held else None
        return held, read_as_scored(ArchiveReader(catalog.root_url, storage_options), location, row)
    except Exception as error:  # of storage, or no right to see locations: the row is of use without the ECG
        if must_read:
            raise
        held = catalogued(catalog, [record_id], with_location=False).get(record_id)
        return held, f"the archive could not be read ({in_words(error)})"


def _nowhere(current: Current, catalog: Catalog, record_id: str) -> str:
    """Return the sentence for a record that no published run has."""
    import pyarrow.compute as pc

    runs = current.runs.url
    if record_id in current.forgotten_records:
        return f"record {record_id} was forgotten: it is left out of {runs} and of its reports."
    alike: list[str] = []
    for batch in catalog.iter_batches(["record_id", "patient_key"]):
        ids = batch["record_id"]
        same = batch.filter(pc.equal(ids, record_id))
        if same.num_rows:
            if same["patient_key"][0].as_py() in current.forgotten_patients:
                return f"record {record_id} is of a patient who was forgotten: it is left out of {runs} and of its reports."
            return (
                f"record {record_id} is in the catalog {catalog.path}, but no published run in {runs} has it; screen it with "
                f"`screening run --catalog {catalog.path} --out {runs}`."
            )
        if record_id.strip() and len(alike) < SUGGESTIONS:
            alike += ids.filter(pc.match_substring(ids, record_id.strip())).slice(0, SUGGESTIONS).to_pylist()
    if alike:
        near = f"did you mean {' or '.join(alike[:SUGGESTIONS])}?"
    elif catalog.deidentified:
        near = "a record is named by its path in the archive, without suffix."
    else:
        near = "a record is named by its record_id, a pseudonym that results and worklist hold, and not by its path."
    return f"record {record_id} is neither in the catalog {catalog.path} nor in a published run in {runs}; {near}"


def _remarks(current: Current, catalog: Catalog, row: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know besides the row."""
    from screening.contract import Status
    from screening.report.explained import parts_of
    from screening.run.plan import load_plan

    if row["status"] != Status.SCORED:
        return ["The record was rejected: it has no score, and reports count it among the rejected."]
    missing = [operator for operator in USUAL if parts_of(row, operator) is None]
    if not missing:
        return []
    settings = load_plan(current.runs.folder(row["run_id"])).settings
    asked = settings.get("operators") or ()
    *most, last = (USUAL[operator] for operator in missing)
    what = f"The importance of {', '.join(most)}{' and ' if most else ''}{last} was not computed"
    if settings.get("attribution") == "none":
        why = f"run {row['run_id']} explained no record (--attribution none)"
    elif not row["flagged"] and settings.get("attribution") != "all":
        why = f"run {row['run_id']} explained flagged records only"
    elif not set(missing) <= set(asked):
        why = f"run {row['run_id']} was asked for {', '.join(asked)} (--operators)"
    elif missing == ["wave"]:
        return [f"{what}: too few beats were found in this record, or in the donors."]
    else:
        return [f"{what}: there were fewer than two donors of other patients."]
    again = (
        f"screening run --catalog {catalog.path} --out {current.runs.url} --attribution all --operators "
        f"{','.join(dict.fromkeys([*USUAL, *asked]))}"
    )
    return [f"{what}: {why}. To get it: {again}"]


# --- Drawing it ------------------------------------------------------------------------------------------------------


def _drawn(known: Record, form: Form) -> bytes:
    """Return the file's bytes; UserError where a picture is asked for and there is no ECG."""
    from screening.report.patient import draw
    from screening.report.record import page_of

    row, recording = known.row, known.recording
    if form == "html":
        return page_of(known)
    if isinstance(recording, str):
        raise UserError(
            f"record {row['record_id']} has no ECG to draw: {recording}; leave out --out, or write .html, to see what is "
            "known of it."
        )
    return draw(row, recording, known.model.threshold, windows=known.measured.windows, form=form)
