"""``screening validate``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from screening.cli import EXIT_DONE
from screening.cli.record import Record, audit_option, logged_url
from screening.cli.storage import storage_option
from screening.errors import UserError

if TYPE_CHECKING:
    from screening.archive.catalog import Catalog
    from screening.recording import Recording, Rejected
    from screening.report.readings import Agreement
    from screening.report.sheets import Key
    from screening.report.validation import Validation
    from screening.run.current import Current

ADJUDICATION = "adjudicate.csv"


@click.group("validate")
def command() -> None:
    """Measure sensitivity and specificity in this archive, by readers who look at a sample of its ECGs.

    Both commands take --json.

    \b
    screening validate sample --runs runs --catalog catalog --out sheets --readings 300
    screening validate import sheets --readings readings-1.csv --reader "Reader 1" --runs runs
    """


# --- sample ----------------------------------------------------------------------------------------------------------


@command.command("sample")
@click.option("--runs", required=True, help="Folder of runs that `screening run --out` wrote.")
@click.option("--catalog", "catalog_url", required=True, help="Catalog of the archive.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder to make, for you alone: the key, and a folder for the readers.",
)
@click.option("--readings", default=300, show_default=True, type=click.IntRange(1), help="ECGs to draw, one a patient.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="The same seed draws the same ECGs.")
@click.option("--by", type=click.Choice(["site"]), help="Draw from every larger site.")
@click.option("--readers", default=2, show_default=True, type=click.IntRange(1, 20), help="Forms to fill in.")
@click.option(
    "--index-rule",
    default="latest",
    show_default=True,
    type=click.Choice(["latest", "first"]),
    help="Which ECG of a patient, as in the report.",
)
@click.option("--show-age-and-sex", is_flag=True, help="Write them on the sheets.")
@storage_option
@audit_option
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def sample(
    runs: str,
    catalog_url: str,
    out: Path,
    readings: int,
    seed: int,
    by: str | None,
    readers: int,
    index_rule: Literal["latest", "first"],
    show_age_and_sex: bool,
    storage_options: dict[str, Any],
    as_json: bool,
    record: Record,
) -> int:
    """Draw flagged and unflagged patients and write blinded sheets of their ECGs.

    \b
    screening validate sample --runs runs --catalog catalog --out sheets
    screening validate sample --runs runs --catalog catalog --out sheets --readings 500 --by site --readers 3
    """
    from datetime import UTC, datetime

    import numpy as np
    from tqdm import tqdm

    from screening.archive.catalog import open_catalog
    from screening.report.candidates import candidates
    from screening.report.sampling import draw
    from screening.report.sheets import FOR_READERS, QUESTION, key_of, write_sheets
    from screening.run.bundles import fetch_bundle
    from screening.storage import Folder

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder; name another one with --out.")
    folder = Folder(runs, storage_options)
    catalog = open_catalog(catalog_url, storage_options=storage_options)
    found = candidates(folder, catalog, index_rule=index_rule, today=datetime.now(UTC).date())
    frame = found.ecgs
    bundle = fetch_bundle(folder, found.bundle_sha256)
    drawn = draw(
        frame["log_odds"].to_numpy(),
        frame["flagged"].to_numpy(),
        readings=readings,
        seed=seed,
        site=np.array(frame["site"].to_pylist(), object) if by == "site" else None,
    )
    chosen = frame["record_id"].take(drawn.row).to_pylist()
    rows = [_row(found.current, record_id) for record_id in chosen]
    key = key_of(
        drawn,
        chosen,
        bundle_sha256=found.bundle_sha256,
        model=f"{bundle.name} {bundle.version}",
        threshold=bundle.threshold,
        catalog_id=catalog.catalog_id,
        index_rule=index_rule,
        seed=seed,
        question=QUESTION,
    )
    where = {"runs": logged_url(runs), "out": logged_url(str(out)), "sheets": len(key.record_id)}
    record("sheets.started", where)
    with tqdm(total=len(key.record_id), unit=" sheets", disable=as_json or not sys.stderr.isatty()) as bar:
        lost = write_sheets(
            out,
            key,
            _recordings(catalog, key, [row["record_sha256"] for row in rows], storage_options),
            readers=readers,
            lines=[_person(row) for row in rows] if show_age_and_sex else None,
            progress=bar.update,
        )
    summary = {
        "out": str(out),
        "sheets": len(key.record_id),
        "without_ecg": lost,
        "patients": frame.num_rows,
        "patients_of_other_models": found.others,
        "model": key.model,
        "bundle_sha256": found.bundle_sha256,
        "strata": [
            {"stratum": s.name, "flagged": s.flagged, "patients": s.patients, "sampled": s.sampled} for s in key.strata
        ],
    }
    record("sheets.exported", where)
    if as_json:
        click.echo(json.dumps(summary, indent=1))
        return EXIT_DONE
    flagged = sum(s.sampled for s in key.strata if s.flagged)
    click.echo(
        f"{len(key.record_id):,} of {frame.num_rows:,} patients drawn in {len(key.strata)} strata of {key.model}: "
        f"{flagged:,} flagged, {len(key.record_id) - flagged:,} not"
    )
    if found.others:
        click.echo(f"{found.others:,} patients were scored by another model and are not in it")
    if lost:
        click.echo(
            f"{lost:,} of the drawn recordings cannot be read from the archive as they were scored; no ECG is drawn"
        )
    click.echo(f"For the readers: {out / FOR_READERS} (sheets.html, instructions.txt, readings-1.csv ...)")
    click.echo(f"For you alone:   {out / 'key.json'}; readers must not see it")
    click.echo(
        "Next: give each reader a copy of the first, then "
        f"screening validate import {out} --readings readings-1.csv --reader NAME --runs {runs}"
    )
    return EXIT_DONE


def _row(current: Current, record_id: str) -> dict[str, Any]:
    from screening.run.current import read_row

    place = current.locate(record_id)
    if place is None:
        raise UserError(f"the index of {current.runs.url} has changed meanwhile; start again.")
    return read_row(current.runs, place)


def _person(row: dict[str, Any]) -> str:
    """Return a patient's age and sex as far as they are known."""
    age = row["age"]
    years = None if age is None else "90 years or older" if age >= 90 else f"{age:.0f} years"
    return ", ".join(part for part in (years, row["sex"]) if part) or "age and sex unknown"


