"""``screening explain``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import click

from screening.cli import EXIT_DONE
from screening.cli.storage import storage_option
from screening.contract import LEADS, NOTICE
from screening.errors import UserError

if TYPE_CHECKING:
    from screening.archive.catalog import Catalog
    from screening.recording import Recording
    from screening.run.current import Current

Form = Literal["png", "svg", "html"]
BAR = 30
SUGGESTIONS = 3


@dataclass(frozen=True)
class _Explained:
    """What is known of one record."""

    row: Mapping[str, Any]
    threshold: float
    recording: Recording | str  # or why there is none
    remarks: list[str]


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
    """Show what a published run says of one record, and its ECG with the importance of each lead. Nothing is scored.

    The row is the one that counts now. The ECG is read from the archive; the file is readable for its owner alone, because
    it is about one patient.

    \b
    screening explain records500/00000/00139_hr --runs runs --catalog catalog
    screening explain records500/00000/00139_hr --runs runs --catalog catalog --out 00139.html
    """
    from screening.archive.catalog import open_catalog
    from screening.run.current import refresh
    from screening.storage import Folder

    form = _form(out) if out else None
    opened = open_catalog(catalog, storage_options=storage_options)
    current = refresh(Folder(runs, storage_options))
    known = _look_up(current, opened, record_id, storage_options, with_ecg=form is not None)
    if out and form:
        Folder(str(out.parent)).write(out.name, _drawn(known, form), mode=0o600)
    if as_json:
        click.echo(json.dumps(_facts(known, out), indent=1, ensure_ascii=False))
    else:
        for line in _text(known) if out is None else [f"Written: {out}"]:
            click.echo(line)
    return EXIT_DONE


def _form(out: Path) -> Form:
    for form in get_args(Form):
        if out.suffix.lower() == f".{form}":
            return cast(Form, form)
    raise UserError(f"{out} has none of the suffixes .png, .svg and .html, which say what is written; give it one.")


# --- Finding it ------------------------------------------------------------------------------------------------------


def _look_up(
    current: Current, catalog: Catalog, record_id: str, storage_options: dict[str, Any], *, with_ecg: bool
) -> _Explained:
    from screening.archive.reader import ArchiveReader
    from screening.report.patient import catalogued, read_as_scored, threshold_of
    from screening.run.current import read_row
    from screening.run.plan import read_shard

    place = current.locate(record_id)
    if place is None:
        raise UserError(_nowhere(current, catalog, record_id))
    row = read_row(current.runs, place)
    held = catalogued(catalog, [record_id], with_location=with_ecg).get(record_id)
    recording: Recording | str = ""
    if with_ecg:
        location = held["location"] if held else None
        recording = read_as_scored(ArchiveReader(catalog.root_url, storage_options), location, row)
    remarks = _remarks(current, catalog, row)
    if held is None:
        remarks.append(f"The catalog {catalog.path} does not hold the record any more, and reports leave it out.")
    else:
        planned = read_shard(current.runs.folder(place.run_id), place.shard, columns=["version"])
        if planned["version"][place.row].as_py() != held["version"]:
            remarks.append(
                "The record has changed since it was screened, and reports leave it out until it is screened again: "
                f"screening run --catalog {catalog.path} --out {current.runs.url}"
            )
    return _Explained(row, threshold_of(current.runs, row["bundle_sha256"]), recording, remarks)


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
    from screening.report.patient import importance_of
    from screening.run.plan import load_plan

    if row["status"] != Status.SCORED:
        return ["The record was rejected: it has no score, and reports count it among the rejected."]
    if importance_of(row) is not None:
        return []
    asked = load_plan(current.runs.folder(row["run_id"])).settings.get("attribution")
    if asked == "none":
        why = f"run {row['run_id']} explained no record (--attribution none)"
    elif not row["flagged"]:
        why = f"run {row['run_id']} explained flagged records only"
    else:
        return ["The importance of the leads was not computed: there were fewer than two donors of other patients."]
    again = f"screening run --catalog {catalog.path} --out {current.runs.url} --attribution all"
    return [f"The importance of the leads was not computed: {why}. To get it: {again}"]


# --- Saying it -------------------------------------------------------------------------------------------------------


def _text(known: _Explained) -> Iterator[str]:
    from screening.report.patient import HOW_TO_READ, describe, importance_of

    said = describe(known.row, known.threshold)
    width = max(len(term) for term, _ in said)
    for term, words in said:
        yield f"{term:<{width}}  {_one_line(words)}"
    importance = importance_of(known.row)
    if importance is not None:
        yield ""
        se, donors = known.row["importance_se"], known.row["importance_donors"]
        yield f"Importance of the leads in logits ({donors} donors, standard error {se:.2f}; # for infarction, - against)"
        largest = max(float(abs(importance).max()), 1e-9)
        for lead, value in zip(LEADS, importance.tolist(), strict=True):
            bar = ("#" if value > 0 else "-") * round(BAR * abs(value) / largest)
            yield f"  {lead:<4}{value:+7.2f}  {bar}".rstrip()
        yield ""
        yield from (click.wrap_text(sentence, width=110) for sentence in HOW_TO_READ)
    for remark in known.remarks:
        yield ""
        yield remark
    yield ""
    yield NOTICE


def _one_line(words: str) -> str:
    """Return text of the archive as a terminal may show it: nothing that moves the cursor."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)