def _recordings(
    catalog: Catalog, key: Key, sha256: Sequence[str], storage_options: dict[str, Any]
) -> Iterator[Recording | Rejected]:
    """Yield the ECG of each sheet; one whose bytes are not those that were scored is none."""
    from screening.archive.reader import ArchiveReader
    from screening.contract import Reason
    from screening.recording import Recording, Rejected

    wanted = set(key.record_id)
    places: dict[str, str] = {}
    for batch in catalog.iter_batches(["record_id"], with_location=True):
        rows = zip(batch["record_id"].to_pylist(), batch["location"].to_pylist(), strict=True)
        places |= {record_id: location for record_id, location in rows if record_id in wanted}
    reader = ArchiveReader(catalog.root_url, storage_options)
    for record_id, expected in zip(key.record_id, sha256, strict=True):
        if record_id not in places:
            yield Rejected(record_id, Reason.MISSING_FILE, "the catalog does not hold the record any more")
            continue
        recording = reader.read(places[record_id], record_id)
        if isinstance(recording, Recording) and recording.sha256 != expected:
            recording = Rejected(record_id, Reason.CHECKSUM_MISMATCH, "the record has changed since it was scored")
        yield recording


# --- import ----------------------------------------------------------------------------------------------------------


@command.command("import")
@click.argument("sheets", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--readings",
    "files",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A reader's filled-in file; once for each reader.",
)
@click.option("--reader", "readers", required=True, multiple=True, help="Who read it; once for each file, in order.")
@click.option(
    "--adjudicated",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"{ADJUDICATION}, filled in: the final readings where readers differ.",
)
@click.option("--reference", help="The reference standard, in words, if it is not the reading of these sheets.")
@click.option("--runs", required=True, help="Folder of runs; the validation is kept in it.")
@storage_option
@audit_option
@click.option("--json", "as_json", is_flag=True, help="Print the validation as JSON.")
def import_(
    sheets: Path,
    files: tuple[Path, ...],
    readers: tuple[str, ...],
    adjudicated: Path | None,
    reference: str | None,
    runs: str,
    storage_options: dict[str, Any],
    as_json: bool,
    record: Record,
) -> int:
    """Take readings of drawn sheets and keep what they say of this archive beside its runs.

    \b
    screening validate import sheets --readings readings-1.csv --reader "Reader 1" --runs runs
    screening validate import sheets --readings a.csv --reader A --readings b.csv --reader B --runs runs
    """
    from datetime import UTC, datetime
    from itertools import combinations

    from screening.report.readings import agreement, by_stratum, settle
    from screening.report.sheets import read_key
    from screening.report.validation import Validation, store_validation
    from screening.run.bundles import fetch_bundle
    from screening.storage import Folder

    if len(files) != len(readers) or len(set(readers)) != len(readers):
        raise UserError("give one --reader, each another name, for each --readings file.")
    key = read_key(sheets)
    count = len(key.record_id)
    read = [_readings(path, count) for path in files]
    pairs = [
        found
        for a, b in combinations(range(len(read)), 2)
        if (found := agreement(read[a], read[b], (readers[a], readers[b]))) is not None
    ]
    _, differing = settle(read)
    final = _readings(adjudicated, count) if adjudicated else {}
    settled, still_open = settle(read, final)
    if still_open:
        for pair in pairs:
            click.echo(_said(pair), err=as_json)
        path = sheets / ADJUDICATION
        _ask(path, differing, final, overwrite=adjudicated is not None and adjudicated.resolve() == path.resolve())
        raise UserError(
            f"readers differ on {len(still_open):,} of {count:,} sheets; settle them in {path}, column 'reading', and "
            f"import again with --adjudicated {path}."
        )
    folder = Folder(runs, storage_options)
    bundle = fetch_bundle(folder, key.bundle_sha256)
    validation = Validation(
        date=datetime.now(UTC).date().isoformat(),
        bundle_sha256=key.bundle_sha256,
        model=key.model,
        threshold=key.threshold,
        catalog_id=key.catalog_id,
        index_rule=key.index_rule,
        reference=reference or _reference(len(readers), adjudicated is not None),
        readers=readers,
        strata=by_stratum(key.strata, key.stratum, settled),
        agreement=tuple(
            {
                "readers": list(p.readers),
                "sheets": p.sheets,
                "raw": p.raw,
                "kappa": [p.kappa.value, p.kappa.low, p.kappa.high],
            }
            for p in pairs
        ),
    )
    name = store_validation(folder, validation)
    record("readings.imported", {"runs": logged_url(runs), "validation": name, "readers": list(readers)})
    if as_json:
        click.echo(folder.read(name).decode())
        return EXIT_DONE
    for pair in pairs:
        click.echo(_said(pair))
    for line in _text(validation, count, bundle.operating_characteristics.overall):
        click.echo(line)
    click.echo(f"Kept in {folder.url.rstrip('/')}/{name}; `screening report` uses it from now on")
    return EXIT_DONE