def _facts(known: _Explained, out: Path | None) -> dict[str, Any]:
    """Return the row and what is derived from it, as JSON values."""
    from screening.report.patient import importance_of, leading_leads, leading_territory, territory_importance

    row = dict(known.row)
    if row["acquired_at"] is not None:
        row["acquired_at"] = row["acquired_at"].isoformat()
    facts: dict[str, Any] = {
        "notice": NOTICE,
        "threshold": known.threshold,
        "row": _plain(row),
        "remarks": known.remarks,
    }
    importance = importance_of(known.row)
    if importance is not None:
        walls = territory_importance(importance)
        facts["leading_leads"] = leading_leads(importance)
        facts["territories"] = _plain(walls)
        facts["territory"] = leading_territory(walls) or None
    if out is not None:
        facts["out"] = str(out)
        facts["ecg"] = known.recording if isinstance(known.recording, str) else "drawn"
    return facts


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with what JSON has no word for as None."""
    return {key: None if isinstance(value, float) and value != value else value for key, value in values.items()}


def _drawn(known: _Explained, form: Form) -> bytes:
    """Return the file's bytes; UserError where a picture is asked for and there is no ECG."""
    from screening.report.patient import draw

    row, recording = known.row, known.recording
    if form == "html":
        return _page(known)
    if isinstance(recording, str):
        raise UserError(
            f"record {row['record_id']} has no ECG to draw: {recording}; leave out --out, or write .html, to see what is "
            "known of it."
        )
    return draw(row, recording, known.threshold, form=form)


def _page(known: _Explained) -> bytes:
    from screening.attribution.territories import TERRITORY_OF
    from screening.report.notation import figure
    from screening.report.patient import HOW_TO_READ, describe, draw, importance_of, inline, pages

    row, recording = known.row, known.recording
    importance = importance_of(row)
    lost = recording if isinstance(recording, str) else ""
    entry = {
        "anchor": "record",
        "record_id": row["record_id"],
        "said": describe(row, known.threshold),
        "svg": None if isinstance(recording, str) else inline(draw(row, recording, known.threshold, form="svg")),
        "lost": lost,
    }
    table = (
        []
        if importance is None
        else [
            (lead, figure(value, 2, signed=True), TERRITORY_OF[lead])
            for lead, value in zip(LEADS, importance.tolist(), strict=True)
        ]
    )
    page = pages().get_template("explain.html")
    return page.render(
        notice=NOTICE, how_to_read=HOW_TO_READ, remarks=known.remarks, entry=entry, importance=table
    ).encode()