def _readings(path: Path, sheets: int) -> dict[int, str]:
    from screening.report.readings import parse_readings

    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a reader's filled-in file.") from None
    return parse_readings(data, sheets, str(path))


def _ask(path: Path, differing: dict[int, tuple[str, ...]], final: dict[int, str], *, overwrite: bool) -> None:
    """Write the sheets on which readers differ, with what is settled already; keep what somebody may have filled in."""
    from screening.report.sheets import form

    if path.exists() and not overwrite:
        listed = {line.split(b",", 1)[0] for line in path.read_bytes().splitlines()}
        if all(str(sheet).encode() in listed for sheet in differing):
            return
        raise UserError(f"{path} is of earlier readings and lacks sheets on which these differ; move it away.")
    readers = len(next(iter(differing.values())))
    columns = ("sheet", *(f"reader {i}" for i in range(1, readers + 1)), "reading", "comment")
    cells = [(*words, final.get(sheet, "")) for sheet, words in differing.items()]
    path.touch(0o600)
    path.write_bytes(form(differing, columns, cells))


def _reference(readers: int, adjudicated: bool) -> str:
    who = "one blinded reader" if readers == 1 else f"{readers} blinded readers"
    return f"infarction of any age on the ECG, read by {who}" + (", differences adjudicated" if adjudicated else "")


def _said(pair: Agreement) -> str:
    kappa = pair.kappa
    return (
        f"{pair.readers[0]} and {pair.readers[1]} agree on {pair.raw:.1%} of {pair.sheets:,} sheets, "
        f"Cohen's kappa {kappa.value:.2f} (95% interval {kappa.low:.2f} to {kappa.high:.2f})"
    )


def _text(validation: Validation, sheets: int, own: Any) -> Iterator[str]:
    """Yield what a person reads at the end of an import."""
    from screening.report.validation import estimate, more_readings, transport

    read = sum(s.read for s in validation.strata)
    unreadable = sum(s.unreadable for s in validation.strata)
    infarcts = sum(s.infarct for s in validation.strata)
    yield f"{read:,} of {sheets:,} sheets decided: {infarcts:,} infarcts, {read - infarcts:,} none"
    if unreadable or read + unreadable < sheets:
        yield (
            f"{unreadable:,} unreadable and {sheets - read - unreadable:,} not read yet; they count as the others of their "
            "stratum do"
        )
    missing = sum(not s.read for s in validation.strata)
    if missing:
        yield f"{missing} of {len(validation.strata)} strata have no reading yet and count as their neighbours do"
    found = estimate(validation)
    for word, e, variance_n in (
        ("sensitivity", found.sensitivity, found.n_sensitivity),
        ("specificity", found.specificity, found.n_specificity),
    ):
        yield f"{word}  {e.value:6.1%}  (95% interval {e.low:.1%} to {e.high:.1%}; worth {variance_n:,.0f} patients)"
    p = found.prevalence
    yield f"prevalence   {p.value:6.1%}  (95% interval {p.low:.1%} to {p.high:.1%}), of the archive's scored patients"
    compared = transport(validation, own)
    yield compared.verdict if compared else "The bundle has no counts of its own to compare with."
    for row in more_readings(validation, [100, 200, 500]):
        if row.extra:
            yield (
                f"{row.extra:,} more readings ({row.flagged:,} flagged, {row.unflagged:,} not) would narrow the prevalence's "
                f"interval from {100 * (p.high - p.low):.1f} to about {100 * row.width:.1f} points"
            )
